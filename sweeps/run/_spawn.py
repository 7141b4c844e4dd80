"""A worker as a fresh interpreter: what is sent to it, and how it begins.

As in Python's `multiprocessing.spawn`, the app's main module is imported again (under the name
`__mp_main__`), and functions arrive by name. Hydra's decorator hides a task function behind another
of the same name, so it is sent as what that one wraps; a function without a name of its own (a
closure, a lambda, a notebook's) is sent by value, which takes cloudpickle.
"""

from __future__ import annotations

import functools
import importlib
import io
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from multiprocessing.connection import Connection
from types import FunctionType
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.run._channel import Channel
from iolaus.sweeps.run._messages import LogMessage, UserCodeReached, WorkerSpec
from iolaus.sweeps.run._worker import Server, set_environment, worker_main

__all__ = ["GUARD", "command", "is_importing_app", "packed", "spawned_main"]

GUARD = 'put the call of the task function under `if __name__ == "__main__":`'


def packed(serve: Server, watched: str, reason: str) -> bytes:
    """What a fresh interpreter needs to be a worker.

    Raises BadInputError, with the reason for which workers are spawned, where it cannot be sent.
    """
    preparation = _preparation()
    buffer = io.BytesIO()
    try:
        pickle.dump(preparation, buffer)
        by_name, by_path = (preparation.get(f"init_main_from_{how}") for how in ("name", "path"))
        has_main = by_path is not None or by_name not in (None, "__main__")
        _dump((Singleton.get_state(), serve, watched), buffer, has_main)
    except Exception as error:
        raise BadInputError(
            f"workers of this app are to be spawned, because {reason}, and what it runs cannot be "
            f"sent to a fresh process: {one_line(error)}; define the task function at the top "
            "level of a module, or install cloudpickle (hydra.sweeper.start_method=fork forks "
            "workers all the same, which may hang)"
        ) from error
    return buffer.getvalue()


def command(pipe: int, payload: int) -> list[str]:
    """The command line of a worker that inherits these descriptors."""
    # It finds this package where this process has found it, whatever PYTHONPATH says.
    begin = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from {__name__} import spawned_main; spawned_main({pipe}, {payload})"
    )
    of_python = spawn.get_command_line()[:-2]  # python, its options, -c
    return [*map(os.fsdecode, of_python), begin]


def is_importing_app() -> bool:
    """Whether this process is a worker that imports the app's main module."""
    return bool(getattr(multiprocessing.current_process(), "_inheriting", False))


def spawned_main(pipe_fd: int, payload_fd: int) -> None:
    """Be a worker. Never returns."""
    pipe = Connection(pipe_fd)
    spec: WorkerSpec
    spec, began_s = pipe.recv()
    set_environment(spec)  # before anything of the user's reads it
    data = io.BytesIO(os.pread(payload_fd, os.fstat(payload_fd).st_size, 0))
    os.close(payload_fd)
    preparation = pickle.load(data)
    pipe.send(UserCodeReached())
    process = multiprocessing.current_process()
    process._inheriting = True  # type: ignore[attr-defined] # as multiprocessing does
    try:
        spawn.prepare(preparation)
        name = preparation.get("init_main_from_name", "")
        if name.endswith(".__main__"):  # of a package, which multiprocessing leaves out
            sys.modules["__main__"] = sys.modules["__mp_main__"] = importlib.import_module(name)
        state, serve, watched = pickle.load(data)
    except SystemExit:
        sys.stderr.write(
            f"worker {spec.slot} ends: the app's module exits when it is imported; {GUARD}\n"
        )
        raise
    finally:
        del process._inheriting  # type: ignore[attr-defined]
    setup_globals()
    Singleton.set_state(state)
    if HydraConfig.initialized():  # until a trial's own is in force
        hydra = HydraConfig.get()
        configure_log(cast(DictConfig, hydra.hydra_logging), hydra.verbose)

    def serve_and_say(channel: Channel) -> None:
        if spec.slot == 0:
            took_s = time.monotonic() - began_s
            channel.send(LogMessage(f"a worker takes about {took_s:.1f} s to start"))
        serve(channel)

    worker_main(pipe, spec, serve_and_say, watched)


def _dump(value: Any, file: io.BytesIO, has_main: bool) -> None:
    """Pickle a value, functions and classes by name where that finds them.

    has_main: whether a fresh process can import the main module; without it, cloudpickle sends what
    is defined there by value, as it does with what has no name.
    """
    try:
        from cloudpickle import Pickler as Base  # type: ignore[import-untyped]
    except ImportError:
        from pickle import Pickler as Base

    class ByName(Base):  # type: ignore[misc] # one of two
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, FunctionType | type) and (has_main or obj.__module__ != "__main__"):
                depth = _depth(obj)
                if depth == 0:
                    return NotImplemented
                if depth is not None:
                    return _unwrapped, (obj.__module__, obj.__qualname__, depth)
            if Base is pickle.Pickler:
                return NotImplemented
            return super().reducer_override(obj)

    ByName(file).dump(value)


def _depth(wanted: FunctionType | type) -> int | None:
    """How often what goes by the name of a function or class is to be unwrapped to get it.

    None where it cannot be got by that name.
    """
    try:
        found = _named(wanted.__module__, wanted.__qualname__)
    except (AttributeError, KeyError):
        return None
    depth = 0
    while found is not wanted:
        found, depth = getattr(found, "__wrapped__", None), depth + 1
        if found is None:
            return None
    return depth


def _named(module: str, qualname: str) -> Any:
    return functools.reduce(getattr, qualname.split("."), sys.modules[module])


def _unwrapped(module: str, qualname: str, depth: int) -> Callable[..., Any]:
    importlib.import_module(module)
    found = _named(module, qualname)
    for _ in range(depth):
        found = found.__wrapped__
    return found  # type: ignore[no-any-return]


def _preparation() -> Mapping[str, Any]:
    before = multiprocessing.get_start_method(allow_none=True)
    data = spawn.get_preparation_data("iolaus worker")
    data["authkey"] = bytes(data["authkey"])  # else it refuses to be pickled
    if before is None:  # the question has settled it, for the task too
        multiprocessing.set_start_method(None, force=True)
        del data["start_method"]
    return data
