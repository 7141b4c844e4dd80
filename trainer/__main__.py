"""`python -m trainer`: one training run, a sweep of them with --multirun, or with `lint` a look at them beforehand."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import hydra
import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.lint import lint, preview
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

log = logging.getLogger("trainer")


@hydra.main(version_base=None, config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Train as the config says; returns the final validation loss."""
    alone = not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.RUN
    try:
        run = read(cfg)
        findings = (
            lint(preview(run)) if alone else []
        )  # in a sweep, the sweeper has asked for it already
    except BadInputError as error:
        if alone:
            raise SystemExit(f"trainer: {error}") from error
        raise
    for finding in findings:
        if finding.rule == "infeasible":
            raise SystemExit(
                f"trainer: not trained, since lint.rules.{finding.name}=infeasible: {finding.text}"
            )
        log.warning("lint, %s: %s", finding.name, finding.text)
    summary = train(run, tell=log.info, keep=kept_file() if cfg.keep_best else None)
    log.info(summary.conclusion)
    return summary.final["val_loss"]


def kept_file() -> Path | None:
    """Where the best weights of this run are kept: its output folder.

    None where Hydra has given it none.
    """
    return (
        Path(HydraConfig.get().runtime.output_dir) / "best.pt"
        if HydraConfig.initialized()
        else None
    )


def lint_main(overrides: list[str]) -> None:
    """Print a lint; see `iolaus.trainer.lint_command`."""
    from iolaus.trainer.lint_command import (
        lint_command,
    )  # training needs neither a search space nor figures

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        print(lint_command(overrides))
    except BadInputError as error:
        raise SystemExit(f"trainer lint: {error}") from error


def check_main(overrides: list[str]) -> None:
    """Print whether a task can be trained in lanes; see `iolaus.trainer.lanes.check`."""
    from iolaus.trainer.lanes.check import (
        check_command,
    )  # functorch, which training alone need not load
    from iolaus.trainer.lanes.kind import NotInLanesError

    try:
        print(check_command(overrides))
    except (BadInputError, NotInLanesError) as error:
        raise SystemExit(f"trainer lanes-check: {error}") from error


if __name__ == "__main__":
    if sys.argv[1:2] == ["lint"]:
        lint_main(sys.argv[2:])
    elif sys.argv[1:2] == ["lanes-check"]:
        check_main(sys.argv[2:])
    else:
        main()
