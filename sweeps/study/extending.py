"""Trials of a sweep made longer, in a study of their own beside it: `iolaus extend`."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow.compute as pc
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.checkpoints import wholes
from iolaus.sweeps.curves import CurveWriter, read_curves
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.reporting import Row
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.folder import (
    CURVES_FOLDER,
    STUDY_FILE,
    describe_sweep,
    own_command,
    read_study,
    working_dir,
)
from iolaus.sweeps.study.record import TrialRecord, is_over, record_of
from iolaus.sweeps.study.summary import ranked
from iolaus.sweeps.text import quoted

__all__ = ["Extension", "Length", "Longer", "length_of", "plan_extension", "queue_extension"]

# What of the sweep's command an extension sets, or leaves out: it runs its own queue to the end.
_OWN = (
    "hydra.sweep.dir",
    "hydra.sweeper.study_name",
    "hydra.sweeper.n_trials",
    "hydra.sweeper.repeats",
    "hydra.sweeper.finalists",
    "hydra/sweeper/pruner",
    "hydra.sweeper.enqueue",
    "hydra.sweeper.budget",
    "hydra.sweeper.stop_when",
)


@dataclass(frozen=True, slots=True)
class Length:
    """How long extended runs are: so many times as long as they were, or so many steps."""

    factor: float | None = None
    n_steps: int | None = None

    def __str__(self) -> str:
        return f"{self.n_steps}-steps" if self.factor is None else f"{self.factor:g}x"


def length_of(text: str) -> Length:
    """A length as it is typed: `3x`, or a number of steps. Raises BadInputError."""
    text = text.replace(",", "").replace("_", "")
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)x", text):
        factor = float(match[1])
        if factor > 1:
            return Length(factor=factor)
    elif text.isdecimal() and int(text) > 0:
        return Length(n_steps=int(text))
    raise BadInputError(
        f"--steps {text}: give how many times as long the runs are to be, such as 3x (above 1), or "
        "their steps in all, such as 6000"
    )


@dataclass(frozen=True, slots=True)
class Longer:
    """A trial to be extended.

    checkpoint: from which it goes on, at `step`; None: it begins anew, `why` says for what reason.
    """

    trial: int
    checkpoint: Path | None = None
    step: int = 0
    why: str = ""

    def __str__(self) -> str:
        if self.checkpoint is not None:
            return f"trial {self.trial} goes on from its checkpoint at step {self.step:,}"
        return f"trial {self.trial} begins anew: {self.why}"


@dataclass(frozen=True, slots=True)
class Extension:
    """What is to be run, and by which command, in working_dir. folder: of the new sweep."""

    folder: Path
    study_name: str
    storage: str
    trials: tuple[Longer, ...]
    command: tuple[str, ...]
    working_dir: Path

    def __str__(self) -> str:
        return shlex.join(self.command)


# Of a trial, its folder and how many times as long it is to be: the checkpoint it goes on from, or
# None and why there is none.
Choose = Callable[[Path, float, Sequence[Path]], tuple[Path | None, str]]


def plan_extension(
    folder: Path,
    length: Length,
    choose: Choose,
    numbers: Sequence[int] = (),
    top: int = 4,
    steps_key: str | None = None,
    stretch_key: str | None = None,
) -> Extension:
    """What extending a sweep's best completed trials comes to; nothing is written.

    numbers: of the trials, completed or paused to the end; without any, the `top` best completed
    settings' first ones. steps_key: of the
    app's config, for the length of a run. stretch_key: of an app that makes its schedules longer
    too, by a factor. Raises BadInputError for trials that have not completed, a length that is
    theirs already, and a sweep that does not say how long its runs are or how it was run.
    """
    about, study = describe_sweep(folder), read_study(folder)
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    chosen = [_with_an_end(trials, number) for number in numbers] or _best(study, trials, top)
    if not chosen:
        raise BadInputError(f"{folder}: no trial has completed, so there is none to extend")
    config = OmegaConf.create(study.user_attrs.get("config", ""))
    factors = [_factor(trial, length) for trial in chosen]
    override = (
        f"{stretch_key}={_same(factors, length) * OmegaConf.select(config, stretch_key):.12g}"
        if stretch_key is not None
        else _steps_override(config, steps_key or "steps", length, chosen)
    )
    longer = [
        _longer(folder, trial, factor, choose)
        for trial, factor in zip(chosen, factors, strict=True)
    ]
    own = own_command(study.user_attrs.get("provenance", []))
    if not own:
        raise BadInputError(f"{folder} does not say by which command it was run")
    target = folder.absolute().with_name(f"{folder.absolute().name}-{length}")
    name = f"{about.study_name}-{length}"
    is_own = about.storage == sqlite_url(folder.absolute() / STUDY_FILE)
    storage = sqlite_url(target / STUDY_FILE) if is_own else str(about.storage)
    known = {t.extension_of for t in map(record_of, _trials_of(storage, name, target, is_own))}
    n_trials = len(known | {one.trial for one in longer})
    values = (str(target), name, str(n_trials), "1", "null", "none", "[]", "null", "null")
    changed = {*_OWN, override.partition("=")[0]}
    kept = [a for a in own if a.lstrip("+~").partition("=")[0] not in changed]
    set_here = (f"{key}={quoted(value)}" for key, value in zip(_OWN, values, strict=True))
    return Extension(
        target,
        name,
        storage,
        tuple(one for one in longer if one.trial not in known),
        (*kept, *set_here, override),
        working_dir(config),
    )


def queue_extension(folder: Path, plan: Extension) -> None:
    """Make the new study, queue its trials, and give them the curves so far."""
    study = read_study(folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    backend = open_backend(plan.storage)
    if plan.study_name in [known.study_name for known in backend.get_all_studies()]:
        new = optuna.load_study(study_name=plan.study_name, storage=backend)
    else:
        new = optuna.create_study(
            storage=backend, study_name=plan.study_name, directions=study.directions
        )
        new.set_user_attr("search_space", study.user_attrs.get("search_space"))
    trials = study.get_trials(deepcopy=False)
    for one in plan.trials:
        of = trials[one.trial]
        record = TrialRecord(
            seed=record_of(of).seed,
            outside=record_of(of).outside,
            extension_of=one.trial,
            from_checkpoint="" if one.checkpoint is None else str(one.checkpoint.absolute()),
        )
        new.enqueue_trial(of.params, user_attrs=record.to_attrs())
    numbers = {record_of(t).extension_of: t.number for t in new.get_trials(deepcopy=False)}
    goes_on = [(one, numbers[one.trial]) for one in plan.trials if one.checkpoint is not None]
    _copy_curves(folder, plan.folder, goes_on)


def _copy_curves(folder: Path, target: Path, goes_on: Iterable[tuple[Longer, int]]) -> None:
    """What trials that go on have reported until then, as a first attempt of the new ones."""
    curves = read_curves(folder / CURVES_FOLDER)
    writer = CurveWriter(target / CURVES_FOLDER, f"extended-{time.time_ns()}", time.monotonic)
    for one, number in goes_on:
        is_own = pc.and_(
            pc.equal(curves["trial"], one.trial), pc.less_equal(curves["step"], one.step)
        )
        rows = curves.filter(is_own).to_pylist()
        writer.add(number, [Row(r["step"], r["seconds"], {r["metric"]: r["value"]}) for r in rows])
    writer.close()


def _trials_of(storage: str, name: str, target: Path, is_own: bool) -> list[FrozenTrial]:
    """Those of the new study, if it is there already."""
    if is_own and not (target / STUDY_FILE).is_file():
        return []
    backend = open_backend(storage, only_reads=True)
    if name not in [known.study_name for known in backend.get_all_studies()]:
        return []
    return optuna.load_study(study_name=name, storage=backend).get_trials(deepcopy=False)


def _with_an_end(trials: dict[int, FrozenTrial], number: int) -> FrozenTrial:
    """A trial that has completed, or stayed paused until the sweep was over."""
    if number not in trials:
        raise BadInputError(f"there is no trial {number}; give one that has completed")
    trial, record = trials[number], record_of(trials[number])
    if trial.state is TrialState.COMPLETE or (is_over(trial) and record.stayed_paused):
        return trial
    said = record.why or trial.state.name.lower()
    raise BadInputError(
        f"trial {number} has neither completed nor stayed paused to the end of its sweep ({said}), "
        "so it has no end to extend"
    )


def _best(study: optuna.Study, trials: dict[int, FrozenTrial], top: int) -> list[FrozenTrial]:
    done = [standing for standing in ranked(study) if standing.state == "complete"]
    firsts = [
        next(run.number for run in standing.runs if run.state == "complete") for standing in done
    ]
    return [trials[number] for number in firsts[:top]]


def _factor(trial: FrozenTrial, length: Length) -> float:
    """How many times as long a trial is to be. Raises BadInputError."""
    if length.factor is not None:
        return length.factor
    record = record_of(trial)
    n_steps = record.plan.n_steps or (None if record.stayed_paused else record.steps)
    assert length.n_steps is not None
    if n_steps is None:
        raise BadInputError(
            f"trial {trial.number} does not say how long it was to be: give --steps as 3x"
        )
    if length.n_steps <= n_steps:
        raise BadInputError(
            f"--steps {length.n_steps}: trial {trial.number} has {n_steps:,} already; give more"
        )
    return length.n_steps / n_steps


def _same(factors: Sequence[float], length: Length) -> float:
    if min(factors) != max(factors):
        raise BadInputError(
            f"--steps {length.n_steps}: the trials are of different lengths, so that would stretch "
            f"them by {min(factors):.3g} to {max(factors):.3g}; give --steps as 3x, or trials of "
            "one length"
        )
    return factors[0]


def _steps_override(config: Any, key: str, length: Length, trials: Sequence[FrozenTrial]) -> str:
    """The override of an app's own key for the length of a run."""
    if any(key in trial.params for trial in trials):
        raise BadInputError(f"{key} is searched in this sweep, so there is no one length to extend")
    now = OmegaConf.select(config, key)
    if isinstance(now, bool) or not isinstance(now, int | float):
        is_there = "not in the app's config" if now is None else f"{now!r}"
        raise BadInputError(
            f"extend makes the config's {key} longer, which is {is_there}; name the key of the "
            "length of a run, --steps-key KEY, whose value is a number"
        )
    value = length.n_steps if length.factor is None else now * length.factor
    assert value is not None
    return f"{key}={math.floor(value + 1e-6) if isinstance(now, int) else value}"


def _longer(folder: Path, trial: FrozenTrial, factor: float, choose: Choose) -> Longer:
    own = record_of(trial).run.folder
    whole = {found.path: found.step for found in wholes(folder / own)} if own else {}
    place, why = choose(folder / own, factor, list(whole))
    return Longer(trial.number, place, 0 if place is None else whole[place], why)
