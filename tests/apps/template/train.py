"""An app laid out as lightning-hydra-template: all that trains is made from the config.

python train.py hparams_search=iolaus
"""

import hydra
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self, lr, width):
        super().__init__()
        self.lr = lr
        layers = torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
        self.layers = torch.nn.Sequential(*layers)

    def training_step(self, batch, _):
        loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, _):
        right = self.layers(batch[0]).argmax(1) == batch[1]
        self.log("val/acc", right.float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@hydra.main(version_base="1.3", config_path="configs", config_name="train.yaml")
def main(cfg):
    pl.seed_everything(cfg.seed, verbose=False)
    inputs = torch.randn(128, 4)
    data = DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=16)
    model = hydra.utils.instantiate(cfg.model)
    callbacks = [hydra.utils.instantiate(one) for one in (cfg.callbacks or {}).values()]
    trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks, logger=False)
    trainer.fit(model, data, data)
    name = cfg.get("optimized_metric")
    return trainer.callback_metrics[name].item() if name else None


if __name__ == "__main__":
    main()
