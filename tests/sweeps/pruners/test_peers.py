"""The table of peers agrees with plain dictionaries."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.sweeps.pruners.peers import N_COLUMNS, PeerOutcome, Peers
from iolaus.sweeps.signals import Trend


def at(step: int, level: float, best: float) -> Trend:
    return Trend(step, level, 0.0, 0.0, 0.0, best, step)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=40),
    outcomes=st.lists(st.sampled_from(list(PeerOutcome)), min_size=40, max_size=40),
    seed=st.integers(0, 999),
)
def test_a_standing_counts_what_dictionaries_count(lengths, outcomes, seed):
    """Peers here, peers ahead, those stopped before, the goal and the winners' loss are those of a
    plain recount.
    """
    rng = np.random.default_rng(seed)
    peers, shown = Peers(), {}
    for trial, n in enumerate(lengths):
        losses = rng.normal(size=n)
        shown[trial] = losses
        for step, loss in enumerate(losses):
            peers.report(trial, at(step, loss, losses[: step + 1].min()))
        peers.end(trial, outcomes[trial])
    me, n = int(rng.integers(len(lengths))), len(lengths)
    step = lengths[me] - 1
    k = min(n, math.ceil(1.5 * n ** (1 / 3) - 1e-12))
    goal = peers.goal(me, 1.5)
    assert goal == sorted(losses.min() for losses in shown.values())[k - 1]
    here = peers.standing(me, step, goal)
    reached = [t for t in shown if len(shown[t]) > step]
    gone = [t for t in shown if len(shown[t]) <= step and outcomes[t] is PeerOutcome.STOPPED]
    assert here.n_peers == len(reached) - 1 + len(gone)
    assert here.n_better == sum(shown[t][step] < shown[me][step] for t in reached)
    complete = [t for t in reached if outcomes[t] is PeerOutcome.COMPLETE]
    winners = [t for t in complete if shown[t].min() <= goal] or sorted(
        complete, key=lambda t: shown[t].min()
    )[:1]
    if winners:
        assert here.winners_here == np.quantile([shown[t][step] for t in winners], 0.9)
        nearest = sorted(complete, key=lambda t: abs(shown[t][step] - shown[me][step]))[
            : math.ceil(len(complete) / 4)
        ]
        assert peers.gain_after(me, step) == max(
            shown[t][step] - shown[t][step:].min() for t in nearest
        )
    else:
        assert here.winners_here == -math.inf


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
    here = peers.standing(3, 12_345, peers.goal(3, 1.0))
    assert (here.n_peers, here.n_better, here.n_complete) == (3, 1, 2)
    assert peers.last_step(3) == 12_345
    assert peers.last_step(99) == -1
