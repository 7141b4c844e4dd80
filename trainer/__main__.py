"""`python -m trainer`: one training run, or a sweep of them with --multirun."""

from __future__ import annotations

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sweeps.errors import BadInputError
from trainer.loop import Summary, train
from trainer.settings import read

log = logging.getLogger("trainer")


@hydra.main(version_base=None, config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Train as the config says; returns the final validation loss."""
    try:
        run = read(cfg)
    except BadInputError as error:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
            raise SystemExit(f"trainer: {error}") from error
        raise
    summary = train(run, tell=log.info)
    log.info(conclusion(summary))
    return summary.final["val_loss"]


def conclusion(summary: Summary) -> str:
    """The last line of a run."""
    measures = "  ".join(f"{name} {value:.4g}" for name, value in summary.final.items())
    rate = summary.n_steps / max(summary.seconds, 1e-9)
    return (
        f"{summary.ended}  {measures}  best val_loss {summary.best['val_loss']:.4g} at step {summary.best_step}  "
        f"{summary.n_steps} steps, {summary.examples} examples in {summary.seconds:.1f} s ({rate:.0f} steps/s)"
    )


if __name__ == "__main__":
    main()
