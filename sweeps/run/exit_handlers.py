"""What a task has registered with `atexit`, in a process that is forked and leaves by `os._exit`.

As Python's own multiprocessing does it from 3.13 on: handlers that were registered before the fork
belong to the parent, which runs them at its own end. Python has no public way to run them now.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading

__all__ = ["forget_exit_handlers", "run_exit_handlers"]


def forget_exit_handlers() -> None:
    """Leave the parent's handlers to the parent. To be called in a new process."""
    atexit._clear()
    atexit.register(logging.shutdown)


def run_exit_handlers(limit_s: float, status: int) -> None:
    """Run what has been registered in this process, the last first.

    A handler that raises is printed, and the others run. If they take longer than `limit_s`
    seconds, the process ends with `status`.
    """
    timer = threading.Timer(limit_s, os._exit, (status,))
    timer.daemon = True
    timer.start()
    atexit._run_exitfuncs()
    timer.cancel()
