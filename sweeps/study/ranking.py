"""The order of a sweep's settings, decided here and nowhere else.

The table at the end of a sweep, its results file, the report, the notes, the dashboard and every
command show this order. How certain it is, is another question
(`iolaus.analysis.ranking.tiers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.record import broken_constraints, leader_of, record_of, state_of, that_ran

__all__ = [
    "INFEASIBLE",
    "STATES",
    "Run",
    "Standing",
    "mean",
    "non_dominated",
    "order",
    "runs_of",
    "signs",
]

INFEASIBLE = "infeasible"
# What a setting came to, the best first; all but infeasible and paused are Optuna's states.
STATES = ("complete", INFEASIBLE, "paused", "pruned", "running", "fail")


@dataclass(frozen=True, slots=True)
class Run:
    """What the place of a trial depends on.

    setting: the number of its leading trial, which is its own unless it repeats another. state:
    Optuna's, in lower case, or paused. objectives: of a completed one, else empty. best: of the
    watched metric, as reported; NaN if unknown. For a trial that still runs, what it may come to,
    where a caller knows that. is_feasible: whether it keeps all constraints. duplicate_of: the
    trial whose result it took over, if it was not run for that. is_finalists: whether it is a
    further seed of a finalist.
    """

    number: int
    setting: int
    state: str
    objectives: tuple[float, ...] = ()
    best: float = math.nan
    is_feasible: bool = True
    duplicate_of: int | None = None
    is_finalists: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """One setting in the order.

    setting: the number of its leading trial. state: of STATES. objectives: means over its completed
    runs, empty without one. best: the mean over the runs that have one, else NaN. on_front: whether
    no other feasible completed setting is as good in every objective and better in one; with one
    objective, whether none is better. runs: all of it, by number.
    """

    setting: int
    state: str
    objectives: tuple[float, ...]
    best: float
    runs: tuple[Run, ...]
    on_front: bool = False


def order(
    runs: Iterable[Run], directions: Sequence[str], metric_sign: float | None = None
) -> list[Standing]:
    """The settings of these runs, best first.

    Completed ones by the objective, the mean over their completed runs; of these first the best of
    the finalists, and those whose first run is no worse than any other setting: their further
    seeds, less lucky than the one they were chosen by, do not set them behind; then those that
    completed
    but break a constraint, likewise; then paused, pruned, running and failed ones by their best. A
    setting is what its best run came to, and infeasible if any completed run is. With several
    objectives those on the Pareto front come first, and the first objective decides the rest. NaN
    comes last of its state; of equals the lower number comes first. A duplicate stands right behind
    the setting whose result it took over, with what that came to.

    directions: minimize or maximize for each objective. metric_sign: what a best is multiplied by
    to be minimised, 1 or -1; left out, as the first objective. Raises ValueError if a completed run
    has another number of objectives.
    """
    sign = signs(directions)
    all_runs = sorted(runs, key=lambda run: run.number)
    for run in all_runs:
        if run.state == "complete" and len(run.objectives) != len(sign):
            raise ValueError(
                f"trial {run.number} has {len(run.objectives)} objectives, "
                f"the sweep has {len(sign)} directions"
            )
    setting_of = {run.number: run.setting for run in all_runs if run.duplicate_of is None}
    of_setting: dict[int, list[Run]] = {}
    behind: dict[int, list[Run]] = {}
    for run in all_runs:
        if run.duplicate_of in setting_of:
            behind.setdefault(setting_of[run.duplicate_of], []).append(run)
        else:
            of_setting.setdefault(run.setting, []).append(run)
    settings = _with_front([_merged(number, own) for number, own in of_setting.items()], sign)
    ahead = _finalists_ahead(settings, sign)
    settings.sort(key=lambda standing: _place(standing, sign, metric_sign, ahead))
    return [
        standing
        for original in settings
        for standing in (
            original,
            *(
                replace(original, setting=run.number, runs=(run,))
                for run in behind.get(original.setting, ())
            ),
        )
    ]


def _merged(setting: int, runs: Sequence[Run]) -> Standing:
    done = [run for run in runs if run.state == "complete"]
    state = min((run.state for run in runs), key=STATES.index)
    if not all(run.is_feasible for run in done):
        state = INFEASIBLE
    objectives = tuple(mean(own) for own in zip(*(run.objectives for run in done), strict=True))
    best = mean([run.best for run in runs if not math.isnan(run.best)])
    return Standing(setting, state, objectives, best, tuple(runs))


def _with_front(settings: Sequence[Standing], sign: NDArray[np.float64]) -> list[Standing]:
    done = [i for i, standing in enumerate(settings) if standing.state == "complete"]
    values = np.array([settings[i].objectives for i in done]).reshape(len(done), len(sign))
    if len(sign) == 1:
        best = values[:, 0] * sign[0]
        is_best = best == np.nanmin(best, initial=math.inf)
    else:
        is_best = non_dominated(values * sign)
    front = {done[i] for i in np.flatnonzero(is_best)}
    return [replace(standing, on_front=i in front) for i, standing in enumerate(settings)]


def _finalists_ahead(settings: Sequence[Standing], sign: NDArray[np.float64]) -> set[int]:
    """The finalists that stand before all others: see `order`."""
    finalists = [s for s in settings if any(run.is_finalists for run in s.runs)]
    others = [s for s in settings if s not in finalists]
    least = min((_value(other, sign) for other in others), default=math.inf)
    best = min((_value(finalist, sign) for finalist in finalists), default=math.inf)
    return {s.setting for s in finalists if _value(s, sign) == best or _value(s, sign, 1) <= least}


def _value(known: Standing, sign: NDArray[np.float64], n_runs: int | None = None) -> float:
    """The first objective of a completed setting, or of its first runs, the lower the better.

    Infinity where there is none.
    """
    done = [run.objectives[0] for run in known.runs if run.objectives][:n_runs]
    value = float(sign[0]) * mean(done) if known.state == "complete" else math.nan
    return math.inf if math.isnan(value) else value


def _place(
    known: Standing, sign: NDArray[np.float64], metric_sign: float | None, ahead: set[int]
) -> tuple[int, bool, bool, bool, float, int]:
    """What the settings are sorted by; ahead: of `_finalists_ahead`."""
    best_sign = float(sign[0]) if metric_sign is None else metric_sign
    value = float(sign[0]) * known.objectives[0] if known.objectives else best_sign * known.best
    is_nan = math.isnan(value)
    is_behind = len(sign) > 1 and not known.on_front
    is_other = known.setting not in ahead
    place = STATES.index(known.state), is_behind, is_other
    return *place, is_nan, 0.0 if is_nan else value, known.setting


def mean(values: Sequence[float]) -> float:
    """The mean, of one value itself; NaN of none, or of infinities of both signs."""
    if len(values) == 1:
        return values[0]
    try:
        return math.fsum(values) / len(values) if values else math.nan
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def signs(directions: Sequence[str]) -> NDArray[np.float64]:
    """What each objective is multiplied by to be minimised, [objectives]."""
    return np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])


def non_dominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of [rows, criteria] no other row dominates.

    Smaller is better. A row dominates another if it is no worse in all and better in one, so equal
    rows stand together. NaN is worse than all numbers.
    """
    values = np.where(np.isnan(values), math.inf, values)
    found = np.ones(len(values), dtype=bool)
    for i, row in enumerate(values):  # a row at a time: all pairs of 10,000 rows fill the memory
        found[i] = not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
    return found


def runs_of(trials: Iterable[FrozenTrial]) -> list[Run]:
    """The trials of a study that ran or run, see `that_ran`."""
    return [_run(trial) for trial in that_ran(trials)]


def _run(trial: FrozenTrial) -> Run:
    record, is_done = record_of(trial), trial.state is TrialState.COMPLETE
    return Run(
        trial.number,
        leader_of(trial),
        state_of(trial),
        tuple(trial.values or ()) if is_done else (),
        math.nan if record.run.best is None else record.run.best,
        not broken_constraints(trial),
        record.duplicate_of,
        record.finalist,
    )
