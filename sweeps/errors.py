"""What can go wrong with a sweep, named for what the caller can do about it.

SweepError
├── BadInputError     change the command or the config; nothing was started, nothing was changed
├── StorageError      the study cannot be read or written; the same command may work later
├── SweepFailedError  the sweep ran and gave up; the study holds everything up to there
└── SweepStoppedError a signal stopped it before its end; the same command goes on
"""

from __future__ import annotations

import errno
import signal

__all__ = [
    "BadInputError",
    "StorageError",
    "SweepError",
    "SweepFailedError",
    "SweepStoppedError",
    "cannot_write",
    "is_disk_full",
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


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of the system or of a library that quotes it, says that a disk is full."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return is_full or any(text in str(error) for text in ("No space left", "disk is full"))


def cannot_write(what: str, error: BaseException) -> StorageError:
    """The error to raise where something of a sweep cannot be written.

    what: the first half of its sentence, with the file; what to do is added.
    """
    do = "free some space on that disk" if is_disk_full(error) else "put it right"
    why = one_line(error)
    return StorageError(f"{what}: {why}; {do} and run the same command again to continue")
