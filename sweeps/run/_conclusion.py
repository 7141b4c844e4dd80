"""The end of a sweep: its ranking, its results on disk, its report, and what to do next."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from hydra.core.utils import env_override
from omegaconf import OmegaConf
from rich.console import Console

from iolaus.sweeps.checkpoints import CHECKPOINTS
from iolaus.sweeps.errors import cannot_write
from iolaus.sweeps.hydra_compat import is_command_line
from iolaus.sweeps.run._provenance import shareable
from iolaus.sweeps.run._reports import write_report
from iolaus.sweeps.run._setup import Setup
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study import summary
from iolaus.sweeps.study.backend import in_memory
from iolaus.sweeps.study.budget import cost_text
from iolaus.sweeps.study.folder import RESULTS_FILE, STORAGE_VARIABLE, short
from iolaus.sweeps.study.preview import Preview
from iolaus.sweeps.study.record import failed, is_over, record_of, was_interrupted
from iolaus.sweeps.study.sweep_study import SweepStudy
from iolaus.sweeps.text import counted, duration

__all__ = [
    "command_line",
    "conclude",
    "is_spent",
    "make_console",
    "show_reached",
    "show_spent",
]

log = logging.getLogger("sweeps")

# A session that took less has cost nothing worth a line.
LEAST_S = 1.0
_STOP_NEVER = "hydra.sweeper.stop_when=null"


def make_console(is_shared: bool) -> Console:
    """The user's terminal; where nobody sees its edge, a table is not cut at 80 columns.

    is_shared: trials print to it too, so nothing there is drawn twice.
    """
    if is_shared:
        return Console(force_terminal=False)
    return Console() if sys.stdout.isatty() else Console(width=200, soft_wrap=False)


def is_spent(sweep: SweepStudy, setup: Setup) -> bool:
    """Whether the budget is spent and trials are left to run, which only a larger one would."""
    budget = setup.settings.limit
    cost = sweep.cost_before() + sweep.cost
    return budget is not None and sweep.n_to_ask > 0 and budget.is_spent(cost)


def show_spent(console: Console, sweep: SweepStudy, setup: Setup) -> None:
    """Print that there was no budget left to run anything, and the ranking."""
    text = f"Nothing was run. {_spent_text(sweep, setup)}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)
    _show_ranking(console, sweep.study, summary.rank(sweep.study), setup.settings)


def _spent_text(sweep: SweepStudy, setup: Setup) -> str:
    budget = setup.settings.limit
    assert budget is not None
    trials = sweep.study.get_trials(deepcopy=False)
    n_begun = sum(map(was_interrupted, trials))
    begun = f" ({n_begun} of them begun, to go on from their checkpoints)" if n_begun else ""
    return (
        f"The budget of {budget.text} is spent: all sessions took "
        f"{cost_text(sweep.cost_before() + sweep.cost)}. {counted(sweep.n_to_ask, 'trial')} of "
        f"{setup.plans.n_trials} are left{begun}, for a larger budget."
    )


def show_reached(console: Console, sweep: SweepStudy, setup: Setup) -> None:
    """Print that nothing was left to run, and the ranking."""
    asked, n_trials, study = setup.settings.n_trials, setup.plans.n_trials, sweep.study
    n_failed = len(failed(study.get_trials(deepcopy=False)))
    if sweep.enough:
        advice = f"Nothing was run: {sweep.enough}. To go on all the same: {_STOP_NEVER}."
        console.print(advice, soft_wrap=True, highlight=False, markup=False)
        _show_ranking(console, study, summary.rank(study), setup.settings)
        return
    if n_failed:
        retry = summary.iolaus_command(sys.orig_argv[0], "retry", short(setup.folder), "--failed")
        advice = (
            f"{counted(n_failed, 'trial')} failed: when the cause is put right, queue them again, "
            f"then give this command again:\n  {retry}"
        )
    elif asked > n_trials:
        advice = "The whole grid has been run."
    else:
        advice = f"For more, raise hydra.sweeper.n_trials above {asked}."
    console.print(
        f"Study {study.study_name} has reached its {n_trials} trials; nothing was run. {advice}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    _show_ranking(console, study, summary.rank(study), setup.settings)


def conclude(
    console: Console,
    sweep: SweepStudy,
    setup: Setup,
    elapsed_s: float,
    foreseen: Preview | None = None,
) -> None:
    """Print the ranking, save the results and the report, and name the next commands.

    foreseen: what was said at the beginning of what the session would take.
    """
    study = sweep.study
    results = summary.rank(study)
    n_trials = sum(result.n_runs for result in results)
    settings = "" if n_trials == len(results) else f"{counted(len(results), 'setting')}, "
    console.print(
        f"\n{settings}{counted(n_trials, 'trial')} in study {study.study_name}, "
        f"this session took {duration(elapsed_s)}:\n"
    )
    _show_ranking(console, study, results, setup.settings)
    if foreseen is not None and elapsed_s >= LEAST_S:
        text = f"It cost {cost_text(sweep.cost)}; {foreseen.time()} was foreseen for all trials."
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    cut_off = summary.cut_off_text(study.get_trials(deepcopy=False))
    for text in filter(None, (summary.pauses_text(study), _kept_text(study, setup), cut_off)):
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    more = ""  # what the command needs to go on, beside n_trials
    budget = setup.settings.limit
    if budget is not None and is_spent(sweep, setup):
        console.print(_spent_text(sweep, setup), soft_wrap=True, highlight=False, markup=False)
        more = f"hydra.sweeper.budget={budget.twice()}"
    elif sweep.enough:
        text = f"{sweep.enough[0].upper()}{sweep.enough[1:]}."
        console.print(text, soft_wrap=True, highlight=False, markup=False)
        more = _STOP_NEVER
    try:
        summary.save_results(study, setup.folder / RESULTS_FILE)
    except OSError as error:
        log.error("%s", cannot_write(f"{setup.folder / RESULTS_FILE} cannot be written", error))
    console.print()
    storage = setup.settings.storage
    hides_password = isinstance(storage, str) and storage != without_password(storage)
    if setup.report is not None and _is_kept(storage):
        with env_override({STORAGE_VARIABLE: storage} if hides_password else {}):
            paths = write_report(setup.report, setup.folder)
        for path in paths:
            console.print(f"saved {short(Path(path))}", soft_wrap=True, highlight=False)
    console.print("next:")
    is_named = OmegaConf.is_interpolation(setup.config.hydra.sweeper, "storage")
    if hides_password and not is_named and STORAGE_VARIABLE not in os.environ:
        console.print(
            f"  first      export {STORAGE_VARIABLE}=URL (the storage's, with its password)",
            soft_wrap=True,
            highlight=False,
        )
    folder = short(setup.folder)
    # The same command goes on where n_trials was not reached.
    is_short = sweep.n_to_ask > 0 or sweep.enough
    n_trials = setup.settings.n_trials if is_short else 2 * setup.settings.n_trials
    if is_command_line():
        command = command_line(sys.orig_argv, folder, more)
    else:
        given = shlex.join([f"hydra.sweep.dir={folder}", *([more] if more else [])])
        command = f"the same call again, with the overrides {given}"
    n_failed = len(failed(study.get_trials(deepcopy=False)))
    summary.show_next(console, sys.orig_argv[0], folder, command, n_trials, n_failed)


def _kept_text(study: optuna.Study, setup: Setup) -> str:
    """Which trials that stayed paused have kept their checkpoints, and what for; "" for none."""
    over = [(t.number, record_of(t)) for t in study.get_trials(deepcopy=False) if is_over(t)]
    kept = [
        str(number)
        for number, record in over
        if record.stayed_paused and (setup.folder / record.run.folder / CHECKPOINTS).is_dir()
    ]
    if not kept:
        return ""
    command = summary.iolaus_command(sys.orig_argv[0], "extend", short(setup.folder), *kept)
    return f"The best of those that stayed paused keep their checkpoints: {command} --steps 3x"


def _show_ranking(
    console: Console, study: optuna.Study, results: Sequence[summary.Result], settings: Settings
) -> None:
    console.print(summary.table(results, settings.metric, len(settings.directions)))
    if text := summary.holdout_text(study):
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def _is_kept(storage: object) -> bool:
    """Whether a report could read the study; otherwise it is gone with us, or ours alone."""
    return storage is None or (isinstance(storage, str) and not in_memory(storage))


def command_line(argv: Sequence[str], sweep_dir: str, more: str = "") -> str:
    """How this process was started, to be typed again for the same folder, with no n_trials.

    No password stands in it (see `shareable`). argv: sys.orig_argv. more: an override that is to
    stand in it, instead of what was given for the same key.
    """
    keys = {"hydra.sweeper.n_trials", *([more.partition("=")[0]] if more else [])}
    given = [a for a in shareable(argv) if a.partition("=")[0] not in keys] + [more] * bool(more)
    if not any(a.startswith("hydra.sweep.dir=") for a in argv):
        given.append(f"hydra.sweep.dir={sweep_dir}")  # it may be named after the time
    return shlex.join(given)
