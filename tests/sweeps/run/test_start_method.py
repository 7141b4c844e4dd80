"""How workers are started, from what there is in the driver's process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from iolaus.sweeps.run._start_method import START_METHODS, Process, choose, look

THREADS = Process(threads=("python", "llvm-worker-0"), libraries=("jax", "libgomp"))


@pytest.mark.parametrize(
    ("setting", "process", "method", "reason"),
    [
        ("auto", Process(), "fork", "this process has no threads"),
        ("auto", THREADS, "spawn", "this process has 2 threads (jax, libgomp are loaded)"),
        ("auto", Process(("a",)), "spawn", "this process has a thread"),
        ("auto", Process(("a",), ("jax",)), "spawn", "this process has a thread (jax is loaded)"),
        ("auto", Process(has_cuda=True), "spawn", "CUDA is in use in this process"),
        ("fork", THREADS, "fork", "hydra.sweeper.start_method=fork"),
        ("spawn", Process(), "spawn", "hydra.sweeper.start_method=spawn"),
    ],
)
def test_a_fork_only_where_nothing_is_left_behind(
    setting: str, process: Process, method: str, reason: str
) -> None:
    """Threads or CUDA make it a fresh interpreter; what was asked for is obeyed."""
    assert setting in START_METHODS
    assert (choose(setting, process).name, choose(setting, process).reason) == (method, reason)


# Each in a process of its own: what it runs before a fork, and what is seen after it.
CODE = """
import os
{run}
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
from iolaus.sweeps.run._start_method import look
process = look()
print(bool(process.threads), *process.libraries)
"""
RUN = {
    "pass": "False",
    "import numpy; a = numpy.ones((500, 500)); a @ a": "False",
    "import pyarrow": "False",
    "import torch": "False",
    "import torch; torch.ones(4_000_000).sum()": "True torch libgomp",
    "import sklearn.cluster, numpy; "
    "sklearn.cluster.KMeans(2, n_init=1).fit(numpy.random.rand(9999, 9))": "True sklearn libgomp",
}


@pytest.mark.parametrize("run", RUN)
def test_what_is_seen_of_libraries(run: str) -> None:
    """Threads of a BLAS, which sets its own up again, do not count; those of OpenMP do."""
    for name in ("torch", "sklearn"):
        if name in run:
            pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE.format(run=run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    )
    assert done.stdout.strip() == RUN[run]


def test_a_thread_of_python_counts() -> None:
    """A pool of the user's module believes in its threads as a library's does."""
    before, done = len(look().threads), threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert len(look().threads) == before + 1
    finally:
        done.set()
        thread.join()
