"""What is asked of a study at each report and each ask costs no look at every trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study._settings_run import SettingsRun
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, counts_as_run
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Plan

X = optuna.distributions.FloatDistribution(0, 3)
C = optuna.distributions.CategoricalDistribution([1, True, "a", None])


def made(number: int, state: TrialState, x: float, c: Any, **attributes: Any) -> FrozenTrial:
    system = {"fixed_params": {"x": x}} if attributes.pop("queued", False) else {}
    trial = create_trial(
        state=state,
        params={"x": x, "c": c} if number % 2 else {"c": c, "x": x},
        distributions={"x": X, "c": C},
        value=0.0 if state is TrialState.COMPLETE else None,
        user_attrs=attributes,
        system_attrs=system,
    )
    trial.number = number
    return trial


trials = st.lists(
    st.builds(
        dict,
        state=st.sampled_from(list(TrialState)),
        x=st.sampled_from([0.0, 1.0, 2.0]),
        c=st.sampled_from([1, "a", None]),
        queued=st.booleans(),
        extra=st.sampled_from(
            [{}, {"repeat_of": 0}, {"duplicate_of": 0}, {"why": "interrupted"}, {"why": "failed"}]
        ),
    ),
    max_size=12,
)


@settings(max_examples=100)
@given(before=trials, after=st.lists(st.sampled_from(list(TrialState)), min_size=12, max_size=12))
def test_what_is_counted_once_is_what_a_recount_says(
    before: list[dict[str, Any]], after: list[TrialState]
) -> None:
    """Whatever trials there are, and however those that had not finished go on, the counts are
    those of a look at every trial.
    """
    now = [
        made(i, t["state"], t["x"], t["c"], queued=t["queued"], **t["extra"])
        for i, t in enumerate(before)
    ]
    seen: list[FrozenTrial] = []
    index = SettingsRun(lambda: seen)
    mine = {i for i, t in enumerate(now) if t.state is TrialState.RUNNING and i % 3}
    for moment in (now[: len(now) // 2], now, None):
        if moment is None:  # those that ran or waited go on
            moment = [
                t
                if t.state.is_finished()
                else made(i, state, b["x"], b["c"], queued=b["queued"], **b["extra"])
                for i, (t, state, b) in enumerate(zip(now, after, before, strict=False))
            ]
        seen[:] = moment
        leads = [t for t in moment if counts_as_run(t) and "repeat_of" not in t.user_attrs]
        assert index.n_run() == len(leads)
        assert index.n_waiting() == sum(t.state is TrialState.WAITING for t in moment)
        running = {n for n in mine if n < len(moment) and not moment[n].state.is_finished()}
        for x in (0.0, 1.0, 2.0):
            fixed = [t.system_attrs.get("fixed_params") for t in moment if counts_as_run(t)]
            assert index.was_queued({"x": x}) == ({"x": x} in fixed)
            for c in (1, True, "a", None):
                same = [
                    t.number
                    for t in moment
                    if t.params == {"x": x, "c": c}
                    and (
                        t.number in running
                        or (
                            t.state in (TrialState.COMPLETE, TrialState.PRUNED)
                            and "duplicate_of" not in t.user_attrs
                        )
                    )
                ]
                found = index.before({"c": c, "x": x}, running)
                assert (found and found.number) == (same[0] if same else None)


def test_a_report_and_an_ask_stay_cheap_with_many_trials() -> None:
    """At 3,000 finished trials a report takes less than a millisecond and an ask less than ten of
    the deciding thread's CPU, several times what was measured (benchmarks/hot_path.py), a fraction
    of what a look at every trial takes.
    """
    storage = LiveStorage(optuna.storages.InMemoryStorage(), refresh_s=1.0)
    space = parse_space({}, ["+x=5"], lambda _: [], lambda _: False)
    sampler = optuna.samplers.RandomSampler(seed=0)
    opened = open_study(storage, "s", ["minimize"], sampler, StalledLoss(), space)
    rng = np.random.default_rng(0)
    for i in range(3_000):
        levels = rng.random() + np.exp(-np.arange(10) / 3)
        opened.add_trial(
            create_trial(
                value=1.0,
                params={"y": float(i)},
                distributions={"y": optuna.distributions.FloatDistribution(0, 3_000)},
                intermediate_values=dict(enumerate(levels.tolist())),
            )
        )
    plans = Plans(3_100, extend=lambda trial: trial.suggest_float("y", 0, 3_000) and None)
    study = SweepStudy(opened, storage, space, plans, Metric("loss"), None)
    asks, reports = [], []
    for _ in range(10):
        proposal, spent_s = timed(study.ask)
        asks.append(spent_s)
        study.plan(proposal.trial, Plan(10))
        for step in range(8):
            _, spent_s = timed(partial(study.report, proposal.trial, step, -step))
            reports.append(spent_s)
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, (0.5,)), Run(), log="")
    storage.close()
    assert np.median(reports) < 1e-3
    assert np.median(asks) < 10e-3


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began_s = time.thread_time()
    answer = call()
    return answer, time.thread_time() - began_s
