"""A sweep's folder as two tidy frames: its trials and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from sweeps.curves import read_curves
from sweeps.folder import describe_sweep
from sweeps.study import was_interrupted


@dataclass(frozen=True)
class Sweep:
    """What a sweep left behind, or has so far.

    name: of the study. metric: the watched one. directions: one per objective.
    trials: one row per trial that ran, indexed by number; columns state (Optuna's, lower case), why, steps (last
        reported), seconds, best and final (of the watched metric; NaN if it was never reported), objective (NaN unless
        completed; the first of several), seed (NaN unless repeats gave it one), setting (number of the leading trial),
        code (version it ran on, short), examples (last reported; NaN if never), folder, and `params.KEY` for each
        parameter (missing where a trial has none).
        Trials cut off with their sweep are left out: their settings were run again.
    curves: columns trial, step, seconds, metric, value; one row per metric and report.
    """

    name: str
    metric: str
    directions: tuple[str, ...]
    trials: pd.DataFrame
    curves: pd.DataFrame

    def curve(self, trial: int, metric: str | None = None) -> pd.DataFrame:
        """One metric of one trial (default: the watched one), columns step and value, in the order reported."""
        rows = self.curves[(self.curves["trial"] == trial) & (self.curves["metric"] == (metric or self.metric))]
        return rows[["step", "value"]].reset_index(drop=True)


def load(folder: Path) -> Sweep:
    """Read a sweep from its folder, while it runs or after. Raises FileNotFoundError if it is none."""
    about = describe_sweep(folder)
    study = open_study(folder)
    sessions = study.user_attrs.get("provenance", [])
    ran = [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING and not was_interrupted(t)]
    trials = pd.DataFrame([_row(trial, sessions) for trial in ran])
    curves = read_curves(folder / "curves").to_pandas()
    if len(trials):
        examples = curves[curves["metric"] == "examples"].groupby("trial")["value"].max()
        trials["examples"] = trials["number"].map(examples).astype(float)
    return Sweep(
        name=about.study_name,
        metric=about.metric,
        directions=tuple(about.directions),
        trials=trials.set_index("number") if len(trials) else trials,
        curves=curves,
    )


def open_study(folder: Path) -> optuna.Study:
    """The Optuna study of a sweep's folder."""
    about = describe_sweep(folder)
    return optuna.load_study(study_name=about.study_name, storage=about.storage)


def _row(trial: optuna.trial.FrozenTrial, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    run = trial.user_attrs.get("run", {})
    session = run.get("session")
    code = sessions[session]["code"] if session is not None and session < len(sessions) else {}
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "why": trial.user_attrs.get("why", ""),
        "steps": trial.user_attrs.get("steps"),
        "seconds": run.get("seconds"),
        "best": run.get("best", float("nan")),
        "final": run.get("final", float("nan")),
        "objective": trial.values[0] if trial.values and trial.state is TrialState.COMPLETE else float("nan"),
        "seed": trial.user_attrs.get("seed", float("nan")),
        "setting": trial.user_attrs.get("repeat_of", trial.number),
        "code": f"{str(code.get('commit'))[:10]}{'+' + code['difference'] if code.get('dirty') else ''}",
        "folder": run.get("folder", ""),
        **{f"params.{key}": value for key, value in trial.params.items()},
    }
