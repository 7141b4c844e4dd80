"""The app of overhead.py: `n_products` small matrix products; $DIARY gets a line: when they ran."""

import os
import time
from pathlib import Path

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig


def train(x: float, n_products: int) -> float:
    begin_s = time.time()
    a = np.random.default_rng(0).normal(size=(96, 96)) / 10
    for _ in range(n_products):
        a = np.tanh(a @ a)
    with Path(os.environ["DIARY"]).open("a") as file:
        file.write(f"{begin_s} {time.time()}\n")
    return x**2


@hydra.main(version_base=None, config_path=None, config_name="overhead_app")
def main(cfg: DictConfig) -> float:
    return train(cfg.x, cfg.n_products)


if __name__ == "__main__":
    ConfigStore.instance().store("overhead_app", {"x": 0.0, "n_products": 0})
    main()
