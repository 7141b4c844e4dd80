"""What can go wrong with a sweep, named for what the caller can do about it.

SweepError
├── BadInputError     change the command or the config; nothing was started, nothing was changed
├── StorageError      the study cannot be read or written; the same command may work later
└── SweepFailedError  the sweep ran and gave up; the study holds everything up to there
"""

__all__ = ["BadInputError", "StorageError", "SweepError", "SweepFailedError", "one_line"]


class SweepError(Exception):
    """Anything this package refuses or gives up on, in one clear sentence."""


class BadInputError(SweepError):
    """The command or config asks for something that cannot be; nothing has been run or changed."""


class StorageError(SweepError):
    """The study's storage cannot be reached, read or written."""


class SweepFailedError(SweepError):
    """Too many trials failed, or workers could not be kept alive."""


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
