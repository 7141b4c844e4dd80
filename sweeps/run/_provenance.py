"""Where a sweep's numbers come from: the command, the code, the versions, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.folder import STORAGE_VARIABLE

__all__ = ["code_version", "collect", "shareable"]

PACKAGES = ("hydra-iolaus", "hydra-core", "omegaconf", "optuna", "torch", "numpy")


def collect(
    command: Sequence[str], folder: Path, gpus: Sequence[str], now: datetime
) -> dict[str, Any]:
    """What is needed to run this session again, as plain data.

    folder: where the user's code lies.
    """
    return {
        "command": shareable(command),
        "started": now.astimezone(UTC).isoformat(timespec="seconds"),
        "code": code_version(folder),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": {
            "host": platform.node(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "gpus": list(gpus),
        },
    }


def shareable(command: Sequence[str]) -> list[str]:
    """A command that may be shown and kept, and typed again: no password stands in it.

    A storage's URL that has one becomes `${oc.env:IOLAUS_STORAGE}`, to be given in the environment.
    """

    def shown(argument: str) -> str:
        option, _, value = argument.partition("=")
        is_storage = option.lstrip("+") == "hydra.sweeper.storage"
        if is_storage and value != without_password(value):
            return f"{option}=${{oc.env:{STORAGE_VARIABLE}}}"
        return without_password(argument)

    return [shown(argument) for argument in command]


def code_version(folder: Path) -> dict[str, Any]:
    """The git commit of `folder`, and whether its tracked files differ from it.

    If they do, with a digest of the difference. `commit` is None outside a repository. Two sessions
    ran the same code if and only if these are equal and clean, or equal with the same digest.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": False}
    difference = _git(folder, "diff", "HEAD", "--no-ext-diff") or ""
    if not difference:
        return {"commit": commit, "dirty": False}
    return {
        "commit": commit,
        "dirty": True,
        "difference": hashlib.sha256(difference.encode()).hexdigest()[:12],
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode(errors="replace").strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
