"""One trial as a reader wants it: setting, how it ended, shape, convergence, cure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.convergence import convergence
from analysis.diagnosis import diagnose
from analysis.load import Sweep


def described(sweep: Sweep, trial: int) -> pd.Series:
    """What is known of one trial, by name: its parameters, how it ended, its diagnosis with cure, its convergence.

    What does not apply is NaN or "". Raises ValueError for a trial that the sweep does not have.
    """
    if trial not in sweep.trials.index:
        numbers = f"{sweep.trials.index.min()} to {sweep.trials.index.max()}" if len(sweep.trials) else "none"
        raise ValueError(f"{sweep.name} has no trial {trial} that has run; it has {numbers}")
    own: pd.Series = sweep.trials.loc[trial]
    table = diagnose(sweep)
    params = {str(k).removeprefix("params."): v for k, v in own.items() if str(k).startswith("params.")}
    ended = own.reindex(
        ["state", "why", "verdict_rule", "steps", "n_steps", "seconds", "examples", "objective", "seed"]
    )
    found = table.loc[[trial]].iloc[0].to_dict() if trial in table.index else {}
    numbers = convergence(sweep).loc[[trial]].iloc[0].drop(["state", "last", "n_reports"]).to_dict()
    about: dict[Any, Any] = {**params, **ended.to_dict(), **found, **numbers}
    return pd.Series(about, dtype="object")
