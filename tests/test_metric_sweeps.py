"""Which way the watched metric is better, in real sweeps from the shell."""

import statistics
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from iolaus.analysis.data.sweep import load

APP = Path(__file__).parent / "apps" / "accuracy.py"
# Good and bad settings in turn, 0.1 to 2.0.
ORDER = [0.1 * ((7 * i) % 20 + 1) for i in range(20)]
SWEEPER = ("hydra/sweeper=iolaus", "hydra.sweeper.report=null", "hydra.sweeper.n_jobs=1")
GRID = ("hydra/sweeper/sampler=grid", f"x=choice({','.join(f'{x:.1f}' for x in ORDER)})")


@pytest.fixture
def sweep(tmp_path):
    """Run the app's sweep with further overrides; returns the process and, if it ran, the study."""

    def sweep(*overrides: str) -> tuple[subprocess.CompletedProcess[str], optuna.Study | None]:
        folder = tmp_path / "sweep"
        command = [
            sys.executable, str(APP), "--multirun", f"hydra.sweep.dir={folder}",
            *SWEEPER, *overrides,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        url = f"sqlite:///{folder}/study.db"
        known = (folder / "study.db").is_file()
        study = optuna.load_study(study_name="accuracy", storage=url) if known else None
        return done, study

    return sweep


@pytest.mark.parametrize("pruner", ["stalled", pytest.param("median", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "directions", ["maximize", pytest.param("[maximize,minimize]", marks=pytest.mark.slow)]
)
def test_a_falling_loss_is_good_whatever_the_objective(sweep, tmp_path, pruner, directions):
    """A task that returns an accuracy and reports its loss keeps its five best trials.

    What is pruned is worse, by its median, than what is kept.
    """
    done, study = sweep(
        *GRID,
        f"hydra/sweeper/pruner={pruner}",
        f"hydra.sweeper.direction={directions}",
        "returns=accuracy" if directions == "maximize" else "returns=both",
    )
    assert study is not None, done.stdout + done.stderr
    of_state = {
        state: [t.params["x"] for t in study.trials if t.state is state]
        for state in (TrialState.PRUNED, TrialState.COMPLETE)
    }
    pruned, kept = of_state.values()
    assert len(pruned) + len(kept) == 20
    assert len(pruned) >= 3
    assert max(pruned) < 1.6
    assert statistics.median(pruned) < statistics.median(kept)
    made = load(tmp_path / "sweep")
    assert (made.metric_goal, made.metric_sign) == ("minimize", 1.0)
    assert made.objective_sign == -1.0
    for trial in study.trials:  # the best of a falling loss is near its end
        assert trial.user_attrs["run"]["best"] <= min(trial.intermediate_values.values())


@pytest.mark.slow
def test_names_of_ours_in_a_users_metrics_are_metrics(sweep, tmp_path):
    """A metric named intervention/x is recorded beside the loss, which is watched all the same."""
    done, study = sweep("x=choice(1.0)", "hydra.sweeper.n_trials=1", "returns=accuracy")
    assert study is not None, done.stdout + done.stderr
    curves = load(tmp_path / "sweep").curves
    assert curves["metric"].value_counts().to_dict() == dict.fromkeys(
        ("loss", "intervention/x", "other"), 40
    )
    assert len(study.trials[0].intermediate_values) == 40


def test_an_objective_that_is_the_metric_goes_its_way(sweep):
    """Asked for the highest of a loss, a sweep refuses before it runs; metric_goal settles it."""
    asked = (
        "hydra/sweeper/sampler=grid",
        "x=choice(0.5, 1.0)",
        "hydra.sweeper.objective=best",
        "hydra.sweeper.direction=maximize",
    )
    done, study = sweep(*asked)
    assert done.returncode != 0
    assert study is None
    assert "loss is better when it is lower, by its name" in done.stderr
    assert (
        "set hydra.sweeper.direction=minimize, or hydra.sweeper.metric_goal=maximize" in done.stderr
    )
    done, study = sweep(*asked, "hydra.sweeper.metric_goal=maximize", "hydra.sweeper.n_trials=2")
    assert study is not None, done.stdout + done.stderr
    assert study.best_value == max(t.user_attrs["run"]["best"] for t in study.trials)


@pytest.mark.slow
def test_a_best_loss_is_no_objective_to_maximise(sweep):
    """Without a returned value such a trial fails and says why; a line warned of it."""
    done, study = sweep(
        "x=choice(1.0)", "returns=nothing", "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_trials=1",
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert study is not None, said
    (trial,) = study.trials
    assert trial.state is TrialState.FAIL
    assert (
        "the best loss cannot be the objective: it is better when it is lower"
        in (trial.user_attrs["why"])
    )
    assert "set hydra.sweeper.metric_goal=maximize" in said


@pytest.mark.parametrize(
    "direction", ["minimize", pytest.param("maximize", marks=pytest.mark.slow)]
)
def test_an_unknown_metric_goes_with_the_objective(sweep, tmp_path, direction):
    """What a name does not say follows the direction, and one line says so."""
    done, study = sweep(
        "x=choice(1.0)", "name=elo", "hydra.sweeper.metric=elo", "hydra.sweeper.n_trials=1",
        f"hydra.sweeper.direction={direction}",
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert study is not None, said
    assert said.count("is elo better when it is lower or higher?") == 1
    assert study.user_attrs["metric"] == {"name": "elo", "goal": direction}
    assert load(tmp_path / "sweep").metric_goal == direction


@pytest.mark.slow
def test_old_names_of_options_still_work_and_say_the_new_ones(sweep):
    """Each is taken as the new one, with a warning that says what to write; both is a mistake."""
    old = {
        "hydra.sweeper.audit_fraction=0.25": "write hydra.sweeper.holdout_fraction=0.25",
        "hydra.sweeper.n_remedies=3": "write hydra.sweeper.n_interventions=3",
        "hydra.sweeper.audit=math.nothing": "write hydra.sweeper.lint=math.nothing",
    }
    pruner = (
        "+hydra.sweeper.pruner={_target_:iolaus.sweeps.pruners.Audit,audit_fraction:0.5,"
        "pruner:{_target_:sweeps.pruners.StalledLoss}}"
    )
    done, study = sweep("x=choice(1.0)", *list(old)[:2], pruner, "hydra.sweeper.n_trials=1")
    said = done.stdout + done.stderr
    assert study is not None, said
    for sentence in (*list(old.values())[:2], "write iolaus.sweeps.pruners.Holdout"):
        assert said.count(sentence) == 1, said
    done, _ = sweep("x=choice(1.0)", list(old)[2])
    assert list(old.values())[2] in done.stdout + done.stderr
    assert "hydra.sweeper.lint=math.nothing" in done.stderr
    done, _ = sweep("x=choice(1.0)", next(iter(old)), "hydra.sweeper.holdout_fraction=0.5")
    assert done.returncode != 0
    assert "audit_fraction=0.25 is the old name of hydra.sweeper.holdout_fraction" in done.stderr
