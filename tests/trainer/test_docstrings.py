from __future__ import annotations

import sys
from pathlib import Path

import pytest

from iolaus.trainer.docstrings import Docstring, docstrings


def test_each_documented_object_of_a_package_is_read_and_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules by name, objects as they stand; what has no text or cannot be read is left out."""
    package = tmp_path / "fabled"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text('"""The package."""\nraise SystemExit("imported")\n')
    (package / "b.py").write_text(
        'class A:\n    """A class.\n\n    Indented.\n    """\n\n'
        '    def f(self):\n        "A \\d method."\n\n    def g(self):\n        ""\n\n'
        'async def h():\n    """A coroutine."""\n'
    )
    (package / "inner" / "__init__.py").write_text("x = 1\n")
    (package / "inner" / "c.py").write_text('"""Inside."""\n')
    (package / "old.py").write_text('print "of another Python"\n')
    (package / "strange.py").write_bytes(b'"""\xff"""\n')
    (tmp_path / "alone.py").write_text('"""One file."""\n')
    monkeypatch.syspath_prepend(tmp_path)

    assert list(docstrings(["fabled", "alone"])) == [
        Docstring("fabled", "fabled", "", "The package."),
        Docstring("fabled", "fabled.b", "A", "A class.\n\nIndented."),
        Docstring("fabled", "fabled.b", "A.f", "A \\d method."),
        Docstring("fabled", "fabled.b", "h", "A coroutine."),
        Docstring("fabled", "fabled.inner.c", "", "Inside."),
        Docstring("alone", "alone", "", "One file."),
    ]
    assert "fabled" not in sys.modules


@pytest.mark.parametrize("package", ["no_such_package", "a-b", "a.b", "sys"])
def test_a_package_without_sources_is_refused_by_name(package: str) -> None:
    """Not installed, no name of a package, or built in: the sentence names it."""
    with pytest.raises(ModuleNotFoundError, match=f"the package '{package}'"):
        list(docstrings([package]))
