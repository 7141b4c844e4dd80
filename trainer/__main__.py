"""`python -m iolaus.trainer`: one training run, or with --multirun a sweep of them."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.lint import lint, preview
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read
from iolaus.trainer.standalone import Standalone

__all__ = ["main", "no_override"]

# Commands of `iolaus` that look at what is trained here, under each name they have had here.
COMMANDS = {"lint": "iolaus lint", "audit": "iolaus lint", "lanes-check": "iolaus lanes-check"}

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
    if run.schedule.note:
        log.info(run.schedule.note)
    folder = output_folder()
    keep = folder / "best.pt" if folder is not None and cfg.keep_best else None
    if alone and folder is not None:
        own = Standalone(folder, goes_on=cfg.resume == "auto")
        run = replace(run, checkpoint=replace(run.checkpoint, at_end=False))  # nobody would keep it
        with own.running():
            summary = train(
                run,
                tell=log.info,
                report=own.report,
                plan=own.plan,
                keep=keep,
                folder=folder,
                get_checkpoint=own.get_checkpoint,
                should_checkpoint=own.should_checkpoint,
            )
        if summary.ended == "done":
            own.look_back()
    else:
        summary = train(run, tell=log.info, keep=keep, folder=folder)
    log.info(summary.conclusion)
    return summary.result


def output_folder() -> Path | None:
    """The run's own folder; None where Hydra has given it none."""
    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None


def no_override(word: str) -> str:
    """What to say of a first argument that is neither a Hydra override nor one of its flags.

    "" for one that is. It may be meant for the `iolaus` command, which has what looks at a run.
    """
    if "=" in word or word.startswith(("~", "+", "-")):
        return ""
    close = get_close_matches(word, COMMANDS, n=1) or COMMANDS
    instead = " or ".join(dict.fromkeys(f"`{COMMANDS[name]} ...`" for name in close))
    return f"{word} is no override (KEY=VALUE, +KEY=VALUE, ~KEY); did you mean {instead}?"


if __name__ == "__main__":
    if sentence := no_override(next(iter(sys.argv[1:]), "--")):
        sys.exit(f"trainer: {sentence}")
    main()
