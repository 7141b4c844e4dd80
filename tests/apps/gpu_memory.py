"""A task that holds a share of its GPU's memory, and reports how many GPUs it sees."""

import hydra
import torch
from omegaconf import DictConfig

import iolaus


@hydra.main(version_base=None, config_path="conf", config_name="gpu_memory")
def main(cfg: DictConfig) -> float:
    """The share is of the card's whole memory; 0.7 of it is more than half a card allows."""
    device = torch.device(cfg.device)
    total = torch.cuda.get_device_properties(device).total_memory
    iolaus.report(0, loss=1.0, n_gpus=float(torch.cuda.device_count()))
    held = torch.empty(int(cfg.share * total), dtype=torch.int8, device=device)
    work = torch.ones(256, 256, device=device)
    for step in range(1, cfg.steps):
        for _ in range(20):
            work = torch.nn.functional.normalize(work @ work)
        torch.cuda.synchronize()
        iolaus.report(step, loss=1.0 / step)
    return float(cfg.share + 0 * held[:1].float().sum())


if __name__ == "__main__":
    main()
