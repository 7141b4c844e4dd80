"""OptunaHub: `load_module("pruners/stalled_loss").StalledLoss`."""

from iolaus.sweeps.pruners import StalledLoss

__all__ = ["StalledLoss"]
