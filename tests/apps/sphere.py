"""The distance from the origin, squared; z is a string without effect, as options of a real
training may be.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="conf", config_name="sphere")
def main(cfg: DictConfig) -> float:
    if cfg.error:
        raise RuntimeError("told to fail")
    assert isinstance(cfg.z, str)
    return float(cfg.x**2 + cfg.y**2)


if __name__ == "__main__":
    main()
