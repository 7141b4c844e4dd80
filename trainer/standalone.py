"""A run outside a sweep: it keeps its checkpoints itself, and ends at SIGTERM after one more."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import SupportsFloat

from iolaus.sweeps import reporting
from iolaus.sweeps.checkpoints import adopt, forget, newest

__all__ = ["Standalone"]

log = logging.getLogger("trainer")


class Standalone:
    """What stands for `iolaus` in a run that no sweep has started.

    folder: the run's output folder. goes_on: whether to go on from the newest checkpoint there.
    """

    def __init__(self, folder: Path, goes_on: bool) -> None:
        self._folder = folder
        self._goes_on = goes_on
        self._began_s = time.monotonic()
        self._terminated = False

    def get_checkpoint(self) -> Path | None:
        """The newest whole checkpoint in the folder, or None."""
        found = newest(self._folder) if self._goes_on else None
        return None if found is None else found.path

    def should_checkpoint(self) -> bool:
        """Whether SIGTERM has come."""
        return self._terminated

    def report(
        self, step: int, /, *, checkpoint: Path | None = None, **metrics: SupportsFloat
    ) -> None:
        """Pass on metrics to who records the run, and keep a checkpoint.

        Raises SystemExit(143) after one that was asked for by SIGTERM.
        """
        if metrics:
            reporting.report(step, checkpoint=None, **metrics)
        if checkpoint is None:
            return
        try:
            adopt(checkpoint, self._folder, step, time.monotonic() - self._began_s)
        except OSError as error:  # a full disk, say; the one before is still there
            log.warning("step %d: no checkpoint kept, going on: %s", step, error)
        if self._terminated:
            raise SystemExit(128 + signal.SIGTERM)

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
