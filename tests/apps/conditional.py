"""An app whose clipping brings its own parameter, with a lint: `conf/conditional.yaml` searches
it.
"""

import random
from pathlib import Path

import hydra
from omegaconf import DictConfig

import iolaus
from iolaus.sweeps.types import Finding


def lint(cfg: DictConfig) -> list[Finding]:
    """Rule out rates above 0.5."""
    return (
        [Finding("hot", 0, f"lr {cfg.lr:g} is too hot", "infeasible", cfg.lr - 0.5)]
        if cfg.lr > 0.5
        else []
    )


@hydra.main(version_base=None, config_path="conf", config_name="conditional")
def main(cfg: DictConfig) -> float:
    """A loss that is best at lr 0.1 and threshold 1, with noise from the seed."""
    with Path(cfg.runs).open("a") as file:
        file.write(f"{cfg.seed} {cfg.lr} {cfg.clip.kind}\n")
    noise = random.Random(cfg.seed)
    loss = abs(cfg.lr - 0.1) + (
        0.1 if cfg.clip.kind == "none" else 0.1 * abs(cfg.clip.threshold - 1)
    )
    for step in range(5):
        iolaus.report(step, loss=loss + 0.001 * noise.random())
    return loss + 0.001 * noise.random()


if __name__ == "__main__":
    main()
