from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.postgres import postgres_programs, running_server

APPS = Path(__file__).parent / "apps"


def _eventually(what: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The first true value of `what`; an assertion error when there is none in time."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
    return value


# Where tests run side by side, one that takes long and comes last is waited for alone.
LONGEST = ("test_commands_run[reading]",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first."""
    items.sort(key=lambda item: item.name not in LONGEST)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Waits for the first true value of a function."""
    return _eventually


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for child in map(int, children) for p in (child, *_descendants(child))]


@dataclass(frozen=True)
class Run:
    """A command that was started: its files tell what became of it."""

    folder: Path

    def pid(self) -> int:
        return int(
            _eventually(
                lambda: (self.folder / "pid").is_file() and (self.folder / "pid").read_text()
            )
        )

    def signal(self, number: int) -> None:
        os.kill(self.pid(), number)

    def descendants(self) -> list[int]:
        """The fork server, and then the workers, and what these have started, parents first."""
        return _descendants(self.pid())

    def signal_all(self, number: int, order: str) -> None:
        """Send a signal to the processes of the job: all, from the top or the bottom, or one."""
        driver, (fork_server, *workers) = self.pid(), self.descendants()
        match order:
            case "the driver":
                pids = [driver]
            case "all from the top":
                pids = [driver, fork_server, *workers]
            case "all from the bottom":
                pids = [*workers, fork_server, driver]
        for pid in pids:
            os.kill(pid, number)
            time.sleep(0.05)  # a scheduler that is in no hurry

    def wait(self, timeout_s: float = 60) -> Run:
        _eventually(lambda: (self.folder / "code").is_file(), timeout_s)
        return self

    @property
    def code(self) -> int:
        return int((self.folder / "code").read_text())

    @property
    def out(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "stderr").read_text()

    def ok(self, timeout_s: float = 60) -> Run:
        assert self.wait(timeout_s).code == 0, self.out + self.err
        return self


@contextmanager
def _warm(*modules: str) -> Iterator[Callable[..., Run]]:
    """Starts commands in forks of one process that has imported what they need, and the modules."""
    words = [sys.executable, str(APPS.parent / "warm_python.py"), *modules]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None

        def start(argv: Sequence[str], folder: Path, cwd: Path, env: Mapping[str, str]) -> Run:
            folder.mkdir()
            command = {"argv": argv, "cwd": str(cwd), "env": env, "folder": str(folder)}
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            return Run(folder)

        yield start


@pytest.fixture(scope="session")
def _warm_python() -> Iterator[Any]:
    with _warm() as start:
        yield start


@pytest.fixture(scope="session")
def _warm_cli() -> Iterator[Any]:
    with _warm("iolaus.cli", "iolaus.analysis.report.report") as start:
        yield start


@pytest.fixture
def cli(_warm_cli: Any, tmp_path: Path) -> Callable[..., Run]:
    """Runs `iolaus COMMAND ...` to its end, as a process of its own."""
    numbers = itertools.count()

    def run(*words: object, cwd: Path = tmp_path, timeout_s: float = 120, **env: str) -> Run:
        argv = ["-m", "iolaus.cli", *map(str, words)]
        return _warm_cli(argv, tmp_path / f"cli-{next(numbers)}", cwd, env).wait(timeout_s)

    return run


@pytest.fixture
def sweep(_warm_python: Any, tmp_path: Path) -> Callable[..., Run]:
    """Starts a sweep of an app of tests/apps in the folder tmp_path/study, without a report; does
    not wait for it.
    """
    numbers = itertools.count()

    def start(app: str, *arguments: str, folder: Path = tmp_path / "study", **env: str) -> Run:
        given = [
            "hydra/sweeper=iolaus",
            f"hydra.sweep.dir={folder}",
            "hydra.sweeper.report=null",
            *arguments,
        ]
        argv = [str(APPS / app), "--multirun", *given]
        return _warm_python(argv, tmp_path / f"run-{next(numbers)}", tmp_path, env)

    return start


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium.

    Without one the test skips; it fails where IOLAUS_REQUIRE_BROWSER is set, as in CI.
    """
    missing = pytest.fail if os.environ.get("IOLAUS_REQUIRE_BROWSER") else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = str(own) if own.exists() else shutil.which("chromium")
        if found is None:
            missing("no Chromium: `apt-get install chromium`, or `playwright install chromium`")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running PostgreSQL server (tests.postgres.Server), to which a test adds its database.

    Without one the test skips; it fails where IOLAUS_REQUIRE_POSTGRES is set, as in CI.
    """
    missing = pytest.fail if os.environ.get("IOLAUS_REQUIRE_POSTGRES") else pytest.skip
    if importlib.util.find_spec("psycopg") is None:
        missing("psycopg is not installed: pip install 'psycopg[binary]'")
    programs = postgres_programs()
    if programs is None:
        missing("no PostgreSQL: `apt-get install postgresql`")
    with running_server(programs) as server:
        yield server


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., optuna.Study]:
    """Loads the study of a sweep's folder, as anyone would with plain Optuna."""

    def load(folder: Path = tmp_path / "study") -> optuna.Study:
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
        return optuna.load_study(
            study_name=storage.get_all_studies()[0].study_name, storage=storage
        )

    return load
