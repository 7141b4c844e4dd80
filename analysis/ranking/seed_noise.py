"""How much seeds of one setting differ, where a sweep has repeated none of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import chi2

from iolaus.analysis.data.earlier import EarlierRepeats
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.ranking import tiers
from iolaus.sweeps.text import counted

__all__ = ["SeedNoise", "of_earlier_sweeps", "of_near_settings"]

Array = NDArray[np.float64]

# Settings are near-identical if no parameter differs by more than this share of its range.
NEAR = 0.05
LEAST_PAIRS = 3
# A parameter whose largest value is this many times the smallest is compared by its logarithm.
SPREAD_LOG = 20.0
SEED_NAMES = ("seed", "random_seed", "rng_seed")


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """How much seeds of one setting differ.

    sd: the standard deviation of one run around its setting, in the unit of the objective. df: its
    degrees of freedom. source: "earlier" sweeps, or settings that are "alike". evidence: what it
    was measured on, in words.
    """

    sd: float
    df: float
    source: Literal["earlier", "alike"]
    evidence: str


def of_earlier_sweeps(earlier: Sequence[EarlierRepeats]) -> SeedNoise | None:
    """The spread between the seeds of settings that earlier sweeps of the task have repeated.

    None without one. Settings that vary far more than the typical one do not count
    (`iolaus.analysis.ranking.tiers`).
    """
    groups = [values for sweep in earlier for values in sweep.settings]
    if not groups:
        return None
    setting = np.repeat(np.arange(len(groups)), [len(values) for values in groups])
    known = tiers.from_seeds(setting, np.full(len(setting), -1), np.concatenate(groups))
    if not known.noise > 0:
        return None
    names = ", ".join(sweep.name for sweep in earlier)
    many = "earlier sweeps" if len(earlier) > 1 else "earlier sweep"
    evidence = f"{counted(len(groups), 'repeated setting')} of the {many} {names}"
    return SeedNoise(known.noise, known.df_all, "earlier", evidence)


def of_near_settings(trials: pd.DataFrame, done: pd.Index[Any]) -> SeedNoise | None:
    """What runs of near-identical settings differ by: at most a little more than seeds do.

    trials: of a sweep, with parameters and objective; the ranges are those of all of them. done:
    those that count. Each run is in one pair at most, the nearest first; the estimate is the median
    of the pairs', so that one that exploded does not make it. A parameter called seed tells no
    settings apart. None with fewer than LEAST_PAIRS pairs, or if no pair differs.
    """
    columns = [c for key, c in varied(trials).items() if key.rpartition(".")[2] not in SEED_NAMES]
    if not (columns or _has_seed(trials)) or len(done) < 2 * LEAST_PAIRS:
        return None
    places = [_place(trials[column])[trials.index.get_indexer(done)] for column in columns]
    points = np.column_stack(places) if places else np.zeros((len(done), 1))
    values = trials.loc[done, "objective"].to_numpy(np.float64)
    pairs = _nearest_pairs(points)
    if len(pairs) < LEAST_PAIRS:
        return None
    squares = (values[pairs[:, 0]] - values[pairs[:, 1]]) ** 2 / 2
    sd = math.sqrt(float(np.median(squares)) / float(chi2.median(1)))
    evidence = f"{len(pairs)} pairs of near-identical settings of this sweep"
    return SeedNoise(sd, float(len(pairs)), "alike", evidence) if sd > 0 else None


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


def _nearest_pairs(points: Array) -> NDArray[np.int64]:
    """Disjoint pairs of points, [pairs, 2], no coordinate further apart than NEAR, nearest first.

    Looks at the three nearest of each point, which costs n log n.
    """
    k = min(4, len(points))
    distance, other = cKDTree(points).query(points, k=k, p=np.inf, distance_upper_bound=NEAR * 1.01)
    one = np.repeat(np.arange(len(points)), k)
    distance, other = distance.ravel(), other.ravel()
    near = (distance <= NEAR) & (one != other)
    order = np.argsort(distance[near], kind="stable")
    free = np.ones(len(points), dtype=bool)
    found = []
    for a, b in zip(one[near][order], other[near][order], strict=True):
        if free[a] and free[b]:
            free[[a, b]] = False
            found.append((int(a), int(b)))
    return np.array(found, dtype=np.int64).reshape(-1, 2)
