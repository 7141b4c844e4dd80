"""Reports a loss that falls further the larger x is; returns an accuracy, or as `returns` says."""

import math
import time

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

import iolaus

N_STEPS = 40
ConfigStore.instance().store("accuracy", {"x": 1.0, "returns": "accuracy", "name": "loss"})


@hydra.main(version_base=None, config_name="accuracy")
def main(cfg: DictConfig) -> object:
    iolaus.plan(N_STEPS)
    for step in range(N_STEPS):
        time.sleep(0.01)  # a verdict needs time to arrive
        loss = 3.0 - cfg.x * (1.1 - math.exp(-step / 10)) + 0.01 * math.sin(7 * step + cfg.x)
        iolaus.report(step, **{cfg.name: loss, "intervention/x": cfg.x, "other": 1.0})
    accuracy = cfg.x / 2.0
    return {"accuracy": accuracy, "nothing": None, "both": (accuracy, loss)}[cfg.returns]


if __name__ == "__main__":
    main()
