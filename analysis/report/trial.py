"""One trial as a reader wants it: setting, how it ended, shape, convergence, fix."""

from __future__ import annotations

from typing import Any

import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import loss_metrics
from iolaus.analysis.diagnosis.convergence import convergence
from iolaus.analysis.diagnosis.diagnose import RISKS, diagnose
from iolaus.analysis.diagnosis.next_trials import rerun_command
from iolaus.analysis.diagnosis.run_ends import run_ends, runs_that_ended
from iolaus.analysis.memory import card_bytes, n_that_fit
from iolaus.sweeps.text import size

__all__ = ["described"]

GRADIENT_COLUMNS = ("exploded_at", "exploded_times", "exploded_parameter", "dead_since")


def described(sweep: Sweep, trial: int) -> pd.Series:
    """What is known of one trial, by name.

    That is its parameters, how it ended, its diagnosis with fix, its convergence. What does not
    apply is NaN or "". Raises ValueError for a trial that the sweep does not have.
    """
    if trial not in sweep.trials.index:
        known = (
            f"{sweep.trials.index.min()} to {sweep.trials.index.max()}"
            if len(sweep.trials)
            else "none"
        )
        raise ValueError(f"{sweep.name} has no trial {trial} that has run; it has {known}")
    own = sweep.trials[sweep.trials.index == trial].iloc[0]
    table = diagnose(sweep)
    params = {
        str(k).removeprefix("params."): v for k, v in own.items() if str(k).startswith("params.")
    }
    ended = own.reindex(
        [
            "state",
            "why",
            "verdict_rule",
            "steps",
            "n_steps",
            "seconds",
            "examples",
            "objective",
            "setting",
            "seed",
            "ran_with",
        ]
    )
    ended["pauses"] = _pauses_of(own)
    ended["memory"] = _memory_of(own, card_bytes(sweep))
    ended["lint"] = "; ".join(sweep.findings.get(trial, ()))
    found: dict[Any, Any] = table.to_dict("index").get(trial, {})
    # A gradient may leap in a run that goes on well: that is no explosion.
    of_gradient = [] if found.get("shape") in RISKS else GRADIENT_COLUMNS
    shown = convergence(sweep).drop(columns=["state", "last", "n_reports", *of_gradient])
    numbers: dict[Any, Any] = shown.to_dict("index")[trial]
    where = {"folder": str(own.get("folder") or ""), "rerun": rerun_command(sweep, trial)}
    if kept := sweep.kept_weights(trial):
        where["kept before a rebound"] = ", ".join(
            f"step {step}: {path}" for step, path in kept.items()
        )
    if (end := run_ends(sweep, [trial]).get(trial)) is not None:
        where["will end"] = end.sentence(sweep.metric)
    for foreseen, loss, took_s in runs_that_ended(sweep, [trial]).get(trial, []):
        share = f"{foreseen.step / foreseen.n_steps:.0%}"
        where[f"foreseen at {share}"] = foreseen.beside(sweep.metric, loss, took_s)
    validation = sweep.curve(trial, name) if (name := loss_metrics(sweep)[1]) else None
    if validation is not None and len(validation) and name != sweep.metric:
        where[str(name)] = f"{validation['value'].iloc[-1]:.4g}"
    about: dict[Any, Any] = {**params, **dict(ended.items()), **where, **found, **numbers}
    return pd.Series(about, dtype="object")


def _memory_of(own: pd.Series, card: int | None) -> str:
    """What a trial held of its GPU, and how many such would share one; else of the machine."""
    held = own.get("gpu_bytes")
    if held is None or pd.isna(held):
        ram = own.get("ram_bytes")
        return "" if ram is None or pd.isna(ram) else f"{size(float(ram))} resident"
    n = None if card is None else n_that_fit(float(held), card)
    share = "" if n is None or card is None else f"; {n} such would share one of {size(card)}"
    return f"{size(float(held))} of its GPU{share}"


def _pauses_of(own: pd.Series) -> str:
    """How often a trial was paused, and when it ran; "" for one that was not."""
    stretches = own.get("stretches")
    if not isinstance(stretches, list):
        return ""
    ran = " and ".join(f"{start:.1f} to {start + length:.1f} s" for _, start, length in stretches)
    return f"{own['pauses']}, ran from {ran} of the sweep"
