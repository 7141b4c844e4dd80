"""How many trials run side by side, and what each may use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._messages import WorkerSpec
from iolaus.sweeps.run.devices import GPU_VARIABLE, ORDER_VARIABLE, PCI_ORDER, Device

__all__ = ["MOST_PER_GPU", "physical_cores", "plan_slots"]

# `trials_per_gpu=auto` opens so many slots for a card at most: beyond, more processes hold more
# contexts and make no more steps.
MOST_PER_GPU = 16


def plan_slots(
    n_jobs: int | str,
    gpus: Sequence[Device],
    n_cores: int,
    trials_per_gpu: int | str = 1,
    memory_bytes: int | None = None,
) -> tuple[WorkerSpec, ...]:
    """One specification per slot.

    n_jobs: a number, or "auto" for `trials_per_gpu` on each GPU, or one per physical core where
    there is no GPU; 0 is one, in the driver's own process. A number bounds what trials_per_gpu asks
    for if that is more than 1.
    gpus: slots take them in turn. n_cores: physical cores, shared out as threads so that slots do
    not fight. trials_per_gpu: "auto" for as many as may be worth trying, which is no more than
    MOST_PER_GPU or the card's part of the cores. memory_bytes: that a slot may hold resident, None
    for no limit. Raises BadInputError if n_jobs is neither "auto" nor at least 0.
    """
    if n_jobs != "auto" and (type(n_jobs) is not int or n_jobs < 0):
        raise BadInputError(
            f"hydra.sweeper.n_jobs={n_jobs}: give the number of slots, 1 or more, or auto; 0 "
            "runs trials in this process, for debugging"
        )
    n_slots = n_cores
    if gpus:
        per_gpu = trials_per_gpu
        if not isinstance(per_gpu, int):
            per_gpu = min(MOST_PER_GPU, max(1, n_cores // len(gpus)))
        n_slots = len(gpus) * per_gpu
    if isinstance(n_jobs, int):
        n_asked = max(n_jobs, 1)
        n_slots = min(n_asked, n_slots) if gpus and trials_per_gpu != 1 else n_asked
    n_threads = max(1, n_cores // n_slots)
    return tuple(
        WorkerSpec(
            slot,
            _environment(gpus[slot % len(gpus)]) if gpus else (),
            n_threads,
            memory_bytes,
        )
        for slot in range(n_slots)
    )


def _environment(gpu: Device) -> tuple[tuple[str, str], ...]:
    """The variables that show one GPU, and no other, to a process.

    A number of ours is nvidia-smi's; the user's own numbers mean what they mean to CUDA.
    """
    pinned = ((GPU_VARIABLE, gpu.name),)
    is_ours = gpu.name.isdecimal() and GPU_VARIABLE not in os.environ
    return (*pinned, (ORDER_VARIABLE, PCI_ORDER)) if is_ours else pinned


def physical_cores() -> int:
    """Physical cores this process may use: hyper-threads of one core count once. At least 1."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, len(siblings))


def _siblings(cpu: int) -> str:
    try:
        return (
            Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            .read_text()
            .strip()
        )
    except OSError:
        return str(cpu)
