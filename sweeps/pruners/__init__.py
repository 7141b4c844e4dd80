"""Rules that end a trial before its time, each with a stated reason."""

from iolaus.sweeps.pruners.compose import AllOf, AnyOf, Holdout, Interval, WarmUp
from iolaus.sweeps.pruners.curve_pruner import CurvePruner
from iolaus.sweeps.pruners.stalled import StalledLoss
from iolaus.sweeps.pruners.verdicts import VerdictPruner, verdict_of

__all__ = [
    "AllOf",
    "AnyOf",
    "CurvePruner",
    "Holdout",
    "Interval",
    "StalledLoss",
    "VerdictPruner",
    "WarmUp",
    "verdict_of",
]
