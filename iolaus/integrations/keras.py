"""Keras 3: `model.fit(..., callbacks=[IolausCallback()])`.

With `hydra.sweeper.metric=val_loss` a trial reports each epoch, is pruned at its end, announces its
length, and makes checkpoints as `keras.callbacks.BackupAndRestore` does, from which it goes on by
itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras

import iolaus
from iolaus.integrations._common import Pace, folder_to_report, link_or_copy, numbers, report_epoch
from iolaus.sweeps.reporting import in_trial

__all__ = ["IolausCallback"]


class IolausCallback(keras.callbacks.Callback):  # type: ignore[misc] # not read, see pyproject.toml
    """Reports the logs of each epoch under their names; step counts optimizer updates from 0.

    checkpoint_every_s: a checkpoint at the end of an epoch so many seconds after the last, and
    whenever the sweep is about to end the trial for now. Infinity: only then. None: none. The model
    must be built before `fit`, as `BackupAndRestore` asks. Outside a sweep it does nothing.
    """

    def __init__(self, *, checkpoint_every_s: float | None = 60.0) -> None:
        super().__init__()
        self._pace = None if checkpoint_every_s is None else Pace(checkpoint_every_s)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Go on from the trial's checkpoint, if it has one, and announce its length."""
        if not in_trial():
            return
        epochs, per_epoch = self.params.get("epochs"), self.params.get("steps")
        iolaus.plan(epochs * per_epoch if epochs and per_epoch else None)
        folder = iolaus.get_checkpoint() if self._pace is not None else None
        if folder is not None:
            self._restore(folder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report the epoch; make a checkpoint if it is time."""
        if not in_trial():
            return
        step = max(int(self.model.optimizer.iterations) - 1, 0)
        report_epoch(
            step, numbers(logs), self._pace, lambda f: self._made(f).on_epoch_end(epoch, logs)
        )

    def _restore(self, folder: Path) -> None:
        with folder_to_report() as copy:  # BackupAndRestore may write where it reads
            shutil.copytree(folder, copy, copy_function=link_or_copy, dirs_exist_ok=True)
            self._made(copy).on_train_begin()

    def _made(self, folder: Path) -> keras.callbacks.BackupAndRestore:
        backup = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
        backup.set_model(self.model)
        backup.set_params(self.params)
        return backup
