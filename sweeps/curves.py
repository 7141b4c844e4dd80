"""Every reported metric of every trial, in Parquet files that can be read while the sweep runs.

`curves/*.parquet` has the columns trial (int64), attempt (int64, 0, 1, ...: how often the trial was
cut off before), step (int64), seconds (float64, since the trial began), metric (string), value
(float64), one row per metric and report, in the order of arrival within an attempt. `read_curves`
joins the attempts: one that was cut off counts up to where the next one began. Files are written
whole and renamed into place, so any reader of Parquet sees complete files only. A thread writes and
merges them: the decision loop never waits for a disk. A crash loses at most `FLUSH_S` seconds and
what arrives during one merge, about a second, of trials that were running; the result of a trial is
recorded after its curve is on disk. A row takes about 7 bytes: the quickstart's 18,309 rows,
thirteen metrics at up to 1,607 reports, are 129 KB.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iolaus.sweeps.errors import cannot_write
from iolaus.sweeps.reporting import Row

__all__ = ["FLUSH_S", "SCHEMA", "UNREADABLE", "CurveWriter", "read_curves"]

log = logging.getLogger("sweeps")

FLUSH_S = 2.0
# Small files are merged when there are this many. While two names hold the same rows a reader may
# see both for some milliseconds; `read_curves` drops the repetition.
N_FILES_TO_MERGE = 100
# A file of this many rows is merged no more, which bounds what one merge takes to about a second.
N_ROWS_WHOLE = 1_000_000

SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("attempt", pa.int64()),
        ("step", pa.int64()),
        ("seconds", pa.float64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)

# What reading a damaged file raises.
UNREADABLE = (OSError, pa.ArrowException)

# Seconds only grow within an attempt: this is the order in which a trial reported.
ORDER = [(name, "ascending") for name in ("trial", "attempt", "seconds", "step")]


class CurveWriter:
    """Collects rows, and has a thread write them every `FLUSH_S` seconds.

    folder: made when the first rows are written. session: part of the file names, different for
    every writer. clock: seconds, any origin. What cannot be written raises a StorageError at the
    next `flush_if_due`, `flush` or `close`, and is kept and tried again with what comes after it.
    """

    def __init__(self, folder: Path, session: str, clock: Callable[[], float]) -> None:
        self._files = _Files(folder, session)
        self._clock = clock
        self._flushed_s = clock()
        self._rows = _Rows()
        self._work: queue.SimpleQueue[_Rows | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def add(self, trial: int, rows: Sequence[Row], attempt: int = 0) -> None:
        """Take a trial's reports; they reach the disk at the next flush."""
        for row in rows:
            self._rows.add(trial, attempt, row)

    def flush_if_due(self) -> None:
        """Have the thread write what has come in, if the last time was long enough ago."""
        self._check()
        if len(self._rows) and self._clock() - self._flushed_s >= FLUSH_S:
            self._hand_over()

    def flush(self) -> None:
        """Write what has come in, and wait for it."""
        self.written_behind().wait()
        self._check()

    def written_behind(self) -> threading.Event:
        """Have the thread write what has come in; the event is set when it is on disk.

        It is set as well when it cannot be written: whoever waits for it is not held up for ever.
        """
        self._hand_over()
        written = threading.Event()
        if self._thread is None:  # nothing has ever come in
            written.set()
        else:
            self._work.put(written)
        return written

    def close(self) -> None:
        """Write the rest, merge this session's small files into one, and end the thread."""
        self._hand_over()
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None
        self._check()

    def _hand_over(self) -> None:
        self._flushed_s = self._clock()
        if not len(self._rows):
            return
        if self._thread is None:  # begun late: forking with threads is not safe
            self._thread = threading.Thread(
                target=self._write_all, name="iolaus-curves", daemon=True
            )
            self._thread.start()
        self._work.put(self._rows)
        self._rows = _Rows()

    def _write_all(self) -> None:
        unwritten: list[_Rows] = []
        while (item := self._work.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            else:
                unwritten.append(item)
                self._write(unwritten)
        self._write(unwritten)
        self._files.merge_all()

    def _write(self, unwritten: list[_Rows]) -> None:
        try:
            while unwritten:
                self._files.add(unwritten[0].table())
                del unwritten[0]
        except Exception as error:
            self._error = error
        else:
            self._error = None

    def _check(self) -> None:
        if (error := self._error) is not None:
            raise cannot_write(
                f"the curves cannot be written to {self._files.folder}", error
            ) from error


class _Rows:
    """Rows as columns, appended to in place."""

    def __init__(self) -> None:
        self._trial, self._attempt, self._step = array("q"), array("q"), array("q")
        self._name = array("i")
        self._seconds, self._value = array("d"), array("d")
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._value)

    def add(self, trial: int, attempt: int, row: Row) -> None:
        for name, value in row.metrics.items():
            self._trial.append(trial)
            self._attempt.append(attempt)
            self._step.append(row.step)
            self._seconds.append(row.seconds)
            self._name.append(self._names.setdefault(name, len(self._names)))
            self._value.append(value)

    def table(self) -> pa.Table:
        """The rows in `SCHEMA`.

        Without pa.array on Python objects, which imports pandas: a second in which the driver, amid
        a sweep, would serve nobody.
        """
        builder = pa.lib.StringBuilder()
        builder.append_values(list(self._names))
        names = pa.DictionaryArray.from_arrays(_column(pa.int32(), self._name), builder.finish())
        columns = [
            _column(pa.int64(), self._trial),
            _column(pa.int64(), self._attempt),
            _column(pa.int64(), self._step),
            _column(pa.float64(), self._seconds),
            names.cast(pa.string()),
            _column(pa.float64(), self._value),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def _column(kind: pa.DataType, values: array[int] | array[float]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


class _Files:
    """The files of one session, merged so that there are few of them and no merge is a long one.

    When there are `N_FILES_TO_MERGE`, the newest are merged, and older ones with them as long as
    they are no more than twice as large as what is merged already: a row is merged again only when
    its file has about doubled.
    """

    def __init__(self, folder: Path, session: str) -> None:
        self.folder = folder
        self._session = session
        self._files: list[tuple[Path, int]] = []  # small ones with their rows, oldest first
        self._n_written = 0

    def add(self, table: pa.Table) -> None:
        """Write a file, and merge if there are many."""
        self._keep(table)
        if len(self._files) >= N_FILES_TO_MERGE:
            first, n_rows = len(self._files) - 1, self._files[-1][1]
            while first and (
                first == len(self._files) - 1 or self._files[first - 1][1] <= 2 * n_rows
            ):
                first -= 1
                n_rows += self._files[first][1]
            self._merge(first)

    def merge_all(self) -> None:
        """Leave one file, and those that were whole before."""
        if len(self._files) > 1:
            self._merge(0)

    def _merge(self, first: int) -> None:
        """Merge files, if the disk lets us: nothing is lost where it does not."""
        old, self._files = self._files[first:], self._files[:first]
        try:
            there = [path for path, _ in old if path.exists()]
            tables = {path: table for path in there if (table := _read(path)) is not None}
            if tables:
                self._keep(pa.concat_tables(tables.values()).sort_by(ORDER))
            for path in tables:
                path.unlink()
        except OSError as error:
            log.debug("the files of curves are left unmerged: %s", error)

    def _keep(self, table: pa.Table) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._session}-{self._n_written:06d}.parquet"
        unfinished = path.with_suffix(".writing")
        try:
            pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
            with unfinished.open("rb+") as file:  # what is recorded after it relies on it
                os.fsync(file.fileno())
        except BaseException:
            unfinished.unlink(missing_ok=True)  # it takes space that may be needed
            raise
        unfinished.replace(path)
        self._n_written += 1
        if table.num_rows < N_ROWS_WHOLE:
            self._files.append((path, table.num_rows))


def _read(path: Path) -> pa.Table | None:
    """A file's rows; None, with a warning that names it, if it is damaged."""
    try:
        # Not pq.read_table, which imports pandas where there is a schema.
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        if "attempt" not in table.column_names:  # an older file
            zeros = pa.nulls(len(table), pa.int64()).fill_null(0)
            table = table.append_column(SCHEMA.field("attempt"), zeros)
        return table.select(SCHEMA.names).cast(SCHEMA)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        log.warning("%s is damaged, and its part of the curves is left out: %s", path, error)
        return None


def read_curves(*folders: Path) -> pa.Table:
    """All curves of a sweep, each row once, by trial and time; of each trial one curve.

    folders: several where drivers of a study have folders of their own. Of an attempt that was cut
    off, the rows after the first step of the next one are left out, and those of its metrics at
    that step. An empty table if nothing was reported yet. A damaged file is named in a warning, and
    left out. Works while the sweep runs: where files are merged away between listing and reading,
    what they were merged into is read too.
    """
    read: dict[Path, pa.Table | None] = {}
    missing: set[Path] = set()
    while True:
        paths = {path for folder in folders for path in folder.glob("*.parquet")} - read.keys()
        gone = set[Path]()
        for path in sorted(paths):
            try:
                read[path] = _read(path)
            except FileNotFoundError:
                if path in missing:  # listed again, so no merge has taken it away
                    raise
                gone.add(path)
        missing |= gone
        if not gone:
            break
    tables = [table for table in read.values() if table is not None]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    # Rows read twice, from a merged file and the files it replaces, are equal in all columns.
    if len(tables) > 1:
        table = table.group_by(SCHEMA.names).aggregate([])
    return _joined(table.sort_by(ORDER)).drop_columns("attempt")


def _joined(table: pa.Table) -> pa.Table:
    """The attempts of each trial as one curve. table: in order."""
    trial, attempt, step = (table[name].to_numpy() for name in ("trial", "attempt", "step"))
    if not attempt.any():
        return table
    metric = table["metric"].combine_chunks().dictionary_encode().indices.to_numpy()
    begins = np.flatnonzero(np.diff(trial, prepend=-1) | np.diff(attempt, prepend=-1))
    kept = np.ones(len(table), dtype=bool)
    end = len(table)
    # trial -> the step at which the attempts after this one begin, and their metrics there
    until: dict[int, tuple[float, set[int]]] = {}
    for begin in begins[::-1]:
        number, own = int(trial[begin]), slice(begin, end)
        first, again = until.get(number, (math.inf, set[int]()))
        is_new = (step[own] == first) & ~np.isin(metric[own], list(again))
        kept[own] = (step[own] < first) | is_new
        if (begun := int(step[begin])) <= first:
            at_first = set(metric[own][step[own] == begun].tolist())
            until[number] = begun, at_first | (again if begun == first else set())
        end = begin
    return table.filter(pa.array(kept))
