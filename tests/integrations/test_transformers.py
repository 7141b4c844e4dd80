"""The Hugging Face Trainer in a trial: what it reports, when it stops, where it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from iolaus.integrations.transformers import IolausCallback, checkpoint_path  # noqa: E402

N_STEPS = 16


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.layer(inputs)
        return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}


def train(tmp_path: Path, callback: Any, path: str | None = None, **options: Any) -> Any:
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    data = [{"inputs": x, "labels": x.sum(0, keepdim=True)} for x in inputs]
    given = {"eval_strategy": "steps", "eval_steps": 4, "logging_steps": 2, "save_strategy": "no"}
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        learning_rate=0.1,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **(given | options),
    )
    trainer = transformers.Trainer(
        Net(), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=path)
    return trainer


def test_what_is_logged_is_reported(trial: Any, tmp_path: Path) -> None:
    """Under its name, at the update it was logged after; the summary of all of it is left out."""
    train(tmp_path, IolausCallback())
    assert trial.steps("loss") == [1, 3, 5, 7, 9, 11, 13, 15]
    assert trial.steps("eval_loss") == [3, 7, 11, 15]
    assert not trial.steps("train_loss")
    assert not trial.steps("epoch")


def test_the_rates_that_are_announced_are_those_that_come(trial: Any, tmp_path: Path) -> None:
    """The rate that is logged after an update is that of the next one."""
    train(tmp_path, IolausCallback(), logging_steps=1)
    assert trial.plan.n_steps == N_STEPS
    logged = {r.step: r.metrics["learning_rate"] for r in trial.rows if "loss" in r.metrics}
    announced = np.interp(range(N_STEPS), *zip(*trial.plan.lr, strict=True))
    np.testing.assert_allclose(announced, [logged[step] for step in range(N_STEPS)], atol=1.01e-4)


def test_a_stop_ends_the_training_at_once(trial: Any, tmp_path: Path) -> None:
    """TrialPruned flies out of trainer.train."""
    trial.stop_at(7)
    with pytest.raises(optuna.TrialPruned, match="enough"):
        train(tmp_path, IolausCallback())
    assert max(trial.steps("loss")) == 7


def test_a_trial_goes_on_from_its_checkpoint(trial: Any, tmp_path: Path) -> None:
    """It makes the updates that are left, and ends as if it had not been cut off; the Trainer's own
    checkpoints stay.
    """
    whole = train(tmp_path, IolausCallback(checkpoint_every_s=None)).model.layer.weight
    trial.begin_anew()
    trial.stop_at(11)
    with pytest.raises(optuna.TrialPruned):
        train(tmp_path, IolausCallback(), save_strategy="steps", save_steps=8)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-8"]
    trial.go_on()
    trainer = train(tmp_path, IolausCallback(), checkpoint_path())
    assert trial.steps("eval_loss") == [11, 15]
    assert torch.equal(trainer.model.layer.weight, whole)


def test_a_checkpoint_is_made_at_an_evaluation(trial: Any, tmp_path: Path) -> None:
    """Where save_strategy asks for none, with checkpoint_every_s."""
    train(tmp_path, IolausCallback(checkpoint_every_s=0))
    trial.go_on()
    assert Path(checkpoint_path(), "trainer_state.json").is_file()


def test_outside_a_sweep_it_does_nothing(tmp_path: Path) -> None:
    """A training without a trial is a training."""
    assert checkpoint_path() is None
    train(tmp_path, IolausCallback(checkpoint_every_s=0))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
