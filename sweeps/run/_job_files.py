"""What a trial leaves in its folder: its configs, and what it printed."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from iolaus.sweeps.hydra_compat import to_yaml

__all__ = ["YamlTexts", "output_to"]

# How many contents' texts are kept.
MOST_TEXTS = 128


class YamlTexts:
    """The YAML of contents as OmegaConf writes it, in which a few values can be replaced."""

    def __init__(self) -> None:
        self._mark = f"iolaus-{secrets.token_hex(8)}"  # in the place of such a value
        self._parts: dict[str, list[str]] = {}  # by the marked content

    def text(
        self, content: Mapping[str, Any], paths: Sequence[tuple[str, ...]]
    ) -> Callable[[Sequence[Any]], str]:
        """The text of a content with other values at these paths, one for each, as plain data.

        content: plain data. paths: keys from the outermost dict on.
        """
        marked = copy.deepcopy(dict(content))
        for i, path in enumerate(paths):
            _put(marked, path, f"{self._mark}-{i}")
        key = repr(marked)
        if key not in self._parts:
            if len(self._parts) >= MOST_TEXTS:
                self._parts.clear()
            line = re.compile(rf"^.*?{self._mark}-(\d+)\n", flags=re.MULTILINE)
            self._parts[key] = line.split(to_yaml(marked))
        parts = self._parts[key]
        between, order = parts[::2], [int(i) for i in parts[1::2]]

        def text(values: Sequence[Any]) -> str:
            lines = [between[0]]
            for i, after in zip(order, between[1:], strict=True):
                lines += [_lines_of(paths[i], values[i]), after]
            return "".join(lines)

        return text


def _put(content: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def _lines_of(path: tuple[str, ...], value: Any) -> str:
    """What YAML says of a value in nested dicts, without the lines of the dicts around it."""
    for key in reversed(path):
        value = {key: value}
    text = to_yaml(value)
    for _ in path[:-1]:
        text = text.partition("\n")[2]
    return text


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send this process's standard output and error to the end of a file.

    Those of C libraries and children included.
    """
    _flush()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for standard in (1, 2):
        os.dup2(fd, standard)
        os.set_inheritable(standard, True)
    if fd > 2:  # else a task before has closed its standard output, which this one now is
        os.close(fd)
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        _flush()
        sys.stdout, sys.stderr = streams  # a task may have put others in their place
        for name, standard in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            if stream is None or stream.closed:
                setattr(sys, name, os.fdopen(standard, "w", buffering=1, closefd=False))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Closed by the task, or on a disk that is full: neither is the end of the trial.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
