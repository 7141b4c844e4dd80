"""What a trial leaves in the study, and what can be said of it from that."""

from __future__ import annotations

import math
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.types import Ending, Outcome, Verdict


def counts_as_run(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards n_trials.

    All do that run or ran, but those that were cut off.
    """
    return trial.state is not TrialState.WAITING and not was_interrupted(trial)


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended because its sweep did; the same setting is queued again."""
    return trial.state is TrialState.FAIL and str(trial.user_attrs.get("why", "")).startswith(
        Ending.INTERRUPTED
    )


def broken_constraints(trial: FrozenTrial) -> list[str]:
    """The names of the constraints that a trial does not keep; one that is NaN is not kept."""
    return [name for name, amount in trial.constraints.items() if not amount <= 0]


def why(outcome: Outcome) -> str:
    return f"{outcome.ending}: {outcome.reason}" if outcome.reason else str(outcome.ending)


def verdict_attributes(verdict: Verdict) -> dict[str, Any]:
    finite = {
        name: value for name, value in verdict.numbers.items() if math.isfinite(value)
    }  # JSON knows no NaN
    return {
        "verdict": verdict.reason,
        "verdict_rule": verdict.rule,
        "verdict_step": verdict.step,
        "verdict_numbers": finite,
    }
