"""Clipping that is configured and never acts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.parameters import parameters
from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.text import counted

__all__ = ["clipping_sentences"]

UNCLIPPED = ("none", "null", "no", "off")


def clipping_sentences(sweep: Sweep) -> list[str]:
    """In which share of the steps clipping acted, where it could, and for whom it never did.

    Of the trials that have a clipping, by their parameters or else by the sweep's config, and
    report `clipped` (the share of steps since the last report). Nothing where it acted in some
    steps of all of them.
    """
    shares = {
        number: float(np.mean(values))
        for number, (_, values) in curves_of(sweep.curves, "clipped").items()
        if len(values)
    }
    trials = sweep.trials.loc[[n for n in sweep.trials.index if n in shares]]
    has = _has_clipping(trials, sweep.config)
    own = pd.Series(shares).reindex(trials.index)[has]
    idle = own[own == 0]
    if idle.empty:
        return []
    others = own[own > 0]
    acted = (
        f"; in the others it acted in {others.min():.2g} to {others.max():.2g} of them"
        if len(others)
        else ""
    )
    return [
        f"Clipping never acted in {len(idle):,} of {counted(len(own), 'trial')} that have it "
        f"(share of clipped steps 0){_thresholds(trials, idle, others)}{acted}."
    ]


def _has_clipping(trials: pd.DataFrame, config: Mapping[str, Any]) -> pd.Series:
    """Whether each trial has a clipping."""
    known = parameters(trials)
    of_clipping = [c for k, c in known.items() if "clip" in k.lower()]
    kinds = [c for c in of_clipping if not pd.api.types.is_numeric_dtype(trials[c])]
    if kinds:
        return ~trials[kinds[0]].fillna(UNCLIPPED[0]).astype(str).str.lower().isin(UNCLIPPED)
    if of_clipping:
        return trials[of_clipping[0]].notna()
    fixed = config.get("clip")
    return pd.Series(isinstance(fixed, Mapping) and "threshold" in fixed, trials.index)


def _thresholds(trials: pd.DataFrame, idle: pd.Series, others: pd.Series) -> str:
    """From which threshold on it never acted, if that parts those from the others."""
    known: dict[Hashable, str] = {
        k: c
        for k, c in parameters(trials).items()
        if "clip" in k.lower() and pd.api.types.is_numeric_dtype(trials[c])
    }
    for key, column in known.items():
        lowest, highest = (
            trials.loc[idle.index, column].min(),
            trials.loc[others.index, column].max(),
        )
        if len(others) and lowest > highest:
            return f": from {key}={lowest:.4g} on"
    return ""
