"""PyTorch Lightning: `Trainer(callbacks=[IolausCallback(monitor="val_loss")])`.

With `hydra.sweeper.metric=val_loss` a trial reports what it logs, is pruned at once and on all
ranks, announces its length and schedule, and makes checkpoints; `trainer.fit(model,
ckpt_path=checkpoint_path())` goes on from the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

import iolaus
from iolaus.integrations._common import Pace, folder_to_report, numbers
from iolaus.integrations._torch import announce, follow, report_on_all_ranks, together
from iolaus.sweeps.reporting import in_trial

__all__ = ["IolausCallback", "checkpoint_path"]

CHECKPOINT = "lightning.ckpt"


def checkpoint_path() -> str | None:
    """For `trainer.fit(model, ckpt_path=checkpoint_path())`: where this trial goes on, or None."""
    folder = iolaus.get_checkpoint()
    return None if folder is None else str(folder / CHECKPOINT)


class IolausCallback(Callback):  # type: ignore[misc] # not read, see pyproject.toml
    """Reports each number that is logged, under its own name; step counts optimizer updates from 0.

    What training logs is reported every `log_every_n_steps` batches, what validation logs when it
    ends (not the sanity check's), what is known only then at the end of an epoch.
    monitor: what `hydra.sweeper.metric` names. ValueError if nothing of that name has been logged
    by the end of the first epoch with a validation, or without any if there is none.
    checkpoint_every_s: a checkpoint with a report of the metric so many seconds after the last, and
    whenever the sweep is about to end the trial for now. Infinity: only then. None: none.
    Outside a sweep it does nothing.
    """

    def __init__(
        self, monitor: str = "val_loss", *, checkpoint_every_s: float | None = 60.0
    ) -> None:
        self.monitor = monitor
        self._pace = None if checkpoint_every_s is None else Pace(checkpoint_every_s)
        # Lightning keeps the last value of all that was ever logged; a name is reported where it
        # was first seen, and nowhere else again as if it were new.
        self._first_seen: dict[str, str] = {}
        self._has_validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce the length and the learning rates ahead."""
        if not in_trial():
            return
        n_steps: float = -1
        if pl_module.automatic_optimization:  # else nobody knows how many updates a batch makes
            n_steps = trainer.estimated_stepping_batches
        is_known = 0 < n_steps < float("inf")
        lr = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else 0.0
        scheduler, every = None, 1
        if trainer.lr_scheduler_configs:
            config = trainer.lr_scheduler_configs[0]
            scheduler, every = config.scheduler, config.frequency
            if config.interval == "epoch" and is_known:
                n_batches, at_once = trainer.num_training_batches, trainer.accumulate_grad_batches
                every = int(every * -(-n_batches // at_once))
        announce(trainer.global_step, int(n_steps) if is_known else None, scheduler, lr, every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report what training logs, as often as Lightning logs it."""
        if not in_trial():
            return
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self._report(trainer, "batch")
        elif follow(self._pace is not None and iolaus.should_checkpoint()):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what validation logs."""
        is_fitting = trainer.state.fn == "fit"  # and not trainer.validate
        if in_trial() and is_fitting and not trainer.sanity_checking:
            self._has_validated = True
            self._report(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what is known at the end of an epoch only."""
        if not in_trial():
            return
        self._report(trainer, "epoch")
        is_to_come = sum(trainer.num_val_batches) > 0 and not self._has_validated
        if self.monitor not in self._first_seen and not is_to_come:
            raise ValueError(
                f"IolausCallback(monitor={self.monitor!r}): nothing of that name was logged by the "
                f"end of epoch {trainer.current_epoch} (step {trainer.global_step}); what was: "
                f"{', '.join(sorted(self._first_seen)) or 'nothing'}. Log it with self.log, or "
                "name one of these, here and as hydra.sweeper.metric"
            )

    def _report(self, trainer: Trainer, where: str) -> None:
        logged = numbers(trainer.callback_metrics)
        news = {k: v for k, v in logged.items() if self._first_seen.setdefault(k, where) == where}
        if news:
            pace = self._pace if self.monitor in news else None
            if report_on_all_ranks(max(trainer.global_step - 1, 0), news, pace):
                self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Lightning's own checkpoint, made by all ranks, taken into the trial's folder by rank 0.

        Raises optuna.TrialPruned on all ranks if the trial ends with it.
        """
        with folder_to_report() as own:
            folder = Path(follow(str(own)))
            trainer.save_checkpoint(folder / CHECKPOINT)
            step = max(trainer.global_step - 1, 0)
            together(lambda: iolaus.report(step, checkpoint=folder))
