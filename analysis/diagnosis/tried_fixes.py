"""What became of suggested fixes that were run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from iolaus.analysis.data.pairs import value_text
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.analysis.distributions import binomial_interval, t_quantile
from iolaus.sweeps.text import counted

__all__ = ["fixed_settings", "tried_fixes", "tried_sentences"]

CONFIDENCE = 0.95
COLUMNS = (
    *("setting", "fix of", "change", "because", "shape now"),
    *("before", "after", "low", "high", "seeds", "is_better"),
)


def tried_fixes(sweep: Sweep, diagnosis: pd.DataFrame) -> pd.DataFrame:
    """The settings that `iolaus next --enqueue` put into the queue and that were run.

    One row per setting; columns setting (its first trial), fix of (the trial with the problem),
    change (what differs, as overrides), because and shape now (of the two), before and after (the
    mean objective; NaN where no run completed), low and high (95 % interval of after minus before,
    Student's t between equal seeds; NaN for fewer than two), seeds, and is_better (whether the mean
    is better; one that no run reached before is beaten by any). diagnosis: of `diagnose`.
    """
    rows = [
        _row(sweep, diagnosis, number, of)
        for number, of in fixed_settings(sweep.trials).items()
        if of in sweep.trials.index
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def fixed_settings(trials: pd.DataFrame) -> dict[int, int]:
    """The first trial of each setting that is a suggested fix, and the trial it would fix."""
    if "fix_of" not in trials:
        return {}
    known = trials["fix_of"].dropna().astype(int)
    return dict(zip(known.index.tolist(), known.tolist(), strict=True))


def _row(sweep: Sweep, diagnosis: pd.DataFrame, number: int, of: int) -> tuple[object, ...]:
    trials = sweep.trials
    was = int(trials["setting"].loc[of])
    objective = sweep.objective_sign * trials["objective"]
    before, after = (
        objective[trials["setting"] == leader].groupby(trials["seed"].fillna(-1)).mean()
        for leader in (was, number)
    )
    change = []
    for key, column in varied(trials).items():
        value: Any = trials.loc[number, column]
        if not _same(value, trials.loc[was, column]):
            change.append(f"{key}={'unset' if pd.isna(value) else value_text(value)}")
    differences = (after - before).dropna().to_numpy()
    low = high = float("nan")
    if len(differences) > 1:
        n = len(differences)
        quantile = t_quantile((1 + CONFIDENCE) / 2, n - 1)
        half = quantile * differences.std(ddof=1) / math.sqrt(n)
        low, high = sorted(sweep.objective_sign * (differences.mean() + np.array([-half, half])))
    is_better = bool(after.notna().any() and not after.mean() >= before.mean())
    shapes = diagnosis["shape"]
    return (
        *(number, was, " ".join(change)),
        *(shape_name(str(shapes.get(was, ""))), shape_name(str(shapes.get(number, "")))),
        *(sweep.objective_sign * before.mean(), sweep.objective_sign * after.mean()),
        *(low, high, int(after.notna().sum()), is_better),
    )


def _same(one: Any, other: Any) -> bool:
    return bool(one == other or (pd.isna(one) and pd.isna(other)))


def tried_sentences(tried: pd.DataFrame) -> list[str]:
    """How many of them helped, with an interval for all such (Clopper and Pearson); [] for none."""
    if tried.empty:
        return []
    n, n_better = len(tried), int(tried["is_better"].sum())
    low, high = binomial_interval(n_better, n, CONFIDENCE)
    known = tried.dropna(subset=["before", "after"])
    moved = (
        f": in the median from {known['before'].median():.3g} to {known['after'].median():.3g}"
        if len(known)
        else ""
    )
    rescued = int((tried["before"].isna() & tried["after"].notna()).sum())
    also = f"; {counted(rescued, 'setting')} that had no result has one now" if rescued else ""
    return [
        f"Of {n:,} suggested fix{'es' if n > 1 else ''} that were run, {n_better} made the "
        f"objective better ({low:.0%} to {high:.0%} of all such, 95 %){moved}{also}."
    ]
