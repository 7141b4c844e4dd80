"""Memory of a worker: what it holds, what it may hold, and whether an error says there is no more.

Of a GPU's memory this knows what torch holds, if the task has loaded torch; nothing here loads it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from iolaus.sweeps.text import size
from iolaus.sweeps.types import Ending, Finding, Memory, Outcome

__all__ = [
    "after_out_of_memory",
    "begin_measuring",
    "cap_gpu_share",
    "free_unused",
    "kills_by_kernel",
    "machine_bytes",
    "measure",
    "memory_error",
    "resident_bytes",
]

# What a sampler is told of a setting that has no room, where the numbers do not say how much is
# missing: other processes, or pieces of free memory too small, were in the way.
LEAST_VIOLATION = 0.01
# What GPU libraries say instead of raising a class of their own; compared in lower case.
_GPU_TEXTS = ("cuda out of memory", "cuda error: out of memory", "cublas_status_alloc_failed",
              "resource_exhausted: out of memory", "cuda_error_out_of_memory")  # fmt: skip
_RAM_TEXTS = ("can't allocate memory", "cannot allocate memory", "unable to allocate")
_UNITS = {"bytes": 1, "B": 1, **{f"{one}iB": 2 ** (10 * (i + 1)) for i, one in enumerate("KMGTPE")}}
_REQUESTED = re.compile(r"(?:allocate|allocating)\s+([\d.]+)\s*(bytes|[KMGTPE]iB|B)\b")


def memory_error(error: BaseException | None) -> Memory | None:
    """What an error says of memory that was not to be had; None if it is about something else.

    Looked for in what it was raised from, too: torch's OutOfMemoryError, MemoryError, and the texts
    of CUDA, cuBLAS and JAX. requested_bytes is what the message names, None if it names nothing.
    """
    for one in _chain(error):
        names = {cls.__name__ for cls in type(one).__mro__}
        text = _text(one)
        ran_out = ""
        if "OutOfMemoryError" in names or any(said in text.lower() for said in _GPU_TEXTS):
            ran_out = "gpu"
        elif isinstance(one, MemoryError) or (
            isinstance(one, RuntimeError | OSError) and any(s in text.lower() for s in _RAM_TEXTS)
        ):
            ran_out = "ram"
        if ran_out:
            match = _REQUESTED.search(text)
            asked = None if match is None else round(float(match[1]) * _UNITS[match[2]])
            return Memory(requested_bytes=asked, ran_out=ran_out)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the error is the user's, and so is its __str__
        return ""


def after_out_of_memory(outcome: Outcome, was_alone: bool, capacity_bytes: int | None) -> Outcome:
    """What becomes of a trial that failed for want of memory; other outcomes are left as they are.

    It is interrupted, to be run once more with nothing beside it; if it was alone already, no
    machine like this can run it, and it is infeasible. capacity_bytes: of what it ran on, None if
    unknown.
    """
    memory = outcome.memory
    if outcome.ending is not Ending.FAILED or memory is None or not memory.ran_out:
        return outcome
    memory = replace(memory, capacity_bytes=memory.capacity_bytes or capacity_bytes)
    what, device = ("GPU memory", "GPU") if memory.ran_out == "gpu" else ("memory", "machine")
    held = memory.gpu_bytes if memory.ran_out == "gpu" else memory.ram_bytes
    asked = memory.requested_bytes
    numbers = [
        "" if asked is None else f"asked for {size(asked)}",
        "" if held is None else f"held {size(held)}",
    ]
    known = " and ".join(filter(None, numbers)) or "got no more"
    of = "" if memory.capacity_bytes is None else f" of {size(memory.capacity_bytes)}"
    said = f"out of {what}: {known}{of}"
    if not was_alone:
        reason = f"{said}; it is run once more, alone on the whole {device}"
        return replace(outcome, ending=Ending.INTERRUPTED, reason=reason, memory=memory)
    reason = f"{said}; nothing ran beside it on the {device}"
    needed = (held or 0) + (memory.requested_bytes or 0)
    over = needed / memory.capacity_bytes - 1 if memory.capacity_bytes else 0.0
    finding = Finding("out_of_memory", 0, reason, "infeasible", max(over, LEAST_VIOLATION))
    return replace(
        outcome,
        ending=Ending.INFEASIBLE,
        reason=reason,
        memory=memory,
        findings=(*outcome.findings, finding),
    )


def begin_measuring() -> None:
    """Have the next `measure` tell the peaks from here on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if (cuda := _cuda()) is not None:
        with suppress(RuntimeError):
            cuda.reset_peak_memory_stats()


def measure() -> Memory:
    """The peaks of this process since `begin_measuring`; safe in any thread.

    gpu_bytes: that torch held, cached blocks included; None if it has not used CUDA.
    """
    gpu = None
    if (cuda := _cuda()) is not None:
        with suppress(RuntimeError):
            gpu = int(cuda.max_memory_reserved())
    return Memory(gpu_bytes=gpu, ram_bytes=_status("VmHWM"))


def resident_bytes() -> int | None:
    """What this process holds of the machine's memory now; None where /proc does not tell."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def cap_gpu_share(share: float) -> bool:
    """Have torch hold no more than this share of the GPU; False while torch is not loaded.

    It holds as soon as the task uses CUDA, which is not initialised for it.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    later = getattr(cuda, "_lazy_call", None)  # what torch seeds its generators by
    if cuda is None or later is None or not hasattr(cuda, "set_per_process_memory_fraction"):
        return False

    def cap() -> None:
        with suppress(RuntimeError):
            cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0), 0)

    later(cap)
    return True


def free_unused() -> None:
    """Give back what torch keeps of the GPU for later: others on it may have it."""
    if (cuda := _cuda()) is not None:
        with suppress(RuntimeError):
            cuda.empty_cache()


def _cuda() -> Any:
    """torch.cuda, if this process uses it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_used = getattr(cuda, "is_initialized", None)
    return cuda if is_used is not None and is_used() else None


def machine_bytes() -> int | None:
    """The memory that this process's machine, or its control group, has in all; None: unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(int(text.split("MemTotal:")[1].split()[0]) * 1024)
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" for no limit
            found.append(int(Path("/sys/fs/cgroup", path).read_text(encoding="ascii")))
    return min(found) if found else None


def kills_by_kernel() -> int:
    """How many processes of this control group the kernel has killed for want of memory."""
    for path in ("memory.events", "memory/memory.oom_control"):
        with suppress(OSError, ValueError, IndexError):
            text = Path("/sys/fs/cgroup", path).read_text(encoding="ascii")
            return int(text.split("oom_kill ")[1].split()[0])
    return 0
