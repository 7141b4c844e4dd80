"""Every touch of what Optuna does not promise: its private names, each behind a function.

Checked with Optuna 5.0. A new version that moves one of these names fails in
`tests/sweeps/test_optuna_compat.py`, which says what each function relies on, and is adapted here.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "DRIVER_ATTR",
    "PAUSED_ATTR",
    "TrialWrite",
    "as_pruned",
    "change_waiting",
    "contains",
    "create_trial",
    "disconnect",
    "forget_reports",
    "give_back",
    "if_owned",
    "is_paused",
    "news",
    "open_rdb",
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
    "write_trials",
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


# --- storages: what a database can do that a storage's methods do not give out ---


def open_rdb(url: str, engine_kwargs: Mapping[str, Any]) -> optuna.storages.RDBStorage:
    """Optuna's storage of a database, whose tables are made where there are none.

    RDBStorage itself looks for each table and asks alembic whether they are of the newest form,
    whose import and answer take longer than all else that `iolaus show` does. Here it is left to do
    so where another version of Optuna has made them, or they are to be made elsewhere than in an
    SQLite file. Raises what SQLAlchemy and Optuna do where the database cannot be used.
    """
    import sqlalchemy
    from sqlalchemy import orm

    filled = optuna.storages.RDBStorage._fill_storage_url_template(url)
    engine = sqlalchemy.create_engine(filled, **engine_kwargs)
    if not (_made_by_this_version(engine) or _make_tables(engine)):
        engine.dispose()
        return optuna.storages.RDBStorage(url, engine_kwargs=dict(engine_kwargs))
    storage = object.__new__(optuna.storages.RDBStorage)
    vars(storage).update(
        url=filled,
        engine_kwargs=dict(engine_kwargs),
        engine=engine,
        scoped_session=orm.scoped_session(orm.sessionmaker(bind=engine)),
        skip_compatibility_check=False,
        heartbeat_interval=None,
        grace_period=None,
        heartbeat_stale_trial_callback=None,
        failed_trial_callback=None,
        _version_manager=None,  # what looks at the tables
    )
    return storage


def _made_by_this_version(engine: Any) -> bool:
    # The last that is written when tables are made is alembic's row.
    import sqlalchemy

    made_by = sqlalchemy.text("SELECT library_version FROM version_info, alembic_version")
    with engine.connect() as connection:
        try:
            found = connection.execute(made_by).all()
        except sqlalchemy.exc.DBAPIError:  # there is no such table; or whoever opens it next says
            return False
    return [tuple(row) for row in found] == [(optuna.__version__,)]


def _make_tables(engine: Any) -> bool:
    """Make the tables in an SQLite file that has none, all or none; whether they are there."""
    newest = _newest_schema()
    if engine.dialect.name != "sqlite" or newest is None:
        return False
    models, _ = _rdb()
    info = models.VersionInfoModel
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # of several drivers one makes them
        if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0:
            models.BaseModel.metadata.create_all(connection)
            versions = {"schema_version": models.SCHEMA_VERSION}
            versions["library_version"] = optuna.__version__
            connection.execute(info.__table__.insert().values(**versions))
            connection.exec_driver_sql(
                "CREATE TABLE alembic_version (\n\tversion_num VARCHAR(32) NOT NULL, \n\t"
                "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)\n)"
            )
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (newest,))
        connection.commit()
    return _made_by_this_version(engine)


def _newest_schema() -> str | None:
    """What alembic calls the newest form of the tables; None where its scripts do not say."""
    _, rdb = _rdb()
    scripts = Path(rdb.__file__).parent.joinpath("alembic", "versions").glob("*.py")
    text = "\n".join(script.read_text(encoding="utf-8") for script in scripts)
    older = re.findall(r'^down_revision = "(.*)"', text, re.MULTILINE)
    newest = set(re.findall(r'^revision = "(.*)"', text, re.MULTILINE)) - set(older)
    return newest.pop() if len(newest) == 1 else None


def disconnect(storage: BaseStorage) -> None:
    """Close this process's connections to a database; the next use opens new ones."""
    storage.remove_session()
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    if engine is not None:
        engine.dispose()


def news(
    storage: BaseStorage, study: int, unfinished: Sequence[FrozenTrial], n_known: int, last_id: int
) -> list[FrozenTrial]:
    """Known trials as they are now, and all from number n_known on, by number, not copied.

    last_id: of the last known trial, -1 for none. A database is asked for these alone, past the
    cache that Optuna keeps of it, which would read again whatever this process has written. A
    paused trial that is still as paused as it was known is left out.
    """
    if not _has_transactions(storage):
        every = storage.get_all_trials(study, deepcopy=False)
        return [every[trial.number] for trial in unfinished] + every[n_known:]
    paused = {trial_id(trial): trial for trial in unfinished if is_paused(trial)}
    as_before = _still_paused(storage, study, paused) if paused else set()
    ids = {trial_id(trial) for trial in unfinished} - as_before
    found: list[FrozenTrial] = storage._backend._get_trials(study, None, ids, last_id)  # type: ignore[attr-defined]
    return found


def _still_paused(storage: Any, study: int, paused: Mapping[int, FrozenTrial]) -> set[int]:
    """The ids of trials that are as paused in the database as they are known here."""
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
    known = {i: trial.user_attrs[PAUSED_ATTR] for i, trial in paused.items()}
    return {i for i, value in rows if i in known and known[i] == json.loads(value)}


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


def create_trial(
    storage: BaseStorage,
    study: int,
    template: FrozenTrial,
    n_known: int,
    last_id: int,
    *,
    is_only_next: bool = False,
) -> FrozenTrial | None:
    """A new trial like this template, with the number and the id that the database gives it.

    n_known, last_id: how many trials are known, and the id of the last, -1 for none. is_only_next:
    None, and no trial, if the study has more trials than that.
    """
    if not _has_transactions(storage):
        if is_only_next and storage.get_n_trials(study) != n_known:
            return None
        return storage.get_trial(storage.create_new_trial(study, template))
    from iolaus.sweeps import optuna_tables

    _, rdb = _rdb()
    made = copy.copy(template)
    with rdb._create_scoped_session(storage._backend.scoped_session) as session:  # type: ignore[attr-defined]
        optuna_tables.lock_study(session.connection(), study)
        n_newer = optuna_tables.n_trials_after(session.connection(), study, last_id)
        if n_newer and is_only_next:
            return None
        made.number = n_known + n_newer
        made._trial_id = optuna_tables.insert_trial(session.connection(), study, made)
        optuna_tables.write(session.connection(), _writes_of(made))
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


@dataclass(frozen=True, slots=True)
class TrialWrite:
    """A call of a storage's method that changes a trial, to be made later.

    method: its name, "" for none: only whose the trial is matters. arguments: those after the
    trial. at: when it was asked for, in local time.
    """

    method: str
    trial: int
    arguments: tuple[Any, ...] = ()
    at: datetime | None = None


def write_trials(storage: BaseStorage, writes: Sequence[TrialWrite], driver: str) -> set[int]:
    """Make these writes, in their order; in a database in one transaction.

    Returns the trials among them that are not this driver's, to which nothing is written; "": all
    are. A finished trial is left as it is: the answer to the first try was lost.
    """
    if not _has_transactions(storage):
        return _write_one_by_one(storage, writes, driver)
    from iolaus.sweeps import optuna_tables

    _, rdb = _rdb()
    with rdb._create_scoped_session(storage._backend.scoped_session) as session:  # type: ignore[attr-defined]
        connection, ids = session.connection(), sorted({write.trial for write in writes})
        states = optuna_tables.locked_states(connection, ids)
        attrs = optuna_tables.user_attrs(connection, ids, DRIVER_ATTR) if driver else {}
        lost = {trial for trial in ids if driver and (attrs.get(trial) or "") != driver}
        may_change = {
            trial
            for trial, state in states.items()
            if trial not in lost
            and (state is TrialState.RUNNING if driver else not state.is_finished())
        }
        optuna_tables.write(connection, [write for write in writes if write.trial in may_change])
    return lost


def _write_one_by_one(storage: BaseStorage, writes: Iterable[TrialWrite], driver: str) -> set[int]:
    lost = set()
    for one in writes:
        method = getattr(storage, one.method) if one.method else lambda *_: None
        write = functools.partial(method, one.trial, *one.arguments)
        if not driver:
            write()
        elif not if_owned(storage, one.trial, driver, write):
            lost.add(one.trial)
    return lost


def _writes_of(trial: FrozenTrial) -> list[TrialWrite]:
    """What a new trial has beside its state and times."""
    given: list[tuple[str, tuple[Any, ...]]] = []
    for name, distribution in trial.distributions.items():
        value = distribution.to_internal_repr(trial.params[name])
        given.append(("set_trial_param", (name, value, distribution)))
    given += [("set_trial_user_attr", pair) for pair in trial.user_attrs.items()]
    given += [("set_trial_system_attr", pair) for pair in trial.system_attrs.items()]
    given += [("set_trial_intermediate_value", pair) for pair in trial.intermediate_values.items()]
    if trial.values is not None:
        given.append(("set_trial_state_values", (trial.state, trial.values)))
    return [
        TrialWrite(name, trial_id(trial), rest, trial.datetime_complete) for name, rest in given
    ]


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
