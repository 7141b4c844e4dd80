"""A sphere in four dimensions, two of which are searched by a function: z near x, and w, which the
config lacks.
"""

import hydra
import optuna
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="conf", config_name="own_space")
def main(cfg: DictConfig) -> float:
    return float(cfg.w**2 + cfg.x**2 + cfg.y**2 + cfg.z**2)


def configure(cfg: DictConfig, trial: optuna.Trial) -> None:
    x = trial.params["x"]
    trial.suggest_float("z", x - cfg.z_to_x, x + cfg.z_to_x)
    trial.suggest_float("+w", 0.0, 1.0)


if __name__ == "__main__":
    main()
