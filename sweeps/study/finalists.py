"""Finalists: the best settings of a sweep, which get more seeds at its end.

So a sweep ends with an answer: by one seed each no setting is known to be better than another. No
trial waits for it. As soon as no new setting is left to begin, a free slot takes a seed of the
settings that are the finalists then; one that still runs, and comes out better, takes the place of
the last of them, whose seeds that have not begun are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study._repeats import Field, units_of
from iolaus.sweeps.study.ranking import order, runs_of, signs
from iolaus.sweeps.study.record import is_duplicate, leader_of, record_of, repeat_number

__all__ = ["Finalists", "seeds_missing"]


@dataclass(frozen=True, slots=True)
class Finalists:
    """The n best settings get so many seeds more than all others have; both 1 or more."""

    n: int
    seeds: int

    def __post_init__(self) -> None:
        for number in (self.n, self.seeds):
            if type(number) is not int or number < 1:
                raise ValueError(f"n and seeds are whole numbers, 1 or more; got {number!r}")

    @classmethod
    def parse(cls, value: Any) -> Finalists | None:
        """`3 x 3 seeds`, or {n: 3, seeds: 3}; None for None. Raises ValueError for all else."""
        if value is None:
            return None
        if isinstance(value, Mapping) and set(value) == {"n", "seeds"}:
            return cls(value["n"], value["seeds"])
        match = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)(\s+seeds?)?\s*", str(value))
        if match is None:
            raise ValueError(f"{value!r} does not say of how many settings, and how many seeds")
        return cls(int(match[1]), int(match[2]))

    def n_runs(self, n_settings: int) -> int:
        """How many runs they add to a sweep of so many settings."""
        return min(self.n, n_settings) * self.seeds


def seeds_missing(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    finalists: Finalists,
    n_repeats: int = 1,
    repeat_hopeless: bool = False,
    not_comparable: Collection[int | None] = (),
) -> list[tuple[int, int]]:
    """(leading trial, number of the repeat) of each run that the finalists lack, in their order.

    Finalists are the best settings that have completed, in the order of `ranking` by the n_repeats
    runs that every setting gets: their own further seeds do not turn them out again. A setting of
    which a seed was pruned or has diverged is none, nor is one of a session that is not_comparable.
    First come those that stay finalists whatever the trials that still run come to; all get their
    second seed before any gets its third; one whose seeds are clearly behind gets no more, unless
    repeat_hopeless says so. trials: of the study, by number.
    """
    units = units_of(trials)
    field = Field.of(list(units.values()), int(signs(directions)[0]))

    def session_of(number: int) -> int | None:
        return record_of(trials[number]).run.session

    def counts(trial: FrozenTrial) -> bool:
        unit = units.get(leader_of(trial))
        return (
            trial.state is TrialState.COMPLETE
            and unit is not None
            and not unit.is_given_up
            and not is_duplicate(trial)
            and repeat_number(trial) < n_repeats
            and math.isfinite(trial.values[0])
            and not (not_comparable and session_of(leader_of(trial)) in not_comparable)
        )

    standings = order(runs_of(filter(counts, trials)), directions)
    n_open = sum(t.state is TrialState.RUNNING and repeat_number(t) < n_repeats for t in trials)
    found = [
        (place >= finalists.n - n_open, number, place, standing.setting)
        for place, standing in enumerate(standings[: finalists.n])
        if standing.state == "complete"
        and (repeat_hopeless or not field.is_hopeless(units[standing.setting]))
        for number in units[standing.setting].missing(n_repeats + finalists.seeds)
    ]
    return [(setting, number) for _, number, _, setting in sorted(found)]
