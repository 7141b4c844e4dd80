"""Finalists: the best settings get more seeds at the end, and no trial waits for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.finalists import Finalists, seeds_missing
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, is_repeat, leader_of, record_of
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome

RUN = Run(folder="trials/0", slot=0, session=0, seconds=1.0)


@pytest.fixture
def make() -> Iterator[Callable[..., SweepStudy]]:
    """Returns a SweepStudy of one study, as its next driver has it."""
    storage = LiveStorage(open_backend("sqlite://"))
    sessions = itertools.count()
    parse = OverridesParser.create().parse_overrides
    space = parse_space({}, ["x=interval(0.0, 1.0)"], parse, lambda _: False)

    def made(pruner: Any = None, direction: str = "minimize", **plans: Any) -> SweepStudy:
        sampler = optuna.samplers.RandomSampler(seed=next(sessions))
        pruner = pruner or optuna.pruners.NopPruner()
        opened = open_study(storage, "s", [direction], sampler, pruner, space)
        return SweepStudy(opened, storage, space, Plans(**plans), Metric("loss"), None)

    yield made
    storage.close()


@pytest.mark.parametrize("value", ["3 x 2 seeds", "3x2", {"n": 3, "seeds": 2}])
def test_what_may_be_written(value: Any) -> None:
    """Three settings, two seeds more each, as a text or as a mapping."""
    assert Finalists.parse(value) == Finalists(3, 2)
    assert Finalists.parse(None) is None


@pytest.mark.parametrize(
    "value", ["3", "0 x 2", "3 x 0 seeds", {"n": 3}, {"n": 3, "seeds": 1.5}, 3]
)
def test_what_may_not_be_written(value: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="seeds"):
        Finalists.parse(value)


@pytest.mark.parametrize("n_slots", [1, 3])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_get_their_seeds_whoever_ends_first(
    make: Callable[..., SweepStudy], n_slots: int, seed: int, direction: str
) -> None:
    """In the end the best settings by their first runs have their further seeds, counted up; no
    slot waits, and of those that were passed at the last moment no more have begun than fit.
    """
    rng = np.random.default_rng(seed)
    sign = -1 if direction == "maximize" else 1
    finalists = Finalists(3, 2)
    plans = {"n_trials": 8, "finalists": finalists, "first_seed": 5, "repeat_hopeless": True}
    study = make(direction=direction, **plans)
    running: list[int] = []
    for _ in range(100):
        while len(running) < n_slots and (proposal := study.ask()) is not None:
            running.append(proposal.trial)
        if not running:
            break
        number = running.pop(int(rng.integers(len(running))))
        if rng.random() < 0.05:  # the driver dies
            for cut_off in (number, *running):
                study.tell(cut_off, Outcome(Ending.INTERRUPTED, reason="killed"), RUN, log="")
            running, study = [], make(direction=direction, **plans)
            continue
        value = float(rng.normal())
        study.tell(number, Outcome(Ending.COMPLETED, values=(value,)), RUN, log="")
    trials = study.study.get_trials()
    assert study.n_to_ask == 0
    firsts = {t.number: sign * t.values[0] for t in trials if not is_repeat(t)}
    assert len(firsts) == 8
    best = sorted(firsts, key=firsts.__getitem__)[:3]
    seeds = {n: sorted(record_of(t).seed or 0 for t in trials if leader_of(t) == n) for n in firsts}
    assert {n: seeds[n] for n in best} == {n: [5, 6, 7] for n in best}
    assert sum(len(seeds[n]) - 1 for n in firsts if n not in best) <= n_slots * finalists.seeds
    assert n_slots > 1 or all(seeds[n] == [5] for n in firsts if n not in best)


def test_a_slot_that_is_free_takes_a_seed_while_others_run(
    make: Callable[..., SweepStudy],
) -> None:
    """No barrier: the last setting still runs when the seeds of the best so far begin; it comes out
    best, and takes the place of the second, of which a seed has begun.
    """
    study = make(n_trials=3, finalists=Finalists(2, 1))
    for value in (0.2, 0.1):
        proposal = study.ask()
        assert proposal is not None
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(value,)), RUN, log="")
    last, first = study.ask(), study.ask()
    assert last is not None
    assert first is not None
    assert record_of(study.study.trials[first.trial]).repeat_of == 1
    study.tell(last.trial, Outcome(Ending.COMPLETED, values=(0.0,)), RUN, log="")
    assert study.n_to_ask == 1
    second = study.ask()
    assert second is not None
    assert record_of(study.study.trials[second.trial]).repeat_of == last.trial
    assert study.ask() is None


def test_those_go_first_that_stay_finalists_whatever_still_runs(
    make: Callable[..., SweepStudy],
) -> None:
    """While one setting runs that may pass the second of two finalists, the first gets its seeds;
    no slot waits for it.
    """
    study = make(n_trials=3, finalists=Finalists(2, 2))
    for value in (0.2, 0.1):
        proposal = study.ask()
        assert proposal is not None
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(value,)), RUN, log="")
    assert study.ask() is not None  # the third, which goes on running
    asked = [study.ask() for _ in range(3)]
    trials = study.study.trials
    assert [record_of(trials[a.trial]).repeat_of for a in asked if a is not None] == [1, 1, 0]


def test_no_pruner_ends_or_sees_the_seeds_of_a_finalist(make: Callable[..., SweepStudy]) -> None:
    """A seed that would have been stopped runs on, and is no peer of later trials."""
    pruner = optuna.pruners.ThresholdPruner(upper=1.0)
    study = make(pruner, n_trials=1, finalists=Finalists(1, 1))
    verdicts = []
    for _ in range(2):
        proposal = study.ask()
        assert proposal is not None
        verdicts.append(study.report(proposal.trial, 5, 2.0))
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(2.0,)), RUN, log="")
    assert verdicts[0] is not None
    assert verdicts[1] is None
    seen = StalledLoss()
    later = make(seen, n_trials=2, finalists=Finalists(1, 1))
    assert later.ask() is not None
    assert len(seen._peers) == 1


Setting = tuple[float | None, ...]  # what its runs came to; None for one that was pruned


def missing(*settings: Setting, **options: Any) -> list[tuple[int, int]]:
    """Of settings whose trials follow each other; that of an odd number ran in session 1."""
    trials: list[optuna.trial.FrozenTrial] = []
    for place, values in enumerate(settings):
        leader = len(trials)
        for k, value in enumerate(values):
            repeat = {"repeat": k, "repeat_of": leader} if k else {}
            trial = optuna.trial.create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=value,
                user_attrs={"run": {"session": place % 2}, **repeat},
            )
            trial.number = len(trials)
            trials.append(trial)
    return seeds_missing(trials, ["minimize"], Finalists(2, 2), **options)


def test_who_is_no_finalist() -> None:
    """Settings with a seed that was pruned, without a number, and of other settings or code."""
    assert missing((1.0,), (2.0,), (3.0,)) == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert missing((1.0,), (0.5, None), (math.inf,)) == [(0, 1), (0, 2)]
    assert missing((1.0,), (0.5,), not_comparable={1}) == [(0, 1), (0, 2)]


def test_one_that_is_clearly_behind_gets_no_more() -> None:
    """Once the spread between seeds is known, unless it is asked for."""
    runs = (0.0, 0.1, -0.1), (5.0, 5.1)
    assert missing(*runs) == []
    assert missing(*runs, repeat_hopeless=True) == [(3, 2)]


def test_with_repeats_the_best_are_those_of_the_best_means() -> None:
    """With two runs of every setting the finalists are the best by both, not by the first."""
    found = missing((0.0, 4.0), (1.0, 1.0), (1.5, 1.0), n_repeats=2, repeat_hopeless=True)
    assert found == [(2, 2), (4, 2), (2, 3), (4, 3)]
