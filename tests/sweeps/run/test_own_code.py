"""The code that is one's own is known by what it says, wherever it lies, and nothing else is."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from iolaus.sweeps.run import _own_code
from iolaus.sweeps.run._own_code import own_code

FILES = {
    "train.py": "import nets, json\ndef main():\n    from late import helper\n",
    "late.py": "helper = 1\n",
    "plot.py": "",
    "nets/__init__.py": "",
    "nets/deep/__init__.py": "",
    "nets/deep/big.py": "width = 8\n",
    "nets/notes.txt": "",
    "named/__init__.py": "",
}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an app that is run as `python train.py`."""
    for name, text in FILES.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "app")
    return tmp_path / "app"


def script(path: Path) -> dict[str, ModuleType]:
    """What is loaded where this file is run."""
    main = ModuleType("__main__")
    main.__file__ = str(path)
    return {"__main__": main, "json": sys.modules["json"], "numpy": sys.modules["numpy"]}


def code_of(folder: Path, *named: str) -> dict[str, str]:
    return own_code(script(folder / "train.py"), named)


def test_what_a_script_reaches_is_its_code(app: Path) -> None:
    """What it imports, inside functions too, and what a config names; no library, no bystander."""
    assert list(code_of(app)) == ["late", "nets", "train"]
    assert list(code_of(app, "named.Net", "optuna.samplers.TPESampler", "not there.x")) == [
        *("late", "named", "nets", "train")
    ]


changes: dict[str, Callable[[Path], object]] = {
    "train": lambda app: (app / "train.py").write_text("import nets as n, late # changed"),
    "late": lambda app: (app / "late.py").write_text("helper = 2\n"),
    "nets": lambda app: (app / "nets" / "deep" / "big.py").write_text("width = 9\n"),
    "nets ": lambda app: (app / "nets" / "new.py").write_text(""),
    "nets  ": lambda app: (app / "nets" / "deep" / "big.py").rename(app / "nets" / "small.py"),
    "nets   ": lambda app: (app / "nets" / "kernel.cu").write_text(""),
    "": lambda app: (app / "plot.py").write_text("other"),
    " ": lambda app: (app / "nets" / "notes.txt").write_text("other"),
    "  ": lambda app: (app / "nets" / "__pycache__").mkdir(),
}


@pytest.mark.parametrize(("name", "change"), changes.items())
def test_each_change_is_one_of_the_module_it_is_in(
    app: Path, name: str, change: Callable[[Path], object]
) -> None:
    """Changed, new, moved and removed source files change their package, other files nothing."""
    before = code_of(app)
    change(app)
    after = code_of(app)
    assert {key for key in before if before[key] != after[key]} == set(name.split())


def test_a_copy_is_the_same_code(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder, under version control or not, loaded or yet to be."""
    before = code_of(app)
    shutil.copytree(app, tmp_path / "copy")
    (tmp_path / "copy" / ".git").mkdir()
    (tmp_path / "copy" / ".git" / "hook.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "copy"), *sys.path[1:]])
    assert code_of(tmp_path / "copy") == before
    nets = ModuleType("nets")
    nets.__path__ = [str(tmp_path / "copy" / "nets")]
    assert own_code({**script(tmp_path / "copy" / "train.py"), "nets": nets}) == before


def test_a_package_run_as_a_module_goes_by_its_name(app: Path) -> None:
    """`python -m nets` is the code of nets, not of `__main__`."""
    (app / "nets" / "__main__.py").write_text("")
    assert list(own_code(script(app / "nets" / "__main__.py"))) == ["nets"]


def test_what_is_installed_is_not_own(app: Path, tmp_path: Path) -> None:
    """Packages among the installed ones are told by their version; an editable one is one's own."""
    installed = ModuleType("nets")
    installed.__file__ = str(Path(sysconfig.get_paths()["purelib"], "numpy", "__init__.py"))
    elsewhere = tmp_path / "lib" / "site-packages" / "nets.py"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text("")
    for file in (installed.__file__, str(elsewhere), None):
        installed.__file__ = file
        assert "nets" not in own_code({"nets": installed})
    editable = ModuleType("nets")
    editable.__path__ = [str(app / "nets")]
    assert list(own_code({"nets": editable})) == ["nets"]


def test_data_beside_code_costs_little(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of many files, what lies below folders without sources, and links back up are left.

    A file that is too long to be code counts by its length.
    """
    before = code_of(app)
    for number in range(30):
        inner = app / "nets" / "images" / f"n{number}" / "deeper"
        inner.mkdir(parents=True)
        (inner / "odd.py").write_text("")
    (app / "nets" / "deep" / "up").symlink_to(app / "nets")
    listed: list[str] = []
    scan = _own_code.os.scandir
    monkeypatch.setattr(
        _own_code.os, "scandir", lambda path: listed.append(str(path)) or scan(path)
    )
    assert code_of(app) == before
    assert not [path for path in listed if "images/" in path]
    monkeypatch.setattr(_own_code, "N_BYTES", 100)
    (app / "late.py").write_text("x" * 200)
    long = code_of(app)["late"]
    (app / "late.py").write_text("y" * 200)
    assert code_of(app)["late"] == long
    monkeypatch.setattr(_own_code, "N_ENTRIES", 10)
    for number in range(30):
        (app / "nets" / f"{number}.py").write_text("")
    assert "nets" not in code_of(app)
