"""Which driver of a shared study is alive: each beats in the storage, the others listen.

A trial that runs belongs to the driver its `driver` attribute names
(`iolaus.sweeps.study.live_storage.LiveStorage`). Here is decided when that driver is dead, so that
its trials may be taken over. Two ways lead there. A process of this machine that is gone is dead at
once. Any other is dead when its beat has not changed for the grace period, by the clock of whoever
listens and only while the storage answers: no clock is compared with another's, and a database that
is locked silences nobody.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iolaus.sweeps.study.live_storage import LiveStorage

__all__ = ["Leases", "Silence", "is_alive_here", "new_driver_name", "this_process"]

log = logging.getLogger("sweeps")

# A beat is one short write of each driver. A grace period has room for six, so that a slow one, or
# one that a locked database has held up, is not taken for a death.
MOST_BEAT_S = 5.0
BEATS_PER_GRACE_PERIOD = 6

KEY = "iolaus:driver:"  # a driver's study attribute: who it is, and its beat


def new_driver_name() -> str:
    """A name of this process among the drivers of a study, that none had or will have."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def this_process() -> dict[str, Any]:
    """What tells this process from any other, on this machine or another; {} without /proc.

    boot and pid_namespace: within both, a pid and the tick at which it started are of one process.
    Containers share a host name, but not these.
    """
    try:
        return {
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
        }
    except OSError:
        return {}


def is_alive_here(attrs: Mapping[str, Any], driver: str) -> bool | None:
    """Whether a driver's process is there; None if that cannot be seen from here.

    attrs: the study's system attributes.
    """
    process, here = attrs.get(KEY + driver) or {}, this_process()
    place = ("boot", "pid_namespace")
    if not here or any(process.get(name) != here[name] for name in place):
        return None
    return bool(_started(process["pid"]) == process["started"])


def _started(pid: int) -> int | None:
    """The tick after the boot at which a process was started; None if there is none or it is dead.

    A number that was given again is of a process that started later.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # a name may have blanks and brackets
    return None if state in "ZX" else int(fields[18])


class Silence:
    """How long each driver has been silent, by the clock of who listens.

    most_gap_s: of the time between two looks no more than this counts. Who was suspended, or got no
    answer, has not listened.
    """

    def __init__(self, most_gap_s: float) -> None:
        self._most_gap_s = most_gap_s
        self._looked_s: float | None = None
        self._listened_s = 0.0
        self._beats: dict[str, int] = {}
        self._heard_s: dict[str, float] = {}

    def hear(self, beats: Mapping[str, int], now_s: float) -> None:
        """Take in everyone's last beat, as it is at now_s."""
        if self._looked_s is not None:
            self._listened_s += min(now_s - self._looked_s, self._most_gap_s)
        self._looked_s = now_s
        for driver, beat in beats.items():
            if self._beats.get(driver) != beat:
                self._beats[driver], self._heard_s[driver] = beat, self._listened_s

    def of(self, driver: str) -> float:
        """Seconds listened since its beat last changed; of one never heard, since first asked."""
        return self._listened_s - self._heard_s.setdefault(driver, self._listened_s)


class Leases:
    """Says of this driver that it lives, and of others whether they do.

    storage: has this driver's name. grace_period_s: > 0, of silence, after which a driver is dead.
    clock: seconds, never going back.
    """

    def __init__(
        self,
        storage: LiveStorage,
        study_id: int,
        grace_period_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.driver = storage.driver
        self.beat_s = min(MOST_BEAT_S, grace_period_s / BEATS_PER_GRACE_PERIOD)
        self._storage = storage
        self._study_id = study_id
        self._grace_period_s = grace_period_s
        self._clock = clock
        self._process = this_process()
        self._n_beats = 0
        self._lock = threading.Lock()
        self._attrs: Mapping[str, Any] = {}
        self._silence = Silence(2 * self.beat_s)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Beat from now on, whatever this driver is busy with."""
        self._thread = threading.Thread(target=self._beat_on, name="iolaus-beat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Beat no more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self) -> None:
        """Beat once, and hear the others."""
        self._n_beats += 1
        mine = {**self._process, "beat": self._n_beats}
        attrs = self._storage.beat(self._study_id, KEY + self.driver, mine)
        beats = {k.removeprefix(KEY): v["beat"] for k, v in attrs.items() if k.startswith(KEY)}
        with self._lock:
            self._attrs = attrs
            self._silence.hear(beats, self._clock())

    def is_alive(self, driver: str) -> bool:
        """Whether a driver may still run its trials: this one, or one heard of lately."""
        if driver == self.driver:
            return True
        with self._lock:
            if is_alive_here(self._attrs, driver) is False:
                return False
            return self._silence.of(driver) < self._grace_period_s

    def _beat_on(self) -> None:
        while not self._closing.wait(self.beat_s):
            try:
                self.beat()
            except Exception as error:  # the next may come through; what cannot be written is told
                log.debug("a beat was not written: %s", error)
