"""What came of a trial, from what its task returned or raised."""

from __future__ import annotations

import math
import traceback
from bdb import BdbQuit
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn

from iolaus.sweeps.hydra_compat import returned_by
from iolaus.sweeps.run.memory import memory_error
from iolaus.sweeps.types import Ending, Finding, Outcome, Returned, Verdict

__all__ = [
    "MOST_VALUES",
    "NO_TERMINAL",
    "as_floats",
    "describe",
    "infeasible",
    "is_ruled_out",
    "not_begun",
    "outcome_of",
]

# Of the numbers that a task returns so many are kept; no study has as many objectives.
MOST_VALUES = 100
# What an error says is kept to so many characters; all of it is in the trial's log.
MOST_TEXT = 500

NO_TERMINAL = (
    "a debugger in a worker has no terminal to talk to: set hydra.sweeper.n_jobs=0, and trials run "
    "in the foreground"
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
        reason = verdict.reason if verdict is not None else _said(returned)
        return Outcome(ending, reason=reason or "the task pruned itself", verdict=verdict)
    if isinstance(returned, BaseException):
        reason, memory = describe(returned), memory_error(returned)
        _let_go(returned)
        return Outcome(Ending.FAILED, reason=reason, memory=memory)
    values = as_floats(returned)
    bad = [value for value in values if math.isnan(value)]
    if bad:
        reason = "the task returned nan"
        verdict = Verdict("diverged", 0, reason, {"returned": math.nan})
        return Outcome(
            Ending.DIVERGED, reason=reason, verdict=verdict, returned=Returned.of(returned)
        )
    kept = None if returned is None else Returned.of(returned)
    return Outcome(Ending.COMPLETED, values=values[:MOST_VALUES], returned=kept)


def as_floats(returned: Any) -> tuple[float, ...]:
    """The task's return value as numbers.

    One for a number or one-element tensor, several for a sequence, else none.
    """
    items = returned if isinstance(returned, list | tuple) else [returned]
    if any(isinstance(item, str | bytes | None) for item in items):
        return ()
    try:
        return tuple(_number(item) for item in items)
    except Exception:  # the object is the user's, and so is its __float__
        return ()


def _number(item: Any) -> float:
    """A number, also one that is the only element of an array or tensor, of any shape."""
    return float(item.item() if hasattr(item, "item") else item)


def describe(error: BaseException) -> str:
    """An error in one line: its type, what it says, and where in the user's code it arose."""
    if isinstance(error, BdbQuit):
        return NO_TERMINAL
    if isinstance(error, SystemExit):
        return f"the task called sys.exit({'' if error.code is None else repr(error.code)})"
    text = _said(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _said(error: BaseException) -> str:
    """What an error says, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the error is the user's, and so is its __str__
        return ""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."


def _let_go(error: BaseException | None) -> None:
    """Free what an error's traceback holds, such as a model, before the next trial begins."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


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
