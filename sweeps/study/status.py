"""Where a sweep stands, while it runs or after: counts, the best, what is under way and left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.study.finalists import Finalists
from iolaus.sweeps.study.preview import Machine, Preview, expected_share, preview_of
from iolaus.sweeps.study.ranking import INFEASIBLE
from iolaus.sweeps.study.record import leader_of, record_of, state_of, was_interrupted
from iolaus.sweeps.study.summary import rank

__all__ = ["RunningTrial", "Status", "classes_of", "last_steps", "left", "status"]


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial under way. step: the last on disk; seconds: of the trial, then; None before any.

    n_steps: as it planned, None if it did not. driver: who runs it, "" in a sweep's own study.
    """

    number: int
    step: int | None
    n_steps: int | None
    seconds: float | None
    driver: str

    @property
    def steps_per_second(self) -> float | None:
        """Its rate so far, None while it is not known."""
        return None if self.step is None or not self.seconds else self.step / self.seconds


@dataclass(frozen=True, slots=True)
class Status:
    """Where a sweep stands.

    n_by_state: trials by Optuna's state in small letters, those that were cut off as interrupted,
    those that the pruner may have go on as paused.
    best, best_trial: the first objective's, None where none has completed; of a setting with
    several seeds their mean and the first, best_n_seeds: how many. n_ended_last_hour: of any state,
    but interrupted.
    """

    n_by_state: Mapping[str, int]
    best: float | None
    best_trial: int | None
    n_ended_last_hour: int
    running: Sequence[RunningTrial]
    best_n_seeds: int = 1

    def best_text(self) -> str:
        """The best for a reader, "" where there is none."""
        if self.best is None:
            return ""
        n, trial = self.best_n_seeds, self.best_trial
        of = f"trial {trial}" if n < 2 else f"setting {trial}, the mean of {n} seeds"
        return f"best {self.best:.5g} ({of})"


def status(study: optuna.Study, last: Mapping[int, tuple[int, float]], now: datetime) -> Status:
    """Where a study stands. last: of running trials, (step, seconds); now: local, without a zone.

    The best is the winner of the table of the end.
    """
    trials = study.get_trials(deepcopy=False)
    best = next((r for r in rank(study) if r.values and r.state != INFEASIBLE), None)
    ended = [t.datetime_complete for t in trials if not was_interrupted(t) and t.datetime_complete]
    return Status(
        n_by_state=dict(Counter(map(_state, trials))),
        best=None if best is None else best.values[0],
        best_trial=None if best is None else best.number,
        n_ended_last_hour=sum(now - end <= timedelta(hours=1) for end in ended),
        running=[_running(t, last.get(t.number)) for t in trials if t.state is TrialState.RUNNING],
        best_n_seeds=sum(
            best is not None and t.state is TrialState.COMPLETE and leader_of(t) == best.number
            for t in trials
        ),
    )


def _state(trial: FrozenTrial) -> str:
    return "interrupted" if was_interrupted(trial) else state_of(trial)


def _running(trial: FrozenTrial, last: tuple[int, float] | None) -> RunningTrial:
    record = record_of(trial)
    step, seconds = last or (None, None)
    return RunningTrial(trial.number, step, record.plan.n_steps, seconds, record.driver)


def left(
    study: optuna.Study, about: Mapping[str, Any], last: Mapping[int, tuple[int, float]]
) -> Preview | None:
    """What is left of a sweep; None while no trial has shown its pace.

    about: the sweep's own description (`sweep.yaml`), as plain data. last: as in `status`.
    """
    sweeper, sessions = about.get("sweeper") or {}, about.get("sessions") or [{}]
    held = sessions[-1].get("slots") or {}  # older sweeps say nothing of their slots
    n_running = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    machine = Machine(
        max(held.get("n_places", 1), n_running), held.get("n_cores", 0), held.get("n_gpus", 0)
    )
    n_settings = about.get("n_settings") or about.get("n_trials") or 0
    finalists = Finalists.parse(sweeper.get("finalists"))
    n_judged = int(n_settings) * int(sweeper.get("repeats") or 1)
    n_whole = 0 if finalists is None else finalists.n_runs(int(n_settings))
    expected = expected_share(classes_of(sweeper.get("pruner")), max(n_judged, 1), n_whole)
    trials = study.get_trials(deepcopy=False)
    return preview_of(trials, last, n_judged + n_whole, machine, expected)


def classes_of(config: Any) -> list[str]:
    """The names of all classes that a config makes."""
    if isinstance(config, Mapping):
        own = [config["_target_"].rpartition(".")[2]] if "_target_" in config else []
        return own + [name for value in config.values() for name in classes_of(value)]
    return [name for value in config for name in classes_of(value)] if type(config) is list else []


def last_steps(curves: Path, trials: Sequence[int]) -> dict[int, tuple[int, float]]:
    """(step, seconds) of the last report of these trials that is on disk; nothing else is read."""
    if not trials:
        return {}
    # Where nothing runs, `iolaus status` need not wait for these to be imported.
    import pyarrow.parquet as pq

    from iolaus.sweeps.curves import SCHEMA, UNREADABLE

    found: dict[int, tuple[int, float, int]] = {}  # trial -> attempt, seconds, step
    names = ["trial", "attempt", "seconds", "step"]
    for path in sorted(curves.glob("*.parquet")):
        try:
            filters = [("trial", "in", trials)]
            table = pq.read_table(path, schema=SCHEMA, columns=names, filters=filters)
        except UNREADABLE:  # merged away meanwhile, its rows are in a later file; or damaged
            continue
        columns = (table[name].to_pylist() for name in names)
        for trial, attempt, seconds, step in zip(*columns, strict=True):
            last = (attempt or 0, seconds, step)  # older files have no attempt
            found[trial] = max(found.get(trial, last), last)
    return {trial: (step, seconds) for trial, (_, seconds, step) in found.items()}
