"""How many trials run side by side, and what each may use."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._messages import WorkerSpec

__all__ = ["GPU_VARIABLE", "physical_cores", "plan_slots", "visible_gpus"]

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


def plan_slots(n_jobs: int | str, gpus: Sequence[str], n_cores: int) -> tuple[WorkerSpec, ...]:
    """One specification per slot.

    n_jobs: a number, or "auto" for one per GPU, or per physical core where there is no GPU; 0 is
    one, in the driver's own process.
    gpus: names for CUDA_VISIBLE_DEVICES; slots take them in turn. n_cores: physical cores, shared
    out as threads so that slots do not fight. Raises BadInputError if n_jobs is neither "auto" nor
    at least 0.
    """
    n_slots = max(len(gpus), 1) if gpus else n_cores
    if n_jobs != "auto":
        if type(n_jobs) is not int or n_jobs < 0:
            raise BadInputError(
                f"hydra.sweeper.n_jobs={n_jobs}: give the number of slots, 1 or more, or auto; 0 "
                "runs trials in this process, for debugging"
            )
        n_slots = max(n_jobs, 1)
    n_threads = max(1, n_cores // n_slots)
    return tuple(
        WorkerSpec(slot, ((GPU_VARIABLE, gpus[slot % len(gpus)]),) if gpus else (), n_threads)
        for slot in range(n_slots)
    )


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them.

    Found without loading CUDA.
    """
    chosen = environment.get(GPU_VARIABLE)
    if chosen is not None:
        names = (name.strip() for name in chosen.split(","))
        return tuple(
            itertools.takewhile(lambda name: name not in ("", "-1"), names)
        )  # CUDA ends the list there too
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        listing = subprocess.run(
            [tool, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(listing.stdout.split())


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
