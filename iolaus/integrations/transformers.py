"""Hugging Face Trainer: `Trainer(..., callbacks=[IolausCallback()])`.

With `hydra.sweeper.metric=eval_loss` a trial reports what is logged, is pruned at an evaluation,
announces its length and schedule, and keeps the checkpoints that the Trainer makes;
`trainer.train(resume_from_checkpoint=checkpoint_path())` goes on from the last one.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import iolaus
from iolaus.integrations._common import Pace, folder_to_report, link_or_copy, numbers
from iolaus.integrations._torch import announce, follow, report_on_all_ranks, together
from iolaus.sweeps.reporting import in_trial

__all__ = ["IolausCallback", "checkpoint_path"]


def checkpoint_path() -> str | None:
    """For `trainer.train(resume_from_checkpoint=checkpoint_path())`: where to go on, or None."""
    folder = iolaus.get_checkpoint()
    return None if folder is None else str(folder)


class IolausCallback(TrainerCallback):  # type: ignore[misc] # not read, see pyproject.toml
    """Reports each number that the Trainer logs, under its name (`loss`, `eval_loss`, ...).

    step counts optimizer updates from 0. The summary at the end of training (`train_loss`, the mean
    over all of it) is left out.
    checkpoint_every_s: besides those that `save_strategy` asks for, a checkpoint at an evaluation
    so many seconds after the last that this made, and whenever the sweep is about to end the trial
    for now. Infinity, the default: only then. None: none at all are kept.
    Outside a sweep it does nothing.
    """

    def __init__(self, *, checkpoint_every_s: float | None = math.inf) -> None:
        self._pace = None if checkpoint_every_s is None else Pace(checkpoint_every_s)
        self._is_over = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Announce the length and the learning rates ahead."""
        self._is_over = False
        if in_trial():
            n_steps = state.max_steps if state.max_steps > 0 else None
            announce(state.global_step, n_steps, kwargs.get("lr_scheduler"), args.learning_rate)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have the Trainer save if the sweep asks for it."""
        if in_trial() and self._pace is not None and follow(iolaus.should_checkpoint()):
            control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report what is logged; an evaluation's numbers are among it."""
        metrics = numbers({k: v for k, v in (logs or {}).items() if k not in ("epoch", "step")})
        if not in_trial() or not metrics or "train_runtime" in metrics:
            return
        is_evaluation = any(name.startswith("eval_") for name in metrics)
        pace = self._pace if is_evaluation else None
        if report_on_all_ranks(max(state.global_step - 1, 0), metrics, pace):
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the Trainer's checkpoint into the trial's folder; its own stays where it is."""
        if not in_trial() or self._pace is None or args.output_dir is None:
            return
        made = Path(args.output_dir, f"checkpoint-{state.global_step}")

        def keep() -> None:
            if state.is_world_process_zero and made.is_dir():
                with folder_to_report() as folder:
                    shutil.copytree(made, folder, copy_function=link_or_copy, dirs_exist_ok=True)
                    iolaus.report(max(state.global_step - 1, 0), checkpoint=folder)

        together(keep)
