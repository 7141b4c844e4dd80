"""One run in a lane: what the solo loop has in local variables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from iolaus.trainer.checkpoint import SmoothedLoss, write_best
from iolaus.trainer.course import Course, Hooks, Summary
from iolaus.trainer.data import Batches
from iolaus.trainer.loop import State
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
    weights were last written, or the run began. done: called once, with the summary or with what
    was raised, when the run is over.
    """

    run: Settings
    state: State
    course: Course
    batches: Batches
    keep: Path | None
    done: Callable[[Summary | BaseException], None]
    n_updates: int = 0
    smoothed: SmoothedLoss = field(default_factory=SmoothedLoss)
    best: Best | None = None
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

    def write(self) -> Exception | None:
        """Write `state`, in which the best weights now are, as the solo loop writes them.

        Returns what went wrong, such as a folder that is gone: the other lanes are not to die of
        it.
        """
        if self.keep is None or self.best is None:
            return None
        kept = {
            "step": self.best.step,
            "examples": self.best.examples,
            "smoothed_loss": self.smoothed.lowest,
            "model": self.state.model.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
        }
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
) -> LaneRun:
    """A run that begins where `iolaus.trainer.loop.start` has put it."""
    course = Course(run, hooks, state.step, state.examples)
    batches = Batches(run.splits.train, run.seed, run.shuffle_buffer)
    n_updates = max((int(s.get("step", 1)) for s in state.optimizer.state.values()), default=0)
    return LaneRun(run, state, course, batches, keep, done, n_updates)
