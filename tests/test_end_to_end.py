"""Sweeps from the shell, as their users see them: what is refused, what may fail, what is kept,
what is printed.
"""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.study.record import was_interrupted

APPS = Path(__file__).parent / "apps"
GRID = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=100"]
X = "x=interval(0, 1)"


def fingerprint(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".db-wal", ".db-shm")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


REFUSED = {
    "unknown parameter": (
        ["xx=choice(1, 2)"],
        "unknown parameter xx",
        "no such key; did you mean x?",
    ),
    "empty interval": (["x=interval(1, 1)"], "x=interval(1, 1)", "is empty; widen it"),
    "turned interval": (["x=interval(3, 1)"], "x=interval(3, 1)", "write interval(1.0, 3.0)"),
    "log of zero": (
        ["x=tag(log, interval(0, 1))"],
        "above 0, got 0.0",
        "start it at a small positive number",
    ),
    "choice twice": (
        ["x=choice(1, 2, 1)"],
        "the choice 1 stands there twice",
        "name each choice once",
    ),
    "fixed and searched": (["x=3", X], "x is both fixed and searched", "keep one of them"),
    "other space": (
        ["x=interval(0, 2)"],
        "x was float 0.0 to 1.0, now float 0.0 to 2.0",
        "choose another",
    ),
    "other direction": (
        [X, "hydra.sweeper.direction=maximize"],
        "direction=minimize, asked for maximize",
        "choose",
    ),
    "no such storage": (
        [X, "hydra.sweeper.storage=sqlite:////no/where.db"],
        "sqlite:////no/where.db",
        "check",
    ),
    "unknown storage": (
        [X, "hydra.sweeper.storage=nonsense://x"],
        "nonsense",
        "check hydra.sweeper.storage",
    ),
    "no trials": (
        [X, "hydra.sweeper.n_trials=0"],
        "n_trials=0",
        "give the total number of trials to reach, 1 or more",
    ),
    "no jobs": ([X, "hydra.sweeper.n_jobs=-1"], "n_jobs=-1", "1 or more, or auto"),
    "failure rate": (
        [X, "hydra.sweeper.max_failure_rate=2"],
        "max_failure_rate=2",
        "a share from 0",
    ),
    "timeout": (
        [X, "hydra.sweeper.trial_timeout=soon"],
        "trial_timeout=soon",
        "give seconds above 0, or a text such as 90s, 30min",
    ),
    "sampler option": (
        [X, "+hydra.sweeper.sampler.wit=3"],
        "TPESampler",
        "unexpected keyword argument 'wit'",
    ),
    "several objectives, one pruner": (
        [
            X,
            "hydra.sweeper.direction=[minimize,minimize]",
            "hydra/sweeper/pruner=wilcoxon",
            "hydra.sweeper.study_name=n",
        ],
        "WilcoxonPruner compares with the best trial and there are 2 objectives",
        "none",
    ),
    "several objectives, one pruner in a combination": (
        [
            *(X, "hydra.sweeper.direction=[minimize,minimize]", "hydra.sweeper.study_name=n"),
            "+hydra.sweeper.pruner={_target_:iolaus.sweeps.pruners.AnyOf,pruners:[{_target_:optuna.pruners.WilcoxonPruner}]}",
        ],
        "WilcoxonPruner compares with the best trial and there are 2 objectives",
        "none",
    ),
}


def test_bad_input_is_refused_in_a_sentence(sweep: Any, tmp_path: Path) -> None:
    """What cannot be is refused at once, with what was asked and what to do, and nothing there is
    changed.
    """
    sweep("trouble.py", X, "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1").ok()
    (tmp_path / "file").write_text("not a folder")
    before = fingerprint(tmp_path / "study")
    cannot_write = (
        {"folder": tmp_path / "file" / "study"},
        "Not a directory",
        "choose another hydra.sweep.dir",
    )
    for what, (given, arrived, to_do) in {**REFUSED, "no folder": cannot_write}.items():
        done = (
            sweep("trouble.py", X, **given)
            if isinstance(given, dict)
            else sweep("trouble.py", *given)
        ).wait()
        lines = [line for line in done.err.splitlines() if line and "HYDRA_FULL_ERROR" not in line]
        assert done.code != 0, what
        assert len(lines) == 1, (what, lines)
        assert arrived in lines[0], (what, lines)
        assert to_do in lines[0], (what, lines)
        assert "trial" not in done.out, what
    assert fingerprint(tmp_path / "study") == before


def test_read_only_folder_is_refused(sweep: Any) -> None:
    """A folder that nobody may write to is named, with the system's reason."""
    done = sweep("trouble.py", X, folder=Path("/sys/study")).wait()
    assert done.code != 0
    assert re.search(r"cannot write to /sys/study: .+; choose another hydra.sweep.dir", done.err)


def test_each_ending(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Whatever a task does ends that trial only: recorded, with a reason, a log that exists, and a
    row in the table.
    """
    ways = [
        "return",
        "diverge",
        "raise",
        "exit",
        "kill",
        "os exit",
        "nothing",
        "report other",
        "report",
    ]
    done = sweep(
        "trouble.py",
        *GRID,
        f"do=choice({','.join(ways)})",
        "hydra.sweeper.max_failure_rate=1",
        "hydra.sweeper.n_jobs=2",
        "hydra/sweeper/pruner=median",
    ).ok()
    trials = {t.params["do"]: t for t in study().trials}
    assert list(trials) == ways
    why = {do: t.user_attrs["why"] for do, t in trials.items()}
    assert why["return"] == "completed"
    assert why["report"] == "completed"
    assert trials["report"].value == 1
    failed = {
        "nothing": "the task returned None and reported no 'loss'; return a number",
        "raise": "ValueError: told to fail (trouble.py:",
        "exit": "the task called sys.exit('told to leave')",
        "kill": "was killed by SIGKILL (often the system running out of memory)",
        "os exit": "exited with status 7",
        "report other": "it reported accuracy: set hydra.sweeper.metric to one of them",
    }
    for do, reason in failed.items():
        assert trials[do].state is TrialState.FAIL
        assert reason in why[do]
        assert "printed by 1.0" in Path(trials[do].user_attrs["log"]).read_text()
        row = next(
            line
            for line in done.out.splitlines()
            if line.split()[:2] == [str(trials[do].number), "failed"]
        )
        assert why[do].removeprefix("failed: ")[:30] in row
    assert "Traceback" in Path(trials["raise"].user_attrs["log"]).read_text()

    nan = trials["diverge"]
    assert nan.state is TrialState.PRUNED
    assert why["diverge"] == "diverged: loss became nan at step 3"
    assert nan.user_attrs["verdict_rule"] == "diverged"
    assert (tmp_path / "study" / nan.user_attrs["run"]["folder"] / "last_step").read_text() == "3"
    assert re.search(
        r"MedianPruner has nothing to judge: trial \d+ never reported 'loss'", done.out + done.err
    )


def test_stop_and_continue(sweep: Any, study: Any, eventually: Any, tmp_path: Path) -> None:
    """Ctrl-C, Ctrl-C twice, or a killed driver: the same command goes on, and each setting is run
    to its end once.
    """
    diary = tmp_path / "diary"
    settings = [*GRID, "x=range(0, 20)", "pause_s=0.4", f"diary={diary}", "hydra.sweeper.n_jobs=2"]

    def lines() -> int:
        return len(diary.read_text().splitlines()) if diary.is_file() else 0

    def started(n: int) -> Any:
        n_before, run = lines(), sweep("trouble.py", *settings)
        eventually(lambda: lines() >= n_before + n)
        return run

    run = started(3)
    run.signal(signal.SIGINT)
    done = run.wait()
    assert done.code == 130
    assert "no new trials: interrupted" in done.out
    assert re.search(r"trial +state.+\n +\d+ +completed", done.out)
    assert {t.state for t in study().trials} == {TrialState.COMPLETE}
    n_first = len(study().trials)
    assert 2 <= n_first <= 5

    run = started(3)
    run.signal(signal.SIGINT)
    eventually(lambda: "no new trials" in run.out)
    stopped_s = time.monotonic()
    run.signal(signal.SIGINT)
    run.wait()
    assert time.monotonic() - stopped_s < 5
    assert run.code == 130
    cut = [t for t in study().trials if was_interrupted(t)]
    assert 1 <= len(cut) <= 2
    assert {t.state for t in cut} == {TrialState.WAITING}
    assert not [t for t in study().trials if t.state is TrialState.RUNNING]
    assert "trial  state" in run.out

    run = started(3)
    second = sweep("trouble.py", *settings).wait()  # while the other runs
    assert second.code != 0
    assert f"another sweep is running in {tmp_path}/study; wait for it" in second.err
    run.signal(signal.SIGKILL)
    assert run.wait().code == -signal.SIGKILL

    done = sweep("trouble.py", *settings).ok()
    assert "cut off when the sweep died" in done.out + done.err
    trials = study().trials
    completed = Counter(t.params["x"] for t in trials if t.state is TrialState.COMPLETE)
    assert completed == Counter(range(20))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert {t.number for t in cut} <= {t.number for t in trials if "interruptions" in t.user_attrs}
    assert len(trials) == 20
    folders = [t.user_attrs["run"]["folder"] for t in trials if t.state is TrialState.COMPLETE]
    assert len(set(folders)) == 20


def test_n_trials_is_the_total_and_a_study_can_move(sweep: Any, study: Any, tmp_path: Path) -> None:
    """The same command does nothing more; with n_trials raised it goes on; a copy elsewhere reads
    and goes on too.
    """
    given = [X, "do=report", "hydra.sweeper.n_jobs=2"]
    sweep("trouble.py", *given, "hydra.sweeper.n_trials=3").ok()
    again = sweep("trouble.py", *given, "hydra.sweeper.n_trials=3").ok()
    assert "has reached its 3 trials; nothing was run" in again.out
    assert "raise hydra.sweeper.n_trials above 3" in again.out
    assert len(study().trials) == 3

    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(tmp_path / "study", moved)
    shutil.rmtree(tmp_path / "study")
    sweep("trouble.py", *given, "hydra.sweeper.n_trials=5", folder=moved).ok()
    trials = study(moved).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 5
    assert all((moved / t.user_attrs["run"]["folder"] / ".hydra").is_dir() for t in trials)
    curves = pd.concat(map(pd.read_parquet, (moved / "curves").glob("*.parquet")))
    assert sorted(curves.groupby("trial").size()) == [5] * 5
    assert read_curves(moved / "curves").num_rows == 25
    assert [s["command"][-1] for s in study(moved).user_attrs["provenance"]] == [
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_trials=5",
    ]


def test_no_barrier(sweep: Any, study: Any) -> None:
    """One slow trial holds up nobody: the other slot runs all the others meanwhile."""
    sweep(
        "trouble.py",
        *GRID,
        "pause_s=choice(2.5, 0, 0.01, 0.02, 0.03, 0.04)",
        "hydra.sweeper.n_jobs=2",
    ).ok()
    slow, *others = study().trials
    assert slow.params["pause_s"] == 2.5
    assert max(t.datetime_complete for t in others) < slow.datetime_complete
    assert {t.user_attrs["run"]["slot"] for t in others} == {1 - slow.user_attrs["run"]["slot"]}


def test_a_trial_is_a_hydra_job(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Environment, working directory, callbacks and log are each trial's own; a module is imported
    once per worker.
    """
    imports = tmp_path / "imports"
    sweep(
        "trouble.py",
        *GRID,
        "x=range(0, 6)",
        "do='describe job'",
        "+hydra.job.env_set.GREETING=hello",
        "hydra.job.chdir=true",
        "+hydra.callbacks.diary._target_=__main__.Diary",
        "hydra.sweeper.n_jobs=2",
        IMPORTS=str(imports),
    ).ok()
    for trial in study().trials:
        folder = tmp_path / "study" / trial.user_attrs["run"]["folder"]
        assert (folder / "here").read_text() == f"hello {trial.number}"
        assert (folder / "callbacks").read_text() == "start\nend\n"
        assert f"printed by {trial.params['x']}" in (folder / "output.log").read_text()
        assert OmegaConf.load(folder / ".hydra" / "config.yaml").x == trial.params["x"]
        assert OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.job.num == trial.number
    pids = imports.read_text().split()
    assert len(pids) == len(set(pids)) == 2


def test_objective(sweep: Any, study: Any, tmp_path: Path) -> None:
    """The objective is the best or final report or the return value, as asked; by default what the
    task returns.
    """
    reported, both = "report", "report and return"
    wanted = {
        "best": {reported: 10, both: 1},
        "final": {reported: 20, both: 1},
        "return": {reported: None, both: 10},
        "null": {reported: 10, both: 10},
    }
    given = [
        *GRID,
        f"do=choice('{reported}', '{both}')",
        "x=10",
        "hydra.sweeper.max_failure_rate=1",
    ]
    runs = [
        sweep("trouble.py", *given, f"hydra.sweeper.objective={o}", folder=tmp_path / o)
        for o in wanted
    ]
    for run in runs:
        run.ok()
    assert {
        o: {t.params["do"]: t.value for t in study(tmp_path / o).trials} for o in wanted
    } == wanted


def test_maximize(sweep: Any, study: Any, tmp_path: Path) -> None:
    """With direction=maximize the largest value wins, in the table and the results."""
    done = sweep("trouble.py", *GRID, "x=range(0, 4)", "hydra.sweeper.direction=maximize").ok()
    assert (
        OmegaConf.load(tmp_path / "study" / "optimization_results.yaml").best_value
        == study().best_value
        == 3
    )
    assert re.search(r"trial .+\n +3 +completed +3", done.out)


def test_pruner_prunes(sweep: Any, study: Any) -> None:
    """A pruner ends hopeless trials early, and says at which step."""
    given = [
        "do=report",
        "x=choice(1, 2, 3, 4)",
        "n_steps=50",
        "step_s=0.02",
        "hydra.sweeper.n_jobs=1",
    ]
    pruner = ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2"]
    alone = ["hydra.sweeper.holdout_fraction=0"]
    done = sweep("trouble.py", *GRID, *given, *pruner, *alone).ok()
    pruned = [t for t in study().trials if t.state is TrialState.PRUNED]
    assert [t.params["x"] for t in pruned] == [3, 4]
    assert all(t.user_attrs["steps"] < 49 for t in pruned)
    assert all(f"at step {t.user_attrs['verdict_step']:,}" in done.out for t in pruned)


def test_a_real_terminal_command(tmp_path: Path) -> None:
    """Started by a shell, a sweep prints where it is, a line per trial, the table, and commands
    that work.
    """
    command = [
        sys.executable,
        str(APPS / "trouble.py"),
        "--multirun",
        "hydra/sweeper=iolaus",
        X,
        "do=report",
    ]
    more = ["hydra.sweeper.n_trials=2", "hydra.sweeper.report=null", "hydra.sweeper.n_jobs=1"]
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([*command, *more], **run)
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("trial ")][
        :2
    ] == [
        ["trial", "0", "completed"],
        ["trial", "1", "completed"],
    ]
    continued = re.search(r"continue +(.+)", done.stdout)
    assert continued
    done = subprocess.run(["bash", "-c", continued[1].replace("n_trials=4", "n_trials=3")], **run)
    assert "trial 2 completed" in done.stdout
    assert "3 trials in study trouble" in done.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "iolaus.cli", "show", *tmp_path.glob("multirun/*/*")], **run
    )
    assert len(shown.stdout.splitlines()) == 5  # what the columns are is the last line


def test_failed_settings_are_run_again_by_the_same_command(
    sweep: Any, cli: Any, study: Any, tmp_path: Path
) -> None:
    """A grid in which some failed is not called done; `iolaus retry` queues them, and names how."""
    mended = tmp_path / "mended"
    app = tmp_path / "app.py"
    app.write_text(
        "import hydra, pathlib\n"
        "from hydra.core.config_store import ConfigStore\n"
        "@hydra.main(version_base=None, config_path=None, config_name='c')\n"
        "def main(cfg):\n"
        f"    if cfg.x == 0 and not pathlib.Path({str(mended)!r}).exists():\n"
        "        raise RuntimeError('a bug')\n"
        "    return cfg.x + cfg.y\n"
        "ConfigStore.instance().store('c', {'x': 1, 'y': 1})\n"
        "main()\n"
    )
    given = [str(app), *GRID, "hydra.sweeper.max_failure_rate=1", "x=range(0, 3)", "y=range(0, 2)"]
    first, again = sweep(*given).ok(), sweep(*given).ok()
    assert "--failed" in first.out
    assert "2 trials failed" in again.out
    assert "--failed" in again.out
    assert "whole grid" not in again.out
    mended.touch()
    done = cli("retry", tmp_path / "study", "--failed").ok()
    assert done.out.startswith("Queued again: 2 trials, 0, 1.")
    assert f"hydra.sweep.dir={tmp_path / 'study'}" in done.out
    last = sweep(*given).ok()
    assert "[6/6 trials" in last.out
    assert "--failed" not in last.out
    assert sorted(t.value for t in study().trials if t.value is not None) == [0, 1, 1, 2, 2, 3]
    assert "The whole grid has been run." in sweep(*given).ok().out
    done = cli("retry", tmp_path / "study", "--failed").ok()
    assert done.out.startswith("No trial has failed")
