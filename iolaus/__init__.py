"""Asynchronous, pruning, resumable Hydra sweeps on Optuna, with a judgement of how each loss converged."""

from iolaus.sweeps.reporting import intervention, plan, report, should_stop

__all__ = ["intervention", "plan", "report", "should_stop"]
