"""Stores of other tools: MLflow's folder `mlruns` and its SQLite, and Optuna's SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from iolaus.analysis.data.importers.rows import Found
from iolaus.analysis.data.importers.steps import in_order

__all__ = ["database", "is_journal", "is_sqlite", "journal", "mlruns"]

# Source: RunStatus in MLflow's service.proto.
MLFLOW_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


def is_sqlite(source: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes."""
    with source.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def mlruns(folder: Path) -> Found | None:
    """The runs in MLflow's folder of files, of all experiments; None if it is none.

    `EXPERIMENT/RUN/` has meta.yaml, `metrics/NAME` (time in ms, value, step a line) and
    `params/NAME`. Deleted runs are left out.
    """
    rows: list[tuple[str, int, str, float, float]] = []
    about: dict[str, dict[str, Any]] = {}
    places = [meta.parent for meta in sorted(folder.rglob("meta.yaml"))]
    places = [place for place in places if (place / "metrics").is_dir()]
    if not places:
        return None
    described = [(place, yaml.safe_load((place / "meta.yaml").read_text())) for place in places]
    described = [(p, d) for p, d in described if d.get("lifecycle_stage") != "deleted"]
    names = _unique([str(d.get("run_name") or p.name) for p, d in described], described)
    for (place, meta), name in zip(described, names, strict=True):
        status = meta.get("status")
        about[name] = {"state": MLFLOW_STATUS.get(status, status)}
        for file in _files(place / "params"):
            key = file.relative_to(place / "params").as_posix()
            about[name][f"params.{key}"] = (
                yaml.safe_load(file.read_text()) if file.stat().st_size else ""
            )
        for file in _files(place / "metrics"):
            key = file.relative_to(place / "metrics").as_posix()
            if key.startswith("system/"):
                continue
            for line in file.read_text().splitlines():
                time_ms, value, *step = line.split()
                rows.append((name, int(step[0]) if step else 0, key, float(value), float(time_ms)))
    if not rows:
        return None
    return _of_mlflow(rows, about)


def is_journal(source: Path) -> bool:
    """Whether a file is a journal of Optuna, by its first bytes."""
    with source.open("rb") as file:
        return b'"op_code"' in file.read(256)


def journal(source: Path, study: str | None = None) -> Found:
    """A study in a journal of Optuna. study: its name, where there are several."""
    return _optuna(JournalStorage(JournalFileBackend(str(source))), source, study)


def database(source: Path, study: str | None = None) -> Found:
    """The runs of an MLflow or Optuna database. Raises ValueError if it is neither.

    study: the name of Optuna's, where there are several.
    """
    try:
        return _of_database(source, study)
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{source} cannot be read as a database: {error}") from error


def _of_database(source: Path, study_name: str | None) -> Found:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
        if {"studies", "trials", "trial_values"} <= tables:
            return _optuna(f"sqlite:///{source.absolute()}", source, study_name)
        if not {"runs", "metrics", "params"} <= tables:
            raise ValueError(
                f"{source} is a database of neither Optuna nor MLflow; it has the tables "
                f"{', '.join(sorted(tables)[:12])}"
            )
        runs = connection.execute(
            "select run_uuid, name, status from runs where lifecycle_stage != 'deleted'"
        ).fetchall()
        names = dict(
            zip(
                [uuid for uuid, *_ in runs],
                _unique([str(name or uuid) for uuid, name, _ in runs], runs),
                strict=True,
            )
        )
        about = {names[uuid]: {"state": status} for uuid, _, status in runs}
        for uuid, key, value in connection.execute("select run_uuid, key, value from params"):
            if uuid in names:
                about[names[uuid]][f"params.{key}"] = yaml.safe_load(value) if value else ""
        rows = [
            (names[uuid], step, key, float("nan") if is_nan else value, time)
            for uuid, key, value, time, step, is_nan in connection.execute(
                "select run_uuid, key, value, timestamp, step, is_nan from metrics"
            )
            if uuid in names and not key.startswith("system/")
        ]
    if not rows:
        raise ValueError(f"{source} holds no metrics")
    return _of_mlflow(rows, about)


def _of_mlflow(rows: list[tuple[Any, ...]], about: dict[str, dict[str, Any]]) -> Found:
    reports = pd.DataFrame(rows, columns=["trial", "step", "metric", "value", "timestamp"])
    reports, notes = in_order(reports.assign(timestamp=reports["timestamp"] / 1000))
    return Found(reports, pd.DataFrame.from_dict(about, orient="index"), None, notes)


def _optuna(storage: str | BaseStorage, source: Path, name: str | None) -> Found:
    """A study; intermediate values are its curves, under the name `value`."""
    names = optuna.get_all_study_names(storage)
    if name is not None or len(names) != 1:
        if name not in names:
            raise ValueError(
                f"{source} has {len(names)} studies ({', '.join(names[:8])}): say which is meant, "
                "--run NAME"
            )
        names = [name]
    study = optuna.load_study(study_name=names[0], storage=storage)
    if len(study.directions) != 1:
        raise ValueError(f"{source}: study {names[0]} has several objectives, of which no curve is")
    rows: list[tuple[int, int, str, float]] = []
    about: dict[int, dict[str, Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state is optuna.trial.TrialState.WAITING:
            continue
        values = dict(trial.intermediate_values)
        if trial.value is not None:
            end = max(values, default=-1)
            if values.get(end) != trial.value:
                values[end + 1] = trial.value
        rows += [(trial.number, step, "value", value) for step, value in sorted(values.items())]
        about[trial.number] = {
            "state": trial.state.name,
            **{f"params.{key}": value for key, value in trial.params.items()},
        }
    if not rows:
        raise ValueError(f"{source}: no trial of study {names[0]} has a value")
    reports = pd.DataFrame(rows, columns=["trial", "step", "metric", "value"])
    frame = pd.DataFrame.from_dict(about, orient="index")
    return Found(reports, frame, study.direction.name.lower())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _unique(names: list[str], runs: Iterable[Any]) -> list[str]:
    """Names of runs; of several with one name, each with the head of its id."""
    ids = [str(getattr(run[0], "name", run[0]))[:8] for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} {own}"
        for name, own in zip(names, ids, strict=True)
    ]
