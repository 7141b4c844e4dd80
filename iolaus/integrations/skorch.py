"""skorch: `NeuralNetClassifier(..., callbacks=[IolausCallback()])`.

With `hydra.sweeper.metric=valid_loss` a trial reports each epoch, is pruned at its end, announces
its length, and makes checkpoints with `net.save_params`, from which it goes on by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skorch.callbacks import Callback

import iolaus
from iolaus.integrations._common import Pace, numbers, report_epoch
from iolaus.sweeps.reporting import in_trial

__all__ = ["IolausCallback"]

NO_SCORES = ("dur", "batches", "_batch_count", "_best")  # of what skorch keeps of an epoch


class IolausCallback(Callback):  # type: ignore[misc] # not read, see pyproject.toml
    """Reports the numbers of each epoch's history; step counts optimizer updates from 0.

    checkpoint_every_s: parameters, optimizer and history at the end of an epoch so many seconds
    after the last, and whenever the sweep is about to end the trial for now. Infinity: only then.
    None: none. A trial that goes on makes the epochs that are left of `max_epochs`, and no random
    state is restored: it is no exact continuation. Outside a sweep it does nothing.
    """

    def __init__(self, *, checkpoint_every_s: float | None = 60.0) -> None:
        self.checkpoint_every_s = checkpoint_every_s  # skorch copies callbacks by their arguments

    def initialize(self) -> IolausCallback:
        """See skorch: called when the net is initialised."""
        every_s = self.checkpoint_every_s
        self.pace_ = None if every_s is None else Pace(every_s)
        self.max_epochs_: int | None = None
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803 # skorch's name
        """Go on from the trial's checkpoint, if it has one."""
        folder = iolaus.get_checkpoint() if in_trial() and self.pace_ is not None else None
        if folder is not None:
            net.load_params(**_files(folder))
            self.max_epochs_ = net.max_epochs
            net.max_epochs = max(net.max_epochs - len(net.history), 0)

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Leave the net's settings as they were."""
        if self.max_epochs_ is not None:
            net.max_epochs = self.max_epochs_

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Report the epoch; make a checkpoint if it is time."""
        if not in_trial():
            return
        n_updates = sum(len(self._batches(epoch)) for epoch in net.history)
        if len(net.history) == 1:
            iolaus.plan(n_updates * (self.max_epochs_ or net.max_epochs))
        last = net.history[-1]
        scores = {k: v for k, v in last.items() if not k.endswith(NO_SCORES) and k != "epoch"}
        step = max(n_updates - 1, 0)
        report_epoch(
            step, numbers(scores), self.pace_, lambda folder: net.save_params(**_files(folder))
        )

    @staticmethod
    def _batches(epoch: dict[str, Any]) -> list[Any]:
        return [batch for batch in epoch["batches"] if "train_loss" in batch]


def _files(folder: Path) -> dict[str, str]:
    names = {"f_params": "params.pt", "f_optimizer": "optimizer.pt", "f_history": "history.json"}
    return {kind: str(folder / name) for kind, name in names.items()}
