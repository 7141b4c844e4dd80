"""The trivial baseline does what a plain loop does, and its front is one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.analysis.replay._curves import Curve
from iolaus.analysis.replay.baseline import baseline_front, stop_and_continue
from iolaus.sweeps.types import Plan


def curves(seed: int, n_trials: int, n_reports: int = 20) -> list[Curve]:
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(n_trials, n_reports)).cumsum(axis=1)
    losses[rng.random(n_trials) < 0.2, n_reports // 2 :] = math.nan
    return [Curve(np.arange(n_reports, dtype=float), row, Plan(n_reports)) for row in losses]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n_trials=st.integers(1, 30),
    stop=st.floats(0.01, 1),
    continued=st.floats(0.01, 1),
)
def test_the_best_go_on_and_all_others_stop_at_one_step(seed, n_trials, stop, continued):
    """As many as asked run on, and none of them was worse at the stop than one that ended there;
    a diverged trial ends at its first loss that is not finite.
    """
    found = curves(seed, n_trials)
    run = stop_and_continue(found, stop, continued)
    at = max(1, int(stop * 20))
    shown = [c.losses[:at].min() if at <= c.n_finite else math.inf for c in found]
    n_continued = math.ceil(continued * n_trials)
    ended = [i for i in range(n_trials) if run.stopped[i]]
    others = [i for i in range(n_trials) if not run.stopped[i]]
    if at < 20:
        assert len(ended) <= n_trials - min(n_continued, sum(map(math.isfinite, shown)))
    assert all(run.n_seen[i] == at for i in ended)
    assert all(run.n_seen[i] == min(20, found[i].n_finite + 1) for i in others)
    if ended:
        goes_on = [i for i in others if run.n_seen[i] > at]
        assert max((shown[i] for i in goes_on), default=-math.inf) <= min(shown[i] for i in ended)


def test_the_front_rises():
    """More compute buys more of the true top, and no setting of the front is beaten by another."""
    front = baseline_front({"a": curves(0, 40), "b": curves(1, 30)})
    assert len(front) > 2
    for a, b in pairwise(front):
        assert a.compute < b.compute
        assert a.kept < b.kept
