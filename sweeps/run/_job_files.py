"""What a trial leaves in its folder: its configs, and what it printed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from iolaus.sweeps.hydra_compat import as_plain, to_yaml
from iolaus.sweeps.secrets import without_password

__all__ = ["ConfigFiles", "output_to"]

# The parts of Hydra's own config that differ between trials of one branch.
VARYING = ("overrides", "job", "runtime")


class ConfigFiles:
    """Writes config.yaml, overrides.yaml and hydra.yaml of jobs, as Hydra would.

    All but a few lines of hydra.yaml are the same for all trials of one branch with the same
    overrides of Hydra itself; these are made once and kept.
    """

    def __init__(self) -> None:
        self._constant_yaml: dict[tuple[str, ...], str] = {}

    def write(self, job: JobReturn, folder: Path) -> None:
        """The configs of a job that begins; its folder is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(job.cfg), encoding="utf-8")
        (folder / "overrides.yaml").write_text(to_yaml(job.overrides), encoding="utf-8")
        hydra_cfg = cast(DictConfig, job.hydra_cfg)
        of_hydra = cast(list[str], as_plain(hydra_cfg.hydra.overrides.hydra))
        choices = cast(dict[str, Any], as_plain(hydra_cfg.hydra.runtime.choices))
        shape = (*of_hydra, *(f"{group}={choice}" for group, choice in choices.items()))
        if shape not in self._constant_yaml:
            plain = cast(dict[str, Any], as_plain(hydra_cfg))["hydra"]
            self._constant_yaml[shape] = to_yaml(
                {"hydra": {k: v for k, v in plain.items() if k not in VARYING}}
            )
        varying = to_yaml({"hydra": {key: hydra_cfg.hydra[key] for key in VARYING}})
        text = without_password(self._constant_yaml[shape] + varying.removeprefix("hydra:\n"))
        (folder / "hydra.yaml").write_text(text, encoding="utf-8")


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
