"""What ending trials early saved, and how often it was wrong.

The latter is counted on trials that a holdout let run on.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from iolaus.analysis.data.sweep import Sweep

__all__ = ["Pruning", "pruning"]

# States of trials that a rule ended, for good or for now.
ENDED = ("paused", "pruned")
GOOD_SHARE = (
    0.1  # ending a trial was wrong if it would have finished among this share of all trials
)


@dataclass(frozen=True, slots=True)
class Pruning:
    """Trials ended early in a sweep, and those held out to see what they would have come to.

    n_ended: trials that a rule ended. rules: how many by which rule, most frequent first.
    saved_share: optimizer steps of these trials that were not run, as a share of what all ended and
        completed trials had planned; NaN if no plan is known (a trial without one is taken to plan
        as many steps as the longest).
    held_out: held out trials that have finished, index trial; columns step (of the verdict),
        objective, rank (1 is the best of all completed trials), wrong (rank within the best
        GOOD_SHARE of all trials, or first).
    n_wrong, wrong_low, wrong_high: how often ending would have been wrong, with the 95 % interval
        of the share (Wilson 1927); NaN without held out trials.
    good_rank: the worst rank that counts as wrong to have ended; trials that were ended count as
        worse than those that completed.
    """

    n_ended: int
    rules: dict[str, int]
    saved_share: float
    held_out: pd.DataFrame
    n_wrong: int
    wrong_low: float
    wrong_high: float
    good_rank: int

    def sentences(self) -> list[str]:
        """What was ended and saved, and how often that was wrong, in words.

        Empty if no rule ended any trial.
        """
        if not self.n_ended and self.held_out.empty:
            return []
        rules = ", ".join(f"{rule} {n}" for rule, n in self.rules.items())
        said = [f"{_trials(self.n_ended)} ended early" + (f" ({rules})" if rules else "")]
        if math.isfinite(self.saved_share):
            said[0] += (
                f", which saved {self.saved_share:.0%} of the steps that the sweep had planned"
            )
        said[0] += "."
        if self.held_out.empty:
            return [
                *said,
                "How often that was wrong is not known: hydra.sweeper.holdout_fraction=0.05 lets "
                "some run on.",
            ]
        among = "as the best of all" if self.good_rank == 1 else f"among the best {self.good_rank}"
        said.append(
            f"Of {_trials(len(self.held_out))} that the pruner would have ended but that ran on, "
            f"{self.n_wrong} finished {among}: wrong in {self.n_wrong / len(self.held_out):.0%} "
            f"(95 % interval {self.wrong_low:.0%} to {self.wrong_high:.0%})."
        )
        return said


def pruning(sweep: Sweep) -> Pruning:
    """Count what ending trials early saved and cost.

    Diverged trials count as ended, though no holdout lets them run on.
    """
    trials = sweep.trials
    empty = pd.DataFrame(columns=["step", "objective", "rank", "wrong"])
    if trials.empty:
        return Pruning(0, {}, math.nan, empty, 0, math.nan, math.nan, 1)
    ended = trials[trials["state"].isin(ENDED)]
    rules = {
        str(rule): n for rule, n in Counter(ended["verdict_rule"].dropna()).most_common() if rule
    }
    done = trials[trials["state"] == "complete"]
    rank = done["objective"].rank(ascending=sweep.objective_sign > 0, method="min")
    good_rank = max(1, math.ceil(GOOD_SHARE * (len(done) + len(ended))))
    held_out = done[done["held_out_step"].notna()]
    held_out = pd.DataFrame(
        {
            "step": held_out["held_out_step"],
            "objective": held_out["objective"],
            "rank": rank.loc[held_out.index].astype(int),
        }
    )
    held_out["wrong"] = held_out["rank"] <= good_rank
    n, wrong = len(held_out), int(held_out["wrong"].sum())
    low, high = binomtest(wrong, n).proportion_ci(method="wilson") if n else (math.nan, math.nan)
    return Pruning(
        len(ended), rules, _saved_share(trials), held_out, wrong, float(low), float(high), good_rank
    )


def _saved_share(trials: pd.DataFrame) -> float:
    trials = trials[trials["state"].isin(["complete", *ENDED])]
    planned = trials["n_steps"].astype(float)
    planned = planned.fillna(planned.max())
    if not planned.sum() > 0:  # none is known, or none has a curve
        return math.nan
    done = trials["steps"].astype(float).fillna(0)
    left = (planned - done).clip(lower=0)[trials["state"].isin(ENDED)].sum()
    return float(left / planned.sum())


def _trials(n: int) -> str:
    return f"{n} trial" if n == 1 else f"{n} trials"
