"""How fast settings of a search space train, measured on this machine for a few seconds each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import optuna
import torch
from omegaconf import DictConfig

from iolaus.trainer.lint_command import composed, sample
from iolaus.trainer.loop import train
from iolaus.trainer.settings import Settings

__all__ = ["Timed", "drawn", "seconds_of", "whole_seconds"]

N_SETTINGS = 3
FOR_S = 3.0


class Timed:
    """Ends a run after for_s seconds, by its reports; `iolaus.report` and `should_stop` in one.

    At least two reports are waited for, but no longer than ten times for_s.
    """

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._began_s = time.perf_counter()
        self.reports: list[tuple[int, float]] = []  # step, seconds since the beginning

    def report(self, step: int, **_: Any) -> None:
        """Note when a report came; raises optuna.TrialPruned when it is enough."""
        self.reports.append((step, self._elapsed_s()))
        if len(self.reports) > 1 and self._elapsed_s() > self._for_s:
            raise optuna.TrialPruned

    def should_stop(self) -> bool:
        """Whether reports are too rare to be waited for."""
        return self._elapsed_s() > 10 * self._for_s

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began_s


def whole_seconds(reports: Sequence[tuple[int, float]], n_steps: int) -> float | None:
    """Seconds of all n_steps steps: those to the first report, then the speed up to the last.

    reports: (step, seconds) by rising step. None of fewer than two.
    """
    if len(reports) < 2 or reports[-1][0] <= reports[0][0]:
        return None
    (first, first_s), (last, last_s) = reports[0], reports[-1]
    return first_s + max(n_steps - first, 0) * (last_s - first_s) / (last - first)


def drawn(overrides: Sequence[str]) -> tuple[DictConfig, list[Settings]]:
    """The sweeper's config of a command line, and a few settings drawn from its search space.

    Raises BadInputError for what cannot be run.
    """
    with composed(overrides) as (master, space, composer):
        linted = sample(space, composer, N_SETTINGS, seed=master.seed)
        return master.hydra.sweeper, [one.view.run for one in linted]


def seconds_of(runs: Sequence[Settings], n_threads: int, for_s: float = FOR_S) -> list[float]:
    """What whole trials of these settings take, trained for for_s seconds each, in this process.

    One at a time: side by side, or in lanes, each may be slower. A setting whose reports are too
    far apart is left out.
    """
    torch.set_num_threads(n_threads)
    seconds = [_whole_seconds(run, for_s) for run in runs]
    return [value for value in seconds if value is not None]


def _whole_seconds(run: Settings, for_s: float) -> float | None:
    timed = Timed(for_s)
    with contextlib.suppress(optuna.TrialPruned):
        train(run, report=timed.report, should_stop=timed.should_stop, plan=lambda *_: None)
    return whole_seconds(timed.reports, run.n_steps)
