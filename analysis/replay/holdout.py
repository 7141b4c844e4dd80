"""What ending trials early saved, and how often it was wrong.

The latter is counted on trials that a holdout let run on.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.holdout import HoldoutResult, goal_rank, held_out
from iolaus.sweeps.study.summary import n_best_of
from iolaus.sweeps.text import counted

__all__ = ["Pruning", "pruning"]

# States of trials that a rule ended, for good or for now.
ENDED = ("paused", "pruned")


@dataclass(frozen=True, slots=True)
class Pruning:
    """Trials ended early in a sweep, and those held out to see what they would have come to.

    n_ended: trials that a rule ended. rules: how many by which rule, most frequent first.
    saved_share: optimizer steps of these trials that were not run, as a share of what all ended and
        completed trials had planned; NaN if no plan is known (a trial without one is taken to plan
        as many steps as the longest).
    holdout: how often ending would have been wrong.
    """

    n_ended: int
    rules: dict[str, int]
    saved_share: float
    holdout: HoldoutResult

    def sentences(self) -> list[str]:
        """What was ended and saved, and how often that was wrong, in words.

        Empty if no rule would have ended any trial.
        """
        wrong = self.holdout.sentence()
        if not self.n_ended and not wrong:
            return []
        rules = ", ".join(f"{rule} {n}" for rule, n in self.rules.items())
        ended = f"{counted(self.n_ended, 'trial')} ended early" + (f" ({rules})" if rules else "")
        if math.isfinite(self.saved_share):
            ended += f", which saved {self.saved_share:.0%} of the steps that the sweep had planned"
        unknown = (
            "How often that was wrong is not known: hydra.sweeper.holdout_fraction=0.03 lets some "
            "run on."
        )
        return [f"{ended}.", wrong or unknown]


def pruning(sweep: Sweep) -> Pruning:
    """Count what ending trials early saved and cost.

    Diverged trials count as ended, though no holdout lets them run on.
    """
    trials = sweep.trials
    if trials.empty:
        return Pruning(0, {}, math.nan, held_out({}, {}, 1))
    ended = trials[trials["state"].isin(ENDED)]
    rules = {
        str(rule): n for rule, n in Counter(ended["verdict_rule"].dropna()).most_common() if rule
    }
    done = sweep.objective_sign * trials.loc[trials["state"] == "complete", "objective"]
    losses = {int(number): float(loss) for number, loss in zip(done.index, done, strict=True)}
    at = trials["held_out_step"].dropna()
    steps = {int(number): int(step) for number, step in zip(at.index, at, strict=True)}
    found = held_out(losses, steps, goal_rank(len(trials), n_best_of(sweep.config)))
    return Pruning(len(ended), rules, _saved_share(trials), found)


def _saved_share(trials: pd.DataFrame) -> float:
    trials = trials[trials["state"].isin(["complete", *ENDED])]
    planned = trials["n_steps"].astype(float)
    planned = planned.fillna(planned.max())
    if not planned.sum() > 0:  # none is known, or none has a curve
        return math.nan
    done = trials["steps"].astype(float).fillna(0)
    left = (planned - done).clip(lower=0)[trials["state"].isin(ENDED)].sum()
    return float(left / planned.sum())
