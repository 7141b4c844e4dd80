"""Where one run will end and when, from its own reports so far; and how right that was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iolaus.sweeps.signals import N_LEVEL, Array, n_finite, signals
from iolaus.sweeps.text import duration

__all__ = ["ASKED_AT", "RunEnd", "came_to", "foresee", "looked_back"]

# Shares of a run after which it is asked, to compare with what came.
ASKED_AT = (0.25, 0.5)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What the reports up to `step` say of the end of a run of n_steps.

    level, low, high: of the loss then, and its interval, as of `Signals.expected`, which knows
    nothing of a rate that is to fall: asked at a quarter of the run it held 86 to 96 % of the ends
    of real curves, at half 90 to 97 % (benchmarks/README.md). seconds_left: at the speed of the
    last half of the reports; NaN if it is not known.
    """

    step: int
    n_steps: int
    level: float
    low: float
    high: float
    seconds_left: float

    def sentence(self, metric: str) -> str:
        """All of it, for a log or a report."""
        left = (
            "" if math.isnan(self.seconds_left) else f"about {duration(self.seconds_left)} left, "
        )
        return (
            f"step {self.step:,} of {self.n_steps:,}: {left}{metric} {self.level:.4g} expected at "
            f"the end ({self.low:.4g} to {self.high:.4g})"
        )

    def beside(self, metric: str, loss: float, took_s: float) -> str:
        """It, beside what the run came to and the seconds that it took from there."""
        is_within = self.low <= loss <= self.high
        how = "within" if is_within else "below" if loss < self.low else "above"
        times = (
            ""
            if math.isnan(self.seconds_left + took_s)
            else f"; {duration(self.seconds_left)} left, it took {duration(took_s)}"
        )
        return (
            f"at step {self.step:,}: {metric} {self.level:.4g} at the end ({self.low:.4g} to "
            f"{self.high:.4g}), it came to {loss:.4g}, {how} that{times}"
        )


def foresee(
    steps: Array,
    losses: Array,
    seconds: Array | None,
    n_steps: int,
    sign: float = 1.0,
    highest: float = math.inf,
) -> RunEnd | None:
    """The end of a run from its reports so far; None from fewer than three finite ones.

    steps, losses, seconds: [n], steps rising; seconds of the run, None if they are not known.
    n_steps: as planned; a run that has come so far expects the level it has. sign: -1 for a metric
    that is maximised; what is returned is in the metric's own direction. highest: that it can be.
    """
    n = n_finite(losses)
    if n < N_LEVEL or n < len(losses):
        return None
    said = signals(steps, sign * losses)
    level, low, high = said.expected(max(n_steps, said.step))
    if sign > 0 and losses.min() >= 0:  # a loss of this kind does not fall below 0
        level, low = max(level, 0.0), max(low, 0.0)
    half = len(steps) // 2
    left_s = math.nan
    if seconds is not None and steps[-1] > steps[half]:
        speed = (seconds[-1] - seconds[half]) / (steps[-1] - steps[half])
        left_s = float(max(n_steps - steps[-1], 0) * speed)
    low, high = sorted((sign * low, sign * high))
    level, low, high = (min(value, highest) for value in (sign * level, low, high))
    return RunEnd(int(steps[-1]), n_steps, level, low, high, left_s)


def came_to(losses: Array) -> float:
    """The loss that a run came to: the mean of its last three reports, or of all if fewer."""
    return float(np.mean(losses[-N_LEVEL:]))


def looked_back(
    steps: Array,
    losses: Array,
    seconds: Array | None,
    n_steps: int,
    sign: float = 1.0,
    highest: float = math.inf,
) -> list[tuple[RunEnd, float, float]]:
    """What was foreseen of a run that is over, after a quarter and half of its steps.

    Each with the loss that it came to and the seconds that it took from there, NaN if they are not
    known. As in `foresee`; what could not be foreseen is left out.
    """
    found = []
    for share in ASKED_AT:
        n = int(np.searchsorted(steps, share * n_steps, "right"))
        until = None if seconds is None else seconds[:n]
        if n < len(steps) and (
            end := foresee(steps[:n], losses[:n], until, n_steps, sign, highest)
        ):
            took_s = math.nan if seconds is None else float(seconds[-1] - seconds[n - 1])
            found.append((end, came_to(losses), took_s))
    return found
