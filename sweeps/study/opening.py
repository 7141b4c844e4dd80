"""The study of a sweep: found or made, and refused if it searches something else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.search.space import Space, signature
from iolaus.sweeps.study.live_storage import LiveStorage

__all__ = ["METRIC_ATTR", "judged_by", "metric_of", "open_study"]

# The study's user attribute of the watched metric: {"name": ..., "goal": ...}.
METRIC_ATTR = "metric"
# How long another driver may take from the making of a study to writing what it searches.
CREATION_S = 5.0


def metric_of(study: optuna.Study) -> Metric | None:
    """The watched metric that a sweep has noted in its study; None where only others wrote."""
    try:
        return Metric(**study.user_attrs[METRIC_ATTR])
    except (KeyError, TypeError, ValueError):
        return None


class _Study(optuna.Study):
    """A study that notes when its sampler has nothing left.

    Optuna reports that only inside `optimize`.
    """

    exhausted = False

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
) -> optuna.Study:
    """The study of this name, made if it is not there. Nothing is written to one that is.

    Raises BadInputError if it exists with other directions or another search space.
    """
    known = None if name is None else _known(storage, name)
    if known is None:
        try:
            name = _create(storage, name, directions, space)
        except optuna.exceptions.DuplicatedStudyError:  # by another driver, at this moment
            known = _just_created(storage, str(name))
    if known is not None:
        _refuse_other_study(storage, known, directions, space)
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


def _refuse_other_study(
    storage: LiveStorage, known: Any, directions: Sequence[str], space: Space
) -> None:
    was = [d.name.lower() for d in storage.get_study_directions(compat.study_id(known))]
    if was != list(directions):
        raise BadInputError(
            f"study {known.study_name!r} exists with direction={_shown(was)}, "
            f"asked for {_shown(directions)}; choose another "
            "hydra.sweeper.study_name, or the direction it has"
        )
    asked, kept = space.signature(), known.user_attrs.get("search_space")
    if kept is None:  # made by another tool: its last trial shows what it searches
        trials = storage.get_all_trials(compat.study_id(known), deepcopy=False)
        kept = signature(trials[-1].distributions) if trials else asked
    different = sorted(key for key in asked.keys() | kept.keys() if asked.get(key) != kept.get(key))
    if different:
        raise BadInputError(
            f"study {known.study_name!r} searches another space: "
            + "; ".join(
                f"{key} was {_dimension(kept.get(key))}, now {_dimension(asked.get(key))}"
                for key in different
            )
            + "; choose another hydra.sweeper.study_name, or ask for the space it has"
        )


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
