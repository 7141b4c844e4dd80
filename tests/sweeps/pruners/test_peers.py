"""The table of peers agrees with plain dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from iolaus.sweeps.pruners.peers import FURTHER, LAG, MIN_NEAREST, N_COLUMNS, PeerOutcome, Peers
from iolaus.sweeps.signals import Trend
from iolaus.sweeps.types import Plan


def at(step: int, level: float, best: float, best_step: int | None = None) -> Trend:
    return Trend(step, level, 0.0, 0.0, 0.0, best, step if best_step is None else best_step)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=40),
    outcomes=st.lists(st.sampled_from(list(PeerOutcome)), min_size=40, max_size=40),
    seed=st.integers(0, 999),
)
def test_a_standing_counts_what_dictionaries_count(lengths, outcomes, seed):
    """Peers here, ahead and stopped before, the goal, the winners' loss, how the order held and
    what those that stood near went on to reach are those of a plain recount.
    """
    rng = np.random.default_rng(seed)
    peers, shown = Peers(), {}
    for trial, n in enumerate(lengths):
        losses = rng.normal(size=n)
        shown[trial] = losses
        for step, loss in enumerate(losses):
            so_far = losses[: step + 1]
            peers.report(trial, at(step, loss, so_far.min(), int(so_far.argmin())))
        peers.end(trial, outcomes[trial])
    me, n = int(rng.integers(len(lengths))), len(lengths)
    step = lengths[me] - 1
    k = min(n, math.ceil(1.5 * n ** (1 / 3) - 1e-12))
    goal = peers.goal(me, 1.5)
    assert goal == sorted(losses.min() for losses in shown.values())[k - 1]
    here = peers.standing(me, goal)
    reached = [t for t in shown if len(shown[t]) > step]
    gone = [t for t in shown if len(shown[t]) <= step and outcomes[t] is PeerOutcome.STOPPED]
    assert here.n_peers == len(reached) - 1 + len(gone)
    assert here.n_better == sum(shown[t][step] < shown[me][step] for t in reached)
    complete = [t for t in reached if outcomes[t] is PeerOutcome.COMPLETE]
    winners = [t for t in complete if shown[t].min() <= goal] or sorted(
        complete, key=lambda t: shown[t].min()
    )[:1]
    if winners:
        assert here.winners_here == np.quantile([shown[t][int(step / LAG)] for t in winners], 0.9)
    else:
        assert here.winners_here == -math.inf
    then, now = int(step / LAG), shown[me][step]
    further = [
        t
        for t in shown
        if t != me
        and len(shown[t]) > then
        and (outcomes[t] is PeerOutcome.COMPLETE or len(shown[t]) - 1 >= FURTHER * step)
    ]
    nearest = sorted(further, key=lambda t: abs(shown[t][then] - now))[
        : max(MIN_NEAREST, math.ceil(len(further) / 4))
    ]
    prospect = peers.prospect(me)
    assert prospect.n == len(nearest)
    later = [t for t in nearest if shown[t].argmin() > then]
    assert prospect.reach == min(
        [now, *(shown[t].min() + max(0, now - shown[t][then]) for t in later)]
    )
    both = [t for t in shown if len(shown[t]) > step]
    if len(both) < MIN_NEAREST:
        assert peers.order_held(me) == -1
    else:
        rho = spearmanr([shown[t][step // 2] for t in both], [shown[t][step] for t in both])
        bound = min(max(rho.statistic, -0.9999), 0.9999)
        low = math.tanh(math.atanh(bound) - 1 / math.sqrt(len(both) - 3))
        assert peers.order_held(me) == pytest.approx(low)


def test_trials_of_other_lengths_are_compared_at_equal_shares_of_the_run():
    """Trials that do the same at equal shares stand alike, whatever the steps they plan."""
    peers = Peers()
    for trial, n in enumerate((50, 3200, 400, 800)):
        for tenth in range(5):
            step = n * tenth // 10
            peers.report(trial, at(step, 1 - tenth / 10 + trial, 1 - tenth / 10 + trial), Plan(n))
    for trial in range(4):
        here = peers.standing(trial, 0.0)
        assert (here.n_peers, here.n_better) == (3, trial)


def test_long_runs_fit_in_the_same_columns():
    """Beyond the last column the table widens its columns; levels between reports are those of the
    report before.
    """
    peers = Peers()
    for trial in range(3):
        for step in range(0, 40 * N_COLUMNS, 100):
            peers.report(trial, at(step, trial - step / 1e6, trial - step / 1e6))
        peers.end(trial, PeerOutcome.COMPLETE if trial else PeerOutcome.STOPPED)
    peers.report(3, at(12_345, 0.5, 0.5))
    here = peers.standing(3, peers.goal(3, 1.0))
    assert (here.n_peers, here.n_better, here.n_complete) == (3, 1, 2)
