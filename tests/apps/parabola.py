"""A Hydra app of one's own under Iolaus: gradient descent on a parabola, without torch.

python parabola.py --multirun hydra/sweeper=iolaus 'lr=tag(log, interval(1e-3, 2))'
"""

import hydra
from omegaconf import DictConfig

import iolaus


@hydra.main(version_base=None, config_path=None, config_name="parabola")
def main(cfg: DictConfig) -> float:
    """Minimise x squared from x = 1; diverges for a learning rate above 1."""
    x = 1.0
    for step in range(cfg.steps):
        x -= cfg.lr * 2 * x
        iolaus.report(step, loss=x * x)
    return x * x


if __name__ == "__main__":
    hydra.core.config_store.ConfigStore.instance().store("parabola", {"lr": 0.1, "steps": 50})
    main()
