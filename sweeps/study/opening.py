"""The study of a sweep: found or made; refused if it searches something else, see `ON_CHANGE`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.search.space import Space, signature
from iolaus.sweeps.study.fingerprint import Fingerprint, differences, latest
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.record import outside_of

__all__ = ["ON_CHANGE", "differs", "judged_by", "open_study"]

log = logging.getLogger("sweeps")

# What to do where a study was last run with other settings, code or versions of packages. warn: go
# on, as after every repair of a bug, and tell the trials apart in every table. refuse: stop before
# anything runs. new_study: leave it as it is, and begin another beside it. A study that searches
# another space or direction cannot go on: warn refuses it too.
ON_CHANGE = ("warn", "refuse", "new_study")
# How long another driver may take from the making of a study to writing what it searches.
CREATION_S = 5.0


class _Study(compat.AskedStudy):
    """A study that notes when its sampler has nothing left.

    Optuna reports that only inside `optimize`. What lies outside the search space would teach a
    sampler that the nearest setting inside is as good.
    """

    exhausted = False

    @staticmethod
    def hides(trial: FrozenTrial) -> bool:
        """Trials of settings outside the search space."""
        return bool(outside_of(trial.user_attrs))

    def stop(self) -> None:
        """Called by samplers of finite spaces after their last trial."""
        self.exhausted = True


def open_study(
    storage: LiveStorage,
    name: str | None,
    directions: Sequence[str],
    sampler: optuna.samplers.BaseSampler | None,
    pruner: optuna.pruners.BasePruner,
    space: Space,
    fingerprint: Fingerprint | None = None,
    on_change: str = "warn",
) -> optuna.Study:
    """The study of this name, made if it is not there. Nothing is written to one that is.

    The seed of a sampler holds for who makes the study: who goes on with one, or joins it, draws
    anew.
    fingerprint: of this session, None for nothing to compare. on_change: see `ON_CHANGE`. Raises
    BadInputError if it exists with other directions or another search space, or is to be refused
    for what else differs.
    """
    known = None if name is None else _known(storage, name)
    if known is None:
        try:
            name = _create(storage, name, directions, space)
        except optuna.exceptions.DuplicatedStudyError:  # by another driver, at this moment
            known = _just_created(storage, str(name))
    elif "search_space" not in known.user_attrs and not storage.get_all_trials(
        compat.study_id(known), deepcopy=False
    ):
        known = _just_created(storage, str(name))
    if known is not None:
        _refuse_other_study(storage, known, directions, space)
        if changed := _changed(known, fingerprint):
            _say_change(str(name), changed, on_change)
        if sampler is not None:  # with its seed it would draw what the first session drew
            sampler.reseed_rng()
    return _Study(str(name), storage, sampler=sampler, pruner=pruner)


def _known(storage: LiveStorage, name: str) -> Any:
    return next((s for s in storage.get_all_studies() if s.study_name == name), None)


def _create(storage: LiveStorage, name: str | None, directions: Sequence[str], space: Space) -> str:
    created = optuna.create_study(storage=storage, study_name=name, directions=list(directions))  # type: ignore[arg-type]
    created.set_user_attr("search_space", space.signature())
    return created.study_name


def _just_created(storage: LiveStorage, name: str) -> Any:
    """A study that another driver is making: it is about to write what the study searches."""
    deadline_s = time.monotonic() + CREATION_S
    while "search_space" not in (known := _known(storage, name)).user_attrs:
        if time.monotonic() > deadline_s:  # it died meanwhile
            break
        time.sleep(0.05)
    return known


class _JudgedStorage:
    """A study's storage, but that its one direction is the watched metric's goal."""

    def __init__(self, storage: LiveStorage, metric: Metric) -> None:
        self._storage, self._directions = storage, [StudyDirection[metric.goal.upper()]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:  # noqa: ARG002
        """See optuna.storages.BaseStorage."""
        return self._directions


def judged_by(metric: Metric, study: optuna.Study, storage: LiveStorage) -> optuna.Study:
    """A view of a study for pruners, which judge the watched metric and not the objectives.

    Its trials and attributes are the study's own; its one direction is the metric's goal. That is
    in its storage too: Hyperband makes studies of its own from that.
    """
    seen: Any = _JudgedStorage(storage, metric)
    return optuna.Study(study.study_name, seen, sampler=study.sampler, pruner=study.pruner)


def differs(
    storage: BaseStorage,
    name: str,
    directions: Sequence[str],
    space: Space,
    fingerprint: Fingerprint,
) -> bool:
    """Whether the study of this name is there, and a session of these would change it."""
    known = next((s for s in storage.get_all_studies() if s.study_name == name), None)
    return known is not None and bool(
        _searches_otherwise(storage, known, directions, space) or _changed(known, fingerprint)
    )


def _changed(known: Any, fingerprint: Fingerprint | None) -> list[str]:
    """Where this session differs from the last one of a study, if both are known."""
    was = latest(known.user_attrs)
    return [] if was is None or fingerprint is None else differences(was, fingerprint)


def _say_change(name: str, changed: Sequence[str], on_change: str) -> None:
    what = f"study {name!r} was last run otherwise: {'; '.join(changed)}"
    if on_change == "refuse":
        raise BadInputError(
            f"{what}; ask for what it had, choose another hydra.sweeper.study_name, or go on with "
            "hydra.sweeper.on_change=warn (tables tell the trials apart) or new_study (begins "
            "another beside it)"
        )
    log.warning(
        "%s. It goes on, and every table tells its trials apart; hydra.sweeper.on_change=new_study "
        "begins another study instead, hydra.sweeper.on_change=refuse stops here",
        what,
    )


def _refuse_other_study(
    storage: BaseStorage, known: Any, directions: Sequence[str], space: Space
) -> None:
    """Raise BadInputError if a study searches something else, saying what and the choices."""
    if different := _searches_otherwise(storage, known, directions, space):
        raise BadInputError(
            f"study {known.study_name!r} {different}, or let "
            "hydra.sweeper.on_change=new_study begin another"
        )


def _searches_otherwise(
    storage: BaseStorage, known: Any, directions: Sequence[str], space: Space
) -> str:
    """What a study searches that is not asked for, and what to do; "" if it is the same."""
    was = [d.name.lower() for d in storage.get_study_directions(compat.study_id(known))]
    if was != list(directions):
        return (
            f"exists with direction={_shown(was)}, asked for {_shown(directions)}; choose another "
            "hydra.sweeper.study_name, or the direction it has"
        )
    asked, kept = space.signature(), known.user_attrs.get("search_space")
    if kept is None:  # made by another tool: its last trial shows what it searches
        trials = storage.get_all_trials(compat.study_id(known), deepcopy=False)
        kept = signature(trials[-1].distributions) if trials else asked
    different = sorted(key for key in asked.keys() | kept.keys() if asked.get(key) != kept.get(key))
    if not different:
        return ""
    dimensions = "; ".join(
        f"{key} was {_dimension(kept.get(key))}, now {_dimension(asked.get(key))}"
        for key in different
    )
    stops = [key for key in different if _had_the_stop(kept.get(key), asked.get(key))]
    hint = (
        f" (the official Optuna sweeper's range includes its stop, Hydra's does not: to have the "
        f"same values, let the range of {', '.join(stops)} end one step later)"
        if stops and len(stops) == len(different)
        else ""
    )
    return (
        f"searches another space: {dimensions}{hint}; choose another hydra.sweeper.study_name, "
        "or ask for the space it has"
    )


def _had_the_stop(kept: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> bool:
    """Whether two dimensions are one range, of which one includes its stop."""
    if kept is None or asked is None or kept["name"] != asked["name"]:
        return False
    was, now = kept["attributes"], asked["attributes"]
    if now.get("step") is None or any(was.get(k) != now[k] for k in ("low", "step", "log")):
        return False
    return math.isclose(was["high"], now["high"] + now["step"])


def _shown(directions: Sequence[str]) -> str:
    return directions[0] if len(directions) == 1 else f"[{', '.join(directions)}]"


def _dimension(kept: Mapping[str, Any] | None) -> str:
    if kept is None:
        return "not searched"
    values = kept["attributes"]
    if "choices" in values:
        return f"choice({', '.join(map(str, values['choices']))})"
    log = "log " if values.get("log") else ""
    kind = kept["name"].removesuffix("Distribution").lower()
    return f"{log}{kind} {values['low']} to {values['high']}"
