"""Conditions, known settings, duplicates, repeats and lints, in real sweeps from the shell."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize
from optuna.trial import TrialState

APP = Path(__file__).parent / "apps" / "conditional.py"

# Of two seeds one reports to step 30 and waits; the other diverges once that is so.
SEEDS_APART = """
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

import iolaus

AT_30 = Path(__file__).with_name("at_30")
ConfigStore.instance().store("config", {"x": 1, "seed": 0})


@hydra.main(version_base=None, config_name="config")
def main(cfg):
    if cfg.seed == 0:
        for step in (10, 20, 30):
            iolaus.report(step, loss=1.0)
        time.sleep(1)
        AT_30.touch()
    while not AT_30.exists():
        time.sleep(0.05)
    while True:
        time.sleep(0.05)
        iolaus.report(30, loss=1.0 if cfg.seed == 0 else float("nan"))


if __name__ == "__main__":
    main()
"""


@pytest.fixture
def sweep(tmp_path: Path):
    """Run the app's sweep with further overrides; returns its study, what it printed, and the
    trainings that ran.
    """

    def sweep(*overrides: str) -> tuple[optuna.Study, str, list[tuple[str, float, str]]]:
        command = [sys.executable, str(APP), "--multirun", f"runs={tmp_path}/runs.txt", *overrides]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        study = optuna.load_study(
            study_name="conditional", storage=f"sqlite:///{tmp_path}/sweep/study.db"
        )
        lines = [line.split() for line in (tmp_path / "runs.txt").read_text().splitlines()]
        return study, done.stdout, [(seed, float(lr), kind) for seed, lr, kind in lines]

    return sweep


def test_no_setting_runs_twice(sweep) -> None:
    """Ten settings exist; thirty trials train each once, take over the rest, and the search still
    sees all thirty.
    """
    study, _, runs = sweep("hydra.sweeper.n_trials=30")
    assert len(study.trials) == 30
    ran = [t for t in study.trials if "duplicate_of" not in t.user_attrs]
    assert len(ran) == len(runs) <= 10
    for trial in study.trials:
        assert ("clip.threshold" in trial.params) == (trial.params["clip"] != "none")
        if (original := trial.user_attrs.get("duplicate_of")) is not None:
            assert trial.params == study.trials[original].params
            assert trial.values == study.trials[original].values


def test_nothing_searched_is_said_and_runs_once(sweep) -> None:
    """Where every parameter is fixed, a warning says so before anything runs, and one trial runs;
    with repeats one of each seed.
    """
    study, printed, runs = sweep("lr=0.1", "clip=none", "hydra.sweeper.n_trials=20")
    assert "nothing is searched, so the one setting runs once" in printed.partition("trial 0")[0]
    assert len(study.trials) == len(runs) == 1
    _, printed, _ = sweep("lr=0.1", "clip=none", "hydra.sweeper.repeats=3")
    assert "runs with 3 seeds" in printed


@pytest.mark.parametrize("name", ["params", "when"])
def test_a_command_line_can_add_to_what_is_searched(name: str) -> None:
    """With Hydra's `+`, beside an app whose config searches nothing."""
    overrides = ["hydra/sweeper=iolaus", f"+hydra.sweeper.{name}.bs=[32,64]"]
    with initialize(version_base=None, config_path=None):
        sweeper = compose(overrides=overrides, return_hydra_config=True).hydra.sweeper
    assert sweeper[name] == {"bs": [32, 64]}


def test_known_settings_run_first(sweep) -> None:
    """Settings known in advance are the first trials, in their order; what they leave out is
    sampled.
    """
    study, _, _ = sweep(
        "hydra.sweeper.enqueue=[{clip: norm, clip.threshold: 2, lr: 0.2}, {clip: none}]"
    )
    first, second = study.trials[:2]
    assert first.params == {"clip": "norm", "clip.threshold": 2, "lr": 0.2}
    assert second.params["clip"] == "none"
    again, _, _ = sweep(
        "hydra.sweeper.enqueue=[{clip: norm, clip.threshold: 2, lr: 0.2}]",
        "hydra.sweeper.n_trials=11",
    )
    assert len(again.trials) == 11
    assert (
        sum("fixed_params" in t.system_attrs for t in again.trials) == 2
    )  # the known one is not queued again


def test_repeats_count_seeds_up(sweep) -> None:
    """Each setting runs with seeds counted up from the config's, as one of n_trials; more can be
    asked for later.
    """
    lrs = "lr=choice(0.1, 0.2, 0.11)"
    arguments = ["clip=none", lrs, "hydra/sweeper/sampler=grid", "~hydra.sweeper.sampler.seed"]
    study, printed, runs = sweep(*arguments, "hydra.sweeper.repeats=2")
    assert Counter(seed for seed, _, _ in runs) == {"3": 3, "4": 3}
    assert len(study.trials) == 6
    repeats = [t for t in study.trials if "repeat_of" in t.user_attrs]
    assert all(t.params == study.trials[t.user_attrs["repeat_of"]].params for t in repeats)
    assert "± sd" in printed
    study, _, runs = sweep(*arguments, "hydra.sweeper.repeats=4")
    per_setting = Counter(lr for _, lr, _ in runs)
    assert per_setting[0.1] == 4
    assert per_setting[0.2] < 4  # by now it is known to be hopeless
    every = ("hydra.sweeper.repeats=4", "hydra.sweeper.repeat_hopeless=true")
    _, _, runs = sweep(*arguments, *every)
    assert set(Counter(lr for _, lr, _ in runs).values()) == {4}


def test_infeasible_settings_cost_nothing(sweep) -> None:
    """A setting that the lint rules out is told to Optuna as a constraint and never trained."""
    study, printed, runs = sweep("lr=interval(0, 1)", "hydra.sweeper.lint=conditional.lint")
    ruled_out = [t for t in study.trials if t.params["lr"] > 0.5]
    assert ruled_out
    assert len(runs) == len(study.trials) - len(ruled_out)
    for trial in study.trials:
        assert (trial.state is TrialState.PRUNED) == (trial in ruled_out)
        assert ("hot" in trial.constraints) == (trial in ruled_out)
    assert ruled_out[0].constraints["hot"] == pytest.approx(ruled_out[0].params["lr"] - 0.5)
    assert "is too hot" in printed


def test_a_seed_given_up_for_another_ends_where_it_was(tmp_path: Path) -> None:
    """A trial that ends because another seed of its setting did has the step it had reached as that
    of its verdict.
    """
    (tmp_path / "app.py").write_text(SEEDS_APART)
    command = [
        sys.executable,
        "app.py",
        "--multirun",
        "hydra/sweeper=iolaus",
        "hydra.sweep.dir=sweep",
    ]
    command += [
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.repeats=2",
        "hydra.sweeper.n_jobs=2",
        "x=choice(1)",
    ]
    done = subprocess.run(
        [*command, "hydra.sweeper.report=null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = optuna.load_study(
        study_name=None, storage=f"sqlite:///{tmp_path}/sweep/study.db"
    ).trials
    assert trials[0].user_attrs["verdict_rule"] == "repeats"
    assert trials[0].user_attrs["verdict_step"] == 30
