"""The objective of a trial that completed: what its task returned, or its watched metric."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.run._outcomes import MOST_VALUES
from iolaus.sweeps.study._watched import WatchedCurve
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["Objective", "with_objective"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Which number of a trial the study records.

    source: "return", "best" or "final" of the watched metric, or None for the return value if there
    is one, else best. metric: the watched one. directions: "minimize" or "maximize", one for each
    number wanted; of the watched metric there is one.
    """

    source: str | None
    metric: Metric
    directions: tuple[str, ...] = ("minimize",)

    @property
    def is_opposed(self) -> bool:
        """Whether the objective goes another way than the watched metric, so is not its best."""
        return len(self.directions) == 1 and self.directions[0] != self.metric.goal


def with_objective(
    outcome: Outcome, objective: Objective, curve: WatchedCurve, others: Collection[str]
) -> Outcome:
    """The outcome with the objective's values, or a failure that says why there are none.

    An outcome that is not COMPLETED is returned as it is. curve: of the watched metric. others: the
    further metrics that the trial reported, for the message.
    """
    if outcome.ending is not Ending.COMPLETED:
        return outcome
    if objective.source in ("best", "final") or (
        objective.source is None and not outcome.values and len(objective.directions) == 1
    ):
        value = curve.final if objective.source == "final" else curve.best
        is_there = curve.final_step >= 0 and not objective.is_opposed
        values: tuple[float, ...] = (value,) if is_there else ()
    else:
        values = outcome.values
    if len(values) == len(objective.directions):
        return replace(outcome, values=values)
    reason = _why_none(outcome, objective, others, has_curve=curve.final_step >= 0)
    return Outcome(
        Ending.FAILED, reason=reason, returned=outcome.returned, findings=outcome.findings
    )


def _why_none(
    outcome: Outcome, objective: Objective, others: Collection[str], has_curve: bool
) -> str:
    metric = objective.metric
    if objective.is_opposed and not outcome.values and has_curve:
        direction = objective.directions[0]
        return (
            f"the task returned {_returned(outcome)}, and the best {metric.name} cannot be the "
            f"objective: it is better when it is {metric.way}, and hydra.sweeper.direction="
            f"{direction}; return what is to be {direction}d, or set the direction or "
            "hydra.sweeper.metric_goal"
        )
    hint = (
        f"; it reported {', '.join(sorted(others))}: set hydra.sweeper.metric to one of them"
        if others
        else ""
    )
    if objective.source in ("best", "final"):
        return (
            f"the task never reported {metric.name!r}, whose {objective.source} value is the "
            f"objective{hint}"
        )
    n = len(objective.directions)
    wanted = "a number" if n == 1 else f"{n} numbers, one per direction"
    returned = _returned(outcome)
    if has_curve:
        name = repr(metric.name)
        else_ = f", or nothing: then the best {name} is the objective" if n == 1 else ""
        if objective.source == "return":
            else_ = f": hydra.sweeper.objective=return takes no reported {name}"
        return f"the task returned {returned}; return {wanted}{else_}"
    return f"the task returned {returned} and reported no {metric.name!r}; return {wanted}{hint}"


def _returned(outcome: Outcome) -> str:
    if 1 < len(outcome.values) < MOST_VALUES:
        return f"{len(outcome.values)} numbers"
    return "None" if outcome.returned is None else outcome.returned.text
