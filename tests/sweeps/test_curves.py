"""Curves on disk: nothing lost, nothing doubled, readable by anyone at any moment."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps import curves
from iolaus.sweeps.curves import FLUSH_S, CurveWriter, read_curves
from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.reporting import Row

COLUMNS = ["trial", "step", "seconds", "metric", "value"]

values = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])
metrics = st.dictionaries(st.sampled_from(["loss", "grad_norm/W", "ü b"]), values, min_size=1)
# (trial, step, metrics, what to do then); the place in the list is the time.
histories = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 2**40),
        metrics,
        st.sampled_from(["", "", "flush", "read"]),
    ),
    max_size=25,
)


def read_with_pandas(folder: Path) -> pd.DataFrame:
    """As its documentation says: a folder of Parquet files."""
    return pd.read_parquet(folder, engine="pyarrow")


def read_with_polars(folder: Path) -> pd.DataFrame:
    return pytest.importorskip("polars").read_parquet(folder / "*.parquet").to_pandas()


def read_with_duckdb(folder: Path) -> pd.DataFrame:
    return pytest.importorskip("duckdb").sql(f"select * from '{folder}/*.parquet'").df()


def rows_of(frame: pd.DataFrame) -> list[str]:
    """Rows to the last bit, as a sorted list: also NaN is equal to itself."""
    assert [name for name in frame.columns if name != "attempt"] == COLUMNS
    frame = frame[COLUMNS]
    return sorted(map(repr, frame.itertuples(index=False, name=None)))


def expected_rows(history: Sequence[tuple[int, int, dict[str, float], str]]) -> list[str]:
    return sorted(
        repr((trial, step, float(i), name, value))
        for i, (trial, step, reported, _) in enumerate(history)
        for name, value in reported.items()
    )


@given(history=histories, n_files=st.integers(2, 5))
def test_what_is_added_is_read(
    history: Any, n_files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However reports are cut into files and the files merged, all readers see every row once,
    after any flush.
    """
    folder = tmp_path_factory.mktemp("curves") / "curves"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "N_FILES_TO_MERGE", n_files)
        writer = CurveWriter(folder, "session", clock=lambda: 0.0)
        for i, (trial, step, reported, then) in enumerate(history):
            writer.add(trial, [Row(step, float(i), reported)])
            if then:
                writer.flush()
            if then == "read":
                assert rows_of(read_curves(folder).to_pandas()) == expected_rows(history[: i + 1])
                assert rows_of(read_with_pandas(folder)) == expected_rows(history[: i + 1])
            assert len(list(folder.glob("*"))) < n_files
        writer.close()
    assert rows_of(read_curves(folder).to_pandas()) == expected_rows(history)
    assert len(list(folder.glob("*"))) == bool(history)


@given(
    begins=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=4),
    is_one_session=st.booleans(),
)
def test_the_attempts_of_a_trial_are_one_curve(
    begins: list[tuple[int, int]], is_one_session: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each attempt overwrites what those before reported from its first step on, and no more."""
    folder = tmp_path_factory.mktemp("curves")
    expected: dict[int, float] = {}
    writer = CurveWriter(folder, "all", clock=lambda: 0.0)
    for attempt, (begin, n_steps) in enumerate(begins):
        if not is_one_session:
            writer.close()
            writer = CurveWriter(folder, f"{9 - attempt}", clock=lambda: 0.0)
        rows = [Row(step, float(step), {"loss": attempt}) for step in range(begin, begin + n_steps)]
        writer.add(3, rows, attempt)
        writer.add(4, rows if attempt == 0 else [])
        writer.flush()
        expected = {step: value for step, value in expected.items() if step < begin}
        expected |= {row.step: row.metrics["loss"] for row in rows}
    writer.close()
    table = read_curves(folder).to_pandas()
    assert list(table.columns) == COLUMNS
    one = table[table["trial"] == 3]
    assert dict(zip(one["step"], one["value"], strict=True)) == expected
    assert len(one) == len(expected)
    assert list(table[table["trial"] == 4]["step"]) == [*range(begins[0][0], sum(begins[0]))]


def test_what_an_attempt_does_not_report_again_at_its_first_step_stays(tmp_path: Path) -> None:
    """A trial may report twice at a step, and make its checkpoint in between."""
    writer = CurveWriter(tmp_path, "0", clock=lambda: 0.0)
    first = [({"loss": 1.0}, 0), ({"loss": 2.0}, 1), ({"val": 3.0}, 1), ({"loss": 4.0}, 2)]
    writer.add(0, [Row(step, float(i), metrics) for i, (metrics, step) in enumerate(first)])
    again = [({"val": 5.0}, 1), ({"loss": 6.0}, 2)]
    writer.add(0, [Row(step, float(i), metrics) for i, (metrics, step) in enumerate(again)], 1)
    writer.close()
    assert read_curves(tmp_path)["value"].to_pylist() == [1.0, 2.0, 5.0, 6.0]


@given(history=histories)
def test_curves_are_in_order(history: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows come by trial, and within a trial in the order of its reports, whoever wrote which
    file.
    """
    folder = tmp_path_factory.mktemp("curves")
    writers = [CurveWriter(folder, name, clock=lambda: 0.0) for name in ("b", "a")]
    for i, (trial, step, reported, then) in enumerate(history):
        writers[i % 2].add(trial, [Row(step, float(i), reported)])
        if then:
            writers[i % 2].flush()
    for writer in writers:
        writer.close()
    table = read_curves(folder)
    order = list(zip(table["trial"].to_pylist(), table["seconds"].to_pylist(), strict=True))
    assert order == sorted(order)


@pytest.mark.parametrize("read", [read_with_pandas, read_with_polars, read_with_duckdb])
def test_others_read_it_while_it_is_written(
    read: Callable[[Path], pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pandas, polars and duckdb read the folder between two flushes, a crashed writer's leftovers
    beside it.
    """
    monkeypatch.setattr(curves, "N_FILES_TO_MERGE", 4)
    (tmp_path / "crashed-000007.writing").write_bytes(b"PAR1 half a file")
    writer = CurveWriter(tmp_path, "session", clock=lambda: 0.0)
    history = [
        (i % 3, i, {"loss": [1.5, math.nan, math.inf][i % 3], "lr": 0.1}, "") for i in range(30)
    ]
    for i, (trial, step, reported, _) in enumerate(history):
        writer.add(trial, [Row(step, float(i), reported)])
        writer.flush()
        if i % 5 == 4:
            files = sorted(tmp_path.glob("*.parquet"))
            frame = (
                pd.concat([pd.read_parquet(path) for path in files])
                if read is read_with_pandas
                else read(tmp_path)
            )
            assert rows_of(frame) == expected_rows(history[: i + 1])
    assert rows_of(read_curves(tmp_path).to_pandas()) == expected_rows(history)


def test_a_merge_that_was_cut_off_doubles_nothing(tmp_path: Path) -> None:
    """If a crash leaves a merged file beside the files that went into it, read_curves still gives
    each row once.
    """
    writer = CurveWriter(tmp_path, "session", clock=lambda: 0.0)
    kept = {}
    for i in range(3):
        writer.add(0, [Row(i, float(i), {"loss": math.nan if i == 1 else float(i)})])
        writer.flush()
        kept.update({path: path.read_bytes() for path in tmp_path.glob("*")})
    writer.close()
    for path, content in kept.items():
        path.write_bytes(content)
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert read_curves(tmp_path)["step"].to_pylist() == [0, 1, 2]


def test_a_reader_that_a_merge_overtakes_still_reads_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a merge deletes one file after the other, always just ahead of the reader, read_curves
    gives each row once; a file that is listed and never there is an error.
    """
    files = curves._Files(tmp_path, "session")
    for step in range(curves.N_FILES_TO_MERGE - 1):
        rows = curves._Rows()
        rows.add(0, 0, Row(step, float(step), {"loss": 1.0}))
        files.add(rows.table())
    small = sorted(tmp_path.glob("*.parquet"))
    read = curves._read
    files._keep(pa.concat_tables(table for path in small if (table := read(path)) is not None))

    def read_behind(path: Path) -> pa.Table | None:
        for ahead in small[small.index(path) :][:2] if path in small else ():
            ahead.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(curves, "_read", read_behind)
    assert read_curves(tmp_path)["step"].to_pylist() == list(range(len(small)))

    (tmp_path / "dangling.parquet").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="dangling"):
        read_curves(tmp_path)


def test_rows_wait_for_two_seconds_and_no_longer(tmp_path: Path) -> None:
    """Rows reach the disk FLUSH_S after the last time, and the folder is made only then."""
    now = [0.0]
    folder = tmp_path / "curves"
    writer = CurveWriter(folder, "session", clock=lambda: now[0])
    writer.add(0, [Row(0, 0.0, {"loss": 1.0})])
    now[0] = FLUSH_S - 0.01
    writer.flush_if_due()
    assert not folder.exists()
    now[0] = FLUSH_S
    writer.flush_if_due()
    writer.flush()  # only waits: the rows were handed over before
    assert len(read_curves(folder)) == 1
    now[0] = 10 * FLUSH_S
    writer.flush_if_due()
    assert len(list(folder.iterdir())) == 1


def test_a_sweep_that_reported_nothing_has_empty_curves(tmp_path: Path) -> None:
    """The table has all columns and no row, and nothing was written."""
    CurveWriter(tmp_path / "curves", "session", clock=lambda: 0.0).close()
    table = read_curves(tmp_path / "curves")
    assert (table.column_names, len(table)) == (COLUMNS, 0)
    assert not (tmp_path / "curves").exists()


def test_writing_does_not_import_pandas(tmp_path: Path) -> None:
    """The driver would serve nobody for the second that takes in the middle of a sweep."""
    script = f"""
import sys
from pathlib import Path
from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.reporting import Row
writer = CurveWriter(Path({str(tmp_path)!r}), "session", lambda: 0.0)
for step in range(2):
    writer.add(0, [Row(step, 0.0, {{"loss": 1.0}})])
    writer.flush()
writer.close()
sys.exit("pandas" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert read_curves(tmp_path).num_rows == 2


def small_writer(folder: Path) -> CurveWriter:
    return CurveWriter(folder, "session", clock=lambda: 0.0)


def test_half_a_file_has_no_name_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is half written readers find only whole ones, and a writer that dies there
    leaves nothing that is read.
    """
    writer = small_writer(tmp_path)
    writer.add(0, [Row(0, 0.0, {"loss": 1.0})])
    writer.flush()
    seen = []

    def stops_midway(table: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"PAR1 half a file")
        seen.append(read_curves(tmp_path)["step"].to_pylist())
        raise OSError("No space left on device")

    monkeypatch.setattr(curves.pq, "write_table", stops_midway)
    writer.add(0, [Row(1, 1.0, {"loss": 0.5})])
    with pytest.raises(StorageError, match="No space left"):
        writer.flush()
    assert seen == [[0]]
    assert read_curves(tmp_path)["step"].to_pylist() == [0]
    with pytest.raises(StorageError):
        writer.close()


def test_a_disk_that_is_full_is_said_and_not_lost(tmp_path: Path) -> None:
    """The thread's error reaches whoever reports next, with the folder and what to do."""
    (tmp_path / "curves").write_text("a file where the folder should be")
    now = [0.0]
    writer = CurveWriter(tmp_path / "curves", "session", clock=lambda: now[0])
    writer.add(0, [Row(0, 0.0, {"loss": 1.0})])
    now[0] = FLUSH_S
    writer.flush_if_due()
    with pytest.raises(StorageError, match=r"curves cannot be written.*run the same command again"):
        writer.flush()
    with pytest.raises(StorageError):
        writer.flush_if_due()
    with pytest.raises(StorageError):
        writer.close()


def test_nobody_waits_for_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports and due flushes return while a write or a merge takes as long as it likes; close
    waits for all of it.
    """
    monkeypatch.setattr(curves, "N_FILES_TO_MERGE", 2)
    go_on, real = threading.Event(), curves.pq.write_table
    monkeypatch.setattr(curves.pq, "write_table", lambda *a, **k: (go_on.wait(30), real(*a, **k)))
    now = [0.0]
    writer = CurveWriter(tmp_path, "session", clock=lambda: now[0])
    for step in range(5):
        writer.add(0, [Row(step, float(step), {"loss": 1.0})])
        now[0] += FLUSH_S
        writer.flush_if_due()
    assert list(tmp_path.glob("*.parquet")) == []  # the first write has not even ended
    go_on.set()
    writer.close()
    assert read_curves(tmp_path)["step"].to_pylist() == list(range(5))


def test_files_that_are_large_are_merged_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No merge takes in a whole file, so none is longer than about N_ROWS_WHOLE rows."""
    monkeypatch.setattr(curves, "N_FILES_TO_MERGE", 4)
    monkeypatch.setattr(curves, "N_ROWS_WHOLE", 10)
    writer = small_writer(tmp_path)
    for step in range(100):
        writer.add(0, [Row(step, float(step), {"loss": 1.0})])
        writer.flush()
    writer.close()
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in tmp_path.glob("*.parquet")]
    assert max(sizes) < 20
    assert sum(sizes) == 100
    assert read_curves(tmp_path)["step"].to_pylist() == list(range(100))


def test_what_was_handed_over_says_when_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is set once the rows can be read, not before; at once where there is nothing."""
    writer = CurveWriter(tmp_path / "curves", "session", clock=lambda: 0.0)
    assert writer.written_behind().is_set()
    may_write = threading.Event()
    keep = curves._Files._keep

    def held_up(files: Any, table: Any) -> None:
        may_write.wait(10)
        keep(files, table)

    monkeypatch.setattr(curves._Files, "_keep", held_up)
    writer.add(3, [Row(0, 0.0, {"loss": 1.0})])
    written = writer.written_behind()
    assert not written.wait(0.1)
    may_write.set()
    assert written.wait(10)
    assert read_curves(tmp_path / "curves").num_rows == 1
    writer.close()


def test_rows_that_cannot_be_written_hold_nobody_up(tmp_path: Path) -> None:
    """The event is set all the same: what a database can still take is not lost too."""
    (tmp_path / "curves").write_text("no folder")
    writer = CurveWriter(tmp_path / "curves", "session", clock=lambda: 0.0)
    writer.add(0, [Row(0, 0.0, {"loss": 1.0})])
    assert writer.written_behind().wait(10)
    with pytest.raises(StorageError, match="cannot be written"):
        writer.close()
