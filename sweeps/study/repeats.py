"""Repeats: one setting run with several seeds, as one unit.

Pure functions over what is known of a study. The first run of a setting leads; its repeats follow
it with other seeds. Each is a trial of its own, so that curves, pruners and seeds stay apart, and a
repeat points to its leader by the user attribute `repeat_of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Seeds of a setting whose mean is this many standard errors worse than the best setting's are not
# worth running: at 3, one that is as good as a given other is given up once in 740 times (normal
# errors, one-sided); the best of many settings is lucky as well, which makes it somewhat more.
HOPELESS_STANDARD_ERRORS = 3.0
# Below this many degrees of freedom the spread between seeds is not known well enough to judge by.
N_DEGREES_NEEDED = 3


@dataclass
class Unit:
    """One setting and its runs. values: objectives of the completed runs.

    runs: trial by repeat number, 0 leads.
    """

    runs: dict[int, int] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    is_given_up: bool = False

    def missing(self, n_repeats: int) -> list[int]:
        """Repeat numbers that have not been started."""
        return [] if self.is_given_up else [k for k in range(n_repeats) if k not in self.runs]


def is_hopeless(unit: Unit, others: Sequence[Unit], sign: int) -> bool:
    """Whether the runs so far put a setting clearly behind the best of the others.

    sign: 1 if smaller objectives are better, -1 if larger. The spread between seeds is pooled over
    all settings; without at least `N_DEGREES_NEEDED` degrees of freedom nothing is hopeless.
    """
    complete = [u for u in others if u.values and u is not unit and not u.is_given_up]
    if not unit.values or not complete:
        return False
    spread = pooled_spread([unit, *others])
    if spread is None:
        return False
    best = min(complete, key=lambda u: sign * mean(u.values))
    standard_error = spread * math.sqrt(1 / len(unit.values) + 1 / len(best.values))
    return (
        sign * (mean(unit.values) - mean(best.values)) > HOPELESS_STANDARD_ERRORS * standard_error
    )


def mean(values: Mapping[int, float]) -> float:
    """The mean of at least one value."""
    return sum(values.values()) / len(values)


def pooled_spread(units: Sequence[Unit]) -> float | None:
    """The standard deviation between seeds of one setting, pooled over settings.

    None if too little is known.
    """
    degrees = sum(len(u.values) - 1 for u in units if len(u.values) > 1)
    if degrees < N_DEGREES_NEEDED:
        return None
    squares = sum(
        (value - mean(u.values)) ** 2
        for u in units
        if len(u.values) > 1
        for value in u.values.values()
    )
    return math.sqrt(squares / degrees)
