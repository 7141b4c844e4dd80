"""Commands about what a sweep runs: where it stands, and what to run again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from iolaus.cli.options import AsJson, Folder
from iolaus.cli.output import print_json
from iolaus.sweeps.errors import BadInputError

__all__ = ["retry", "status"]


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Where a sweep stands, while it runs or after, from any shell."""
    from dataclasses import asdict
    from datetime import datetime

    from optuna.trial import TrialState

    from iolaus.sweeps.study.folder import CURVES_FOLDER, read_study
    from iolaus.sweeps.study.status import last_steps
    from iolaus.sweeps.study.status import status as standing

    study = read_study(folder)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    last = last_steps(folder / CURVES_FOLDER, [trial.number for trial in running])
    found = standing(study, last, datetime.now())
    if as_json:
        trials = [asdict(t) | {"steps_per_second": t.steps_per_second} for t in found.running]
        print_json(asdict(found) | {"running": trials})
        return
    counts = (f"{n} {state}" for state, n in sorted(found.n_by_state.items()))
    print(", ".join(counts) or "no trial yet", end="")
    print(f"; {found.n_ended_last_hour} ended in the last hour")
    if found.best is not None:
        print(f"best {found.best:.6g} (trial {found.best_trial})")
    for trial in found.running:
        of = "" if trial.n_steps is None else f" of {trial.n_steps:,}"
        step = "no report on disk yet" if trial.step is None else f"step {trial.step:,}{of}"
        rate = trial.steps_per_second
        speed = "" if rate is None else f", {rate:.3g} steps/s"
        print(f"  trial {trial.number}: {step}{speed}{trial.driver and f', {trial.driver}'}")


def retry(
    folder: Folder,
    failed: Annotated[
        bool, typer.Option("--failed", help="the settings of all trials that failed")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Queue settings to be run again, when the cause of their failure is put right."""
    from iolaus.sweeps.study.folder import read_study
    from iolaus.sweeps.study.recovery import retry_failed

    if not failed:
        raise BadInputError("say what is to be run again: iolaus retry DIR --failed")
    numbers = retry_failed(read_study(folder))
    command = _same_command(folder)
    if as_json:
        print_json({"queued_again": numbers, "command": command})
        return
    if not numbers:
        print("No trial has failed that is not queued again or has been run again.")
        return
    were = "trial " if len(numbers) == 1 else f"{len(numbers)} trials, "
    print(f"Queued again: {were}{', '.join(map(str, numbers))}. To run what is queued:")
    print(f"  {command}" if command else "  the sweep's own command")


def _same_command(folder: Path) -> str:
    """The sweep's own command for this folder, "" if it is not known."""
    from omegaconf import OmegaConf

    from iolaus.sweeps.study.folder import describe_sweep, own_command

    # As it was typed: `${oc.env:DB}` stays.
    about = cast(dict[str, Any], OmegaConf.to_container(describe_sweep(folder), resolve=False))
    own = own_command(about.get("sessions") or [])
    kept = [part for part in own if part.partition("=")[0] != "hydra.sweep.dir"]
    return shlex.join([*kept, f"hydra.sweep.dir={folder.absolute()}"]) if own else ""
