"""What can go wrong with a sweep, named for what the caller can do about it.

SweepError
├── BadInputError     change the command or the config; nothing was started, nothing was changed
├── StorageError      the study cannot be read or written; the same command may work later
├── SweepFailedError  the sweep ran and gave up; the study holds everything up to there
└── SweepStoppedError a signal stopped it before its end; the same command goes on
"""

from __future__ import annotations

import signal

__all__ = [
    "BadInputError",
    "StorageError",
    "SweepError",
    "SweepFailedError",
    "SweepStoppedError",
    "one_line",
]


class SweepError(Exception):
    """Anything this package refuses or gives up on, in one clear sentence."""


class BadInputError(SweepError):
    """The command or config asks for something that cannot be; nothing has been run or changed."""


class StorageError(SweepError):
    """The study's storage cannot be reached, read or written."""


class SweepFailedError(SweepError):
    """Too many trials failed, or workers could not be kept alive."""


class SweepStoppedError(SweepError):
    """A signal ended the sweep with trials left to run; its summary and report have been written.

    signal_number: the signal's, such as 2 for Ctrl-C.
    """

    def __init__(self, signal_number: int, n_left: int) -> None:
        self.signal_number = signal_number
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name}, {n_left} trials are left; the same command goes on")


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
