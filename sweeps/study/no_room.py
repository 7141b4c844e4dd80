"""Settings that have no room: of which a trial no larger ran out of memory with nothing beside it.

What is larger is said of parameters that only ever raise memory: those that the user names, and
those that the trials so far show to.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from iolaus.sweeps.study.record import is_over, record_of
from iolaus.sweeps.types import Ending, Memory

__all__ = ["Held", "Room", "rising", "smaller_without_room"]

# Peaks of one setting differ by so much from run to run: by what was cached, and when.
NOISE = 0.05
# A parameter is shown to raise memory by at least so many of its values, the others alike, of which
# the largest takes so much more than the smallest.
N_VALUES, LEAST_RISE = 3, 1.1
# So many of the newest trials are compared with each other.
MOST_COMPARED = 300


@dataclass(frozen=True, slots=True)
class Held:
    """What a trial held of the memory that ran out.

    values: of its parameters. n_bytes: its peak, with what it asked for and did not get. had_room:
    False if it ran out of memory with nothing beside it. amount: how much it broke the constraint.
    """

    trial: int
    values: Mapping[str, object]
    n_bytes: int
    had_room: bool = True
    amount: float = 0.0


class Room:
    """What the trials of a study say of settings that have no room.

    Each finished trial is looked at once. monotonic: keys that are known to only ever raise memory.
    seed_key: of a parameter that sizes nothing.
    """

    def __init__(self, monotonic: Collection[str] = (), seed_key: str = "") -> None:
        self._monotonic = frozenset(monotonic)
        self._but = (seed_key,)
        self._n_known = 0
        self._unfinished: set[int] = set()
        self._measured: list[FrozenTrial] = []
        self._without: dict[int, str] = {}  # trials, and what they ran out of
        self._raises: set[str] | None = None

    def smaller_without(
        self, values: Mapping[str, object], trials: Sequence[FrozenTrial]
    ) -> tuple[Held, list[str]] | None:
        """The trial without room than which a setting is no smaller, and the keys that say so.

        None where there is none. trials: all of the study, by number.
        """
        self._look(trials)
        if not self._without:
            return None
        held = [_held(trial, self._without) for trial in self._measured[-MOST_COMPARED:]]
        if self._raises is None:
            self._raises = rising(held, self._but) | self._monotonic
        first = [_held(trials[number], self._without) for number in self._without]
        smaller = smaller_without_room(values, first, self._raises, self._but)
        return None if smaller is None else (smaller, sorted(self._raises & smaller.values.keys()))

    def _look(self, trials: Sequence[FrozenTrial]) -> None:
        self._unfinished.update(range(self._n_known, len(trials)))
        self._n_known = len(trials)
        for trial in [trials[number] for number in sorted(self._unfinished)]:
            if not is_over(trial):
                continue
            self._unfinished.discard(trial.number)
            record = record_of(trial)
            if record.ending is Ending.INFEASIBLE and record.memory.ran_out:
                self._without[trial.number] = record.memory.ran_out
            if record.memory != Memory():
                self._measured.append(trial)
                self._raises = None


def _held(trial: FrozenTrial, without: Mapping[int, str]) -> Held:
    """What a trial held, of what the first trial without room had none of."""
    kind, memory = next(iter(without.values())), record_of(trial).memory
    peak = memory.gpu_bytes if kind == "gpu" else memory.ram_bytes
    amount = trial.constraints.get("out_of_memory", 0.0)
    n_bytes = (peak or 0) + (memory.requested_bytes or 0)
    return Held(trial.number, trial.params, n_bytes, trial.number not in without, amount)


def rising(held: Sequence[Held], but: Collection[str] = ()) -> set[str]:
    """The whole-number parameters that take more memory the larger they are, as far as trials show.

    Compared are trials whose other whole numbers and names are the same. but: keys that are none,
    as seeds.
    """
    keys = {key for one in held for key, value in one.values.items() if _is_whole(value)}
    return {key for key in keys - set(but) if _rises(key, held, but)}


def _rises(key: str, held: Sequence[Held], but: Collection[str]) -> bool:
    alike: dict[Hashable, list[tuple[int, int]]] = {}
    for one in held:
        value = one.values.get(key)
        if isinstance(value, int):
            rest = _sizes(one.values, {key, *but})
            alike.setdefault(rest, []).append((value, one.n_bytes))
    is_shown = False
    for pairs in alike.values():
        pairs.sort()
        highest = 0
        for _, n_bytes in pairs:
            if n_bytes < (1 - NOISE) * highest:
                return False
            highest = max(highest, n_bytes)
        n_values = len({value for value, _ in pairs})
        is_shown |= n_values >= N_VALUES and highest > LEAST_RISE * max(pairs[0][1], 1)
    return is_shown


def smaller_without_room(
    values: Mapping[str, object],
    held: Sequence[Held],
    raises: Collection[str],
    but: Collection[str] = (),
) -> Held | None:
    """A trial without room, of which a setting is as large or larger; None if there is none.

    raises: keys of parameters that only ever raise memory, of which one at least is searched.
    Other whole numbers and names have to be the same; fractions may be anything. but: seeds.
    """
    for one in held:
        shared = [key for key in raises if key in values and key in one.values]
        if one.had_room or not shared:
            continue
        is_larger = all(_at_least(values[key], one.values[key]) for key in shared)
        skipped = {*shared, *but}
        if is_larger and _sizes(values, skipped) == _sizes(one.values, skipped):
            return one
    return None


def _at_least(value: object, other: object) -> bool:
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return value >= other if numbers else value == other  # type: ignore[operator]


def _sizes(values: Mapping[str, object], but: Collection[str]) -> Hashable:
    """What sizes a trial, but for some keys: its values that are no fractions."""
    return tuple(
        sorted((k, repr(v)) for k, v in values.items() if k not in but and not isinstance(v, float))
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
