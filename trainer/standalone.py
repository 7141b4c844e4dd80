"""A run outside a sweep: it keeps its checkpoints itself, and ends at SIGTERM after one more.

At a quarter and half of its steps it says when and where it will end, and in the end how right that
was.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import SupportsFloat

import numpy as np

from iolaus.sweeps import reporting
from iolaus.sweeps.checkpoints import adopt, forget, newest
from iolaus.sweeps.run_end import ASKED_AT, foresee, looked_back

__all__ = ["Standalone"]

log = logging.getLogger("trainer")

MOST_REPORTS = 10_000  # that forecasts are made from; of more every second is left out


class Standalone:
    """What stands for `iolaus` in a run that no sweep has started.

    folder: the run's output folder. goes_on: whether to go on from the newest checkpoint there.
    """

    def __init__(self, folder: Path, goes_on: bool) -> None:
        self._folder = folder
        self._goes_on = goes_on
        self._began_s = time.monotonic()
        self._terminated = False
        self._n_steps: int | None = None
        self._reports: list[tuple[float, float, float]] = []  # step, loss, seconds
        self._asked_at = list(ASKED_AT)

    def get_checkpoint(self) -> Path | None:
        """The newest whole checkpoint in the folder, or None."""
        found = newest(self._folder) if self._goes_on else None
        return None if found is None else found.path

    def should_checkpoint(self) -> bool:
        """Whether SIGTERM has come."""
        return self._terminated

    def plan(self, n_steps: int, _lr: object = ()) -> None:
        """Take how long the run is to be."""
        self._n_steps = n_steps

    def report(
        self, step: int, /, *, checkpoint: Path | None = None, **metrics: SupportsFloat
    ) -> None:
        """Pass on metrics to who records the run, and keep a checkpoint.

        Raises SystemExit(143) after one that was asked for by SIGTERM.
        """
        if metrics:
            reporting.report(step, checkpoint=None, **metrics)
        if checkpoint is None:
            self._foresee(step, metrics)
            return
        try:
            adopt(checkpoint, self._folder, step, time.monotonic() - self._began_s)
        except OSError as error:  # a full disk, say; the one before is still there
            log.warning("step %d: no checkpoint kept, going on: %s", step, error)
        if self._terminated:
            raise SystemExit(128 + signal.SIGTERM)

    def _foresee(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Say where the run will end, once it has come to the next share of its steps."""
        if "loss" not in metrics or self._n_steps is None:
            return
        self._reports.append((step, float(metrics["loss"]), time.monotonic() - self._began_s))
        if len(self._reports) > MOST_REPORTS:
            self._reports = self._reports[1::2]
        if not self._asked_at or step < self._asked_at[0] * self._n_steps:
            return
        while self._asked_at and step >= self._asked_at[0] * self._n_steps:
            self._asked_at.pop(0)
        steps, losses, seconds = np.array(self._reports).T
        end = foresee(steps, losses, seconds, self._n_steps)
        if end is not None and step < self._n_steps:
            log.info("forecast: %s", end.sentence("loss"))

    def look_back(self) -> None:
        """Say how right the forecasts of a run that is over were."""
        if self._reports and self._n_steps is not None:
            steps, losses, seconds = np.array(self._reports).T
            for end, loss, took_s in looked_back(steps, losses, seconds, self._n_steps):
                log.info("forecast %s", end.beside("loss", loss, took_s))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Catches SIGTERM within; a run that comes to its end leaves no checkpoints."""

        def terminate(_number: int, _frame: FrameType | None) -> None:
            self._terminated = True

        before = None
        with suppress(ValueError):  # not in the main thread: SIGTERM is somebody else's
            before = signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
        forget(self._folder)
