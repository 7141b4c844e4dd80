"""However a step is made cheaper, and whether or not that works, what it does stays the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from iolaus.trainer.course import Hooks
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
