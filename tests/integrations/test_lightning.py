"""PyTorch Lightning in a trial: what it reports, when it stops, where it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

pl = pytest.importorskip("lightning.pytorch")

from iolaus.integrations.lightning import IolausCallback, checkpoint_path  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step"),
]
N_EPOCHS, N_BATCHES = 4, 8


class Net(pl.LightningModule):
    def __init__(self, schedule: str = "cosine", validates: bool = True) -> None:
        super().__init__()
        self.layer, self.schedule, self.validates = torch.nn.Linear(4, 1), schedule, validates
        self.rates: list[float] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        loss = self._loss(batch)
        self.log("train_loss", loss)
        self.log("of_epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        if self.validates:
            self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedulers = torch.optim.lr_scheduler
        match self.schedule:
            case "cosine":
                return [optimizer], [schedulers.CosineAnnealingLR(optimizer, N_EPOCHS)]
            case "one cycle":
                cycle = schedulers.OneCycleLR(optimizer, 0.1, N_EPOCHS * N_BATCHES)
                return [optimizer], [{"scheduler": cycle, "interval": "step"}]
            case "sequence":
                warm = schedulers.LinearLR(optimizer, 0.1, total_iters=5)
                rest = schedulers.ExponentialLR(optimizer, 0.9)
                both = schedulers.SequentialLR(optimizer, [warm, rest], [5])
                return [optimizer], [{"scheduler": both, "interval": "step"}]
        return optimizer

    def _loss(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])


def fit(tmp_path: Path, callback: Any, net: Any = None, path: str | None = None, **options: Any):
    torch.manual_seed(0)
    inputs = torch.randn(8 * N_BATCHES, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=N_EPOCHS,
        log_every_n_steps=4,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )
    net = net or Net()
    trainer.fit(net, loader, loader, ckpt_path=path)
    return net


def test_each_number_is_reported_where_it_was_logged(trial: Any, tmp_path: Path) -> None:
    """Training's every log_every_n_steps, validation's and the epoch's at their end, none twice;
    nothing of the sanity check.
    """
    fit(tmp_path, IolausCallback(checkpoint_every_s=None))
    steps = {name: trial.steps(name) for name in ("train_loss", "val_loss", "of_epoch")}
    ends = [N_BATCHES * (epoch + 1) - 1 for epoch in range(N_EPOCHS)]
    assert steps == {
        "train_loss": [step for end in ends for step in (end - 4, end)],
        "val_loss": ends,
        "of_epoch": ends,
    }
    assert {tuple(row.metrics) for row in trial.rows} == {(name,) for name in steps}


@pytest.mark.parametrize("schedule", ["cosine", "one cycle", "sequence", "none"])
def test_the_rates_that_are_announced_are_those_that_come(
    trial: Any, tmp_path: Path, schedule: str
) -> None:
    """At each update within a thousandth of the highest, by epoch or by step, nested or none."""
    net = fit(tmp_path, IolausCallback(checkpoint_every_s=None), Net(schedule))
    plan = trial.plan
    assert plan.n_steps == len(net.rates) == N_EPOCHS * N_BATCHES
    announced = np.interp(range(plan.n_steps), *zip(*plan.lr, strict=True))
    np.testing.assert_allclose(announced, net.rates, atol=1.01e-3 * max(net.rates))


def test_a_stop_ends_the_fit_at_once(trial: Any, tmp_path: Path) -> None:
    """TrialPruned flies out of trainer.fit."""
    trial.stop_at(11)
    with pytest.raises(optuna.TrialPruned, match="enough"):
        fit(tmp_path, IolausCallback(checkpoint_every_s=None))
    assert max(trial.steps("train_loss")) == 11


def test_a_trial_goes_on_from_its_checkpoint(trial: Any, tmp_path: Path) -> None:
    """Cut off after its second epoch it makes the last two, and ends as if it had not been."""
    whole = fit(tmp_path, IolausCallback(checkpoint_every_s=None)).layer.weight
    trial.begin_anew()
    trial.stop_at(2 * N_BATCHES + 3)
    with pytest.raises(optuna.TrialPruned):
        fit(tmp_path, IolausCallback(checkpoint_every_s=0))
    trial.go_on()
    net = fit(tmp_path, IolausCallback(checkpoint_every_s=0), path=checkpoint_path())
    assert len(net.rates) == 2 * N_BATCHES
    assert trial.steps("val_loss") == [3 * N_BATCHES - 1, 4 * N_BATCHES - 1]
    assert torch.equal(net.layer.weight, whole)


def test_a_metric_that_nobody_logs_is_named(trial: Any, tmp_path: Path) -> None:
    """At the end of the first epoch, with what there is."""
    with pytest.raises(ValueError, match=r"'valid'.*of_epoch, train_loss, val_loss"):
        fit(tmp_path, IolausCallback("valid"))


def test_outside_a_sweep_it_does_nothing(tmp_path: Path) -> None:
    """A fit without a trial is a fit; a wrong metric is nobody's concern."""
    assert checkpoint_path() is None
    net = fit(tmp_path, IolausCallback("valid", checkpoint_every_s=0))
    assert len(net.rates) == N_EPOCHS * N_BATCHES
    assert not list(tmp_path.iterdir())
