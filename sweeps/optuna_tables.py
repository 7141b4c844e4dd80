"""Rows of the tables in which Optuna keeps trials, written many at a time.

Optuna's own methods write one value in one transaction, with queries before it: about 1 ms each.
What they would leave in the tables is written here without them. Relies, like
`iolaus.sweeps.optuna_compat`, on the names of Optuna 5.0's `optuna.storages._rdb.models`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import mysql, postgresql, sqlite

if TYPE_CHECKING:
    from iolaus.sweeps.optuna_compat import TrialWrite

__all__ = ["insert_trial", "lock_study", "locked_states", "n_trials_after", "user_attrs", "write"]

Row = dict[str, Any]


def lock_study(connection: sql.Connection, study: int) -> None:
    """Let nobody else make trials until the transaction is over. KeyError: there is no such one."""
    studies = _table(models.StudyModel)
    row = sql.select(studies.c.study_id).where(studies.c.study_id == study).with_for_update()
    if connection.execute(row).first() is None:
        raise KeyError(f"there is no study of the id {study}")


def n_trials_after(connection: sql.Connection, study: int, trial: int) -> int:
    """How many trials of a study came after the one with this id."""
    trials = _table(models.TrialModel)
    after = sql.select(sql.func.count(trials.c.trial_id)).where(
        trials.c.study_id == study, trials.c.trial_id > trial
    )
    return int(connection.execute(after).scalar_one())


def insert_trial(connection: sql.Connection, study: int, trial: FrozenTrial) -> int:
    """Add a trial's own row; returns its id."""
    row = {
        "study_id": study,
        "number": trial.number,
        "state": trial.state,
        "datetime_start": _utc(trial.datetime_start),
        "datetime_complete": _utc(trial.datetime_complete),
    }
    added = connection.execute(_table(models.TrialModel).insert(), row).inserted_primary_key
    assert added is not None  # it is where one row was inserted
    return int(added[0])


def locked_states(connection: sql.Connection, ids: Collection[int]) -> dict[int, TrialState]:
    """The states of trials, which nobody else changes until the transaction is over.

    Raises KeyError for an id that is none.
    """
    trials = _table(models.TrialModel)
    rows = sql.select(trials.c.trial_id, trials.c.state).where(trials.c.trial_id.in_(ids))
    locked = connection.execute(rows.order_by(trials.c.trial_id).with_for_update())
    states: dict[int, TrialState] = {row[0]: row[1] for row in locked}
    if unknown := sorted(set(ids) - states.keys()):
        raise KeyError(f"the study has no trial of the id {unknown[0]}")
    return states


def user_attrs(connection: sql.Connection, ids: Collection[int], key: str) -> dict[int, Any]:
    """A user attribute of those trials that have it."""
    attrs = _table(models.TrialUserAttributeModel)
    rows = sql.select(attrs.c.trial_id, attrs.c.value_json).where(
        attrs.c.trial_id.in_(ids), attrs.c.key == key
    )
    return {trial: json.loads(value) for trial, value in connection.execute(rows)}


def write(connection: sql.Connection, writes: Iterable[TrialWrite]) -> None:
    """Leave the rows that the writes would, of two for the same value the later one's.

    A statement for each table. Whether a trial may be changed is for the caller to know.
    """
    rows: dict[Any, dict[tuple[Any, ...], Row]] = defaultdict(dict)
    ends: dict[int, Row] = {}
    for one in writes:
        for model, key, row in _rows(one):
            rows[model][(one.trial, key)] = row
        if one.method == "set_trial_state_values":
            state = one.arguments[0]
            ends[one.trial] = {"of_trial": one.trial, "state": state, "at": _utc(one.at)}
    for model, by_key in rows.items():
        _upsert(connection, _table(model), list(by_key.values()))
    if ends:
        trials = _table(models.TrialModel)
        given: Row = {"state": sql.bindparam("state"), "datetime_complete": sql.bindparam("at")}
        end = trials.update().where(trials.c.trial_id == sql.bindparam("of_trial")).values(given)
        connection.execute(end, list(ends.values()))


def _rows(write: TrialWrite) -> list[tuple[Any, Any, Row]]:
    """The rows of a write, each with its model and what tells it from others of its trial there."""
    trial = {"trial_id": write.trial}
    match write.method, write.arguments:
        case "set_trial_param", (name, value, distribution):
            text = distribution_to_json(distribution)
            row = {"param_name": name, "param_value": value, "distribution_json": text}
            return [(models.TrialParamModel, name, trial | row)]
        case "set_trial_intermediate_value", (step, value):
            model = models.TrialIntermediateValueModel
            stored, kind = model.intermediate_value_to_stored_repr(value)
            row = {"intermediate_value": stored, "intermediate_value_type": kind}
            return [(model, step, trial | {"step": step} | row)]
        case "set_trial_user_attr" | "set_trial_system_attr" as method, (name, value):
            is_user = method == "set_trial_user_attr"
            attrs = models.TrialUserAttributeModel if is_user else models.TrialSystemAttributeModel
            return [(attrs, name, trial | {"key": name, "value_json": json.dumps(value)})]
        case "set_trial_state_values", (_, values):
            found = []
            for i, objective in enumerate(values or ()):
                stored_value, sign = models.TrialValueModel.value_to_stored_repr(objective)
                row = {"objective": i, "value": stored_value, "value_type": sign}
                found.append((models.TrialValueModel, i, trial | row))
            return found
        case "", ():
            return []
    raise ValueError(f"{write.method} is not known to leave rows")


def _upsert(connection: sql.Connection, table: sql.Table, rows: list[Row]) -> None:
    """Insert rows, in place of those that there are with the same unique columns."""
    (unique,) = (c for c in table.constraints if isinstance(c, sql.UniqueConstraint))
    names = [column.name for column in unique.columns]
    others = [name for name in rows[0] if name not in names]
    insert: Any
    match connection.dialect.name:
        case "sqlite" | "postgresql" as name:
            insert = (sqlite if name == "sqlite" else postgresql).insert(table)
            given = {other: insert.excluded[other] for other in others}
            insert = insert.on_conflict_do_update(index_elements=names, set_=given)
        case "mysql" | "mariadb":
            insert = mysql.insert(table)
            insert = insert.on_duplicate_key_update({o: insert.inserted[o] for o in others})
        case _:
            insert = table.insert()
            same = [table.c[name] == sql.bindparam(f"old_{name}") for name in names]
            old = [{f"old_{name}": row[name] for name in names} for row in rows]
            connection.execute(table.delete().where(*same), old)
    connection.execute(insert, rows)


def _table(model: Any) -> sql.Table:
    table: sql.Table = model.__table__
    return table


def _utc(local: datetime | None) -> datetime | None:
    """A local time as the database keeps it."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)
