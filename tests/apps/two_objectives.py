"""Binh and Korn's problem: two objectives that pull in opposite directions."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="conf", config_name="two_objectives")
def main(cfg: DictConfig) -> tuple[float, float]:
    to_origin = 4 * (cfg.x**2 + cfg.y**2)
    to_corner = (cfg.x - 5) ** 2 + (cfg.y - 5) ** 2
    return to_origin, to_corner


if __name__ == "__main__":
    main()
