"""The database behind a study, opened so that several processes can share it."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.secrets import without_password

__all__ = ["first_line", "in_memory", "open_backend", "sqlite_url"]

# How long another driver may take to make a database's tables.
TABLES_S = 10.0


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, whatever characters its path has (`%`, `?`, `{`, blanks, ...)."""
    url = sqlalchemy.URL.create("sqlite", database=str(path))
    return url.render_as_string(hide_password=False)


def open_backend(url: str, *, only_reads: bool = False) -> BaseStorage:
    """Connect to a database; several processes may share it.

    SQLite is opened so that readers do not block the writer and one queued trial goes to one asker.
    only_reads: for looking at a study: waits for no writer, and lets none wait. Raises StorageError
    if it cannot be reached.
    """
    if in_memory(url):
        # SQLite's own would be another database in each thread.
        return optuna.storages.InMemoryStorage()
    try:
        storage = _with_tables(url)
        if url.startswith("sqlite") and not only_reads:
            _use_wal(storage.engine)
    except Exception as error:
        raise StorageError(
            f"cannot open the storage {without_password(url)}: {first_line(error)}; {_hint(error)}"
        ) from error
    return optuna.storages.get_storage(storage)


def _with_tables(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage of a database, which makes its tables where there are none.

    Where several drivers begin at the same moment, each finds tables missing, and all but one are
    refused to make them: these look again.
    """
    deadline_s = time.monotonic() + TABLES_S
    while True:
        try:
            return compat.open_rdb(url, _engine_options(url))
        except sqlalchemy.exc.DBAPIError as error:
            made_meanwhile = re.search("already exists|duplicate|unique", str(error), re.IGNORECASE)
            if made_meanwhile is None or time.monotonic() > deadline_s:
                raise
        time.sleep(0.05)


def in_memory(url: str) -> bool:
    """Whether a study in this storage is gone when the sweep ends."""
    return url in ("sqlite://", "sqlite:///:memory:")


def _hint(error: Exception) -> str:
    if any(said in str(error.__cause__ or error) for said in ("malformed", "not a database")):
        return (
            "the file is damaged: put back a copy of it, or try sqlite3 study.db .recover; the "
            "folder's curves and events can be read without it"
        )
    missing = isinstance(error, ImportError) or isinstance(error.__cause__, ImportError)
    return (
        "install the database's driver, or check hydra.sweeper.storage"
        if missing
        else "check hydra.sweeper.storage"
    )


def _engine_options(url: str) -> dict[str, Any]:
    return (
        {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )


def _use_wal(engine: sqlalchemy.Engine) -> None:
    # BEGIN IMMEDIATE takes the write lock before reading: the `FOR UPDATE` that Optuna relies on is
    # ignored by SQLite (optuna #4621). With the write-ahead log, "normal" loses nothing when a
    # process dies, only on power failure.
    @sqlalchemy.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before the listeners


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to the write-ahead log, for which SQLite waits for no other connection."""
    deadline_s = time.monotonic() + TABLES_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(0.01)


def first_line(error: Exception) -> str:
    """The first line of what a database said, or the kind of its error if it said nothing.

    Passwords are hidden.
    """
    cause = error.__cause__ or error
    return without_password(str(cause).splitlines()[0]) if str(cause) else type(cause).__name__
