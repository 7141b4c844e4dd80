"""What the slots of a session hold of the machine, and what it costs while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence

from iolaus.sweeps.run._messages import WorkerSpec
from iolaus.sweeps.run._slots import physical_cores, plan_slots
from iolaus.sweeps.run.devices import list_devices, visible_devices
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.study.budget import Cost
from iolaus.sweeps.study.preview import Machine

__all__ = ["Meter", "machine_here", "machine_of"]


def machine_of(
    slots: Sequence[WorkerSpec], lanes: int | str, trials_per_gpu: int | str = 1
) -> Machine:
    """What slots hold together.

    lanes: of each. Of these and of the trials on each GPU, one where "auto" does not tell yet.
    """
    n_lanes = lanes if isinstance(lanes, int) else 1
    n_gpus = len(_gpus(slots))
    n_filled = n_gpus if n_gpus and trials_per_gpu == "auto" else len(slots)
    return Machine(n_lanes * n_filled, _n_cores(slots), n_gpus)


def _n_cores(slots: Sequence[WorkerSpec]) -> int:
    return sum(slot.n_threads or 1 for slot in slots)


def _gpus(slots: Sequence[WorkerSpec]) -> set[str]:
    """By name; slots may share one."""
    return {slot.device for slot in slots if slot.device}


def machine_here(settings: Settings) -> Machine:
    """What the slots of a sweep would hold of this machine, with one trial in each."""
    gpus = visible_devices(os.environ, list_devices)
    slots = plan_slots(settings.n_jobs, gpus, physical_cores(), settings.trials_per_gpu)
    return machine_of(slots, 1, settings.trials_per_gpu)


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
        self._cost += Cost(passed_s, _n_cores(specs) * passed_s, len(_gpus(specs)) * passed_s)
        return self._cost
