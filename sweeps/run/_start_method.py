"""How workers are started: forked from the driver, or as fresh interpreters that import the app.

A fork takes milliseconds and copies everything but threads. A library that believes to have threads
waits for them for ever in the copy: OpenMP's (libgomp) in the first parallel region, JAX's in its
first call. What is forked from a process with such threads may never come to its first line.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["START_METHODS", "Process", "StartMethod", "choose", "look"]

START_METHODS = ("auto", "fork", "spawn")
# Threads that come to no harm: jemalloc, which Arrow brings, sets its own up again after a fork.
HARMLESS = frozenset({"jemalloc_bg_thd"})
# Named to the user where there are threads; they are the usual owners.
MODULES = ("jax", "tensorflow", "sklearn", "numba", "torch", "polars")
LIBRARIES = re.compile(r"/lib(gomp|omp|iomp5)\b")
# A thread that has been joined may be listed a moment longer.
SETTLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """What matters to a fork.

    threads: names of those that a fork would not copy, but the main one. libraries: those that are
    loaded and start threads, modules and OpenMP runtimes.
    """

    threads: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    has_cuda: bool = False

    def __str__(self) -> str:
        if not self.threads:
            return "this process has no threads"
        n_threads = len(self.threads)
        said = f"this process has {f'{n_threads} threads' if n_threads > 1 else 'a thread'}"
        if self.libraries:
            verb = "are" if len(self.libraries) > 1 else "is"
            said += f" ({', '.join(self.libraries)} {verb} loaded)"
        return said


@dataclass(frozen=True, slots=True)
class StartMethod:
    """How to start workers, "fork" or "spawn", and the reason in words."""

    name: str
    reason: str


def choose(setting: str, process: Process) -> StartMethod:
    """How to start workers; setting: of START_METHODS, which but for "auto" is obeyed.

    >>> choose("auto", Process(threads=("python",), libraries=("torch", "libgomp")))
    StartMethod(name='spawn', reason='this process has a thread (torch, libgomp are loaded)')
    """
    if setting != "auto":
        return StartMethod(setting, f"hydra.sweeper.start_method={setting}")
    if process.has_cuda:
        return StartMethod("spawn", "CUDA is in use in this process")
    return StartMethod("spawn" if process.threads else "fork", str(process))


def look() -> Process:
    """What there is in this process. To be called after a fork of it.

    OpenBLAS (numpy, scipy) ends its threads before a fork and starts them again when they are next
    needed: those that are left then are those that a fork does not suit.
    """
    threads = _threads()
    if threads:
        time.sleep(SETTLE_S)
        threads = _threads()
    torch = sys.modules.get("torch")
    has_cuda = torch is not None and bool(torch.cuda.is_initialized())
    modules = [name for name in MODULES if name in sys.modules]
    return Process(tuple(threads), (*modules, *_libraries()) if threads else (), has_cuda)


def _threads() -> list[str]:
    try:
        tasks = [t for t in Path("/proc/self/task").iterdir() if int(t.name) != os.getpid()]
    except OSError:  # not Linux: those of Python are all that can be seen
        others = (t.name for t in threading.enumerate() if t is not threading.main_thread())
        return sorted(others)
    names = []
    for task in tasks:
        with suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    return sorted(name for name in names if name not in HARMLESS)


def _libraries() -> Iterable[str]:
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        return sorted({f"lib{match[1]}" for match in LIBRARIES.finditer(maps)})
    return ()
