"""The one command: help without loading anything, errors in a sentence, JSON that can be read."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from iolaus.cli import app, main
from iolaus.cli.output import plain
from iolaus.sweeps.study import summary
from iolaus.sweeps.study.summary import show_next
from iolaus.sweeps.text import to_install

COMMANDS = [
    command.name for command in app.registered_commands if command.name and not command.hidden
]
HEAVY = ("torch", "pandas", "numpy", "optuna", "hydra", "omegaconf", "matplotlib", "pyarrow")


@pytest.fixture
def iolaus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, str, str]]:
    """Runs the command in this process; gives its exit code, or last words, stdout and stderr."""

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["iolaus", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def runs(tmp_path: Path) -> str:
    """A file of eleven runs, of which one has no finite report."""
    steps = np.arange(1, 41)
    frames = [
        pd.DataFrame(
            {
                "trial": n,
                "step": steps,
                "loss": np.nan if n == 3 else np.exp(-steps / (5 + n)),
                "params.lr": 0.1 / (n + 1),
            }
        )
        for n in range(11)
    ]
    pd.concat(frames).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """It ends well, says how the command is called, and its options."""
    result = CliRunner().invoke(app, [command, "--help"], prog_name="iolaus")
    assert result.exit_code == 0
    assert f"iolaus {command}" in result.output
    assert result.exception is None


def test_help_names_all_commands_at_once() -> None:
    """Help loads no library of what the commands do, so it is there in a fraction of a second."""
    script = f"""
import sys
from iolaus.cli import app
try:
    app(["--help"], prog_name="iolaus")
except SystemExit as ended:
    print(ended.code, [name for name in {HEAVY} if name in sys.modules])
"""
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("0 []\n")
    assert all(f"  {command} " in done.stdout for command in COMMANDS)
    assert "race" not in done.stdout
    assert time.monotonic() - start_s < 5  # 0.15 s on an idle core


def test_a_sweep_is_shown_without_what_runs_sweeps(tmp_path: Path) -> None:
    """`iolaus show` and `status` load no hydra, pyarrow or pruners, and not alembic, which makes
    tables.
    """
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="s")
    study.optimize(lambda _: 1.0, n_trials=2)
    (tmp_path / "sweep.yaml").write_text("{study_name: s, storage: null, metric: loss}")
    script = """
import sys
from iolaus.cli import app
for command in ("show", "status"):
    app([command, sys.argv[1]], prog_name="iolaus", standalone_mode=False)
heavy = ("alembic", "hydra", "pyarrow", "pandas", "torch", "iolaus.sweeps.pruners")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert "2 complete" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_settings_are_ranked_without_what_draws_and_what_trains() -> None:
    """`iolaus rank` imports neither matplotlib nor torch, and of scipy special functions alone."""
    script = """
import sys
import iolaus.analysis.data.sweep, iolaus.analysis.ranking.pareto, iolaus.analysis.ranking.rank
heavy = ("alembic", "hydra", "matplotlib", "scipy.signal", "scipy.spatial", "scipy.stats", "torch")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("word", "meant"), [("repotr", "report"), ("dignose", "diagnose"), ("top_up", "top-up")]
)
def test_a_misspelt_command_names_the_nearest(iolaus, word: str, meant: str) -> None:
    """A word that is no command is refused with the one that was probably meant."""
    code, out, err = iolaus(word)
    assert (code, out) == (2, "")
    assert f"No such command '{word}'" in err
    assert f"'{meant}'" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "nowhere"], "iolaus: nowhere is no sweep"),
        (["show", "nowhere", "3"], "iolaus: no runs at nowhere"),
        (["rank", "nowhere"], "iolaus: no runs at nowhere"),
        (["top-up", "nowhere"], "iolaus: no runs at nowhere"),
        (["race", "nowhere"], "iolaus: no runs at nowhere"),
        (["dashboard", "nowhere"], "iolaus: nowhere is no sweep"),
        (["lint", "optim.lr=-1"], "iolaus: optim.lr must be finite and from 0 up; got -1"),
        (["lanes-check", "optim.lr=-1"], "iolaus: optim.lr must be finite"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(iolaus, arguments: list[str], sentence: str) -> None:
    """Exit code 1 (what `sys.exit` makes of a text, printed on stderr), and no traceback."""
    code, _, _ = iolaus(*arguments)
    assert str(code).startswith(sentence)


@pytest.mark.parametrize("command", ["lint", "lanes-check"])
def test_a_word_that_is_no_override_is_refused(iolaus, command: str) -> None:
    """Hydra's grammar says `missing EQUAL at '<EOF>'`; this says what an override is."""
    code, _, err = iolaus(command, "adit")
    assert code == 2
    assert "adit is none: KEY=VALUE, +KEY=VALUE or ~KEY" in err


def test_numbers_that_make_no_sense_are_refused(iolaus, runs: str) -> None:
    """At least one of each is needed."""
    for arguments in (["next", runs, "--n", "0"], ["replay", runs, "--workers", "0"]):
        code, _, err = iolaus(*arguments)
        assert (code, arguments[2] in err) == (2, True)


@pytest.mark.parametrize("extra", ["analysis", "trainer"])
def test_a_command_without_its_extra_names_it(
    iolaus, runs: str, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """Who installed the sweeper alone is told in one sentence what to install."""
    commands = {"analysis": ["rank", runs], "trainer": ["lint"]}
    home = {"analysis": "iolaus.analysis.ranking.rank", "trainer": "iolaus.trainer.lint_command"}
    package = home[extra].rpartition(".")[0]
    parent, _, name = package.rpartition(".")
    if package in sys.modules:  # put back afterwards: what is imported anew is another module
        monkeypatch.setattr(sys.modules[parent], name, sys.modules[package])
    for module in [found for found in sys.modules if found.startswith(package)]:
        monkeypatch.delitem(sys.modules, module)
    missing = {"analysis": "scipy.special", "trainer": "matplotlib.figure"}[extra]
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, _ = iolaus(*commands[extra])
    assert code == (f"iolaus: this needs {missing}, which is not installed: {to_install(extra)}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["rank"],
        ["rank", "--pareto"],
        ["compare"],
        ["diagnose"],
        ["convergence"],
        ["importance"],
        ["next"],
        ["replay", "--seeds", "1", "--pruner", "none", "median"],
    ],
)
def test_json_can_be_read_by_anyone(iolaus, runs: str, arguments: list[str]) -> None:
    """One document on stdout without NaN, which is not JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    code, out, _ = iolaus(arguments[0], runs, *arguments[1:], "--json")
    assert code == 0
    assert json.loads(out, parse_constant=refuse)


def test_several_pruners_may_follow_one_option(iolaus, runs: str, tmp_path: Path) -> None:
    """`--pruner A B` and `--pruner A --pruner B` ask the same."""
    common = [runs, "--seeds", "1", "--json"]
    one = iolaus("replay", *common, "--pruner", "none", "median")
    each = iolaus("replay", *common, "--pruner", "none", "--pruner", "median")
    assert json.loads(one[1]) == json.loads(each[1])
    assert len(json.loads(one[1])["rules"]) == 2


def test_plain_data_keeps_what_json_can_hold() -> None:
    """Frames, series, numpy and NaN become lists, mappings, numbers and None."""
    frame = pd.DataFrame({"n": [1, 2], "x": [0.1, np.nan], "t": [("a",), ()], "b": [True, False]})
    rows = [{"n": 1, "x": 0.1, "t": ["a"], "b": True}, {"n": 2, "x": None, "t": [], "b": False}]
    assert plain(frame) == rows
    assert plain({"a": np.float64("inf"), 1: frame["n"]}) == {"a": None, "1": {"0": 1, "1": 2}}
    assert plain([np.bool_(True), np.arange(2), Path("a"), pd.NA]) == [True, [0, 1], "a", None]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("lint", "did you mean `iolaus lint ...`?"),
        ("audit", "did you mean `iolaus lint ...`?"),
        ("adit", "did you mean `iolaus lint ...`?"),
        ("lanes-check", "did you mean `iolaus lanes-check ...`?"),
        ("x", "did you mean `iolaus lint ...` or `iolaus lanes-check ...`?"),
    ],
)
def test_the_trainer_sends_commands_to_iolaus(word: str, sentence: str) -> None:
    """A first argument that is no Hydra override is refused with the command that was meant."""
    from iolaus.trainer.__main__ import no_override

    assert no_override(word).endswith(sentence)
    assert no_override(word).startswith(f"{word} is no override")
    for override in ("a=1", "+a=1", "~a", "--multirun", "-m", "+sweep=quickstart", "a/b=c"):
        assert no_override(override) == ""


def test_the_end_of_a_sweep_names_commands_that_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script beside the interpreter that was called, or the module where there is none; only
    what works with what is installed.
    """

    def shown(python: str) -> list[str]:
        console = Console(file=io.StringIO(), width=200)
        show_next(console, python, "out/my sweep", "python train.py", 8)
        return console.file.getvalue().splitlines()[:2]

    python = str(tmp_path / "python3")
    module = f"{python} -m iolaus.cli"
    assert [line.split(None, 1)[1] for line in shown(python)] == [
        f"{module} report 'out/my sweep'",
        f"{module} dashboard 'out/my sweep'",
    ]
    script = tmp_path / "iolaus"
    script.touch(mode=0o755)
    assert shown(python)[0].split(None, 1)[1] == f"{script} report 'out/my sweep'"
    monkeypatch.setattr(summary, "find_spec", lambda name: None if name == "pandas" else name)
    assert shown(python)[0].split(None, 1) == ["show", f"{script} show 'out/my sweep'"]


def test_what_is_to_be_installed_is_named_by_its_own_name() -> None:
    """Packages that a registry has, those of an extra's own extras among them."""
    assert to_install("dashboard") == "pip install 'optuna-dashboard>=0.20'"
    assert to_install("analysis,wandb").endswith(" scipy wandb")
    assert "hydra-iolaus" not in to_install("dev")
