"""Repeats: one setting run with several seeds, as one unit.

Pure functions over what is known of a study. The first run of a setting leads; its repeats follow
it with other seeds. Each is a trial of its own, so that curves, pruners and seeds stay apart, and a
repeat points to its leader by the user attribute `repeat_of`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.record import counts_as_run, is_duplicate, leader_of, repeat_number

__all__ = ["Field", "Unit", "mean", "pooled_spread", "units_of"]

# Seeds of a setting whose mean is this many standard errors worse than the best setting's are not
# worth running: at 3, one that is as good as a given other is given up once in 740 times (normal
# errors, one-sided); the best of many settings is lucky as well, which makes it somewhat more.
HOPELESS_STANDARD_ERRORS = 3.0
# Below this many degrees of freedom the spread between seeds is not known well enough to judge by.
N_DEGREES_NEEDED = 3


@dataclass
class Unit:
    """One setting and its runs.

    runs: the trial by repeat number, 0 leads. values: objectives of the completed runs.
    """

    runs: dict[int, int] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    is_given_up: bool = False

    def missing(self, n_repeats: int) -> list[int]:
        """Repeat numbers that have not been started."""
        return [] if self.is_given_up else [k for k in range(n_repeats) if k not in self.runs]


@dataclass(frozen=True, slots=True)
class Field:
    """What a setting is measured against: computed once from all settings, in one pass.

    best, second: the settings with the best means, the leading one and the runner-up, of those that
    were not given up; None where there is none. spread: see `pooled_spread`. sign: 1 if smaller
    objectives are better, -1 if larger.
    """

    best: Unit | None
    second: Unit | None
    spread: float | None
    sign: int

    @classmethod
    def of(cls, units: Sequence[Unit], sign: int) -> Field:
        """The field of all settings, each once."""
        complete = [u for u in units if u.values and not u.is_given_up]
        first, second, *_ = *nsmallest(2, complete, key=lambda u: sign * mean(u.values)), None, None
        return cls(first, second, pooled_spread(units), sign)

    def is_hopeless(self, unit: Unit) -> bool:
        """Whether the runs so far put one of its settings clearly behind the best of the others.

        Nothing is while the spread between seeds is not known.
        """
        best = self.second if unit is self.best else self.best
        if not unit.values or best is None or self.spread is None:
            return False
        standard_error = self.spread * math.sqrt(1 / len(unit.values) + 1 / len(best.values))
        behind = self.sign * (mean(unit.values) - mean(best.values))
        return behind > HOPELESS_STANDARD_ERRORS * standard_error


def units_of(trials: Iterable[FrozenTrial]) -> dict[int, Unit]:
    """The settings that have been run, by the number of their leading trial."""
    units: dict[int, Unit] = {}
    for trial in trials:
        if not counts_as_run(trial) or is_duplicate(trial):
            continue
        unit, number = units.setdefault(leader_of(trial), Unit()), repeat_number(trial)
        unit.runs[number] = trial.number
        if trial.state is TrialState.COMPLETE and trial.values:
            unit.values[number] = trial.values[0]
        unit.is_given_up = unit.is_given_up or trial.state is TrialState.PRUNED
    return units


def mean(values: Mapping[int, float]) -> float:
    """The mean of at least one value."""
    return sum(values.values()) / len(values)


def pooled_spread(units: Sequence[Unit]) -> float | None:
    """The standard deviation between seeds of one setting, pooled over settings, each given once.

    None below `N_DEGREES_NEEDED` degrees of freedom, one for each run after a setting's first.
    """
    degrees = sum(len(u.values) - 1 for u in units if len(u.values) > 1)
    if degrees < N_DEGREES_NEEDED:
        return None
    squares = sum(_squares(u.values) for u in units if len(u.values) > 1)
    return math.sqrt(squares / degrees)


def _squares(values: Mapping[int, float]) -> float:
    middle = mean(values)
    return sum((value - middle) ** 2 for value in values.values())
