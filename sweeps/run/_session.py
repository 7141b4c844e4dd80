"""One session of a sweep: it joins the study, and records in folder and study what it runs."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import optuna
from omegaconf import OmegaConf

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.checkpoints import forget
from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.errors import cannot_write
from iolaus.sweeps.metric import METRIC_ATTR
from iolaus.sweeps.run import _provenance as provenance
from iolaus.sweeps.run._factories import make
from iolaus.sweeps.run._setup import Setup
from iolaus.sweeps.run.driver import Records
from iolaus.sweeps.run.events import EventLog, Session
from iolaus.sweeps.run.meter import machine_of
from iolaus.sweeps.run.slots_log import SlotsLog
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.fingerprint import not_comparable, note_fingerprint
from iolaus.sweeps.study.folder import (
    CURVES_FOLDER,
    EVENTS_FILE,
    SLOTS_FILE,
    STUDY_FILE,
    SWEEP_FILE,
)
from iolaus.sweeps.study.kept import KeptCheckpoints
from iolaus.sweeps.study.leases import Leases, new_driver_name
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.recovery import take_over
from iolaus.sweeps.study.sweep_study import SweepStudy

__all__ = ["begin_session", "join_study", "opened_storage"]

log = logging.getLogger("sweeps")

# From reading a study's sessions to writing them, at most, in a database that is far away.
NOTING_S = 0.5


@contextmanager
def opened_storage(setup: Setup) -> Iterator[LiveStorage]:
    """The storage of a sweep, closed at the end; Optuna logs warnings only, through `logging`."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = setup.settings.storage
    if storage is None or isinstance(storage, str):
        backend = open_backend(storage or sqlite_url(setup.folder / STUDY_FILE))
    else:
        backend = make(storage, "storage")
    # A study in our own locked folder has no other driver; a shared one is looked at before every
    # trial.
    driver = new_driver_name() if setup.is_shared else ""
    live = LiveStorage(backend, refresh_s=1.0 if storage is None else 0.0, driver=driver)
    try:
        yield live
    finally:
        live.close()


def join_study(setup: Setup, storage: LiveStorage) -> SweepStudy:
    """The study of a sweep, found or made; what a dead driver left running goes on."""
    settings = setup.settings
    is_shared = settings.storage is not None
    name = settings.study_name or (None if is_shared else setup.config.hydra.job.name)
    study = open_study(
        *(storage, name, settings.directions, setup.sampler, setup.pruner, setup.rules.space),
        *(setup.fingerprint, settings.on_change),
    )
    leases = None
    if storage.driver:
        grace_period_s = settings.grace_period_s
        leases = Leases(storage, compat.study_id(study), grace_period_s, time.monotonic)
        leases.beat()
    metric = setup.rules.objective.metric
    others = not_comparable(study.user_attrs, setup.fingerprint)
    joined = SweepStudy(
        *(study, storage, setup.rules.space, setup.plans, metric, leases, others),
        place=str(setup.folder) if storage.driver else "",
    )
    # The lock on the folder makes us the only driver of a study in it: whatever runs there is an
    # orphan.
    if cut_off := joined.take_over() if leases else take_over(study, lambda _: False, 0.0):
        numbers = ", ".join(map(str, cut_off))
        log.info("cut off when the sweep died, they run again: trials %s", numbers)
    return joined


def _kept_checkpoints(setup: Setup, study: SweepStudy) -> KeptCheckpoints:
    """Those of the best trials; of others a driver that was killed may have left some."""
    n, metric = setup.rules.keep_checkpoints, setup.rules.objective.metric
    kept = KeptCheckpoints(n, study.objective_sign, metric.sign)
    for folder in kept.offer_all(study.study.get_trials(deepcopy=False), setup.folder):
        forget(folder)
    return kept


def begin_session(setup: Setup, study: SweepStudy) -> Records:
    """Where this session leaves what happens.

    Writes multirun.yaml, sweep.yaml and the session's line in events.jsonl, and this session's
    provenance into the study.
    """
    kept = _kept_checkpoints(setup, study)
    now = datetime.now(UTC)
    gpus = [gpu.name for gpu in setup.gpus]
    here = provenance.collect(sys.orig_argv, Path(setup.config.hydra.runtime.cwd), gpus, now)
    here["devices"] = [dataclasses.asdict(gpu) for gpu in setup.gpus]
    lanes, per_gpu = setup.settings.lanes, setup.settings.trials_per_gpu
    here["slots"] = dataclasses.asdict(machine_of(setup.slots, lanes, per_gpu))
    try:
        number = _describe(setup, study.study, here)
    except OSError as error:
        raise cannot_write(f"the sweep cannot be described in {setup.folder}", error) from error
    # Drivers that share the folder write files of their own.
    own = f"-{socket.gethostname()}" if setup.held_for else ""
    name = f"{now:%Y%m%dT%H%M%S}-{os.getpid()}{own}"
    events = f"events-{name}.jsonl" if setup.held_for else EVENTS_FILE
    session = Session(
        n_slots=len(setup.slots),
        n_to_run=study.n_to_ask,
        max_failure_rate=setup.rules.max_failure_rate,
        version=here["packages"].get("hydra-iolaus", ""),
        started=here["started"],
        may_get_more=study.leases is not None or study.ends_bring_more,
        n_paused=len(study.paused) if study.may_thaw else 0,
    )
    return Records(
        setup.folder,
        number,
        CurveWriter(setup.folder / CURVES_FOLDER, name, clock=time.monotonic),
        EventLog(setup.folder / events, session, clock=time.monotonic),
        kept,
        SlotsLog(setup.folder / SLOTS_FILE, number, clock=time.time),
    )


def _describe(setup: Setup, study: optuna.Study, here: Mapping[str, Any]) -> int:
    """Write what this session runs into folder and study; returns the session's number."""
    settings, config = setup.settings, setup.config
    text = without_password(OmegaConf.to_yaml(config))
    _replace(setup.folder / "multirun.yaml", text)
    here = {**here, "fingerprint": setup.fingerprint.id, "folder": str(setup.folder)}
    note_fingerprint(study, setup.fingerprint)
    sessions, number = _add_session(study, here, NOTING_S if setup.is_shared else 0.0)
    study.set_user_attr("config", text)
    metric = setup.rules.objective.metric
    study.set_user_attr(METRIC_ATTR, dataclasses.asdict(metric))
    sweeper = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweeper))
    content = {
        "study_name": study.study_name,
        # As it was given: `${oc.env:NAME}` is left for the reader to look up.
        "storage": sweeper["storage"] if isinstance(settings.storage, str) else None,
        "directions": settings.directions,
        "metric": metric.name,
        "metric_goal": metric.goal,
        "objective": settings.objective,
        "n_trials": settings.n_trials,
        "n_settings": setup.plans.n_trials,  # fewer, where a grid has no more
        "sweeper": sweeper,
        "sessions": sessions,
    }
    text = without_password(OmegaConf.to_yaml(OmegaConf.create(content)))
    _replace(setup.folder / SWEEP_FILE, text)
    return number


def _add_session(
    study: optuna.Study, here: dict[str, Any], noting_s: float
) -> tuple[list[dict[str, Any]], int]:
    """The sessions of a study, this one among them, and its number.

    Drivers that begin at the same moment write over each other, so each looks afterwards whether it
    is there. noting_s: how long one may take from reading them to writing them.
    """
    here = {**here, "id": secrets.token_hex(4)}
    while True:
        study.set_user_attr("provenance", [*study.user_attrs.get("provenance", []), here])
        time.sleep(noting_s)
        sessions: list[dict[str, Any]] = study.user_attrs["provenance"]
        ids = [session.get("id") for session in sessions]
        if here["id"] in ids:
            return sessions, ids.index(here["id"])


def _replace(path: Path, text: str) -> None:
    """Write a file, so that whoever reads it meanwhile reads the whole of one or the other."""
    unfinished = path.with_name(f".{path.name}-{socket.gethostname()}-{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
