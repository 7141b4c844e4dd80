"""A task that holds as much memory as its batch asks for, and reports."""

import time

import hydra
import numpy as np
from omegaconf import DictConfig

import iolaus


@hydra.main(version_base=None, config_path="conf", config_name="memory")
def main(cfg: DictConfig) -> float:
    """how: hold allocates mib for each example; from batch 8 on ask asks for more than there is,
    and gpu says what torch says of a GPU that is full.
    """
    iolaus.report(0, loss=1.0)
    if cfg.how == "ask" and cfg.batch_size >= 8:
        np.empty(2**50, dtype=np.int8)
    if cfg.how == "gpu" and cfg.batch_size >= 8:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total ...")
    held = np.ones(cfg.batch_size * cfg.mib * 2**20, dtype=np.int8)
    for step in range(1, 4):
        time.sleep(cfg.wait_s)
        iolaus.report(step, loss=1.0 / step)
    return float(cfg.lr + 0 * held[0])


if __name__ == "__main__":
    main()
