from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from iolaus.trainer.lint_command import lint_command

SWEEPS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "sweep").glob("*.yaml"))
# Of hundreds of settings, or that import more than torch.
LONG = ("everything", "finetune", "summarise", "summarise_stages")
# Those that are for a GPU run on fewer examples here.
SMALLER = {
    "finetune_full": ("task.n_train=64", "task.n_val=32", "task.n_test=32"),
    "summarise_full": ("steps=4", "report_every=2", "eval_every=4", "task.n_val=16"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n.endswith("_full") or n in LONG else [])
        for n in SWEEPS
    ],
)
def test_every_setting_of_a_shipped_sweep_makes_a_run(name: str) -> None:
    """Settings drawn from the whole space compose and pass every check."""
    assert lint_command([f"+sweep={name}", "lint.n_samples=8", "lint.figure=null"]).startswith(
        "8 settings drawn"
    )


@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_says_what_question_it_answers(name: str) -> None:
    """The comment at the top of the file asks it."""
    lines = (Path(__file__).parents[2] / "conf" / "sweep" / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line for line in lines[1:6] if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    assert "?" in comment


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_runs(name: str, tmp_path: Path) -> None:
    """Three settings of it, with one seed each, end completed or pruned, in a study of its name."""
    command = [
        sys.executable,
        "-m",
        "iolaus.trainer",
        "--multirun",
        f"+sweep={name}",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.repeats=1",
        "hydra.sweeper.finalists=null",
        *SMALLER.get(name, ()),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(
        study_name=name, storage=f"sqlite:///{tmp_path}/multirun/{name}/study.db"
    )
    assert len(study.trials) == 3
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "PRUNED"}
