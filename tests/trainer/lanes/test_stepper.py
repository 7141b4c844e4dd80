"""However a step is made cheaper, and whether or not that works, what it does stays the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from iolaus.trainer.course import Hooks
from iolaus.trainer.lanes import _stepper
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._lane_run import begin_lane_run
from iolaus.trainer.lanes._stepper import CudaGraph
from iolaus.trainer.lanes.kind import kind_of
from iolaus.trainer.loop import start
from iolaus.trainer.settings import Settings, read

Compose = Callable[..., DictConfig]


def group_of(run: Settings) -> Group:
    state = start(run)
    group = Group(kind_of(run, state.model, run.batches.at(0)), run, state.model)
    group.admit([begin_lane_run(run, state, Hooks(), None, lambda _: None)])
    return group


def test_a_capture_that_fails_changes_no_weight(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capturing makes updates to warm up; they are taken back whether or not it succeeds."""

    class Stream:
        def wait_stream(self, _: Any) -> None:
            pass

    @contextlib.contextmanager
    def capture(_: Any) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, lambda: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    group = group_of(
        read(compose("task=digits", "batch_size=16", "optim.lr=0.1", "optim.momentum=0.9"))
    )
    before = {name: row.clone() for name, row in group.stack.rows.items()}
    places, keys, coefficients = group._inputs(1)
    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraph(
            group._stepper._plain,
            (*group._batch(places[0]), keys[0], coefficients[0]),
            list(group.stack.rows.values()),
        )
    for name, row in group.stack.rows.items():
        assert torch.equal(row, before[name]), name


def test_a_script_of_the_step_does_the_same_to_the_bit(compose: Compose) -> None:
    """On a CPU the traced step runs as TorchScript: rows and measures are those of the graph."""
    group = group_of(
        read(compose("task=digits", "batch_size=16", "optim.lr=0.1", "optim.momentum=0.9"))
    )
    group.traced_step()
    stepper = group._stepper
    places, keys, coefficients = group._inputs(1)
    given = (*group._batch(places[0]), keys[0], coefficients[0])
    sides = []
    for step in (stepper._graphs[1], stepper._scripts[1]):
        rows = [row.clone() for row in group.stack.rows.values()]
        measured = [step(*given, *rows) for _ in range(3)]
        sides.append([*measured, *rows])
    assert isinstance(stepper._graphs[1], torch.fx.GraphModule)
    assert not isinstance(stepper._scripts[1], torch.fx.GraphModule)
    assert all(torch.equal(one, other) for one, other in zip(*sides, strict=True))
    before = list(group.stack.rows.values())
    assert not all(torch.equal(one, other) for one, other in zip(sides[0][3:], before, strict=True))


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_compiled_step_is_used_where_it_is_faster(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    """And is tried once for a width; no lane is updated meanwhile."""
    n_compiled = []

    def compiled(graph: Any, _: Any) -> Any:
        n_compiled.append(1)

        def step(*arguments: Any) -> torch.Tensor:
            time.sleep(0 if is_faster else 0.02)
            return torch.zeros(()) if is_faster else graph(*arguments)

        return step

    monkeypatch.setattr(_stepper, "_compiled", compiled)
    group = group_of(read(compose("task=digits", "batch_size=16")))
    group.traced_step()
    stepper = group._stepper
    before = {name: row.clone() for name, row in group.stack.rows.items()}
    places, keys, coefficients = group._inputs(1)
    given = (*group._batch(places[0]), keys[0], coefficients[0])
    assert [stepper.prepare(10**9, 1.0, given) for _ in range(2)] == [True, False]
    assert len(n_compiled) == 1
    assert all(torch.equal(row, before[name]) for name, row in group.stack.rows.items())
    assert (stepper(*given).ndim == 0) == is_faster
