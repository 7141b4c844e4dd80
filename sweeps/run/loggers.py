"""Experiment trackers that a sweep writes to: a process beside it, so that they cannot harm it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from iolaus.sweeps.errors import BadInputError

__all__ = ["find_loggers", "logged"]

log = logging.getLogger("sweeps")

GROUP = "iolaus.loggers"
OUTPUT_FILE = "logged.log"  # what the trackers print
# How long a sweep that is over waits for the last runs to be written.
LAST_RUNS_S = 60.0


def find_loggers(names: Sequence[str], option: str) -> dict[str, EntryPoint]:
    """The entry points of these names; nothing is looked up for none.

    Raises BadInputError for a name that no installed package offers, given as `option`.
    """
    if not names:
        return {}
    known = {point.name: point for point in entry_points(group=GROUP)}
    if unknown := [name for name in names if name not in known]:
        there_are = ", ".join(sorted(known)) or "none installed"
        raise BadInputError(f"{option}{unknown[0]}: choose from {there_are}")
    return {name: known[name] for name in names}


@contextmanager
def logged(names: Sequence[str], folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what starts `iolaus log --follow` on a study that there is now.

    It ends by itself once nobody holds the folder; at the end this waits a minute for it, and says
    if it has failed, or goes on alone.
    """
    process: subprocess.Popen[bytes] | None = None

    def start() -> None:
        nonlocal process
        if not names:
            return
        to = [word for name in names for word in ("--to", name)]
        command = [sys.executable, "-m", "iolaus.cli", "log", str(folder), "--follow", *to]
        try:
            with (folder / OUTPUT_FILE).open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the sweep
                )
        except OSError as error:  # no tracker is worth a sweep
            log.warning("nothing is written to %s: %s", ", ".join(names), error)

    yield start
    if process is None:
        return
    again = f"see {folder / OUTPUT_FILE}; `iolaus log` writes what is missing"
    try:
        code = process.wait(LAST_RUNS_S)
    except subprocess.TimeoutExpired:
        log.info("trials are still being written to %s; %s", ", ".join(names), again)
        return
    if code:
        log.warning("not every trial was written to each of %s; %s", ", ".join(names), again)
