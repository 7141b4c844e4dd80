"""What a session costs while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from iolaus.sweeps.run._messages import WorkerSpec
from iolaus.sweeps.study.budget import Cost

__all__ = ["Meter"]


class Meter:
    """Adds up what the slots of a session hold.

    slots: one specification per slot. clock: seconds, never going back.
    """

    def __init__(self, slots: Sequence[WorkerSpec], clock: Callable[[], float]) -> None:
        self._slots = slots
        self._clock = clock
        self._last_s = clock()
        self._cost = Cost()

    def read(self, busy: Collection[int]) -> Cost:
        """The cost so far; busy: the slots that have a trial since the last reading."""
        now_s = self._clock()
        passed_s, self._last_s = now_s - self._last_s, now_s
        specs = [spec for spec in self._slots if spec.slot in busy]
        gpus = {value for s in specs for name, value in s.environment if "CUDA" in name}
        n_cores = sum(spec.n_threads or 1 for spec in specs)
        self._cost += Cost(passed_s, n_cores * passed_s, len(gpus) * passed_s)
        return self._cost
