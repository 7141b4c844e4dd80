"""Every reported metric of every trial, in Parquet files that can be read while the sweep runs.

`curves/*.parquet` has the columns trial (int64), step (int64), seconds (float64, since the trial
began), metric (string), value (float64), one row per metric and report, in the order of arrival
within a trial. Files are written whole and renamed into place, so any reader of Parquet sees
complete files only, and a crash loses at most `FLUSH_S` seconds. A row takes about 7 bytes: the
quickstart's 18,309 rows, thirteen metrics at up to 1,607 reports, are 129 KB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iolaus.sweeps.reporting import Row

FLUSH_S = 2.0
# Small files are merged when there are this many. While two names hold the same rows a reader may
# see both for some milliseconds; `read_curves` drops the repetition.
N_FILES_TO_MERGE = 100

SCHEMA = pa.schema(
    [
        ("trial", pa.int64()),
        ("step", pa.int64()),
        ("seconds", pa.float64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)

# Seconds only grow within a trial: this is the order in which it reported.
ORDER = [("trial", "ascending"), ("seconds", "ascending"), ("step", "ascending")]


class CurveWriter:
    """Collects rows and writes them every `FLUSH_S` seconds.

    folder: made when the first rows are written. session: part of the file names, different for
    every writer.
    clock: seconds, any origin.
    """

    def __init__(self, folder: Path, session: str, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._session = session
        self._clock = clock
        self._flushed_s = clock()
        self._rows: list[tuple[int, int, float, str, float]] = []
        self._files: list[Path] = []
        self._n_written = 0

    def add(self, trial: int, rows: Sequence[Row]) -> None:
        """Take a trial's reports; they reach the disk at the next flush."""
        for row in rows:
            self._rows += [
                (trial, row.step, row.seconds, name, value) for name, value in row.metrics.items()
            ]

    def flush_if_due(self) -> None:
        """Write what has come in, if the last time was long enough ago."""
        if self._rows and self._clock() - self._flushed_s >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what has come in."""
        self._flushed_s = self._clock()
        if not self._rows:
            return
        columns = [
            _array(field.type, column)
            for field, column in zip(SCHEMA, zip(*self._rows, strict=True), strict=True)
        ]
        self._files.append(self._write(pa.Table.from_arrays(columns, schema=SCHEMA)))
        self._rows.clear()
        if len(self._files) >= N_FILES_TO_MERGE:
            self._merge()

    def close(self) -> None:
        """Write the rest and leave one file for this session."""
        self.flush()
        if len(self._files) > 1:
            self._merge()

    def _merge(self) -> None:
        merged = pa.concat_tables([pq.ParquetFile(path).read() for path in self._files])
        old, self._files = self._files, [self._write(merged.sort_by(ORDER))]
        for path in old:
            path.unlink()

    def _write(self, table: pa.Table) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._session}-{self._n_written:06d}.parquet"
        unfinished = path.with_suffix(".writing")
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, path)
        self._n_written += 1
        return path


def _array(kind: pa.DataType, values: tuple[Any, ...]) -> pa.Array:
    """As pa.array, which imports pandas.

    A second in which the driver, amid a sweep, would serve nobody.
    """
    if pa.types.is_string(kind):
        builder = pa.lib.StringBuilder()
        builder.append_values(values)
        return builder.finish()
    buffer = pa.py_buffer(np.array(values, kind.to_pandas_dtype()))
    return pa.Array.from_buffers(kind, len(values), [None, buffer])


def read_curves(folder: Path) -> pa.Table:
    """All curves of a sweep, each row once, by trial and time.

    An empty table if nothing was reported yet. Works while the sweep runs: files that are merged
    away between listing and reading are looked up again.
    """
    for attempt in range(3):
        try:
            tables = [
                pq.read_table(path, schema=SCHEMA) for path in sorted(folder.glob("*.parquet"))
            ]
            break
        except FileNotFoundError:
            if attempt == 2:
                raise
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    if (
        len(tables) > 1
    ):  # rows read twice, from a merged file and the files it replaces, are equal in all columns
        table = table.group_by(SCHEMA.names).aggregate([])
    return table.sort_by(ORDER)
