"""Why a trial has diverged, in words: its loss is no number, or has left its own past for good.

What that is, `has_diverged` and `lost_since` in `iolaus.sweeps.signals` say. Peers are not asked.
"""

from __future__ import annotations

from iolaus.sweeps.pruners.verdicts import distinct
from iolaus.sweeps.signals import Array, lost_since
from iolaus.sweeps.types import Verdict

__all__ = ["DIVERGED_RULE", "left_its_past", "not_finite"]

DIVERGED_RULE = "diverged"


def not_finite(step: int, value: float) -> Verdict:
    """The verdict on a value that is NaN or infinite."""
    reason = f"diverged: the loss is {value} at step {step:,}"
    return Verdict(DIVERGED_RULE, step, reason, {"loss": value})


def left_its_past(steps: Array, losses: Array, n_steps: int, sign: float = 1.0) -> Verdict | None:
    """The verdict on finite losses [n] that have left their past, or None; none on the last step.

    sign: -1 if the losses are negated values, for words.
    """
    step = int(steps[-1])
    if step >= n_steps - 1 or (since := lost_since(steps, losses, n_steps)) is None:
        return None
    best_at = int(losses[steps < since].argmin())
    start, last = sign * float(losses[0]), sign * float(losses[-1])
    best = sign * float(losses[best_at])
    shown, began = distinct(last, start)
    reason = (
        f"diverged: worse than where it began ({began}) at every report since step {since:,} and "
        f"not on course back: {shown} at step {step:,}, after {best:.4g} at step "
        f"{int(steps[best_at]):,}"
    )
    numbers = {"loss": last, "start": start, "best": best, "diverged_since": float(since)}
    return Verdict(DIVERGED_RULE, step, reason, numbers)
