"""A sweep's folder: what its files are called, who may write to it, what it says of itself."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import optuna
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.secrets import HIDDEN, without_password
from iolaus.sweeps.study.backend import open_backend, sqlite_url

__all__ = [
    "CURVES_FOLDER",
    "DRIVER_VARIABLE",
    "EVENTS_FILE",
    "RESULTS_FILE",
    "SLOTS_FILE",
    "STORAGE_VARIABLE",
    "STUDY_FILE",
    "SWEEP_FILE",
    "curves_folders",
    "describe_sweep",
    "locked",
    "own_command",
    "read_study",
    "short",
    "working_dir",
]

STUDY_FILE = "study.db"
SWEEP_FILE = "sweep.yaml"
EVENTS_FILE = "events.jsonl"
RESULTS_FILE = "optimization_results.yaml"
CURVES_FOLDER = "curves"
SLOTS_FILE = "slots.csv"
# How long the first of several drivers may take from holding the folder to sharing it.
SHARING_S = 1.0
# The environment variable of a storage's URL for those who read a sweep.
STORAGE_VARIABLE = "IOLAUS_STORAGE"
# Set for a process that is to be one driver of a study, whatever launcher its config names. It
# leaves the report, and what trackers are told, to the process that was there before it.
DRIVER_VARIABLE = "IOLAUS_DRIVER"


@contextmanager
def locked(folder: Path, study: str = "") -> Iterator[int]:
    """Hold a sweep's folder, made if it is missing, for this process alone.

    study: of several drivers, which hold it together; "" for a study that nobody else has. Gives
    the lock's descriptor: a process that is forked meanwhile holds the folder too, for as long as
    it lives, unless it closes this. Raises BadInputError if another process holds it otherwise, or
    nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")  # some file systems want both of one that is shared
    except OSError as error:
        raise BadInputError(
            f"cannot write to {folder}: {error.strerror}; choose another hydra.sweep.dir"
        ) from error
    with file:
        deadline_s = time.monotonic() + (SHARING_S if study else 0)
        while not (has_lock := _lock(file, study)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if not has_lock:
            raise BadInputError(
                f"another sweep is running in {folder}; wait for it, or choose another"
            )
        yield file.fileno()


def _lock(file: IO[str], study: str) -> bool:
    """Whether the lock of a file is held now. Whoever is the first writes whose it is."""
    if _try_lock(file, fcntl.LOCK_EX):
        file.truncate(0)
        file.write(study)
        file.flush()
        return not study or _try_lock(file, fcntl.LOCK_SH)
    if not study or not _try_lock(file, fcntl.LOCK_SH):
        return False
    file.seek(0)
    return file.read() == study


def _try_lock(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def describe_sweep(folder: Path) -> Any:
    """A sweep's own description: study_name, storage (as a URL), directions, metric, ...

    A URL whose password was left out, or that the sweep took from the environment, is read from
    there: the sweep's own variable, or else $IOLAUS_STORAGE. Raises FileNotFoundError if the
    folder is no sweep, BadInputError if there is no such variable, or the description is damaged.
    """
    if not (folder / SWEEP_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no sweep: it has no {SWEEP_FILE}; give the folder that a sweep wrote"
        )
    about = _loaded(folder / SWEEP_FILE)
    about.storage = _storage_url(OmegaConf.to_container(about, resolve=False), folder)
    return about


def _loaded(path: Path) -> Any:
    try:
        about = OmegaConf.load(path)
        if "storage" in about and "study_name" in about:
            return about
        why = "it names no study"
    except Exception as error:  # of OmegaConf and of its parser of YAML, which are many
        why = one_line(error)
    raise BadInputError(f"{path} is damaged ({why}); the sweep's own command writes it anew")


def _storage_url(about: Any, folder: Path) -> str:
    given = about["storage"]
    if not given:
        return sqlite_url(folder.absolute() / STUDY_FILE)
    if not isinstance(given, str):
        raise BadInputError(f"{folder}: storage in {SWEEP_FILE} is no URL")
    named = re.fullmatch(r"\$\{oc\.env:(\w+)\}", given)
    if named is None and given == without_password(given) and HIDDEN not in given:
        return given
    names = [*(named.groups() if named else ()), STORAGE_VARIABLE]
    url = next((os.environ[name] for name in names if name in os.environ), None)
    if url is None:
        kept = "" if named else f" ({given})"
        raise BadInputError(
            f"{folder} keeps its study in a storage whose password it does not keep{kept}; give "
            f"its URL in the environment: export {names[0]}=..."
        )
    return url


def read_study(folder: Path) -> optuna.Study:
    """The Optuna study of a sweep's folder, opened so that nobody waits for its reader.

    Raises FileNotFoundError if the folder is no sweep, or its study is gone.
    """
    about = describe_sweep(folder)
    storage = open_backend(about.storage, only_reads=True)
    try:
        return optuna.load_study(study_name=about.study_name, storage=storage)
    except KeyError as error:
        raise FileNotFoundError(
            f"{without_password(about.storage)} has no study {about.study_name}: "
            "was it kept in memory?"
        ) from error


def curves_folders(
    folder: Path, study_name: str, sessions: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Where a sweep's curves are: in its folder, and in those of drivers with one of their own.

    Of those that can be seen from here.
    """
    found = [folder]
    for name in dict.fromkeys(session.get("folder") for session in sessions):
        other = Path(name or folder)
        is_same = other.exists() and other.samefile(folder)
        if not is_same and (other / SWEEP_FILE).is_file():
            found += [other] if _loaded(other / SWEEP_FILE).study_name == study_name else []
    return [one / CURVES_FOLDER for one in found]


def own_command(sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command that the sweep was last run by, top-ups aside; empty if it is not known.

    A run outside a sweep has none that could run more trials.
    """
    others = ("top_up", "race", "alone")  # race: the older key
    own = [s for s in sessions if not any(s.get(key) for key in others)]
    commands = [s["command"] for s in own if "command" in s]
    return [str(part) for part in commands[-1]] if commands else []


def working_dir(config: DictConfig) -> Path:
    """Where a sweep's command was given. config: the study's attribute of that name, composed."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return Path(plain.get("hydra", {}).get("runtime", {}).get("cwd", "."))


def short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
