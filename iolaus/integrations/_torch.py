"""What torch's own schedulers will do, and one decision for all ranks of distributed training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import optuna
import torch

import iolaus
from iolaus.integrations._common import Pace, report
from iolaus.trainer.schedules import corners

__all__ = ["announce", "follow", "rates_ahead", "report_on_all_ranks", "together"]

T = TypeVar("T")

# A schedule is stepped through so often at most before its trial begins, some 10 us each.
MOST_STEPS = 50_000


def rates_ahead(
    scheduler: torch.optim.lr_scheduler.LRScheduler, n_steps: int, every: int = 1
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """The learning rate of the first group at each of the next n_steps updates, [n_steps].

    The scheduler is stepped after `every` updates. It is left as it is: a copy of it drives an
    optimizer of one number. None where that cannot be known: a scheduler that follows a metric
    (ReduceLROnPlateau) or cannot be copied, or more than 50,000 steps of the scheduler.
    """
    if n_steps < 1 or n_steps / every > MOST_STEPS:
        return None
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return None
    optimizer = scheduler.optimizer
    groups = [
        {**{k: v for k, v in group.items() if k != "params"}, "params": [torch.zeros(1)]}
        for group in optimizer.param_groups
    ]
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    stand_in.param_groups = groups
    rates = np.empty(n_steps)
    try:
        # Every part of the scheduler that holds the optimizer gets the stand-in for it.
        twin = copy.deepcopy(scheduler, {id(optimizer): stand_in})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "step() before optimizer.step()": there is none
            for step in range(n_steps):
                rates[step] = stand_in.param_groups[0]["lr"]
                if (step + 1) % every == 0 and step + 1 < n_steps:
                    twin.step()
    except Exception:  # a scheduler of the user's own may do anything; its trial runs without
        return None
    return rates


def announce(first: int, n_steps: int | None, scheduler: Any, lr: float, every: int = 1) -> None:
    """Tell the sweep how long the trial is, and which rates lie ahead from step `first` on.

    scheduler: torch's, stepped every so many updates; None: the rate stays at lr.
    """
    if n_steps is None or n_steps <= first:
        iolaus.plan(n_steps)
        return
    if scheduler is None:
        rates = np.full(n_steps - first, lr)
    else:
        known = rates_ahead(scheduler, n_steps - first, every)
        if known is None or not np.all(np.isfinite(known)):
            iolaus.plan(n_steps)
            return
        rates = known
    iolaus.plan(n_steps, [(first + step, rate) for step, rate in corners(rates)])


def report_on_all_ranks(step: int, metrics: dict[str, float], pace: Pace | None) -> bool:
    """Report from rank 0; returns on all ranks whether a checkpoint is to be made now."""

    def told() -> bool:
        report(step, metrics)
        return pace is not None and pace.is_due()

    return together(told)


def together(act: Callable[[], T]) -> T:
    """What `act` gives on rank 0, on every rank; a trial that it ends there ends on all.

    Raises optuna.TrialPruned on every rank then: ranks that went on would wait for the others for
    ever.
    """
    given, reason = None, None
    try:
        given = act()
    except optuna.TrialPruned as pruned:
        reason = str(pruned)
    decided: tuple[T, str | None] = follow((given, reason))
    if decided[1] is not None:
        raise optuna.TrialPruned(decided[1])
    return decided[0]


def follow(decided: Any) -> Any:
    """What rank 0 has decided, on every rank; itself where training is not distributed."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return decided
    box = [decided]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
