"""One run in a lane: what the solo loop has in local variables."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iolaus.trainer.best_weights import (
    SmoothedLoss,
    forget_rebounds,
    is_rebound_to_keep,
    keep_before_rebound,
    write_best,
)
from iolaus.trainer.checkpoint import RunState, Saves, taken_random_state
from iolaus.trainer.course import Course, Hooks, Summary
from iolaus.trainer.data import Batches
from iolaus.trainer.loop import State
from iolaus.trainer.optim import load_moments
from iolaus.trainer.settings import Settings

__all__ = ["Best", "LaneRun", "begin_lane_run"]


@dataclass(frozen=True, slots=True)
class Best:
    """When a run had its best weights: after so many updates on so many examples.

    n_updates: made by the optimizer, which has made more than `step` if it came with a checkpoint
    of another run, and fewer after a rewind.
    """

    step: int
    examples: int
    n_updates: int


@dataclass(slots=True)
class LaneRun:
    """A run in a lane, from one block of steps to the next.

    state: the model and optimizer it began with; they also carry the lane's weights to a checkpoint
    and to another stack. n_updates: made by the optimizer so far. keep: the file for the best
    weights, or None. best: when they were; None before the first report. carried: the state of the
    best weights, while the run moves to another stack. window: what the updates since the last
    report measured, blocks of [n_steps, 3 + n_params] (`Stack.step`). written_s: when the best
    weights were last written, or the run began. random: the generators' states for a checkpoint; a
    lane draws nothing. saves: when its exact state is due. best_state: model and optimizer of the
    best weights, in a run that goes on from a checkpoint, until it has its lane. done: called once,
    with the summary or with what was raised, when the run is over.
    """

    run: Settings
    state: State
    course: Course
    batches: Batches
    keep: Path | None
    done: Callable[[Summary | BaseException], None]
    random: Mapping[str, Any]
    saves: Saves
    n_updates: int = 0
    smoothed: SmoothedLoss = field(default_factory=SmoothedLoss)
    best: Best | None = None
    best_state: State | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    window: list[NDArray[np.float64]] = field(default_factory=list)
    began_s: float = field(default_factory=time.perf_counter)
    written_s: float = field(default_factory=time.perf_counter)

    @property
    def best_step(self) -> int | None:
        """The updates behind the best weights; None before the first report."""
        return None if self.best is None else self.best.step

    def advance(self, measured: NDArray[np.float64]) -> None:
        """Book updates that have been made, by what they measured, [n_steps, 3 + n_params]."""
        self.window.append(measured)
        self.course.advance(len(measured))
        self.n_updates += len(measured)

    def offer(self, loss: float) -> bool:
        """Take a reported loss, which closes the window; whether the weights are now the best."""
        self.window = []
        if not self.smoothed.offer(loss):
            return False
        self.best = Best(self.course.step, self.course.examples, self.n_updates)
        return True

    @property
    def has_rebounded(self) -> bool:
        """Whether the loss has climbed back, and its best weights have no file of their own yet."""
        if self.keep is None or self.best is None:
            return False
        return is_rebound_to_keep(self.keep, self.best.step, self.smoothed)

    def keep_before_rebound(self) -> None:
        """Give the best weights, which have been written, a file of their own."""
        if self.keep is not None and self.best is not None:
            kept = keep_before_rebound(self.keep, self.best.step)
            self.course.tell_of_rebound(self.best.step, kept)

    @property
    def kept_best(self) -> dict[str, Any] | None:
        """The best weights, which are in `state` now, as the solo loop keeps them."""
        if self.best is None:
            return None
        return {
            "step": self.best.step,
            "examples": self.best.examples,
            "smoothed_loss": self.smoothed.lowest,
            "model": self.state.model.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
        }

    def write(self) -> Exception | None:
        """Write `kept_best`, as the solo loop writes it.

        Returns what went wrong, such as a folder that is gone: the other lanes are not to die of
        it.
        """
        if self.keep is None or (kept := self.kept_best) is None:
            return None
        self.written_s = time.perf_counter()
        try:
            write_best(self.keep, kept)
        except Exception as error:
            return error
        return None


def begin_lane_run(
    run: Settings,
    state: State,
    hooks: Hooks,
    keep: Path | None,
    done: Callable[[Summary | BaseException], None],
    folder: Path | None = None,
    kept: RunState | None = None,
) -> LaneRun:
    """A run that begins where `iolaus.trainer.loop.start` has put it, or goes on from `kept`.

    folder: see `train`.
    """
    earlier = kept.course if kept else None
    if keep is not None and kept is None:
        forget_rebounds(keep)
    lane_run = LaneRun(
        run,
        state,
        Course(run, hooks, state.step, state.examples, earlier=earlier),
        Batches(run.splits.train, run.seed, run.shuffle_buffer),
        keep,
        done,
        kept.random if kept else taken_random_state(run.device),
        Saves(run, folder, hooks),
        n_updates_of(state.optimizer),
    )
    if kept is not None:
        lane_run.window = [kept.window.numpy()]
        lane_run.smoothed = SmoothedLoss(**kept.best["smoothed"])
        if (best := kept.best["kept"]) is not None:
            model, optimizer = copy.deepcopy((state.model, state.optimizer))
            model.load_state_dict(best["model"])
            load_moments(optimizer, best["optimizer"])
            lane_run.best = Best(best["step"], best["examples"], n_updates_of(optimizer))
            lane_run.best_state = State(model, optimizer, state.scaler)
    return lane_run


def n_updates_of(optimizer: torch.optim.Optimizer) -> int:
    """Updates that an optimizer has made, as far as lanes ask: SGD has made 0, or 1 or more."""
    return max((int(s.get("step", 1)) for s in optimizer.state.values()), default=0)
