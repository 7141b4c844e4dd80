"""The objective of a trial that completed: what its task returned, or its watched metric."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from iolaus.sweeps.study.watched import WatchedCurve
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["Objective", "with_objective"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Which number of a trial the study records.

    source: "return", "best" or "final" of the watched metric, or None for the return value if there
    is one, else best. metric: the watched metric's name. n_directions: numbers wanted; of the
    watched metric there is one.
    """

    source: str | None
    metric: str
    n_directions: int = 1


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
        objective.source is None and not outcome.values and objective.n_directions == 1
    ):
        value = curve.final if objective.source == "final" else curve.best
        values: tuple[float, ...] = (value,) if curve.final_step >= 0 else ()
    else:
        values = outcome.values
    if len(values) == objective.n_directions:
        return replace(outcome, values=values)
    reason = _why_none(outcome, objective, others)
    return Outcome(Ending.FAILED, reason=reason, returned=outcome.returned)


def _why_none(outcome: Outcome, objective: Objective, others: Collection[str]) -> str:
    hint = (
        f"; it reported {', '.join(sorted(others))}: set hydra.sweeper.metric to one of them"
        if others
        else ""
    )
    if objective.source in ("best", "final"):
        return (
            f"the task never reported {objective.metric!r}, whose {objective.source} value is the "
            f"objective{hint}"
        )
    n = objective.n_directions
    returned = (
        f"{len(outcome.values)} numbers" if len(outcome.values) > 1 else repr(outcome.returned)
    )
    wanted = "a number" if n == 1 else f"{n} numbers, one per direction"
    return (
        f"the task returned {returned} and reported no {objective.metric!r}; return {wanted}{hint}"
    )
