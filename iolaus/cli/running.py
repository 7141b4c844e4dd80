"""Commands about what a sweep runs: where it stands, and what to run again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iolaus.cli.options import AsJson, Folder
from iolaus.cli.output import print_json
from iolaus.sweeps.errors import BadInputError

if TYPE_CHECKING:
    import optuna

__all__ = ["retry", "status"]


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Where a sweep stands, while it runs or after, from any shell."""
    from dataclasses import asdict
    from datetime import datetime

    from optuna.trial import TrialState

    from iolaus.sweeps.study.folder import CURVES_FOLDER
    from iolaus.sweeps.study.status import last_steps
    from iolaus.sweeps.study.status import status as standing

    _, study = _opened(folder)
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
    from iolaus.sweeps.study.recovery import retry_failed

    if not failed:
        raise BadInputError("say what is to be run again: iolaus retry DIR --failed")
    about, study = _opened(folder)
    numbers = retry_failed(study)
    command = _same_command(folder, about)
    if as_json:
        print_json({"queued_again": numbers, "command": command})
        return
    if not numbers:
        print("No trial has failed that is not queued again or has been run again.")
        return
    were = "trial " if len(numbers) == 1 else f"{len(numbers)} trials, "
    print(f"Queued again: {were}{', '.join(map(str, numbers))}. To run what is queued:")
    print(f"  {command}" if command else "  the sweep's own command")


def _opened(folder: Path) -> tuple[Any, optuna.Study]:
    """What a sweep's folder says of itself, and its study."""
    import optuna

    from iolaus.sweeps.secrets import without_password
    from iolaus.sweeps.study.backend import open_backend
    from iolaus.sweeps.study.folder import describe_sweep

    about = describe_sweep(folder)
    storage = open_backend(about.storage, only_reads=True)
    try:
        return about, optuna.load_study(study_name=about.study_name, storage=storage)
    except KeyError as error:
        raise FileNotFoundError(
            f"{without_password(about.storage)} has no study {about.study_name}: "
            "was it kept in memory?"
        ) from error


def _same_command(folder: Path, about: Any) -> str:
    """The sweep's own command for this folder, "" if it is not known."""
    from iolaus.sweeps.study.folder import own_command

    own = own_command(about.get("sessions") or [])
    kept = [part for part in own if part.partition("=")[0] != "hydra.sweep.dir"]
    return shlex.join([*kept, f"hydra.sweep.dir={folder.absolute()}"]) if own else ""
