"""Where a sweep's numbers come from: the command, the code, the versions, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from iolaus.sweeps.run._own_code import content_of, own_code
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.fingerprint import Fingerprint
from iolaus.sweeps.study.folder import STORAGE_VARIABLE

__all__ = ["code_version", "collect", "fingerprint", "shareable"]

PACKAGES = ("hydra-iolaus", "hydra-core", "omegaconf", "optuna", "torch", "numpy")
# Packages whose version may change what a trial comes to.
COMPUTING = (
    "hydra-iolaus", "torch", "lightning", "transformers", "jax", "tensorflow", "scikit-learn",
    "numpy",
)  # fmt: skip


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
        "packages": _versions(PACKAGES),
        "machine": {
            "host": platform.node(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "gpus": list(gpus),
        },
    }


def fingerprint(fixed: Mapping[str, str], modules: Mapping[str, ModuleType]) -> Fingerprint:
    """What the results of a session depend on beside the search.

    fixed: of `iolaus.sweeps.search.fixed.fixed_settings`. modules: those loaded, as `sys.modules`.
    """
    targets = [value for key, value in fixed.items() if key.rpartition(".")[2] == "_target_"]
    python = ".".join(platform.python_version_tuple()[:2])
    return Fingerprint(
        fixed,
        own_code(modules, [name for names in targets for name in names.split(" or ")]),
        {"python": python, **_versions(COMPUTING)},
    )


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

    If they do, with a digest of those that do. `commit` is None outside a repository. It is where
    to find the code again; whether two sessions ran the same code, their fingerprints say.
    """
    known = (_git(folder, "rev-parse", "HEAD", "--show-toplevel") or "").splitlines()
    if len(known) != 2:
        return {"commit": None, "dirty": False}
    commit, top = known
    changed = _git(folder, "diff", "HEAD", "--no-ext-diff", "--name-only", "-z")
    if not changed:
        return {"commit": commit, "dirty": False}
    digest = hashlib.sha256()
    for name in changed.rstrip("\0").split("\0"):
        digest.update(f"{name}\0".encode() + content_of(Path(top, name)))
    return {"commit": commit, "dirty": True, "difference": digest.hexdigest()[:12]}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode(errors="replace").strip()


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: version for name in packages if (version := _version(name))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
