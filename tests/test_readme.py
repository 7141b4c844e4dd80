"""What the README says works: its commands run, its links lead somewhere, its tables name what
exists.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_plugins.iolaus.config import PRUNERS, SAMPLERS, IolausSweeperConf

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"`((?:python -m|iolaus) [^`]+)`", README.partition("## In your own")[0])
# The real commands, on fewer steps and trials; what they search and print is the same.
SHORT = ["steps=20", "report_every=5", "eval_every=20"]
N_TRIALS = 10
# What trains, and has tests of its own; CI leaves it to `make test-all`.
TRAINS = ("top-up", "extend", "preview", "+sweep=decay", "multirun/decay")
TRAINS += tuple(f"+sweep={path.stem}" for path in (ROOT / "docs/stories").glob("*.md"))


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "left_out", [TRAINS, pytest.param((), marks=pytest.mark.slow)], ids=["reading", "all"]
)
def test_commands_run(left_out: tuple[str, ...], tmp_path: Path) -> None:
    """Every command of the README's table does what it is there for, one after the other, in an
    empty folder.
    """
    sweep = [sys.executable, "-m", "iolaus.trainer", "--multirun", "+sweep=quickstart", *SHORT]
    few = ["hydra.sweeper.n_trials=8", "hydra.sweeper.finalists=null"]
    assert "best" in run([*sweep, *few], tmp_path)
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        words = shlex.split(command)
        if set(words) & set(left_out):
            continue
        trains = words[:3] == ["python", "-m", "trainer"]
        module = "iolaus.trainer" if trains else "iolaus.cli"  # as installed, from any folder
        words = [sys.executable, "-m", module, *words[3 if trains else 1 :]]
        if "dashboard" in words:
            words.append("--help")  # it serves until it is stopped
        words = [
            str(tmp_path / "multirun/quickstart") if word == "CURVES.parquet" else word
            for word in words
        ]
        if "--multirun" in words:
            words += [f"hydra.sweeper.n_trials={N_TRIALS}", "hydra.sweeper.repeats=1"]
            words += ["hydra.sweeper.finalists=null"]
        run([*words, *SHORT] if trains else words, tmp_path)
    report = tmp_path / "multirun/quickstart/report"
    assert (report / "curves.png").stat().st_size > 10_000
    assert re.search(r"\d+ trials of quickstart tried", (report / "index.html").read_text())


def test_make_targets_exist() -> None:
    """The two commands that set everything up are targets of the Makefile, and CI runs the
    second.
    """
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    assert "target=${1:-test}" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    """Every relative link of the README is a file."""
    assert (ROOT / path).is_file()


def test_tables_name_what_exists() -> None:
    """The sweeper's options, samplers and pruners in the README are those it has, with the defaults
    it says.
    """
    defaults = vars(IolausSweeperConf())
    options = re.search(r"`hydra.sweeper.` \|.*?\n\n", README, re.DOTALL)
    assert options
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", options[0], re.MULTILINE)
    assert len(rows) >= 10
    for name, said in rows:
        assert name in defaults
        if value := said.strip(" `"):
            default = None if defaults[name] == {} else defaults[name]
            assert value.lower() == str(default).lower()
    words = re.search(
        r"`hydra/sweeper/sampler` is one of (.*?); `hydra/sweeper/pruner` one of (.*?), or",
        README,
        re.DOTALL,
    )
    assert words
    assert set(re.findall(r"\w+", words[1])) == set(SAMPLERS)
    assert set(re.findall(r"\w+", words[2])) == {*PRUNERS, "stalled"}
