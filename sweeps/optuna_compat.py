"""Every touch of what Optuna does not promise: its private names, each behind a function.

Checked with Optuna 5.0. A new version that moves one of these names fails in
`tests/sweeps/test_optuna_compat.py`, which says what each function relies on, and is adapted here.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "DRIVER_ATTR",
    "PAUSED_ATTR",
    "as_pruned",
    "change_waiting",
    "contains",
    "create_trial_if",
    "created_trial",
    "disconnect",
    "forget_reports",
    "give_back",
    "if_owned",
    "is_paused",
    "news",
    "patience",
    "percentile",
    "reduction_factor",
    "set_user_attr",
    "significance",
    "storage_of",
    "study_id",
    "suggest",
    "thresholds",
    "trial_id",
    "wrapped_pruner",
]


def study_id(study: Any) -> int:
    """The id of a study in its storage; takes a `FrozenStudy` as well."""
    return int(study._study_id)


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage a study reads and writes."""
    return study._storage


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """The id of a trial in its storage, which its number is not."""
    return trial._trial_id


class AskedStudy(optuna.Study):
    """A study whose sampler does not see all of its trials.

    Samplers look for trials by `_get_trials`, and so does everybody else: while `asking`, those
    that `hides` says are left out.
    """

    _is_asking = False

    @staticmethod
    def hides(trial: FrozenTrial) -> bool:
        """Whether samplers do not see a trial. Override it."""
        del trial
        return False

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within, the study is that of its sampler."""
        self._is_asking = True
        try:
            yield
        finally:
            self._is_asking = False

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        found = super()._get_trials(*args, **options)
        return [t for t in found if not self.hides(t)] if self._is_asking else found


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """A value for a parameter of any distribution, as `study.ask(distributions)` suggests it."""
    return trial._suggest(name, distribution)


def set_user_attr(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Store a user attribute with a trial that runs, of which pruners are given a frozen copy."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution could have given this value. ValueError for a value of no sense."""
    return distribution._contains(distribution.to_internal_repr(value))


# --- storages: what a cached database has at hand and does not give out ---


def created_trial(storage: BaseStorage, study: int, trial: int) -> FrozenTrial:
    """A copy of a trial that this storage has just created; to read it again would take 2 ms."""
    known = getattr(storage, "_trial_id_to_study_id_and_number", {})
    if trial not in known:
        return storage.get_trial(trial)
    cached: FrozenTrial = storage._studies[study].trials[known[trial][1]]  # type: ignore[attr-defined]
    return copy.deepcopy(cached)


def disconnect(storage: BaseStorage) -> None:
    """Close this process's connections to a database; the next use opens new ones."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def news(
    storage: BaseStorage, study: int, unfinished: Sequence[int], n_known: int
) -> list[FrozenTrial]:
    """The trials of these numbers and all from number n_known on, by number, not copied.

    Read from the database as they are now. Where the storage has a cache this costs what is new;
    `get_all_trials` would sort all that ever were.
    """
    if not hasattr(storage, "_read_trials_from_remote_storage"):
        every = storage.get_all_trials(study, deepcopy=False)
        return [every[i] for i in unfinished if i < n_known] + every[n_known:]
    _read(storage, study)
    trials: dict[int, FrozenTrial] = storage._studies[study].trials  # type: ignore[attr-defined]
    new = range(n_known, max(n_known, len(trials)))
    return [trials[i] for i in unfinished if i < n_known] + [trials[i] for i in new]


def _read(storage: Any, study: int) -> None:
    """Have a storage's cache read what is new of a study.

    It reads whole every trial that is not finished. Paused ones, of which a sweep may have most,
    are so only when they are paused no more, or once more.
    """
    known = storage._studies.get(study)
    unchanged = set() if known is None else _still_paused(storage, study, known)
    if unchanged:
        known.unfinished_trial_ids -= unchanged
        # As for finished ones: trials made before it was paused were read before.
        known.last_finished_trial_id = max(known.last_finished_trial_id, *unchanged)
    try:
        storage._read_trials_from_remote_storage(study)
    finally:
        if unchanged:
            known.unfinished_trial_ids |= unchanged


def _still_paused(storage: Any, study: int, known: Any) -> set[int]:
    """The ids of trials that are as paused in the database as they are in the cache."""
    numbers = {
        i: storage._trial_id_to_study_id_and_number[i][1] for i in known.unfinished_trial_ids
    }
    cached = {
        i: known.trials[n].user_attrs[PAUSED_ATTR]
        for i, n in numbers.items()
        if is_paused(known.trials[n])
    }
    if not cached:
        return set()
    models, rdb = _rdb()
    trials, attrs = models.TrialModel, models.TrialUserAttributeModel
    with rdb._create_scoped_session(storage._backend.scoped_session) as session:
        rows = (
            session.query(trials.trial_id, attrs.value_json)
            .join(attrs, attrs.trial_id == trials.trial_id)
            .filter(trials.study_id == study, trials.state == TrialState.WAITING)
            .filter(attrs.key == PAUSED_ATTR)
            .all()
        )
    return {i for i, value in rows if i in cached and cached[i] == json.loads(value)}


def forget_reports(storage: BaseStorage, trial: int, from_step: int) -> None:
    """Delete a trial's intermediate values from a step on, which no method of a storage can."""
    if not hasattr(storage, "_backend"):
        storage.get_trial(trial)  # raises KeyError for an unknown one
        kept = copy.copy(storage._get_trial(trial))  # type: ignore[attr-defined]
        kept.intermediate_values = {
            step: value for step, value in kept.intermediate_values.items() if step < from_step
        }
        storage._set_trial(trial, kept)  # type: ignore[attr-defined]
        return
    from optuna.storages._rdb import models
    from optuna.storages._rdb import storage as rdb

    with rdb._create_scoped_session(storage._backend.scoped_session) as session:
        values = models.TrialIntermediateValueModel
        session.query(values).filter(values.trial_id == trial, values.step >= from_step).delete()


# --- leases: what must be true in the transaction that changes a trial ---
#
# In an SQL database the trial's row (or the study's) is locked, and what is asked is asked under
# the lock; SQLite locks the whole file (`iolaus.sweeps.study.backend`). Optuna's methods take the
# session of their thread, and so the transaction that is open in it. Storages without
# transactions ask first, then write: they are for one driver.

# The user attribute of a trial that names the driver that runs it.
DRIVER_ATTR = "driver"

# The user attribute of a trial that was stopped and may go on: how often it has been paused; 0 or
# absent where it is not paused now. It waits in the database, where no driver takes it by asking.
PAUSED_ATTR = "paused"


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial is paused: it waits so marked, or is shown `as_pruned`."""
    is_marked = _times_paused(trial.user_attrs.get(PAUSED_ATTR)) > 0
    return is_marked and trial.state in (TrialState.WAITING, TrialState.PRUNED)


def _times_paused(attr: Any) -> int:
    """What a `PAUSED_ATTR` says; 0 where others have written what they like."""
    return attr if type(attr) is int and attr > 0 else 0


def as_pruned(trial: FrozenTrial, n_objectives: int) -> FrozenTrial:
    """A paused trial as samplers and pruners shall see it: PRUNED, as `tell` would have left it."""
    shown = copy.copy(trial)
    shown.state, last = TrialState.PRUNED, trial.last_step
    value = math.nan if last is None else trial.intermediate_values[last]
    shown.values = None if math.isnan(value) or n_objectives > 1 else [value]
    shown.datetime_complete = trial.datetime_complete or trial.datetime_start
    return shown


def create_trial_if(
    storage: BaseStorage, study: int, template: FrozenTrial | None, n_trials: int
) -> int | None:
    """The id of a new trial; None, and no trial, if the study has not this many trials before."""
    if not _has_transactions(storage):
        if storage.get_n_trials(study) != n_trials:
            return None
        return storage.create_new_trial(study, template)
    models, rdb = _rdb()
    backend = storage._backend  # type: ignore[attr-defined]
    with rdb._create_scoped_session(backend.scoped_session) as session:
        found = models.StudyModel.find_or_raise_by_id(study, session, for_update=True)
        if models.TrialModel.count(session, found) != n_trials:
            return None
        made = int(backend._get_prepared_new_trial(study, template, session).trial_id)
    _read(storage, study)  # into its cache
    return made


def change_waiting(
    storage: BaseStorage,
    trial: int,
    user_attrs: Mapping[str, Any],
    n_paused: int = 0,
    state: TrialState | None = None,
    values: Sequence[float] | None = None,
) -> bool:
    """Give a waiting trial these attributes; False, and nothing, if it waits so no more.

    n_paused: what its `PAUSED_ATTR` must be; 0: one that is not paused. state: in which it is from
    here on, with these values if it has ended; None: it waits on.
    """
    if not _has_transactions(storage):
        now = storage.get_trial(trial)
        known = _times_paused(now.user_attrs.get(PAUSED_ATTR))
        if now.state is not TrialState.WAITING or known != n_paused:
            return False
        for name, value in user_attrs.items():
            storage.set_trial_user_attr(trial, name, value)
        return state is None or storage.set_trial_state_values(trial, state, values)
    models, rdb = _rdb()
    backend = storage._backend  # type: ignore[attr-defined]
    with rdb._create_scoped_session(backend.scoped_session) as session:
        row = models.TrialModel.find_or_raise_by_id(trial, session, for_update=True)
        known = _times_paused(_user_attr(models, session, trial, PAUSED_ATTR))
        if row.state is not TrialState.WAITING or known != n_paused:
            return False
        _set_user_attrs(backend, session, trial, user_attrs)
        # It takes the session that is open in this thread, and commits all.
        return state is None or bool(backend.set_trial_state_values(trial, state, values))


def give_back(storage: BaseStorage, trial: int, driver: str, user_attrs: Mapping[str, Any]) -> bool:
    """Make a trial of this driver wait, with these attributes; False if it is not (any more)."""
    attrs = {**user_attrs, DRIVER_ATTR: ""}
    if not _has_transactions(storage):
        now = storage.get_trial(trial)
        if now.state is not TrialState.RUNNING or now.user_attrs.get(DRIVER_ATTR, "") != driver:
            return False
        for name, value in attrs.items():
            storage.set_trial_user_attr(trial, name, value)
        return storage.set_trial_state_values(trial, TrialState.WAITING)
    models, rdb = _rdb()
    backend = storage._backend  # type: ignore[attr-defined]
    with rdb._create_scoped_session(backend.scoped_session) as session:
        row = models.TrialModel.find_or_raise_by_id(trial, session, for_update=True)
        if row.state is not TrialState.RUNNING or _owner(models, session, trial) != driver:
            return False
        _set_user_attrs(backend, session, trial, attrs)
        row.state = TrialState.WAITING
        return True


def if_owned(storage: BaseStorage, trial: int, driver: str, write: Callable[[], Any]) -> bool:
    """Do what is written to a trial of this driver; False, and nothing, if it is another's.

    A finished trial of this driver is left as it is: the answer to the first try was lost.
    """
    if not _has_transactions(storage):
        now = storage.get_trial(trial)
        if now.user_attrs.get(DRIVER_ATTR, "") != driver:
            return False
        if now.state is TrialState.RUNNING:
            write()
        return True
    models, rdb = _rdb()
    with rdb._create_scoped_session(storage._backend.scoped_session) as session:  # type: ignore[attr-defined]
        row = models.TrialModel.find_or_raise_by_id(trial, session, for_update=True)
        if _owner(models, session, trial) != driver:
            return False
        if row.state is TrialState.RUNNING:
            write()
        return True


def _has_transactions(storage: BaseStorage) -> bool:
    return isinstance(storage, optuna.storages._CachedStorage)


def _rdb() -> tuple[Any, Any]:
    from optuna.storages._rdb import models
    from optuna.storages._rdb import storage as rdb

    return models, rdb


def _owner(models: Any, session: Any, trial: int) -> str:
    return str(_user_attr(models, session, trial, DRIVER_ATTR) or "")


def _user_attr(models: Any, session: Any, trial: int, name: str) -> Any:
    attrs = models.TrialUserAttributeModel
    row = session.query(attrs).filter(attrs.trial_id == trial, attrs.key == name).first()
    return None if row is None else json.loads(row.value_json)


def _set_user_attrs(backend: Any, session: Any, trial: int, attrs: Mapping[str, Any]) -> None:
    models, _ = _rdb()
    for name, value in attrs.items():
        backend._set_trial_attr_without_commit(
            session, models.TrialUserAttributeModel, trial, name, value
        )


# --- pruners: the settings their reasons are worded with ---


def percentile(pruner: optuna.pruners.PercentilePruner) -> float:
    """The percentile of finished trials that a trial must keep up with; 50 is the median."""
    return float(pruner._percentile)


def reduction_factor(
    pruner: optuna.pruners.SuccessiveHalvingPruner | optuna.pruners.HyperbandPruner,
) -> int:
    """One of how many goes on from a rung."""
    return int(pruner._reduction_factor)


def thresholds(pruner: optuna.pruners.ThresholdPruner) -> tuple[float, float]:
    """(lower, upper) bounds of allowed values."""
    return float(pruner._lower), float(pruner._upper)


def patience(pruner: optuna.pruners.PatientPruner) -> int:
    """How many reports may pass without getting better."""
    return int(pruner._patience)


def wrapped_pruner(pruner: optuna.pruners.PatientPruner) -> BasePruner | None:
    """The pruner that patience is added to."""
    return pruner._wrapped_pruner


def significance(pruner: optuna.pruners.WilcoxonPruner) -> float:
    """The p below which a difference counts."""
    return float(pruner._p_threshold)
