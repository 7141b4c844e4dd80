"""Where `on_change=new_study` goes: beside a study that ran otherwise, one of its own.

It is numbered, NAME-2 or FOLDER-2 and so on, and found again by the same command: the first that
this session would not change, or that is not there yet.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.storages import BaseStorage

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._setup import Setup
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.folder import STUDY_FILE, SWEEP_FILE, short
from iolaus.sweeps.study.opening import differs

__all__ = ["beside"]

log = logging.getLogger("sweeps")


def beside(setup: Setup) -> tuple[Settings, DictConfig] | None:
    """The settings and the config of the study to run instead; None if this one is to be run.

    A study in its sweep's own folder has the same name in another folder. One in a storage has
    another name, and another folder too if this one is another study's: trials of two studies have
    the same numbers, and would share curves. Raises BadInputError for a storage that is no URL.
    """
    storage = setup.settings.storage
    if storage is None:
        folder = next(f for f in _numbered(str(setup.folder)) if not _differs_in(setup, Path(f)))
        return None if Path(folder) == setup.folder else _moved(setup, None, Path(folder))
    name = setup.settings.study_name
    if name is None:
        return None  # each start makes a study
    if not isinstance(storage, str):
        raise BadInputError(
            "hydra.sweeper.on_change=new_study looks for the study before anything runs, and takes "
            "the storage as a URL: give it so, or choose warn or refuse"
        )
    known = open_backend(storage, only_reads=True)
    new = next(n for n in _numbered(name) if not _differs(setup, known, n))
    if new == name:
        return None
    folders = map(Path, _numbered(str(setup.folder)))
    return _moved(setup, new, next(f for f in folders if _study_of(f) in (None, new)))


def _numbered(name: str) -> itertools.chain[str]:
    return itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))


def _differs_in(setup: Setup, folder: Path) -> bool:
    if not (folder / STUDY_FILE).is_file():
        return False
    storage = open_backend(sqlite_url(folder / STUDY_FILE), only_reads=True)
    return _differs(setup, storage, setup.settings.study_name or setup.config.hydra.job.name)


def _differs(setup: Setup, storage: BaseStorage, name: str) -> bool:
    directions, space = setup.settings.directions, setup.rules.space
    return differs(storage, name, directions, space, setup.fingerprint)


def _study_of(folder: Path) -> str | None:
    """The study whose sweep a folder is, None if it is none's yet."""
    about = folder / SWEEP_FILE
    return str(OmegaConf.load(about).study_name) if about.is_file() else None


def _moved(setup: Setup, name: str | None, folder: Path) -> tuple[Settings, DictConfig]:
    """The same sweep under another study's name, in another folder."""
    where = short(folder) if name is None else f"study {name} in {short(folder)}"
    log.info(
        "the study in %s was run with another space, other settings or other code: this is %s",
        *(short(setup.folder), where),
    )
    settings = setup.settings if name is None else replace(setup.settings, study_name=name)
    config = setup.config
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.sweeper.study_name = settings.study_name
        # Trials are composed from these.
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
    return settings, config
