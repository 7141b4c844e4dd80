"""The sweeper's options, checked before anything runs."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from iolaus.sweeps.checkpoints import parse_bytes
from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.metric import GOALS, choose_metric
from iolaus.sweeps.run._start_method import START_METHODS
from iolaus.sweeps.run.timeouts import Timeouts
from iolaus.sweeps.study.budget import Budget
from iolaus.sweeps.study.finalists import Finalists
from iolaus.sweeps.study.no_gain import NoGain
from iolaus.sweeps.study.opening import ON_CHANGE
from iolaus.sweeps.text import parse_seconds
from iolaus.sweeps.types import Intervention

__all__ = ["OBJECTIVES", "Settings", "read_settings"]

log = logging.getLogger("sweeps")

ON_PRUNE = ("pause", "stop")
OBJECTIVES = (None, "best", "final", "return")


@dataclass(frozen=True)
class Settings:
    """The sweeper's options but for the search space.

    That is `params` and `when`, see `iolaus.sweeps.search.branches.searched`. Names and
    meanings are those of the official Optuna sweeper where it has them.

    sampler, pruner: configs with `_target_`. direction: "minimize", "maximize", or a list of them.
    storage: an Optuna storage URL, or None for study.db in the sweep's folder. study_name: None for
    the job's name.
    n_trials: the total to reach. budget: what all sessions together may cost, as a text such as 2h
    (wall time), "500 gpu-min" or "30 core-min" (of the slots that had a trial); None for no limit.
    stop_when: "no_gain", or {no_gain: {p: ..., n: ...}}: no new setting is run when the chance that
    one of the next n improves on the best by more than its noise is below p; None: never.
    n_jobs: slots, or "auto". n_nodes: drivers that hydra/launcher starts, each with so many.
    trials_per_gpu: trials side by side on each GPU, or "auto" for as many
    as fit and raise its rate of steps; with several, each worker's share of the memory is capped.
    memory_per_slot: what a trial may hold of the machine's memory, in bytes or as a text such as
    4GiB; None for no limit. monotonic: keys of parameters of which a larger value never takes less
    memory: above one that had no room none is run. max_failure_rate: in [0, 1].
    trial_timeout, stall_timeout: how long a trial may run in all, and without a report, as seconds
    or a text such as 30min; None for no limit. checkpoint_grace: likewise, how long the end of a
    sweep waits for the checkpoints of trials that make some; None: not at all. keep_checkpoints:
    of how many of the best completed trials, and of those that stayed paused, the last checkpoint
    stays. start_timeout: likewise, how long a worker may take to the first line of the user's code;
    None for no limit.
    start_method: how workers are started, see `iolaus.sweeps.run._start_method`.
    grace_period: how long another driver of a shared study may be silent before its trials are
    taken over, in seconds or such a text.
    lanes: trials that each slot trains side by side as one model, or "auto" for as many as pay; 1
    for none.
    lane_runner: dotted name of the function (iolaus.sweeps.run.lanes.LaneServer) that does it.
    custom_search_space: dotted name of a function (config, trial) that suggests more. enqueue:
    settings to run first.
    repeats: runs of each setting, with seeds counted up from the config's own at the key seed_key;
    repeat_hopeless: also of settings that are clearly behind. finalists: so many of the best
    settings get so many seeds more at the end, as a text such as `3 x 3 seeds` or {n: 3, seeds: 3};
    None: none do.
    on_change: what to do where the study was last run with other settings or code, see
    `iolaus.sweeps.study.opening.ON_CHANGE`.
    lint: dotted name of a function (config) that returns `iolaus.sweeps.types.Finding`s before a
    trial runs, or None.
    on_prune: "pause" or "stop": whether a trial that the pruner ends may go on later, if the pruner
    thaws any. paused_limit: what the checkpoints of paused trials may take, in bytes or as a text
    such as 500MB; 0: none is kept.
    on_stall: "prune", or an intervention ("decay", "rewind": see
    `iolaus.sweeps.types.Intervention`) to be tried n_interventions times before;
    stall_factor: for the learning rate each time.
    holdout_fraction: share of the trials the pruner would end that run on, to count how often it is
    wrong; 0 for none.
    metric: the watched metric. metric_goal: "minimize" or "maximize" it, or None for what its name
    says, or else the direction (`iolaus.sweeps.metric.choose_metric`). objective: see OBJECTIVES.
    report: the name of a report (see iolaus.sweeps.run._reports), a dotted name of a function that
    is given the sweep's folder at the end and returns what it made (paths), or None for no report.
    log_to: names of experiment trackers (see iolaus.sweeps.run.loggers).
    """

    sampler: Any
    pruner: Any
    direction: Any
    storage: Any
    study_name: str | None
    n_trials: int
    budget: str | None
    stop_when: Any
    n_jobs: int | str
    n_nodes: int
    trials_per_gpu: int | str
    memory_per_slot: int | str | None
    monotonic: Sequence[str]
    lanes: int | str
    lane_runner: str | None
    max_failure_rate: float
    trial_timeout: float | str | None
    start_timeout: float | str | None
    start_method: str
    stall_timeout: float | str | None
    checkpoint_grace: float | str | None
    keep_checkpoints: int
    grace_period: float | str
    custom_search_space: str | None
    enqueue: Sequence[Mapping[str, Any]]
    repeats: int
    repeat_hopeless: bool
    finalists: Any
    seed_key: str
    on_change: str
    lint: str | None
    holdout_fraction: float
    on_prune: str
    paused_limit: int | str
    on_stall: str
    stall_factor: float
    n_interventions: int
    metric: str
    metric_goal: str | None
    objective: str | None
    report: str | None
    log_to: Sequence[str]

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
        if type(self.n_nodes) is not int or self.n_nodes < 1:
            refuse("n_nodes", self.n_nodes, "give how many drivers the launcher starts, 1 or more")
        if self.lanes != "auto" and (type(self.lanes) is not int or self.lanes < 1):
            refuse("lanes", self.lanes, "give the number of lanes of each slot, 1 or more, or auto")
        if self.lanes != 1 and self.lane_runner is None:
            refuse(
                "lanes",
                self.lanes,
                "this app cannot train in lanes: hydra.sweeper.lane_runner names no function",
            )
        per_gpu = self.trials_per_gpu
        if per_gpu != "auto" and (type(per_gpu) is not int or per_gpu < 1):
            refuse("trials_per_gpu", per_gpu, "give the trials of each GPU, 1 or more, or auto")
        if per_gpu == "auto" and self.lanes != 1:
            refuse("trials_per_gpu", "auto", "lanes share a card by themselves: give a number")
        try:
            _ = self.slot_bytes
        except ValueError:
            wanted = "give bytes above 0, or a text such as 500MB, 4GiB"
            refuse("memory_per_slot", self.memory_per_slot, wanted)
        if not (isinstance(self.max_failure_rate, int | float) and 0 <= self.max_failure_rate <= 1):
            refuse(
                "max_failure_rate",
                self.max_failure_rate,
                "give a share from 0 (none may fail) to 1 (all may)",
            )
        times = ("trial_timeout", "stall_timeout", "start_timeout")
        for option in (*times, "checkpoint_grace", "grace_period"):
            value = getattr(self, option)
            try:
                _ = (value is None and option != "grace_period") or parse_seconds(value)
            except ValueError:
                refuse(option, value, "give seconds above 0, or a text such as 90s, 30min, 2h, 1d")
        try:
            _ = self.limit
        except ValueError as error:
            refuse("budget", self.budget, str(error))
        try:
            rule = self.no_gain
        except (TypeError, ValueError):
            wanted = "give no_gain, or {no_gain:{p:0.2,n:10}} with p between 0 and 1, n 1 or more"
            refuse("stop_when", self.stop_when, wanted)
        try:
            _ = self.final_seeds
        except ValueError:
            wanted = "give how many settings, and how many more seeds for each: '3 x 3 seeds'"
            refuse("finalists", self.finalists, wanted)
        if rule is not None and len(self.directions) > 1:
            refuse("stop_when", self.stop_when, "several objectives have no one best to improve on")
        if not (isinstance(self.holdout_fraction, int | float) and 0 <= self.holdout_fraction <= 1):
            refuse(
                "holdout_fraction", self.holdout_fraction, "give a share from 0 to 1, such as 0.03"
            )
        if type(self.keep_checkpoints) is not int or self.keep_checkpoints < 0:
            refuse(
                "keep_checkpoints",
                self.keep_checkpoints,
                "give of how many of the best completed trials the checkpoint stays, 0 or more",
            )
        if self.on_prune not in ON_PRUNE:
            refuse("on_prune", self.on_prune, f"choose from {', '.join(ON_PRUNE)}")
        try:
            parse_bytes(self.paused_limit)
        except ValueError:
            wanted = "give bytes, 0 or more, or a text such as 500MB, 2GB"
            refuse("paused_limit", self.paused_limit, wanted)
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
        if self.start_method not in START_METHODS:
            refuse("start_method", self.start_method, f"choose from {', '.join(START_METHODS)}")
        if self.on_change not in ON_CHANGE:
            refuse("on_change", self.on_change, f"choose from {', '.join(ON_CHANGE)}")
        if self.objective not in OBJECTIVES:
            refuse(
                "objective",
                self.objective,
                f"choose from {', '.join(map(str, OBJECTIVES[1:]))}, or leave it out",
            )
        if self.metric_goal not in (None, *GOALS):
            refuse("metric_goal", self.metric_goal, "give minimize or maximize, or leave it out")
        if not self.directions or not set(self.directions) <= {"minimize", "maximize"}:
            refuse("direction", self.direction, "give minimize or maximize, or a list of them")
        if len(self.directions) > 1 and self.objective in ("best", "final"):
            refuse(
                "objective",
                self.objective,
                "with several directions the task must return the objectives",
            )
        metric, _ = choose_metric(self.metric, self.metric_goal, self.directions, self.objective)
        if self.objective in ("best", "final") and [metric.goal] != self.directions:
            refuse(
                "objective",
                self.objective,
                f"{metric.name} is better when it is {metric.way}, "
                + ("as hydra.sweeper.metric_goal says" if self.metric_goal else "by its name")
                + f", and hydra.sweeper.direction={self.direction} asks for the opposite; "
                f"set hydra.sweeper.direction={metric.goal}, "
                f"or hydra.sweeper.metric_goal={self.direction}",
            )

    @property
    def directions(self) -> list[str]:
        """One direction per objective."""
        return (
            [str(d) for d in self.direction]
            if isinstance(self.direction, list)
            else [str(self.direction)]
        )

    @property
    def timeouts(self) -> Timeouts:
        """After which time a trial is ended."""
        asked = (
            *(self.trial_timeout, self.stall_timeout),
            *(self.checkpoint_grace, self.start_timeout),
        )
        return Timeouts(*(None if value is None else parse_seconds(value) for value in asked))

    @property
    def slot_bytes(self) -> int | None:
        """`memory_per_slot` in bytes. Raises ValueError for what is no size, or none above 0."""
        if self.memory_per_slot is None:
            return None
        n_bytes = parse_bytes(self.memory_per_slot)
        if n_bytes < 1:
            raise ValueError("a trial needs memory")
        return n_bytes

    @property
    def limit(self) -> Budget | None:
        """`budget`, read. Raises ValueError for what is none."""
        return None if self.budget is None else Budget.parse(self.budget)

    @property
    def no_gain(self) -> NoGain | None:
        """`stop_when`, read. Raises TypeError or ValueError for what is no rule."""
        match self.stop_when:
            case None:
                return None
            case "no_gain":
                return NoGain()
            case {"no_gain": dict(numbers), **others} if not others:
                return NoGain(**numbers)
        raise ValueError(f"there is no rule {self.stop_when}")

    @property
    def final_seeds(self) -> Finalists | None:
        """`finalists`, read. Raises ValueError for what is none."""
        return Finalists.parse(self.finalists)

    @property
    def grace_period_s(self) -> float:
        """`grace_period` in seconds."""
        return parse_seconds(self.grace_period)


# Options and classes that have another name now; the old ones are read for one release more.
RENAMED = {
    "audit": "lint",
    "audit_fraction": "holdout_fraction",
    "n_remedies": "n_interventions",
}
RENAMED_CLASSES = {
    "iolaus.sweeps.pruners.Audit": "iolaus.sweeps.pruners.Holdout",
    **{
        f"sweeps.pruners.{old}": f"iolaus.sweeps.pruners.{new}"
        for old, new in {
            "Audit": "Holdout",
            **{name: name for name in ("AllOf", "AnyOf", "Interval", "StalledLoss", "WarmUp")},
        }.items()
    },
}
# What an option is that nobody has given, of those that have an old name.
_DEFAULTS = {"lint": None, "holdout_fraction": 0.03, "n_interventions": 2}


def read_settings(node: DictConfig) -> Settings:
    """The settings of a config's `hydra.sweeper` node.

    Options that have an old name are taken under it too, with a warning; BadInputError for both.
    """
    try:
        options = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise BadInputError(f"hydra.sweeper: {one_line(error)}") from error
    options = _under_new_names(options)
    names = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(
        set(options) - names - {"_target_", "_recursive_", "params", "when", "search_space"}
    )
    if unknown:
        raise BadInputError(
            f"hydra.sweeper has no option {', '.join(unknown)}; "
            f"there are {', '.join(sorted(names))}"
        )
    given = {name: value for name, value in options.items() if name in names}
    given |= {
        name: node[name] for name in ("sampler", "pruner", "storage")
    }  # made from their configs later
    given["pruner"] = _with_new_classes(given["pruner"])
    lists = {key: options[key] or [] for key in ("enqueue", "log_to", "monotonic")}
    return Settings(**given | lists)


def _under_new_names(options: dict[str, Any]) -> dict[str, Any]:
    """The options without old names, of which each that is given is warned of."""
    kept = {name: value for name, value in options.items() if name not in RENAMED}
    for old, new in RENAMED.items():
        value = options.get(old)
        if value is None:
            continue
        if kept.get(new, _DEFAULTS[new]) != _DEFAULTS[new]:
            raise BadInputError(
                f"hydra.sweeper.{old}={value} is the old name of hydra.sweeper.{new}, which is "
                f"{kept[new]}: leave {old} out"
            )
        log.warning(
            "hydra.sweeper.%s has a new name, and the next release will not know the old one: "
            "write hydra.sweeper.%s=%s",
            *(old, new, value),
        )
        kept[new] = value
    return kept


def _with_new_classes(config: Any) -> Any:
    """A copy of a pruner's config in which old names of classes and their options are new ones."""
    if not isinstance(config, DictConfig):
        return config
    config = copy.deepcopy(config)  # keeps its parent, so that interpolations still resolve
    nodes = [config]
    while nodes:
        node = nodes.pop()
        keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
        inner = [node[key] for key in keys if not OmegaConf.is_missing(node, key)]
        nodes += [one for one in inner if isinstance(one, DictConfig | ListConfig)]
        old = node.get("_target_") if isinstance(node, DictConfig) else None
        if old not in RENAMED_CLASSES:
            continue
        new = RENAMED_CLASSES[old]
        log.warning(
            "%s has a new name, and the next release will not know the old one: write %s", old, new
        )
        OmegaConf.update(node, "_target_", new)
        if "audit_fraction" in node:
            with open_dict(node):
                node["holdout_fraction"] = node.pop("audit_fraction")
    return config
