"""Commands about what a sweep runs: where it stands, and what to run again."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from iolaus.cli.options import AsJson, Folder, Setting, needs
from iolaus.cli.output import print_json
from iolaus.sweeps.errors import BadInputError, SweepError
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.text import counted, quoted

if TYPE_CHECKING:
    import optuna

    from iolaus.sweeps.study.preview import Preview

__all__ = ["enqueue", "extend", "join", "log", "preview", "retry", "status", "stop", "wait"]

# Exit codes of `wait`, beside 0; the last is that of the command timeout.
OTHERWISE, TIMED_OUT = 3, 124
POLL_S = 1.0
FOLLOW_S = 2.0  # how often `log --follow` looks for trials that have ended


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Where a sweep stands, while it runs or after, from any shell."""
    from dataclasses import asdict
    from datetime import datetime

    from optuna.trial import TrialState

    from iolaus.sweeps.study.folder import CURVES_FOLDER, read_study
    from iolaus.sweeps.study.status import last_steps, left
    from iolaus.sweeps.study.status import status as standing

    study = read_study(folder)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    last = last_steps(folder / CURVES_FOLDER, [trial.number for trial in running])
    found = standing(study, last, datetime.now())
    rest = left(study, _about(folder), last)
    if as_json:
        trials = [asdict(t) | {"steps_per_second": t.steps_per_second} for t in found.running]
        print_json(asdict(found) | {"running": trials, "left": rest})
        return
    counts = (f"{n} {state}" for state, n in sorted(found.n_by_state.items()))
    print(", ".join(counts) or "no trial yet", end="")
    print(f"; {found.n_ended_last_hour} ended in the last hour")
    if best := found.best_text():
        print(best)
    if rest is not None and rest.n_left > 0:
        print(rest.sentence())
    for trial in found.running:
        of = "" if trial.n_steps is None else f" of {trial.n_steps:,}"
        step = "no report on disk yet" if trial.step is None else f"step {trial.step:,}{of}"
        rate = trial.steps_per_second
        speed = "" if rate is None else f", {rate:.3g} steps/s"
        print(f"  trial {trial.number}: {step}{speed}{trial.driver and f', {trial.driver}'}")


def preview(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR | OVERRIDE...",
            help="a sweep's folder; or Hydra overrides, as for `python -m iolaus.trainer "
            "--multirun`, of which a few settings are trained for some seconds",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """What a sweep will still take, or what one would take: time and cores or GPUs, with ranges."""
    from iolaus.sweeps.study.folder import CURVES_FOLDER, read_study
    from iolaus.sweeps.study.status import last_steps, left

    if len(what) == 1 and "=" not in what[0]:
        folder = Path(what[0])
        study = read_study(folder)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False)]
        found = left(study, _about(folder), last_steps(folder / CURVES_FOLDER, numbers))
    else:
        found = _of_overrides(what)
    if as_json:
        print_json(found)
    else:
        print("no trial has shown its speed yet" if found is None else found.sentence())


@needs("trainer")
def _of_overrides(overrides: list[str]) -> Preview | None:
    import optuna
    from omegaconf import OmegaConf

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from iolaus.sweeps.run.meter import machine_here
    from iolaus.sweeps.run.settings import read_settings
    from iolaus.sweeps.study.preview import Pace, expected_share
    from iolaus.sweeps.study.preview import preview as previewed
    from iolaus.sweeps.study.status import classes_of
    from iolaus.trainer.speed import drawn, seconds_of

    sweeper, runs = drawn(overrides)
    settings = read_settings(sweeper)
    machine = machine_here(settings)
    paces = [Pace(s) for s in seconds_of(runs, machine.n_cores // machine.n_places)]
    n_judged, finalists = settings.n_trials * settings.repeats, settings.final_seeds
    n_whole = 0 if finalists is None else finalists.n_runs(settings.n_trials)
    pruners = classes_of(OmegaConf.to_container(settings.pruner))
    expected = expected_share(pruners, n_judged, n_whole)
    return previewed(paces, expected, n_judged + n_whole, machine)


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


def enqueue(folder: Folder, setting: Setting, as_json: AsJson = False) -> None:
    """Queue a setting to be run next, by the sweep that runs or by its next session."""
    import yaml

    from iolaus.sweeps.study.folder import read_study
    from iolaus.sweeps.study.queueing import queue_setting

    words = (word.partition("=") for word in setting)
    values = {key: yaml.safe_load(value) for key, _, value in words}
    queued = queue_setting(read_study(folder), values)
    command = _same_command(folder)
    if as_json:
        print_json({"queued": queued, "command": command})
        return
    print("Queued: " + " ".join(f"{key}={value}" for key, value in queued.items()))
    print("A sweep that runs takes it next. To run what is queued:")
    print(f"  {command}" if command else "  the sweep's own command")


def extend(
    folder: Folder,
    steps: Annotated[
        str, typer.Option(metavar="N", help="how long: 3x as long as they were, or steps in all")
    ],
    trials: Annotated[
        list[int] | None,
        typer.Argument(metavar="TRIAL", help="which (default: the best)", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="so many of the best")] = 4,
    steps_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="of an app of your own: what its config calls the length of a run"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be run")] = False,
    as_json: AsJson = False,
) -> None:
    """Let the best trials go on for longer, in a sweep of their own beside this one.

    Each goes on from its checkpoint with its schedule stretched; where the stretched schedule would
    have had other rates by then, or no checkpoint is left, it begins anew. Which it is, is said.
    """
    import subprocess

    from iolaus.sweeps.study import extending
    from iolaus.sweeps.study.folder import short

    length = extending.length_of(steps)
    is_ours = steps_key is None and _is_of_trainer(folder)
    plan = extending.plan_extension(
        folder,
        length,
        _choose_of_trainer if is_ours else _newest,
        numbers=trials or (),
        top=top,
        steps_key=steps_key,
        stretch_key="stretch" if is_ours else None,
    )
    said = print if not as_json else lambda text: print(text, file=sys.stderr)
    for one in plan.trials:
        said(str(one))
    if not plan.trials:
        said(f"These trials have been extended before, in {short(plan.folder)}.")
    if dry_run:
        said(f"in {plan.working_dir}: {plan}")
    else:
        extending.queue_extension(folder, plan)
        output = sys.stderr.fileno() if as_json else None
        done = subprocess.run(plan.command, cwd=plan.working_dir, stdout=output)
        if done.returncode:
            raise SweepError(f"the sweep's command failed ({done.returncode}): {plan}")
    if as_json:
        print_json({"folder": plan.folder, "trials": plan.trials, "command": str(plan)})


def _is_of_trainer(folder: Path) -> bool:
    from omegaconf import OmegaConf

    from iolaus.sweeps.study.folder import read_study

    config = OmegaConf.create(read_study(folder).user_attrs.get("config", ""))
    target = OmegaConf.select(config, "schedule._target_")
    return OmegaConf.select(config, "stretch") is not None and str(target).startswith(
        "iolaus.trainer."
    )


def _newest(_folder: Path, _factor: float, checkpoints: Sequence[Path]) -> tuple[Path | None, str]:
    """What an app of the user's makes of its newest checkpoint is its own business."""
    why = "" if checkpoints else "no checkpoint of it has been kept"
    return next(iter(checkpoints), None), why


@needs("trainer")
def _choose_of_trainer(
    folder: Path, factor: float, checkpoints: Sequence[Path]
) -> tuple[Path | None, str]:
    from omegaconf import DictConfig, OmegaConf

    from iolaus.trainer.extending import checkpoint_to_extend

    path = folder / ".hydra" / "config.yaml"
    if not checkpoints or not path.is_file():
        return None, f"{path} is not there" if checkpoints else "no checkpoint of it has been kept"
    return checkpoint_to_extend(cast(DictConfig, OmegaConf.load(path)), factor, checkpoints)


def join(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIR | OVERRIDE...",
            help="a sweep's folder, if it can be seen from here; and what is to be otherwise for "
            "this driver, such as hydra.sweeper.n_jobs=8",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="or the database that has its study")
    ] = None,
    study_name: Annotated[
        str | None,
        typer.Option("--study", metavar="NAME", help="of that database, where it has several"),
    ] = None,
) -> None:
    """Run trials of a sweep from this shell or machine too, until it has all that it wanted.

    With the sweep's own command and code, which are to be here as they are there. DIR is the one
    folder of all drivers; with --storage this driver has the folder that the command names, or one
    of its own. It writes no report: the sweep's own process does, or `iolaus report DIR`.
    """
    import os
    import subprocess

    from iolaus.sweeps.study.folder import DRIVER_VARIABLE, STORAGE_VARIABLE

    folders = [word for word in what or [] if "=" not in word and not word.startswith("~")]
    overrides = [word for word in what or [] if word not in folders]
    folder = Path(folders[0]) if folders else None
    if len(folders) > 1 or (folder is None) == (storage is None):
        raise BadInputError("say what to join: iolaus join DIR, or iolaus join --storage URL")
    url, study = _to_join(folder, storage, study_name)
    command, working_dir = _command_to_join(study, folder, overrides)
    secret = {} if url == without_password(url) else {STORAGE_VARIABLE: url}
    print(shlex.join(command))
    done = subprocess.run(
        command, cwd=working_dir, env={**os.environ, **secret, DRIVER_VARIABLE: "1"}
    )
    raise typer.Exit(done.returncode)


def _to_join(
    folder: Path | None, storage: str | None, name: str | None
) -> tuple[str, optuna.Study]:
    """The study, and the URL of the database that has it."""
    import optuna

    from iolaus.sweeps.study.backend import open_backend, sqlite_url
    from iolaus.sweeps.study.folder import STUDY_FILE, describe_sweep, read_study
    from iolaus.sweeps.study.stopping import is_driven

    if folder is not None:
        url, study = str(describe_sweep(folder).storage), read_study(folder)
        if url == sqlite_url(folder.absolute() / STUDY_FILE) and is_driven(folder, study):
            raise BadInputError(
                f"{folder} has its study in itself, for one driver, and that runs. Drivers share a "
                "study in a database: hydra.sweeper.storage=URL of the sweep's command"
            )
        return url, study
    backend = open_backend(str(storage), only_reads=True)
    there = [known.study_name for known in backend.get_all_studies()]
    if name not in there and (name is not None or len(there) != 1):
        names = ", ".join(sorted(there)) or "none"
        raise BadInputError(f"which study? --study NAME; the database has {names}")
    return str(storage), optuna.load_study(study_name=name or there[0], storage=backend)


def _command_to_join(
    study: optuna.Study, folder: Path | None, overrides: Sequence[str]
) -> tuple[list[str], Path]:
    """The sweep's own command, for this folder and study, and where it is to be given."""
    import shutil

    from omegaconf import OmegaConf

    from iolaus.sweeps.study.folder import own_command, working_dir

    own = own_command(study.user_attrs.get("provenance", []))
    if not own:
        raise BadInputError(f"study {study.study_name} does not say by which command it was run")
    set_here = {"hydra.sweeper.study_name": study.study_name}
    if folder is not None:
        set_here["hydra.sweep.dir"] = str(folder.absolute())
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    kept = [a for a in own[1:] if a.lstrip("+~").partition("=")[0] not in {*set_here, *given}]
    there = working_dir(OmegaConf.create(study.user_attrs.get("config", "")))
    here = there if there.is_dir() else Path.cwd()
    if kept[0].endswith(".py") and not (here / kept[0]).is_file():
        raise BadInputError(
            f"the sweep's app {kept[0]} is not in {here}: give this command where it lies"
        )
    python = own[0] if shutil.which(own[0]) else sys.executable
    set_here = {key: value for key, value in set_here.items() if key not in given}
    words = (f"{key}={quoted(value)}" for key, value in set_here.items())
    return [python, *kept, *words, *overrides], here


def stop(
    folder: Folder,
    finish: Annotated[
        bool, typer.Option("--finish", help="let running trials finish, and begin no more")
    ] = False,
    timeout: Annotated[float, typer.Option(help="seconds to wait for the end")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """End a running sweep from any shell; the same command continues it later.

    Running trials make a checkpoint, if they make any, and go on from there. Of a storage that
    several drivers share, all of them end. Exit code 0 when nobody runs the sweep any more; 124
    when somebody still does after the timeout (with --finish a trial may take longer).
    """
    from iolaus.sweeps.study.folder import read_study
    from iolaus.sweeps.study.stopping import is_driven, request_stop

    study = read_study(folder)
    was_driven = is_driven(folder, study)
    if was_driven:
        request_stop(study, "finish" if finish else "now")
    is_over = _eventually(lambda: not is_driven(folder, read_study(folder)), timeout)
    command = _same_command(folder)
    if as_json:
        print_json({"was_running": was_driven, "has_ended": is_over, "command": command})
    elif not was_driven:
        print("Nobody runs this sweep.")
    elif is_over:
        print(f"The sweep has ended. To go on:\n  {command or 'its own command'}")
    else:
        print(f"Asked to end; somebody still runs it after {timeout:g} s.")
    if not is_over:
        raise typer.Exit(TIMED_OUT)


@needs("analysis")
def log(
    folder: Folder,
    to: Annotated[
        list[str], typer.Option(help="csv, mlflow, tensorboard, trackio or wandb; several times")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="until the sweep that runs there is over")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a sweep's trials to an experiment tracker, each as a run of its own.

    Those that have ended and that the tracker does not have yet. Exit code 1 if it refuses any.
    """
    from iolaus.integrations.loggers import log_trials, made
    from iolaus.sweeps.study.folder import read_study
    from iolaus.sweeps.study.stopping import is_driven

    loggers = made(to, folder)
    written, refused = dict.fromkeys(to, 0), set[tuple[str, int]]()
    n_seen, was_there = 0, False
    while True:
        try:
            study = read_study(folder)
            was_there = True
            # Asked first: a trial that ends meanwhile is seen.
            is_last = not (follow and is_driven(folder, study))
            n_over = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            if is_last or n_over != n_seen:  # the curves are not read again for nothing
                n_seen = n_over
                for name, n in log_trials(folder, loggers, refused).items():
                    written[name] += n
        except Exception as error:
            if not was_there or folder.is_dir():
                raise
            raise FileNotFoundError(
                f"{folder} was removed while its trials were being written to {', '.join(to)}"
            ) from error
        if is_last:
            break
        time.sleep(FOLLOW_S)
    if as_json:
        print_json(written)
    else:
        print(", ".join(f"{name}: {counted(n, 'run')} written" for name, n in written.items()))
    if refused:
        raise typer.Exit(1)


def wait(
    folder: Folder,
    until: Annotated[
        Literal["done", "stalled"],
        typer.Option(
            help="done: all trials wanted are over; stalled: they are not, and nobody runs it"
        ),
    ] = "done",
    timeout: Annotated[
        float | None, typer.Option(help="seconds to wait at most (default: for ever)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a sweep, for scripts.

    Exit code 0 when it is so; 3 when it cannot become so (it has stalled, or it is done, instead);
    124 after the timeout.
    """
    from iolaus.sweeps.study.folder import describe_sweep, read_study
    from iolaus.sweeps.study.stopping import standing

    about = describe_sweep(folder)
    n_trials, sweeper = int(about.get("n_settings") or about.n_trials), about.get("sweeper") or {}
    found = standing(folder, read_study(folder), n_trials, sweeper)

    def is_over() -> bool:
        nonlocal found
        found = standing(folder, read_study(folder), n_trials, sweeper)
        return found != "running"

    _eventually(is_over, timeout)
    if as_json:
        print_json({"standing": found})
    else:
        print({"running": "It still runs."}.get(found, f"The sweep is {found}."))
    if found == "running":
        raise typer.Exit(TIMED_OUT)
    if found != until:
        raise typer.Exit(OTHERWISE)


def _eventually(what: Callable[[], bool], timeout_s: float | None) -> bool:
    """Whether it becomes true in time."""
    began_s = time.monotonic()
    while not what():
        if timeout_s is not None and time.monotonic() - began_s > timeout_s:
            return False
        time.sleep(POLL_S)
    return True


def _same_command(folder: Path) -> str:
    """The sweep's own command for this folder, "" if it is not known."""
    from iolaus.sweeps.study.folder import own_command

    own = own_command(_about(folder).get("sessions") or [])
    kept = [part for part in own if part.partition("=")[0] != "hydra.sweep.dir"]
    return shlex.join([*kept, f"hydra.sweep.dir={folder.absolute()}"]) if own else ""


def _about(folder: Path) -> dict[str, Any]:
    """A sweep's own description as plain data, as it was typed: `${oc.env:DB}` stays."""
    from omegaconf import OmegaConf

    from iolaus.sweeps.study.folder import describe_sweep

    return cast(dict[str, Any], OmegaConf.to_container(describe_sweep(folder), resolve=False))
