"""What is installed is one import name, beside whatever an app calls its own files."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The names of our folders, as an app may have them; trainer/ is a namespace package.
OWN_FILES = {
    "analysis.py": "",
    "report.py": "",
    "sweeps/__init__.py": "",
    "conf/parabola.yaml": "lr: 0.1\nsteps: 20\n",
    "trainer/model.py": "STEP = 2\n",
    "train.py": """
import hydra
import iolaus
import analysis, report, sweeps, trainer
from trainer.model import STEP


@hydra.main(version_base=None, config_path="conf", config_name="parabola")
def main(cfg):
    x = 1.0
    for step in range(cfg.steps):
        x -= cfg.lr * STEP * x
        iolaus.report(step, loss=x * x)
    for module in (analysis, report, sweeps):
        print(module.__name__, module.__file__)
    print("trainer", *trainer.__path__)
    return x * x


main()
""",
}
SWEEP = ["hydra/sweeper=iolaus", "lr=tag(log, interval(1e-3, 2))", "hydra.sweeper.n_trials=4"]


def run(*words: str, cwd: Path, path: Path) -> str:
    """Run a command as if only `path` were installed beside the libraries."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "-w", str(folder), str(ROOT), cwd=folder, path=ROOT)
    return next(folder.glob("hydra_iolaus-*.whl"))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with an app of one's own, whose files have the names of our folders."""
    for name, text in OWN_FILES.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "app"


def sweep_and_read(app: Path, installed: Path) -> None:
    """A sweep with its report, then two commands, in the app's folder; its modules are its own."""
    done = run("train.py", "--multirun", *SWEEP, "hydra.sweep.dir=out", cwd=app, path=installed)
    assert "saved out/report/index.html" in done, done
    assert "4 trials" in (app / "out/report/index.html").read_text()
    printed = "\n".join(
        path.read_text() for path in (app / "out").rglob("*") if path.suffix in (".log", ".txt")
    )
    assert f"trainer {app / 'trainer'}" in printed
    for name in ("analysis.py", "report.py", "sweeps/__init__.py"):
        assert str(app / name) in printed
    table = run("-m", "iolaus.cli", "show", "out", cwd=app, path=installed)
    assert len(table.splitlines()) == 5
    run("-m", "iolaus.cli", "report", "out", "--out", "again", cwd=app, path=installed)
    assert (app / "again/index.html").is_file()
    where = run("-c", "import iolaus; print(iolaus.__file__)", cwd=app, path=installed)
    assert Path(where.strip()).is_relative_to(installed)


def test_the_wheel_holds_real_files_under_one_name(wheel: Path) -> None:
    """Links become files in it, with configs and the marker for type checkers; no bare folder."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "iolaus = iolaus.cli:main" in archive.read(entry).decode()
        source = archive.read("iolaus/sweeps/reporting.py")
    assert source == (ROOT / "sweeps/reporting.py").read_bytes()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"iolaus", "hydra_plugins"}
    for name in (
        "iolaus/__init__.py",
        "iolaus/py.typed",
        "iolaus/cli/__init__.py",
        "iolaus/conf/config.yaml",
        "iolaus/conf/sweep/quickstart.yaml",
        "iolaus/trainer/__main__.py",
        "iolaus/analysis/report/report.py",
        "hydra_plugins/iolaus/sweeper.py",
    ):
        assert name in names
    for part in ("sweeps", "trainer", "analysis", "conf"):  # nothing is left behind
        tracked = subprocess.run(
            ["git", "ls-files", part], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        missing = {f"iolaus/{name}" for name in tracked if (ROOT / name).is_file()} - set(names)
        assert not missing


@pytest.mark.slow
def test_an_app_with_our_folders_names_sweeps_with_the_wheel(
    wheel: Path, app: Path, tmp_path: Path
) -> None:
    """The sweep runs, writes its report and is read, and the app's own modules are the app's."""
    target = tmp_path / "target"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    run(*pip, str(wheel), cwd=tmp_path, path=ROOT)
    script = str(target / "bin" / "iolaus")
    assert "top-up" in run(script, "--help", cwd=app, path=target)
    sweep_and_read(app, target)


@pytest.mark.slow
def test_an_app_with_our_folders_names_sweeps_in_an_editable_install(app: Path) -> None:
    """The same, with what an editable install puts on the path."""
    sweep_and_read(app, ROOT / ".editable")
