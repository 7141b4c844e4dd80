"""How many lanes pay for a model on this device: measured on a few steps, in time and memory."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.data import Batches
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._lane_run import begin_lane_run
from iolaus.trainer.lanes._stepper import N_STEPS, fastest_s
from iolaus.trainer.lanes.kind import kind_of
from iolaus.trainer.lengths import Every
from iolaus.trainer.loop import float_type, seeded, start, update
from iolaus.trainer.settings import Settings

__all__ = ["MOST_CHECKED", "N_STEPS", "Width", "best_width"]

# A wider stack is tried as long as it is this much faster per lane; beyond, it only makes more
# trials wait together.
WORTH = 1.1
# Share of the memory that is free which the lanes of one worker may take.
MEMORY_SHARE = 0.4
# lanes-check looks no further.
MOST_CHECKED = 64


@dataclass(frozen=True)
class Width:
    """The number of lanes that pays, and the steps a second of all of them and of the solo loop.

    pays_from: the fewest lanes tried that were faster than the solo loop. is_remembered: it was
    measured in an earlier sweep.
    """

    n_lanes: int
    pays_from: int
    steps_per_s: float
    alone_per_s: float
    is_remembered: bool = False

    def __str__(self) -> str:
        if self.n_lanes == 1:
            return (
                f"lanes do not pay here: {self.steps_per_s:.0f} steps/s in the best stack, "
                f"{self.alone_per_s:.0f} alone"
            )
        ratio = self.steps_per_s / self.alone_per_s
        when = ", when last measured" if self.is_remembered else ""
        return (
            f"{self.n_lanes} lanes per slot: {self.steps_per_s:.0f} trial-steps/s, "
            f"{ratio:.1f} times one trial alone{when}"
        )


def best_width(run: Settings, most: int, clock: Callable[[], float] = time.perf_counter) -> Width:
    """Double the lanes until it pays no more, up to `most`; compare the best with the solo loop.

    Takes about a second on a CPU. A stack for which the GPU's memory is too small ends the search.
    clock: seconds, any origin.
    """
    run = dataclasses.replace(run, resume=None)
    alone = 1 / _seconds_alone(run, clock)
    pays_from = 0
    best, n_lanes, n_next = 0.0, 1, min(4, most)  # fewer than four never pay where four do not
    while 1 < n_next <= most:
        try:
            seconds, memory = _seconds_in_lanes(run, n_next, clock)
        except torch.OutOfMemoryError:
            break
        if n_next / seconds < best * WORTH:
            break
        best, n_lanes = n_next / seconds, n_next
        pays_from = pays_from or (n_lanes if best > alone else 0)
        n_next *= 2
        if memory is not None and memory * n_next > MEMORY_SHARE:
            break
    return Width(n_lanes if best > alone else 1, pays_from or 1, best, alone)


def _seconds_alone(run: Settings, clock: Callable[[], float]) -> float:
    """Seconds of one step of the solo loop."""
    with seeded(run.seed, run.device):
        state = start(run)
        batches = Batches(
            run.splits.train.to(run.device, float_type(run)), run.seed, run.shuffle_buffer
        )
        size = run.batches.at(state.step)

        def step() -> None:
            update(run, state, batches.at(0, size), run.optim.lr)

        return fastest_s(step, run.device, clock)


def _seconds_in_lanes(
    run: Settings, n_lanes: int, clock: Callable[[], float]
) -> tuple[float, float | None]:
    """Seconds of one traced step of n_lanes lanes, and the share of the free memory each takes.

    None for the memory on a CPU.
    """
    short = dataclasses.replace(run, n_steps=1, report_every=Every(1), eval_every=Every(1))
    free = 0
    if run.device.type == "cuda":
        gc.collect()  # what narrower stacks have left behind would count as used
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(run.device)[0]
    lane_runs = []
    for i in range(n_lanes):
        with seeded(run.seed + i, run.device):
            lane_runs.append(begin_lane_run(short, start(run), _SILENT, None, _ignore))
    model = lane_runs[0].state.model
    group = Group(kind_of(short, model, short.batches.at(0)), short, model, compile=False)
    group.admit(lane_runs)
    step = group.traced_step()
    seconds = fastest_s(step, run.device, clock)
    if not free:
        return seconds, None
    return seconds, (free - torch.cuda.mem_get_info(run.device)[0]) / free / n_lanes


def _ignore(_: Summary | BaseException) -> None:
    pass


_SILENT = Hooks(
    report=lambda *_, **__: None,
    should_stop=lambda: False,
    plan=lambda *_: None,
    ask_intervention=lambda: None,
)
