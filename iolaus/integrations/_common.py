"""What the callbacks share: numbers out of a framework's logs, one decision for all ranks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

import iolaus

__all__ = ["Pace", "folder_to_report", "link_or_copy", "numbers", "report", "report_epoch"]


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """What of a framework's logs is one number, by name; the rest (text, lists, None) is left out.

    NaN and infinity stay. A tensor or array of one element is its number.
    """
    found: dict[str, float] = {}
    for name, value in (logs or {}).items():
        if isinstance(value, str | bytes | bool):
            continue
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
    return found


def report(step: int, metrics: Mapping[str, float]) -> None:
    """As `iolaus.report`, for metrics by name; one named like its own argument is left out."""
    send: Callable[..., None] = iolaus.report
    send(step, **{name: value for name, value in metrics.items() if name != "checkpoint"})


class Pace:
    """Says when a checkpoint is due: `every_s` seconds after the last, or when the sweep asks.

    every_s: 0 for one whenever it is asked, infinity for none but those that the sweep asks for.
    Raises ValueError for a negative number.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not every_s >= 0:
            raise ValueError(f"checkpoint_every_s is in seconds, 0 or more; got {every_s}")
        self._every_s, self._clock, self._last_s = every_s, clock, clock()

    def is_due(self) -> bool:
        """Whether to make a checkpoint now; the time counts from here if so."""
        # Asked first: a task that asks is known to make checkpoints.
        if not iolaus.should_checkpoint() and self._clock() - self._last_s < self._every_s:
            return False
        self._last_s = self._clock()
        return True


def report_epoch(
    step: int, metrics: Mapping[str, float], pace: Pace | None, save: Callable[[Path], None]
) -> None:
    """Report an epoch, and a checkpoint that `save` writes into a folder, if it is time for one."""
    if metrics:
        report(step, metrics)
    if pace is not None and pace.is_due():
        with folder_to_report() as folder:
            save(folder)
            iolaus.report(step, checkpoint=folder)


@contextmanager
def folder_to_report() -> Iterator[Path]:
    """An empty folder in the trial's own, to fill and to report as a checkpoint; gone afterwards.

    Raises ValueError outside a Hydra job.
    """
    own = Path(HydraConfig.get().runtime.output_dir)
    folder = Path(tempfile.mkdtemp(prefix=".iolaus-", dir=own))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: str, target: str) -> None:
    """For `shutil.copytree`: the same file under a second name where the disk can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
