"""A small net fitted by PyTorch Lightning, with one line for the sweep.

python lightning_app.py --multirun hydra/sweeper=iolaus hydra.sweeper.metric=val_loss \
    'lr=tag(log, interval(1e-4, 1))'
"""

import os
import time
from pathlib import Path

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.config_store import ConfigStore
from torch.utils.data import DataLoader, TensorDataset

from iolaus.integrations.lightning import IolausCallback, checkpoint_path

CONFIG = {"lr": 0.1, "epochs": 6, "devices": 1, "diary": None}


class Net(pl.LightningModule):
    def __init__(self, cfg):
        super().__init__()
        self.cfg, self.layer = cfg, torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        time.sleep(float(os.environ.get("STEP_S", 0)))
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self._loss(batch), sync_dist=True)

    def on_train_epoch_end(self):
        if self.cfg.diary and self.global_rank == 0:
            with Path(self.cfg.diary).open("a") as file:
                file.write(f"{self.current_epoch}\n")

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.cfg.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.cfg.epochs)
        return [optimizer], [schedule]

    def _loss(self, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(self.layer(inputs), targets)


@hydra.main(version_base=None, config_path=None, config_name="lightning_app")
def main(cfg) -> float:
    pl.seed_everything(0, verbose=False)
    inputs = torch.randn(64, 4)
    data = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=cfg.devices,
        strategy="ddp" if cfg.devices > 1 else "auto",
        max_epochs=cfg.epochs,
        log_every_n_steps=4,
        callbacks=[IolausCallback("val_loss", checkpoint_every_s=0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(cfg), data, data, ckpt_path=checkpoint_path())
    return float(trainer.callback_metrics["val_loss"])


if __name__ == "__main__":
    ConfigStore.instance().store("lightning_app", CONFIG)
    main()
