"""Where will a curve end? An estimate to order trials by before they have ended."""

from __future__ import annotations

from iolaus.sweeps.signals import Signals, Z

__all__ = ["likely_end"]

# Of the progress that a straight course in log time promises. Chosen on TaskSet and DeepOBS, where
# 0.1 to 0.2 order the trials about equally well (benchmarks/README.md).
PROGRESS_SHARE = 0.15
SURE_STANDARD_ERRORS = 2.0


def likely_end(said: Signals, n_steps: int) -> float:
    """The loss to expect at the last of n_steps, from a curve up to now.

    NaN if it never was finite. Else it is the level, plus a part of the progress that goes on
    straight in log time, if the trend is beyond two standard errors. For ordering trials: too
    cautious as a forecast of any one of them. A rising trend counts as well.
    """
    error = (said.trend_high - said.trend) / Z
    if not abs(said.trend) > SURE_STANDARD_ERRORS * error:
        return said.level
    sure = 1 - (SURE_STANDARD_ERRORS * error / said.trend) ** 2  # shrunk as by James and Stein
    expected, _, _ = said.expected(max(n_steps - 1, said.step))
    return said.level + PROGRESS_SHARE * sure * (expected - said.level)
