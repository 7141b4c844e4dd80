"""The file of what slots hold and do."""

from __future__ import annotations

from pathlib import Path

import pytest

from iolaus.analysis.data.slots import read_slots
from iolaus.sweeps.run.devices import DeviceUse
from iolaus.sweeps.run.slots_log import EVERY_S, N_ROWS_TO_DOUBLE, SlotsLog, SlotState

USE = {"0": DeviceUse(5 * 2**30, 0.25, 61)}


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A row for each busy slot, with the steps per second since its last row; sessions append."""
    clock = Clock()
    for session in range(2):
        log = SlotsLog(tmp_path / "slots.csv", session, clock)
        assert not log.is_due
        for step in (10, 30):
            clock.now_s += EVERY_S
            assert log.is_due
            log.add([SlotState(0, 7, "0", step, 2**30, None), SlotState(1, 8)], USE)
    rows = read_slots(tmp_path, None)
    assert rows["session"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    own = rows[rows["trial"] == 7]
    assert own["steps_per_s"].dropna().tolist() == [20 / EVERY_S] * 2
    assert set(own["utilisation"]) == {0.25}
    assert set(own["device"]) == {"0"}
    assert rows[rows["trial"] == 8]["device_used_bytes"].isna().all()
    assert rows["at_s"].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]


def test_a_line_that_was_cut_off_costs_itself(tmp_path: Path) -> None:
    """The rest is read; a file that is no such table is left out, with a warning."""
    clock = Clock()
    log = SlotsLog(tmp_path / "slots.csv", 0, clock)
    log.add([SlotState(0, 1)], {})
    with (tmp_path / "slots.csv").open("a") as file:
        file.write("1004.0,0,1")
    assert len(read_slots(tmp_path, None)) == 1
    (tmp_path / "slots.csv").write_text("no\ntable\n")
    with pytest.warns(UserWarning, match="damaged"):
        assert read_slots(tmp_path, None).empty


def test_the_file_of_a_long_sweep_stays_small(tmp_path: Path) -> None:
    """Each time so many rows are written the time between them doubles."""
    clock = Clock()
    log = SlotsLog(tmp_path / "slots.csv", 0, clock)
    states = [SlotState(slot, slot) for slot in range(N_ROWS_TO_DOUBLE)]
    log.add(states, {})
    clock.now_s += EVERY_S
    assert not log.is_due
    clock.now_s += EVERY_S
    assert log.is_due


def test_a_disk_that_takes_no_more_costs_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and the sweep goes on."""
    log = SlotsLog(tmp_path / "missing" / "slots.csv", 0, Clock())
    assert log.add([SlotState(0, 1)], {})
    log.add([SlotState(0, 1)], {})
    assert caplog.text.count("ends here") == 1
