"""How much seeds of one setting differ, where a sweep has repeated none of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.data.earlier import EarlierRepeats
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.ranking import tiers
from iolaus.sweeps.text import counted

__all__ = ["SeedNoise", "of_earlier_sweeps", "of_near_settings"]

Array = NDArray[np.float64]

# Settings are near-identical if no parameter differs by more than this share of its range.
NEAR = 0.05
LEAST_DF = 3  # three pairs, or four runs of one setting
# A parameter whose largest value is this many times the smallest is compared by its logarithm.
SPREAD_LOG = 20.0
SEED_NAMES = ("seed", "random_seed", "rng_seed")


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """How much seeds of one setting differ.

    sd: the standard deviation of one run around its setting, in the unit of the objective. df: its
    degrees of freedom. source: "earlier" sweeps, settings that are "alike", or "given".
    evidence: what it was measured on, in words.
    """

    sd: float
    df: float
    source: Literal["earlier", "alike", "given"]
    evidence: str


def of_earlier_sweeps(earlier: Sequence[EarlierRepeats]) -> SeedNoise | None:
    """The spread between the seeds of settings that earlier sweeps of the task have repeated.

    None without one. Settings that vary far more than the typical one do not count
    (`iolaus.analysis.ranking.tiers`).
    """
    groups = [values for sweep in earlier for values in sweep.settings]
    if not groups:
        return None
    known = _pooled(groups)
    if not known.noise > 0:
        return None
    names = ", ".join(sweep.name for sweep in earlier)
    many = "earlier sweeps" if len(earlier) > 1 else "earlier sweep"
    evidence = f"{counted(len(groups), 'repeated setting')} of the {many} {names}"
    return SeedNoise(known.noise, known.df_all, "earlier", evidence)


def of_near_settings(trials: pd.DataFrame, done: pd.Index[Any]) -> SeedNoise | None:
    """What runs of near-identical settings differ by: at most a little more than seeds do.

    trials: of a sweep, with parameters and objective; the ranges are those of all of them. done:
    those that count. Runs whose parameters are the same are a group; the others are in one pair at
    most, the nearest first. One that exploded counts as in `iolaus.analysis.ranking.tiers`. A
    parameter called seed tells no settings apart. None with fewer degrees of freedom than LEAST_DF,
    or if no runs of a group differ.
    """
    columns = [c for key, c in varied(trials).items() if key.rpartition(".")[2] not in SEED_NAMES]
    if columns:  # of runs whose parameters nobody recorded it is not known that they are alike
        done = done[trials.loc[done, columns].notna().any(axis=1)]
    if not (columns or _has_seed(trials)) or len(done) <= LEAST_DF:
        return None
    places = [_place(trials[column])[trials.index.get_indexer(done)] for column in columns]
    points = np.column_stack(places) if places else np.zeros((len(done), 1))
    values = trials.loc[done, "objective"].to_numpy(np.float64)
    groups = [values[members] for members in _near(points)]
    if sum(len(group) - 1 for group in groups) < LEAST_DF:
        return None
    known = _pooled([tuple(group) for group in groups])
    n_runs = sum(map(len, groups))
    evidence = f"{n_runs} runs of near-identical settings of this sweep"
    return SeedNoise(known.noise, known.df_all, "alike", evidence) if known.noise > 0 else None


def _pooled(groups: Sequence[Sequence[float]]) -> tiers.Estimates:
    """What groups of runs, each of one setting, say of their noise together."""
    setting = np.repeat(np.arange(len(groups)), [len(values) for values in groups])
    return tiers.from_seeds(setting, np.full(len(setting), -1), np.concatenate(groups))


def _has_seed(trials: pd.DataFrame) -> bool:
    return any(key.rpartition(".")[2] in SEED_NAMES for key in varied(trials))


def _place(values: pd.Series) -> Array:
    """Values as shares of their range; choices, and what has no value, a whole range apart."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        numbers = pd.to_numeric(values, errors="coerce")
        if not numbers.notna().equals(values.notna()):
            return pd.factorize(values)[0].astype(np.float64)
        values = numbers
    known = values.to_numpy(np.float64)
    lowest, highest = float(np.nanmin(known)), float(np.nanmax(known))
    if lowest > 0 and highest > SPREAD_LOG * lowest:
        known, lowest, highest = np.log(known), math.log(lowest), math.log(highest)
    return np.nan_to_num((known - lowest) / ((highest - lowest) or 1.0), nan=-1.0)


def _near(points: Array) -> list[NDArray[np.int64]]:
    """Groups of points, by number: those that are the same, and disjoint pairs of other near ones.

    Near: no coordinate further apart than NEAR; the nearest pairs first, of the three nearest of
    each point, which costs n log n.
    """
    _, same, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    groups = [np.flatnonzero(same.ravel() == i) for i in np.flatnonzero(counts > 1)]
    alone = np.flatnonzero(counts[same.ravel()] == 1)
    if len(alone) < 2:
        return groups
    from scipy.spatial import cKDTree  # slow to import, and not for every sweep

    k = min(4, len(alone))
    distance, other = cKDTree(points[alone]).query(points[alone], k=k, p=np.inf)
    one = np.repeat(np.arange(len(alone)), k)
    distance, other = distance.ravel(), other.ravel()
    near = (distance <= NEAR) & (one != other)
    order = np.argsort(distance[near], kind="stable")
    free = np.ones(len(alone), dtype=bool)
    for a, b in zip(one[near][order], other[near][order], strict=True):
        if free[a] and free[b]:
            free[[a, b]] = False
            groups.append(alone[[a, b]])
    return groups
