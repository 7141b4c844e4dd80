"""What the slots of a sweep hold and do, in `slots.csv` of its folder: a row every few seconds."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iolaus.sweeps.run.devices import DeviceUse

__all__ = ["SlotRow", "SlotState", "SlotsLog"]

log = logging.getLogger("sweeps")

# From one row of a slot to its next. It doubles each time that a session has written so many rows:
# the file of a sweep that runs for weeks stays a few MB.
EVERY_S = 2.0
N_ROWS_TO_DOUBLE = 20_000


@dataclass(frozen=True, slots=True)
class SlotState:
    """What a busy slot has at the moment: its trial, its last step, and the peaks of its memory."""

    slot: int
    trial: int
    device: str = ""
    step: int | None = None
    gpu_bytes: int | None = None
    ram_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SlotRow:
    """A row. What is not known is None, an empty cell.

    time_s: since 1970, UTC. session: of the study. gpu_bytes: most that the trial has held so far
    of the GPU, by torch; ram_bytes: most that its process has held resident. steps_per_s: since the
    row before. device_used_bytes, utilisation (a share), temperature_c: of the whole GPU.
    """

    time_s: float
    session: int
    slot: int
    trial: int
    device: str
    gpu_bytes: int | None
    ram_bytes: int | None
    steps_per_s: float | None
    device_used_bytes: int | None
    utilisation: float | None
    temperature_c: int | None


class SlotsLog:
    """Appends rows to a file in a folder that exists; one that cannot be written is given up.

    clock: seconds since 1970.
    """

    def __init__(self, path: Path, session: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._session = session
        self._clock = clock
        self._every_s = EVERY_S
        self._last_s = clock()
        self._n_rows = 0
        self._steps: dict[int, tuple[int, float]] = {}  # trial -> its step, and when
        self._is_open = True

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next rows."""
        return self._clock() - self._last_s >= self._every_s

    def add(self, states: Sequence[SlotState], uses: Mapping[str, DeviceUse]) -> list[SlotRow]:
        """Write a row for each busy slot; returns the rows."""
        self._last_s = now_s = self._clock()
        rows = [self._row(state, uses.get(state.device, DeviceUse()), now_s) for state in states]
        known = {state.trial: state.step for state in states}
        self._steps = {trial: (s, now_s) for trial, s in known.items() if s is not None}
        self._write(rows)
        self._n_rows += len(rows)
        if self._n_rows >= N_ROWS_TO_DOUBLE:
            self._n_rows, self._every_s = 0, 2 * self._every_s
        return rows

    def _row(self, state: SlotState, use: DeviceUse, now_s: float) -> SlotRow:
        rate = None
        if state.step is not None and state.trial in self._steps:
            step, then_s = self._steps[state.trial]
            rate = (
                round(max(state.step - step, 0) / (now_s - then_s), 3) if now_s > then_s else None
            )
        return SlotRow(
            *(round(now_s, 1), self._session, state.slot, state.trial, state.device),
            *(state.gpu_bytes, state.ram_bytes, rate),
            *(use.used_bytes, use.utilisation, use.temperature_c),
        )

    def _write(self, rows: Sequence[SlotRow]) -> None:
        if not rows or not self._is_open:
            return
        names = [field.name for field in dataclasses.fields(SlotRow)]
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(names)
                writer.writerows([getattr(row, name) for name in names] for row in rows)
        except OSError as error:
            self._is_open = False
            log.warning("%s ends here: %s; the sweep goes on", self._path, error.strerror)
