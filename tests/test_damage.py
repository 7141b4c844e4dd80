"""Disks that are full, files that are damaged or gone: what is said, and what is lost."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import SCHEMA, read_curves
from iolaus.sweeps.errors import BadInputError, StorageError
from iolaus.sweeps.study.folder import read_study

SWEEP = (
    *("hell.py", "x=interval(0, 1)", "do=fill disk", "hydra.sweeper.n_jobs=2"),
    "hydra/sweeper/sampler=random",
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is for root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_a_sweep_in_order(sweep: Any, study: Any, small_disk: Path) -> None:
    """What runs is finished and recorded, the summary follows, and it is said what to free.

    When there is room, the same command reaches the total.
    """
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    command = (*SWEEP, "hydra.sweeper.n_trials=6", "n_steps=12_000")
    run = sweep(*command, folder=small_disk / "study").wait()
    assert run.code == 1
    assert "Traceback" not in run.out + run.err
    assert "No space left on device; free some space on that disk and run the same" in run.err
    assert "next:" in run.out
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    sweep(*command, folder=small_disk / "study").ok()
    states = [t.state for t in study(small_disk / "study").trials]
    assert states == [TrialState.COMPLETE] * 6


@pytest.fixture
def swept(sweep: Any, tmp_path: Path) -> Path:
    """The folder of a small sweep that is over."""
    sweep(*SWEEP, "hydra.sweeper.n_trials=4", "n_steps=50").ok()
    return tmp_path / "study"


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_named_and_the_rest_is_read(
    damage: str, swept: Path, sweep: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the damage is one bit amid the numbers; and the sweep goes on."""
    swept_again = (*SWEEP, "hydra.sweeper.n_trials=6", "n_steps=50")
    sweep(*swept_again).ok()  # a second part
    part = min((swept / "curves").glob("*.parquet"))
    before, data = read_curves(swept / "curves").num_rows, bytearray(part.read_bytes())
    values = pq.ParquetFile(part).metadata.row_group(0).column(len(SCHEMA) - 1)
    data[values.data_page_offset + values.total_compressed_size // 2] ^= 1
    part.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    assert 0 < read_curves(swept / "curves").num_rows < before
    assert f"{part} is damaged, and its part of the curves is left out" in caplog.text
    sweep(*swept_again, "hydra.sweeper.n_trials=7").ok()


@pytest.mark.parametrize("damage", [lambda path: path.write_text(""), lambda path: path.unlink()])
def test_a_curves_folder_that_is_removed_ends_nothing(
    damage: Any, sweep: Any, study: Any, tmp_path: Path, eventually: Any
) -> None:
    """Files of curves that vanish, or are emptied, amid a sweep cost what was in them."""
    run = sweep(*SWEEP, "hydra.sweeper.n_trials=8", "n_steps=5000")
    curves = tmp_path / "study" / "curves"
    for path in eventually(lambda: list(curves.glob("*.parquet"))):
        damage(path)
    run.ok()
    assert "Traceback" not in run.out + run.err
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 8


def test_a_damaged_study_is_refused_in_a_sentence(swept: Path, sweep: Any) -> None:
    """A database or a description that is cut short: which file, and what can be done."""
    description = (swept / "sweep.yaml").read_text()
    (swept / "sweep.yaml").write_text("")
    with pytest.raises(BadInputError, match=r"sweep.yaml is damaged .*own command writes it anew"):
        read_study(swept)
    (swept / "sweep.yaml").write_text(description)
    database = swept / "study.db"
    database.write_bytes(database.read_bytes()[:20_000])
    with pytest.raises(StorageError, match=r"study.db: .*malformed; the file is damaged: put back"):
        read_study(swept)
    run = sweep(*SWEEP, "hydra.sweeper.n_trials=6").wait()
    assert run.code == 1
    assert "the file is damaged: put back a copy" in run.err
    assert "Traceback" not in run.err


@pytest.mark.parametrize("lock_s", [3, pytest.param(90, marks=pytest.mark.slow)])
def test_a_locked_database_is_waited_for(
    lock_s: float, sweep: Any, study: Any, eventually: Any, tmp_path: Path
) -> None:
    """Another program has it for a minute and a half: nothing is lost, and nothing runs twice."""
    options = ("hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2", "n_steps=20", "step_s=0.05")
    run = sweep("trouble.py", "x=interval(0, 1)", "do=report", *options)
    shown = run.folder / "stdout"
    eventually(lambda: shown.is_file() and "trial 0 completed" in run.out)
    with contextlib.closing(sqlite3.connect(tmp_path / "study" / "study.db", timeout=30)) as other:
        other.isolation_level = None
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(lock_s)
        other.execute("ROLLBACK")
    run.ok()
    assert [t.state for t in study().trials] == [TrialState.COMPLETE] * 8
    table = read_curves(tmp_path / "study" / "curves").to_pandas()
    assert table.groupby("trial")["step"].agg(list).tolist() == [[*range(20)]] * 8
