"""Which way the watched metric is better, in real sweeps from the shell."""

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


@pytest.mark.parametrize("pruner", ["stalled", "median"])
@pytest.mark.parametrize("directions", ["maximize", "[maximize,minimize]"])
def test_a_falling_loss_is_good_whatever_the_objective(sweep, tmp_path, pruner, directions):
    """A task that returns an accuracy and reports its loss keeps its best trials, and loses bad ones."""
    done, study = sweep(
        *GRID,
        f"hydra/sweeper/pruner={pruner}",
        f"hydra.sweeper.direction={directions}",
        "returns=accuracy" if directions == "maximize" else "returns=both",
    )
    assert study is not None, done.stdout + done.stderr
    pruned = [t.params["x"] for t in study.trials if t.state is TrialState.PRUNED]
    assert len(study.trials) == 20
    assert len(pruned) >= 3
    assert max(pruned) <= 1.0  # none of the ten best
    made = load(tmp_path / "sweep")
    assert (made.metric_goal, made.metric_sign) == ("minimize", 1.0)
    assert made.objective_sign == -1.0
    for trial in study.trials:  # the best of a falling loss is near its end
        assert trial.user_attrs["run"]["best"] == min(trial.intermediate_values.values())
