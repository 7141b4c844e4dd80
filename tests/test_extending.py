"""docs/extending.md works as it stands: its files are written down, its tests and commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"^```\w+\n# file: (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files and an app."""
    folder = tmp_path_factory.mktemp("extending")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    shutil.copy(ROOT / "tests/apps/parabola.py", folder)
    return folder


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_block_is_a_file_or_a_command() -> None:
    """Nothing on the page is left out: a block of code names its file."""
    assert len(FILES) + len(COMMANDS) == PAGE.count("\n```") // 2
    assert sum(name.startswith("test_") for name in FILES) == 4


def test_a_pruner_has_fifteen_lines() -> None:
    """As promised: the whole file, blank lines aside."""
    assert len([line for line in FILES["flat.py"].splitlines() if line.strip()]) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("test_")))
def test_its_tests_pass(folder: Path, name: str) -> None:
    """What the page adds keeps the contract of its kind."""
    said = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", name], folder)
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
    assert "skipped" not in said


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(folder: Path, command: str) -> None:
    """As typed in the folder."""
    python, *words = shlex.split(command.replace("\\\n", " "))
    assert python == "python"
    run(words, folder)
