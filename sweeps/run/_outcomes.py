"""What came of a trial, from what its task returned or raised."""

from __future__ import annotations

import gc
import math
import pickle
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn

from iolaus.sweeps.hydra_compat import returned_by
from iolaus.sweeps.types import Ending, Finding, Outcome, Verdict

__all__ = [
    "ONLY_CHILDREN_REPORTED",
    "as_floats",
    "describe",
    "infeasible",
    "is_ruled_out",
    "not_begun",
    "outcome_of",
]

ONLY_CHILDREN_REPORTED = Finding(
    "child_reports",
    0,
    "only child processes of the trial reported, which is not taken: pass the values to the "
    "process that runs the task (a queue or pipe), and report there",
)


def outcome_of(result: JobReturn, verdict: Verdict | None) -> Outcome:
    """What came of a job.

    verdict: why the sweep ended it, if the task took notice before it was over.
    """
    returned = returned_by(result)
    if verdict is not None or isinstance(returned, optuna.TrialPruned):
        ending = (
            Ending.DIVERGED if verdict is not None and verdict.rule == "diverged" else Ending.PRUNED
        )
        reason = (
            verdict.reason if verdict is not None else str(returned) or "the task pruned itself"
        )
        return Outcome(ending, reason=reason, verdict=verdict)
    if isinstance(returned, BaseException):
        gc.collect()  # the traceback may hold a model; let its memory go before the next trial
        return Outcome(Ending.FAILED, reason=describe(returned))
    values = as_floats(returned)
    bad = [value for value in values if math.isnan(value)]
    if bad:
        reason = "the task returned nan"
        verdict = Verdict("diverged", 0, reason, {"returned": math.nan})
        return Outcome(
            Ending.DIVERGED, reason=reason, verdict=verdict, returned=_sendable(returned)
        )
    return Outcome(Ending.COMPLETED, values=values, returned=_sendable(returned))


def as_floats(returned: Any) -> tuple[float, ...]:
    """The task's return value as numbers.

    One for a number or one-element tensor, several for a sequence, else none.
    """
    items = returned if isinstance(returned, list | tuple) else [returned]
    if any(isinstance(item, str | bytes | None) for item in items):
        return ()
    try:
        return tuple(float(item) for item in items)
    except Exception:  # the object is the user's, and so is its __float__
        return ()


def describe(error: BaseException) -> str:
    """An error in one line: its type, what it says, and where in the user's code it arose."""
    if isinstance(error, SystemExit):
        return f"the task called sys.exit({'' if error.code is None else repr(error.code)})"
    try:
        text = " ".join(str(error).split())
    except Exception:  # the error is the user's, and so is its __str__
        text = ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _sendable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:
        return None
    return value


def is_ruled_out(findings: Sequence[Finding]) -> bool:
    """Whether a lint found that a trial is not to be run."""
    return any(finding.rule == "infeasible" for finding in findings)


def infeasible(findings: Sequence[Finding]) -> Outcome:
    """The outcome of a trial that is ruled out."""
    reason = next(finding.text for finding in findings if finding.rule == "infeasible")
    return Outcome(Ending.INFEASIBLE, reason=reason, findings=tuple(findings))


def not_begun(error: Exception) -> Outcome:
    """The outcome of a trial whose task was never called."""
    return Outcome(Ending.FAILED, reason=f"{describe(error)} (before the task began)")
