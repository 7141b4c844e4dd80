"""The logging of jobs, set up as Hydra does, and anew only where more than its files differ."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.hydra_compat import resolver

__all__ = ["JobLog"]

# The handlers that write to a file, with what the file is in the next job.
_Files = list[tuple[logging.FileHandler, Callable[[], Any]]]


class JobLog:
    """`hydra.job_logging` in a process that runs one job after the other.

    Where a job has the config of the one before, with other values in it, and the task has left
    logging as it was, only the log files are changed: 0.1 ms instead of 2.
    """

    def __init__(self) -> None:
        self._config: DictConfig | None = None  # that the loggers are set up by
        self._files: _Files = []
        self._names: list[str] = []  # of its loggers
        self._state: list[Any] = []

    def configure(self, config: DictConfig) -> None:
        """Set up logging for a job. config: the whole."""
        if config is self._config and _state(self._names) == self._state:
            for handler, path in self._files:
                _write_to(handler, str(path()))
            return
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        files = _files_of(config)
        self._config, self._files = (None, []) if files is None else (config, files)
        self._names = [] if files is None else list(config.hydra.job_logging.get("loggers") or ())
        self._state = _state(self._names)


def _files_of(config: DictConfig) -> _Files | None:
    """The handlers of a config that write to files; None if more of it differs between jobs.

    Or if not all handlers are the root logger's, in whose list they can be found.
    """
    settings = config.hydra.job_logging
    plain = cast(Any, OmegaConf.to_container(settings)) if settings is not None else {}
    named = plain.get("handlers") or {}
    names = (plain.get("root") or {}).get("handlers")
    if not names or sorted(names) != sorted(named) or config.hydra.verbose is not False:
        return None
    files: _Files = []
    for name, handler in zip(names, logging.getLogger().handlers, strict=True):
        if type(handler) is logging.FileHandler:
            files.append((handler, resolver(settings.handlers[name], "filename")))
            del named[name]["filename"]
    return None if "${" in str(plain) else files


def _state(names: list[str]) -> list[Any]:
    """All of logging that setting it up would put right."""
    state: list[Any] = [len(getattr(logging, "_handlerList", ())), sys.stdout, sys.stderr]
    for logger in (logging.getLogger(name) for name in ("", *names)):
        state += [logger.level, logger.propagate, logger.disabled, *logger.filters]
        for handler in logger.handlers:
            is_file = isinstance(handler, logging.FileHandler)
            stream = None if is_file else getattr(handler, "stream", None)
            state += [handler, handler.level, handler.formatter, *handler.filters, stream]
    return state


def _write_to(handler: logging.FileHandler, path: str) -> None:
    """What a new handler with this path would do from here on."""
    handler.acquire()
    try:
        if handler.stream is not None:
            handler.stream.close()
        handler.baseFilename = str(Path(path).absolute())
        handler.stream = None if handler.delay else handler._open()
    finally:
        handler.release()
