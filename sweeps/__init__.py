"""Asynchronous, pruning, resumable sweeps of any training function, on Hydra and Optuna."""

from sweeps.reporting import plan, remedy, report, should_stop

__all__ = ["plan", "remedy", "report", "should_stop"]
