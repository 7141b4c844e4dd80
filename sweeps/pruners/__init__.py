"""Rules that end a trial before its time, each with a stated reason."""

from sweeps.pruners.compose import AllOf, AnyOf, Audit, Interval, WarmUp
from sweeps.pruners.stalled import StalledLoss
from sweeps.pruners.verdicts import VerdictPruner, verdict_of

__all__ = ["AllOf", "AnyOf", "Audit", "Interval", "StalledLoss", "VerdictPruner", "WarmUp", "verdict_of"]
