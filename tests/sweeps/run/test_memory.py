"""What errors say of memory, what becomes of their trials, and what a worker holds and may hold."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.run.memory import (
    after_out_of_memory,
    begin_measuring,
    cap_gpu_share,
    free_unused,
    machine_bytes,
    measure,
    memory_error,
    resident_bytes,
)
from iolaus.sweeps.types import Ending, Memory, Outcome

GIB = 2**30
CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.19 GiB of "
    "which 1.06 GiB is free. Process 1 has 78.13 GiB memory in use."
)


def raised(cause: BaseException | None, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def numpys() -> BaseException:
    try:
        np.empty(2**50, dtype=np.int8)
    except MemoryError as error:
        return error
    raise AssertionError("this machine has a PiB")


def torchs() -> BaseException:
    torch = pytest.importorskip("torch")
    return torch.OutOfMemoryError(CUDA_TEXT)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "ran_out", "asked"),
    [
        pytest.param(torchs, "gpu", round(2.5 * GIB), marks=pytest.mark.slow),  # its import
        (lambda: RuntimeError(CUDA_TEXT), "gpu", round(2.5 * GIB)),
        (lambda: RuntimeError("CUDA error: out of memory"), "gpu", None),
        (
            lambda: ValueError("RESOURCE_EXHAUSTED: Out of memory while allocating 12 bytes"),
            "gpu",
            12,
        ),
        (lambda: RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "gpu", None),
        (numpys, "ram", 2**50),
        (lambda: MemoryError(), "ram", None),
        (lambda: OSError(12, "Cannot allocate memory"), "ram", None),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                              "1048576 bytes"), "ram", 2**20),
        (lambda: raised(MemoryError(), ValueError("it did not train")), "ram", None),
    ],
)  # fmt: skip
def test_errors_for_want_of_memory_are_known(error: Any, ran_out: str, asked: int | None) -> None:
    """By class or by text, also where the task has raised something else from it."""
    assert memory_error(error()) == Memory(ran_out=ran_out, requested_bytes=asked)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("the memory of the cell allocates nothing"),
        RuntimeError("CUDA error: device-side assert triggered"),
        KeyError("out_of_memory"),
    ],
)
def test_other_errors_are_none(error: BaseException | None) -> None:
    """An error that merely speaks of memory is the task's own."""
    assert memory_error(error) is None


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    """A loop of causes, which Python allows, is walked once."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert memory_error(first) is None


@given(
    ending=st.sampled_from(Ending),
    ran_out=st.sampled_from(["", "gpu", "ram"]),
    was_alone=st.booleans(),
    numbers=st.tuples(*[st.none() | st.integers(1, 2**45)] * 4),
)
def test_want_of_memory_costs_one_more_run(
    ending: Ending, ran_out: str, was_alone: bool, numbers: tuple[int | None, ...]
) -> None:
    """A failed trial that ran out is interrupted once, and then infeasible by a finite amount above
    0; whatever else happened stays as it was.
    """
    memory = Memory(numbers[0], numbers[1], None, numbers[2], ran_out)
    outcome = Outcome(ending, reason="it ended", memory=memory)
    after = after_out_of_memory(outcome, was_alone, numbers[3])
    if ending is not Ending.FAILED or not ran_out:
        assert after == outcome
    elif not was_alone:
        assert after.ending is Ending.INTERRUPTED
        assert "it is run once more, alone on the whole" in after.reason
    else:
        assert after.ending is Ending.INFEASIBLE
        (finding,) = after.findings
        assert 0 < finding.amount < float("inf")
        assert after.memory is not None
        assert after.memory.capacity_bytes == numbers[3]


def test_the_numbers_are_in_the_sentence() -> None:
    """What was asked for, held and there, in units; 85 % too much is told as 0.85."""
    memory = Memory(gpu_bytes=70 * GIB, requested_bytes=78 * GIB, ran_out="gpu")
    after = after_out_of_memory(Outcome(Ending.FAILED, memory=memory), True, 80 * GIB)
    assert after.reason == (
        "out of GPU memory: asked for 78 GiB and held 70 GiB of 80 GiB; nothing ran beside it on "
        "the GPU"
    )
    assert after.findings[0].amount == pytest.approx(0.85)


def test_the_peak_is_that_since_the_beginning() -> None:
    """Memory that was given back counts while it was held, not after the next beginning."""
    begin_measuring()
    before = resident_bytes()
    held = np.ones(120 * 2**20, dtype=np.int8)
    del held
    peak = measure().ram_bytes
    assert before is not None
    assert peak is not None
    assert peak >= before + 100 * 2**20
    begin_measuring()
    assert (measure().ram_bytes or 0) < peak - 50 * 2**20
    assert (machine_bytes() or 0) > before


class FakeCuda:
    """As much of torch.cuda as is used, with calls that wait until CUDA is."""

    def __init__(self) -> None:
        self.is_up, self.later, self.share = False, list[Any](), list[float]()
        self.n_emptied = 0

    def is_initialized(self) -> bool:
        return self.is_up

    def _lazy_call(self, call: Any) -> None:
        call() if self.is_up else self.later.append(call)

    def initialise(self) -> None:
        self.is_up = True
        for call in self.later:
            call()

    def set_per_process_memory_fraction(self, share: float, device: int) -> None:
        assert self.is_up, "this would initialise CUDA"
        assert device == 0
        self.share.append(share)

    def max_memory_reserved(self) -> int:
        return 3 * GIB

    def empty_cache(self) -> None:
        self.n_emptied += 1


def test_a_cap_holds_from_the_first_use_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing initialises CUDA for a task that does not use it; the last cap counts."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert not cap_gpu_share(0.5)
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    assert cap_gpu_share(0.5)
    assert cap_gpu_share(0.25)
    free_unused()
    assert measure().gpu_bytes is None
    assert (cuda.share, cuda.n_emptied) == ([], 0)
    cuda.initialise()
    assert cuda.share == [0.5, 0.25]
    assert cap_gpu_share(2.0)
    assert cuda.share[-1] == 1.0
    assert measure().gpu_bytes == 3 * GIB
    free_unused()
    assert cuda.n_emptied == 1
