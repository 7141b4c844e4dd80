"""Which settings of a study have been run, counted so that no question looks at every trial."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.record import (
    again_for,
    counts_as_run,
    is_over,
    is_paused,
    is_repeat,
    outside_of,
    record_of,
)

__all__ = ["SettingsRun"]


class SettingsRun:
    """What the trials of a study add up to.

    A finished trial never changes and is counted once. trials: all of the study by number, as they
    are now; asked again at every question. not_comparable: sessions whose results count, but not as
    those of the same setting.
    """

    def __init__(
        self,
        trials: Callable[[], Sequence[FrozenTrial]],
        not_comparable: frozenset[int] = frozenset(),
    ) -> None:
        self._trials = trials
        self._not_comparable = not_comparable
        self._n_known = 0
        self._unfinished: set[int] = set()
        self._run: set[int] = set()  # finished trials that count, repeats aside
        self._again: set[int] = set()  # trials whose setting another one runs, or is to run
        self._with_result: dict[Hashable, int] = {}  # setting -> its first trial with a result
        self._queued: set[Hashable] = set()  # settings that were queued and count as run

    def n_run(self) -> int:
        """How many settings have been run or are under way; repeats are of one setting.

        A failed trial whose setting is run again does not count: that other one does.
        """
        return sum(map(_leads, self._look())) + len(self._run)

    def n_waiting(self, leads: bool = False) -> int:
        """How many trials are queued; leads: of new settings, no repeats."""
        waiting = [trial for trial in self._look() if trial.state is TrialState.WAITING]
        return sum(not (leads and is_repeat(trial)) for trial in waiting)

    def was_queued(self, values: Mapping[str, Any]) -> bool:
        """Whether a setting known in advance has been run or is under way."""
        key, unfinished = _key(values), self._look()
        return key in self._queued or any(key == _queued_key(t) for t in unfinished)

    def reopen(self, number: int) -> None:
        """A trial that was finished here is not: another driver has it."""
        self._run.discard(number)
        self._with_result = {k: n for k, n in self._with_result.items() if n != number}
        self._unfinished.add(number)

    def before(self, params: Mapping[str, Any], mine: Container[int]) -> FrozenTrial | None:
        """The first trial of this setting that has a result of its own, or is one of mine.

        A paused one has that of a pruned one.
        """
        key, unfinished = _key(params), self._look()
        asked = [t for t in unfinished if t.number in mine or is_paused(t)]
        equal = [t for t in asked if _key(t.params) == key]
        same = [t.number for t in equal if t.number in mine or self._counts(t)]
        same += [self._with_result[key]] if key in self._with_result else []
        return self._trials()[min(same)] if same else None

    def _look(self) -> list[FrozenTrial]:
        """Count those that have finished since the last look; the trials that have not."""
        trials = self._trials()
        for trial in trials[self._n_known :]:
            before = again_for(trial)
            if before is not None and not is_repeat(trial):
                self._again.add(before)
                self._run.discard(before)
        self._unfinished.update(range(self._n_known, len(trials)))
        self._n_known = len(trials)
        for number in sorted(self._unfinished):
            if is_over(trials[number]):
                self._unfinished.discard(number)
                self._count(trials[number])
        return [trials[number] for number in sorted(self._unfinished)]

    def _count(self, trial: FrozenTrial) -> None:
        if _leads(trial) and trial.number not in self._again:
            self._run.add(trial.number)
        if (queued := _queued_key(trial)) is not None:
            self._queued.add(queued)
        has_result = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if has_result and self._counts(trial):
            key = _key(trial.params)
            self._with_result[key] = min(trial.number, self._with_result.get(key, trial.number))

    def _counts(self, trial: FrozenTrial) -> bool:
        """Whether a trial's result is that of its parameters, in a comparable session."""
        record = record_of(trial)
        is_own = record.duplicate_of is None and not record.outside
        return is_own and record.run.session not in self._not_comparable


def _leads(trial: FrozenTrial) -> bool:
    return counts_as_run(trial) and not is_repeat(trial)


def _queued_key(trial: FrozenTrial) -> Hashable | None:
    is_inside = counts_as_run(trial) and not outside_of(trial.user_attrs)
    fixed = trial.system_attrs.get("fixed_params") if is_inside else None
    return None if fixed is None else _key(fixed)


def _key(values: Mapping[str, Any]) -> Hashable:
    """Equal for equal settings, whatever the order of their parameters."""
    return tuple(
        (name, value if isinstance(value, Hashable) else repr(value))
        for name, value in sorted(values.items(), key=lambda item: item[0])
    )
