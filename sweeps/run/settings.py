"""The sweeper's options, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.types import Intervention

OBJECTIVES = (None, "best", "final", "return")


@dataclass(frozen=True)
class Settings:
    """The sweeper's options but for the search space (`params` and `when`, see `iolaus.sweeps.search.branches.searched`).

    Names and meanings are those of the official Optuna sweeper where it has them.

    sampler, pruner: configs with `_target_`. direction: "minimize", "maximize", or a list of them.
    storage: an Optuna storage URL, or None for study.db in the sweep's folder. study_name: None for
    the job's name.
    n_trials: the total to reach. n_jobs: slots, or "auto". max_failure_rate: in [0, 1].
    lanes: trials that each slot trains side by side as one model, or "auto" for as many as pay; 1
    for none.
    lane_runner: dotted name of the function (iolaus.sweeps.run.lanes.LaneServer) that does it.
    custom_search_space: dotted name of a function (config, trial) that suggests more. enqueue:
    settings to run first.
    repeats: runs of each setting, with seeds counted up from the config's own at the key seed_key.
    lint: dotted name of a function (config) that returns `iolaus.sweeps.types.Finding`s before a
    trial runs, or None.
    on_stall: "prune", or an intervention ("decay", "rewind": see
    `iolaus.sweeps.types.Intervention`) to be tried n_interventions times before;
    stall_factor: for the learning rate each time.
    holdout_fraction: share of the trials the pruner would end that run on, to count how often it is
    wrong.
    metric: the watched metric. objective: see OBJECTIVES. report: the name of a report (see
    iolaus.sweeps.run.reports), a dotted name of a function that is given the sweep's folder at the
    end and returns what it made (paths), or None for no report.
    """

    sampler: Any
    pruner: Any
    direction: Any
    storage: Any
    study_name: str | None
    n_trials: int
    n_jobs: int | str
    lanes: int | str
    lane_runner: str | None
    max_failure_rate: float
    custom_search_space: str | None
    enqueue: Sequence[Mapping[str, Any]]
    repeats: int
    seed_key: str
    lint: str | None
    holdout_fraction: float
    on_stall: str
    stall_factor: float
    n_interventions: int
    metric: str
    objective: str | None
    report: str | None

    def __post_init__(self) -> None:
        def refuse(option: str, value: Any, wanted: str) -> None:
            raise BadInputError(f"hydra.sweeper.{option}={value}: {wanted}")

        if (
            isinstance(self.n_trials, bool)
            or not isinstance(self.n_trials, int)
            or self.n_trials < 1
        ):
            refuse("n_trials", self.n_trials, "give the total number of trials to reach, 1 or more")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            refuse("repeats", self.repeats, "give the number of seeds for each setting, 1 or more")
        if self.lanes != "auto" and (type(self.lanes) is not int or self.lanes < 1):
            refuse("lanes", self.lanes, "give the number of lanes of each slot, 1 or more, or auto")
        if self.lanes != 1 and self.lane_runner is None:
            refuse(
                "lanes",
                self.lanes,
                "this app cannot train in lanes: hydra.sweeper.lane_runner names no function",
            )
        if not (isinstance(self.max_failure_rate, int | float) and 0 <= self.max_failure_rate <= 1):
            refuse(
                "max_failure_rate",
                self.max_failure_rate,
                "give a share from 0 (none may fail) to 1 (all may)",
            )
        if not (isinstance(self.holdout_fraction, int | float) and 0 <= self.holdout_fraction <= 1):
            refuse(
                "holdout_fraction", self.holdout_fraction, "give a share from 0 to 1, such as 0.05"
            )
        if self.on_stall not in ("prune", *Intervention.ACTIONS):
            refuse(
                "on_stall", self.on_stall, f"choose from prune, {', '.join(Intervention.ACTIONS)}"
            )
        if not (isinstance(self.stall_factor, int | float) and 0 < self.stall_factor < 1):
            refuse(
                "stall_factor",
                self.stall_factor,
                "give a factor between 0 and 1 for the learning rate",
            )
        if (
            isinstance(self.n_interventions, bool)
            or not isinstance(self.n_interventions, int)
            or self.n_interventions < 1
        ):
            refuse(
                "n_interventions",
                self.n_interventions,
                "give how often an intervention is tried, 1 or more",
            )
        if self.objective not in OBJECTIVES:
            refuse(
                "objective",
                self.objective,
                f"choose from {', '.join(map(str, OBJECTIVES[1:]))}, or leave it out",
            )
        if not self.directions or not set(self.directions) <= {"minimize", "maximize"}:
            refuse("direction", self.direction, "give minimize or maximize, or a list of them")
        if len(self.directions) > 1 and self.objective in ("best", "final"):
            refuse(
                "objective",
                self.objective,
                "with several directions the task must return the objectives",
            )

    @property
    def directions(self) -> list[str]:
        """One direction per objective."""
        return (
            [str(d) for d in self.direction]
            if isinstance(self.direction, list)
            else [str(self.direction)]
        )


def read_settings(node: DictConfig) -> Settings:
    """The settings of a config's `hydra.sweeper` node."""
    try:
        options = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise BadInputError(f"hydra.sweeper: {one_line(error)}") from error
    names = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(set(options) - names - {"_target_", "_recursive_", "params", "when"})
    if unknown:
        raise BadInputError(
            f"hydra.sweeper has no option {', '.join(unknown)}; there are {', '.join(sorted(names))}"
        )
    given = {name: value for name, value in options.items() if name in names}
    given |= {
        name: node[name] for name in ("sampler", "pruner", "storage")
    }  # made from their configs later
    return Settings(**given | {"enqueue": options["enqueue"] or []})
