"""A driver as a function that an engine runs: how it ends, and how it is ended."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iolaus.sweeps.run._engines import DriverCommand, Ended, start_drivers
from iolaus.sweeps.run._launcher import Launch
from iolaus.sweeps.study.folder import DRIVER_VARIABLE

# Ends by a signal, some time after it, with a code of a shell, as drivers do; by a second one at
# once. When it is up there is a file.
WAITS = """
import os, pathlib, signal, sys, time
def end(*_):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    time.sleep(0.3)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
pathlib.Path("up").touch()
time.sleep(60)
"""


def driver(folder: Path, script: str) -> DriverCommand:
    return DriverCommand([sys.executable, "-c", script], folder, folder / "logs" / "driver-0.log")


def test_a_driver_knows_that_it_is_one_and_how_it_ended_is_told(tmp_path: Path) -> None:
    """Its variables are given, what it prints is kept, and the last of it comes back."""
    script = f"import os; print(os.environ['{DRIVER_VARIABLE}'], os.environ['SECRET']); exit(3)"
    ended = driver(tmp_path, script)({"SECRET": "geheim"})
    assert ended.code == 3
    assert ended.has_failed
    assert ended.why == f"ended with code 3, see {tmp_path}/logs/driver-0.log:\n1 geheim"
    driver(tmp_path, script)({"SECRET": "again"})
    assert (tmp_path / "logs" / "driver-0.log").read_text() == "1 geheim\n1 again\n"


@pytest.mark.parametrize(("code", "stopped_by"), [(0, None), (1, None), (130, 2), (143, 15)])
def test_a_stop_is_no_failure(code: int, stopped_by: int | None) -> None:
    """Codes are those of shells: 128 and the signal's number."""
    ended = Ended(code, "")
    assert ended.stopped_by == stopped_by
    assert ended.has_failed == (code == 1)


@pytest.mark.parametrize("how", ["SIGTERM", "checkpoint", "end"])
def test_a_driver_is_ended_once_and_waited_for(
    how: str, eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """A second signal would cut its trials' checkpoints off."""
    command, begun = driver(tmp_path, WAITS), threading.Event()

    def act() -> None:
        eventually((tmp_path / "up").exists)
        if how == "SIGTERM":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        elif how == "end":
            command.end()
        else:
            pytest.importorskip("submitit")
            command.checkpoint()
        time.sleep(0.1)
        command.end()
        begun.set()

    threading.Thread(target=act).start()
    ended = command()
    assert begun.wait(10)
    assert ended.stopped_by == signal.SIGTERM
    assert ended.why.endswith("begun")


def test_warnings_of_slurm_do_not_reach_the_driver(
    eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """Slurm sends them to all processes of a job; by default they would end it."""
    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('lives')"
    assert driver(tmp_path, script)().why.endswith("lives")


def test_processes_of_this_machine(eventually: Callable[..., Any], tmp_path: Path) -> None:
    """Each job is over when its driver is, or when it is cancelled."""
    launch = Launch("joblib", {}, 2)
    commands = [driver(tmp_path, "print('done')"), driver(tmp_path, WAITS)]
    quick, slow = start_drivers(launch, commands, {})
    eventually(quick.is_over)
    assert quick.ended().code == 0
    eventually((tmp_path / "up").exists)
    assert not slow.is_over()
    slow.cancel()
    eventually(slow.is_over)
    assert slow.ended().stopped_by == signal.SIGTERM
