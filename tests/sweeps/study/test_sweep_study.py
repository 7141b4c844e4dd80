"""The study of a sweep: what is proposed, what is kept of each trial, and what happens to those
that were cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.checkpoints import Watched
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.reporting import Continued
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.study._watched import N_VALUES_KEPT, WatchedCurve
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.finalists import Finalists
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, TrialRecord, record_of, setting_of
from iolaus.sweeps.study.recovery import take_over
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Finding, Memory, Outcome, Plan, Verdict

RUN = Run(folder="trials/0", slot=0, session=0, seconds=1.0)
LOSS, SCORE = Metric("loss"), Metric("score", "maximize")

losses = st.floats() | st.floats(-10, 10)


@given(curve=st.lists(losses, max_size=30), sign=st.sampled_from([1, -1]))
def test_best_and_final_are_what_a_look_at_the_curve_says(curve: list[float], sign: int) -> None:
    """Best is the first best finite value in the study's direction, final the last value, whatever
    is in between.
    """
    watched = WatchedCurve(LOSS if sign > 0 else SCORE)
    for step, value in enumerate(curve):
        watched.add(step, value)
    finite = [(sign * value, step) for step, value in enumerate(curve) if math.isfinite(value)]
    if finite:
        assert (watched.best, watched.best_step) == (curve[min(finite)[1]], min(finite)[1])
    else:
        assert math.isnan(watched.best)
    assert watched.final_step == len(curve) - 1
    assert repr(watched.final) == repr(curve[-1] if curve else math.nan)


@given(n_steps=st.integers(1, 20_000), every=st.integers(1, 50))
def test_a_planned_trial_keeps_a_bounded_number_of_values(n_steps: int, every: int) -> None:
    """Over its planned length a trial keeps all of few reports, or about 100 of many, spread over
    all of it.
    """
    watched = WatchedCurve(LOSS, n_steps)
    reported = list(range(0, n_steps, every))
    kept = [step for step in reported if watched.add(step, 1.0)]
    assert len(kept) <= N_VALUES_KEPT + 1
    assert len(kept) >= min(len(reported), N_VALUES_KEPT // 2)
    widest = max((b - a for a, b in zip(kept, [*kept[1:], n_steps], strict=True)), default=0)
    assert widest <= 2 * max(every, n_steps / N_VALUES_KEPT) + 1


@given(length=st.integers(1, 100_000), every=st.integers(1, 1000))
def test_a_trial_without_a_plan_keeps_a_bounded_number_too(length: int, every: int) -> None:
    """Every one of the first 30 reports, and then so few that 200 are enough for any length."""
    watched = WatchedCurve(LOSS)
    kept = [watched.add(step, 1.0) for step in range(0, length * every, every)]
    assert all(kept[:30])
    assert sum(kept) <= 200


@given(
    n_steps=st.none() | st.integers(1, 500), first=losses, second=losses, every=st.integers(1, 7)
)
def test_trials_are_kept_at_the_same_steps(
    n_steps: int | None, first: float, second: float, every: int
) -> None:
    """Which reports are kept does not depend on their values: pruners find peers at every step they
    look at.
    """
    a, b = WatchedCurve(LOSS, n_steps), WatchedCurve(LOSS, n_steps)
    for step in range(0, 500, every):
        assert a.add(step, first) == b.add(step, second)


@given(
    first=st.integers(0, 10**6),
    length=st.integers(1, 20_000),
    every=st.integers(1, 50),
    is_plan=st.booleans(),
    counts_from_first=st.booleans(),
)
def test_what_is_kept_does_not_depend_on_where_steps_begin(
    first: int, length: int, every: int, is_plan: bool, counts_from_first: bool
) -> None:
    """A curve that begins at a later step, as after a restart, is kept as one from 0 is, whether
    its plan ends at its last step or says how many steps it makes.
    """
    n_steps = length if counts_from_first and first > length else first + length
    at_0 = WatchedCurve(LOSS, length if is_plan else None)
    later = WatchedCurve(LOSS, n_steps if is_plan else None)
    for step in range(0, length, every):
        assert at_0.add(step, 1.0) == later.add(first + step, 1.0)
    assert later.final_step == first + at_0.final_step


@given(epochs=st.lists(st.integers(1, 40), min_size=1, max_size=10), first=st.integers(0, 5))
def test_steps_that_go_back_count_on(epochs: list[int], first: int) -> None:
    """Where each epoch begins again at the same step the curve is that of steps that rise."""
    risen, again = WatchedCurve(LOSS), WatchedCurve(LOSS)
    n = first
    for length in epochs:
        for step in range(first, first + length):
            assert risen.add(n, -n) == again.add(step, -n) or again.final_step != n
            n += 1
    if min(epochs) > 1 or len(epochs) == 1:
        assert again.final_step == risen.final_step == n - 1
        assert again.best_step == n - 1
        assert again.went_back == ((first + epochs[0] - 1, first) if len(epochs) > 1 else None)


def test_a_repeated_step_does_not_go_back() -> None:
    """Two reports at one step stay at that step, and only the first of them is kept."""
    watched = WatchedCurve(LOSS)
    assert [watched.add(step, 1.0) for step in (0, 1, 1, 2)] == [True, True, False, True]
    assert (watched.final_step, watched.went_back) == (2, None)


@pytest.fixture(scope="session")
def read_space() -> Callable[..., Space]:
    return lambda *lines: parse_space(
        {}, lines, OverridesParser.create().parse_overrides, lambda key: False
    )


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[LiveStorage]:
    live = LiveStorage(open_backend(f"sqlite:///{tmp_path}/study.db"))
    yield live
    live.close()


@pytest.fixture
def make(storage: LiveStorage, read_space: Callable[..., Space]) -> Callable[..., SweepStudy]:
    """A sweep's study in one storage: made the first time, continued after that."""

    def made(
        n_trials: int = 5,
        lines: tuple[str, ...] = ("x=interval(0.0, 1.0)", "c=choice(a, b)"),
        directions: tuple[str, ...] = ("minimize",),
        pruner: optuna.pruners.BasePruner | None = None,
        metric: Metric = LOSS,
        sampler: optuna.samplers.BaseSampler | None = None,
        **plans: Any,
    ) -> SweepStudy:
        space = read_space(*lines)
        sampler = sampler or optuna.samplers.RandomSampler(seed=0)
        opened = open_study(
            storage, "s", directions, sampler, pruner or optuna.pruners.NopPruner(), space
        )
        return SweepStudy(opened, storage, space, Plans(n_trials, **plans), metric, None)

    return made


def run_one(study: SweepStudy, outcome: Outcome | None = None) -> int:
    proposal = study.ask()
    assert proposal is not None
    study.tell(
        proposal.trial, outcome or Outcome(Ending.COMPLETED, values=(0.5,)), RUN, log="here.log"
    )
    return proposal.trial


endings = {
    Outcome(Ending.COMPLETED, values=(0.5,)): TrialState.COMPLETE,
    Outcome(Ending.PRUNED, reason="too slow"): TrialState.PRUNED,
    Outcome(Ending.DIVERGED, reason="loss became nan at step 3"): TrialState.PRUNED,
    Outcome(Ending.FAILED, reason="ValueError: no"): TrialState.FAIL,
    Outcome(Ending.INTERRUPTED, reason="stopped"): TrialState.WAITING,
}


@pytest.mark.parametrize(("outcome", "state"), endings.items())
def test_each_ending_is_recorded_with_its_reason(
    make: Callable[..., SweepStudy], outcome: Outcome, state: TrialState
) -> None:
    """Optuna's state follows the ending; why, where and how far are attributes that a reviewer
    finds.
    """
    study = make()
    proposal = study.ask()
    assert proposal is not None
    study.plan(proposal.trial, Plan(1000, ((0, 0.1), (9, 0.01))))
    for step, value in ((0, 3.0), (400, 1.0), (401, 2.0)):
        assert study.report(proposal.trial, step, value) is None
    study.tell(proposal.trial, outcome, RUN, log="here.log")
    trial = study.study.trials[proposal.trial]
    assert trial.state is state
    if outcome.ending is Ending.INTERRUPTED:  # it has not ended
        assert "why" not in trial.user_attrs
        assert trial.user_attrs["interruptions"] == ["stopped"]
    else:
        assert trial.user_attrs["why"].startswith(outcome.ending)
        assert outcome.reason in trial.user_attrs["why"]
    assert trial.user_attrs["steps"] == 401
    assert trial.user_attrs["run"] == {
        "folder": "trials/0",
        "slot": 0,
        "session": 0,
        "seconds": 1.0,
        "best": 1.0,
        "best_step": 400,
        "final": 2.0,
    }
    assert ("log" in trial.user_attrs) == (outcome.ending is Ending.FAILED)
    assert trial.intermediate_values == {0: 3.0, 400: 1.0, 401: 2.0}  # the last one is always there
    assert (trial.user_attrs["n_steps"], trial.user_attrs["lr_plan"]) == (
        1000,
        [[0, 0.1], [9, 0.01]],
    )
    waiting = [t for t in study.study.trials if t.state is TrialState.WAITING]
    assert len(waiting) == (outcome.ending is Ending.INTERRUPTED)


def test_a_verdict_is_kept_for_people_and_machines(make: Callable[..., SweepStudy]) -> None:
    """Rule, step, sentence and numbers are attributes; a number that JSON does not know is left
    out.
    """
    study = make()
    verdict = Verdict("Stalled", 7, "it has not moved", {"slope": 0.25, "noise": math.nan})
    number = run_one(study, Outcome(Ending.PRUNED, reason=verdict.reason, verdict=verdict))
    kept = study.study.trials[number].user_attrs
    assert {name: kept[f"verdict{name}"] for name in ("", "_rule", "_step", "_numbers")} == {
        "": "it has not moved",
        "_rule": "Stalled",
        "_step": 7,
        "_numbers": {"slope": 0.25},
    }


def test_the_configured_pruner_decides(make: Callable[..., SweepStudy]) -> None:
    """Optuna's own pruner sees the reports of this and of earlier trials, and its decision is a
    verdict.
    """
    study = make(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0))
    for value in (1.0, 2.0):
        proposal = study.ask()
        assert proposal is not None
        assert study.can_prune(proposal.trial) is False
        verdict = study.report(proposal.trial, 5, value)
        assert study.can_prune(proposal.trial)
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(value,)), RUN, log="")
    assert verdict is not None
    assert (verdict.rule, verdict.step) == ("MedianPruner", 5)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_n_trials_is_the_total(make: Callable[..., SweepStudy], direction: str) -> None:
    """What ran counts, whatever came of it, but not what was interrupted; continuing goes up to the
    total.
    """
    study = make(5, directions=(direction,))
    assert study.objective_sign == (1 if direction == "minimize" else -1)
    for i, outcome in enumerate(endings):
        assert study.n_missing == 5 - i
        run_one(study, outcome)
    assert study.n_missing == 1
    last = study.ask()  # the interrupted trial goes on
    assert last is not None
    assert (last.trial, last.attempt) == (4, 1)
    assert last.values == study.study.trials[4].params
    study.tell(last.trial, Outcome(Ending.COMPLETED, values=(0.1,)), RUN, log="")
    assert study.ask() is None
    assert make(5, directions=(direction,)).ask() is None
    assert make(6, directions=(direction,)).n_missing == 1


@pytest.mark.parametrize("kind", [optuna.samplers.RandomSampler, optuna.samplers.TPESampler])
def test_a_sweep_that_goes_on_draws_other_settings(
    make: Callable[..., SweepStudy], read_space: Callable[..., Space], kind: Any
) -> None:
    """A sampler's seed gives the settings of the session that makes the study; the next session,
    with the same seed, draws others and not the same again.
    """
    line = "x=interval(0.0, 1.0)"
    plain = optuna.create_study(sampler=kind(seed=1234))
    seeded = [plain.ask(read_space(line).unconditional).params["x"] for _ in range(4)]
    for n_trials in (4, 8):
        study = make(n_trials, (line,), sampler=kind(seed=1234))
        while study.n_missing:
            run_one(study)
    drawn = [trial.params["x"] for trial in study.study.trials]
    assert drawn[:4] == seeded
    assert len(drawn) == len(set(drawn)) == 8


def test_settings_known_in_advance_go_first_and_once(make: Callable[..., SweepStudy]) -> None:
    """A queue is run in its order, and a continued sweep goes on where it was."""
    queue = [{"x": 0.125, "c": "a"}, {"x": 0.25, "c": "b"}, {"x": 0.5, "c": "a"}]
    first = make(4, queue=queue)
    asked = [first.ask(), first.ask()]
    first.tell(1, Outcome(Ending.COMPLETED, values=(0.5,)), RUN, log="")
    first.tell(0, Outcome(Ending.INTERRUPTED), RUN, log="")
    second = make(4, queue=queue)
    asked += [second.ask() for _ in range(4)]
    values = [dict(proposal.values) if proposal else None for proposal in asked]
    assert values[:2] == queue[:2]
    assert values[2:4] == [queue[0], queue[2]]
    assert values[4] not in queue
    assert values[5] is None


def test_what_is_outside_of_the_space_is_marked_and_unseen(
    make: Callable[..., SweepStudy],
) -> None:
    """A queued trial with values outside is run though its parameters have been, with these values;
    its seeds have them too; its sampler sees the other trial alone, everybody else both.
    """
    seen: list[list[int]] = []

    class Sampler(optuna.samplers.RandomSampler):
        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            seen.append([t.number for t in study.get_trials(states=(TrialState.COMPLETE,))])

    study = make(2, finalists=Finalists(1, 1))
    study.study.sampler = Sampler()
    first = study.ask()
    assert first is not None
    study.tell(first.trial, Outcome(Ending.COMPLETED, values=(0.5,)), RUN, log="")
    attrs = TrialRecord(fix_of=0, outside={"x": "3"}).to_attrs()
    study.study.enqueue_trial(dict(first.values), user_attrs=attrs)
    fix = study.ask()
    assert fix is not None
    assert (fix.values, fix.outside) == (first.values, {"x": "3"})
    assert study.n_missing == 0
    study.tell(fix.trial, Outcome(Ending.COMPLETED, values=(0.1,)), RUN, log="")
    seed = study.ask()
    assert seed is not None
    assert seed.outside == {"x": "3"}
    assert seen[-1] == [first.trial]
    done = study.study.get_trials(states=(TrialState.COMPLETE,))
    assert [t.number for t in done] == [first.trial, fix.trial]
    assert setting_of(done[1])["x"] == 3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_of_a_finite_space_ends_by_itself(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """A sampler that has nothing left ends the sweep before n_trials."""
    study = make(10, lines=("c=choice(a, b)", "d=choice(1, 2)"))
    study.study.sampler = optuna.samplers.BruteForceSampler(seed=0)
    n = 0
    while (proposal := study.ask()) is not None:
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(0.5,)), RUN, log="")
        n += 1
    assert n == 4


def test_trials_of_a_dead_driver_are_taken_over(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """What it was running goes on under its number; what others run is left alone."""
    study = make(5)
    done = run_one(study)
    dead, alive = study.ask(), study.ask()
    assert dead is not None
    assert alive is not None
    storage.set_trial_user_attr(study._trials[dead.trial]._trial_id, "driver", "dead")
    storage.flush()
    assert take_over(study.study, lambda driver: driver != "dead", orphan_age_s=60) == [dead.trial]
    states = [trial.state for trial in study.study.trials]
    assert (states[done], states[dead.trial], states[alive.trial]) == (
        TrialState.COMPLETE,
        TrialState.WAITING,
        TrialState.RUNNING,
    )
    assert study.n_missing == 3
    again = make(5).ask()
    assert again == replace(dead, attempt=1)
    assert take_over(study.study, lambda driver: driver != "dead", orphan_age_s=60) == []


def test_a_trial_that_begins_anew_has_only_what_it_reports_from_then_on(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """What it reported before it was cut off is in no database and no pruner."""
    study = make(5)
    first = study.ask()
    assert first is not None
    for step in (0, 400, 401):
        study.report(first.trial, step, 3.0)
    study.tell(first.trial, Outcome(Ending.INTERRUPTED, reason="stopped"), RUN, log="")
    for again in (study, make(5)):  # here, or by the next driver
        proposal = again.ask()
        assert proposal is not None
        assert (proposal.trial, proposal.values) == (first.trial, first.values)
        again.goes_on(proposal.trial, None)
        again.report(proposal.trial, 7, 2.0)
        assert again.study.trials[first.trial].intermediate_values == {7: 2.0}
        again.tell(first.trial, Outcome(Ending.INTERRUPTED, reason="stopped"), RUN, log="")
    storage.flush()
    kept = storage._backend.get_trial(compat.trial_id(study.study.trials[first.trial]))
    assert kept.intermediate_values == {7: 2.0}
    assert kept.user_attrs["interruptions"] == ["stopped"] * 3


def test_a_setting_whose_parameters_were_not_written_is_not_lost(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """A queued setting whose driver was killed before its parameters reached the database goes on
    as it was.
    """
    study = make(5)
    study.study.enqueue_trial({"x": 0.125})
    waiting = study.study.trials[-1]
    storage.set_trial_state_values(
        waiting._trial_id, TrialState.RUNNING
    )  # and then the driver is killed
    assert take_over(study.study, lambda _: False, orphan_age_s=0) == [waiting.number]
    again = study.ask()
    assert again is not None
    assert again.values["x"] == 0.125


def test_unsigned_trials_are_taken_over_when_old_enough(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """A trial that no driver has signed is left alone while young; where nobody else can be, it is
    taken at once.
    """
    study = make(5)
    unsigned = study.study.ask()
    assert take_over(study.study, lambda _: True, orphan_age_s=60) == []
    assert take_over(study.study, lambda _: True, orphan_age_s=0) == [unsigned.number]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"directions": ("maximize",)}, "exists with direction=minimize, asked for maximize"),
        ({"directions": ("minimize", "minimize")}, r"asked for \[minimize, minimize\]"),
        (
            {"lines": ("x=interval(0.0, 1.0)",)},
            r"another space: c was choice\(a, b\), now not searched",
        ),
        (
            {"lines": ("x=tag(log, interval(0.5, 1.0))", "c=choice(a, b)")},
            r"x was float 0\.0 to 1\.0, now log float 0\.5 to 1\.0",
        ),
        (
            {"lines": ("x=interval(0.0, 1.0)", "c=choice(a, b)", "d=range(1, 3)")},
            "d was not searched, now int 1 to 2",
        ),
    ],
)
def test_another_study_under_the_same_name_is_refused(
    make: Callable[..., SweepStudy], storage: LiveStorage, changed: dict[str, Any], sentence: str
) -> None:
    """The sentence says what it was, what was asked for and what to do, and nothing in the study is
    changed.
    """
    run_one(make())
    before = repr((storage.get_study_user_attrs(1), storage.get_all_trials(1)))
    with pytest.raises(BadInputError, match=sentence) as refused:
        make(**changed)
    assert "study 's'" in str(refused.value)
    assert "choose another hydra.sweeper.study_name" in str(refused.value)
    assert repr((storage.get_study_user_attrs(1), storage.get_all_trials(1))) == before


def test_a_study_made_by_another_tool_is_judged_by_its_trials(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """A plain Optuna study of the same space is continued; one of another space is refused."""
    plain = optuna.create_study(storage=storage, study_name="s")
    plain.optimize(
        lambda trial: (
            trial.suggest_float("x", 0, 1) + len(trial.suggest_categorical("c", ["a", "b"]))
        ),
        2,
    )
    assert make(5).n_missing == 3
    with pytest.raises(BadInputError, match="searches another space"):
        make(lines=("x=interval(0.0, 2.0)", "c=choice(a, b)"))


def test_a_range_of_the_official_sweeper_is_told_apart(
    make: Callable[..., SweepStudy], storage: LiveStorage
) -> None:
    """Its range has its stop: where that is all the difference, the refusal says what to write."""
    plain = optuna.create_study(storage=storage, study_name="s")
    plain.optimize(lambda trial: trial.suggest_int("n", 1, 3), 2)
    with pytest.raises(BadInputError, match="let the range of n end one step later"):
        make(lines=("n=range(1, 3)",))
    assert make(5, lines=("n=range(1, 4)",)).n_missing == 3


def test_what_a_custom_search_space_gets_wrong_is_refused(make: Callable[..., SweepStudy]) -> None:
    """The sentence names the option and the mistake, and the trial does not stay under way for
    ever.
    """
    study = make(
        lines=("x=interval(0.0, 1.0)", "f=3"), extend=lambda trial: trial.suggest_int("f", 0, 3)
    )
    with pytest.raises(
        BadInputError,
        match="custom_search_space failed for trial 0: it suggests f, which the command",
    ):
        study.ask()
    assert study.study.trials[0].state is TrialState.FAIL


def test_with_several_objectives_values_are_told_together(make: Callable[..., SweepStudy]) -> None:
    """All objectives of a trial reach Optuna, and a loss may be watched meanwhile."""
    study = make(directions=("minimize", "maximize"))
    proposal = study.ask()
    assert proposal is not None
    assert study.report(proposal.trial, 1, 0.25) is None
    study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=(1.0, 2.0)), RUN, log="")
    assert study.study.trials[0].values == [1.0, 2.0]
    assert study.study.trials[0].intermediate_values == {1: 0.25}


def test_a_duplicate_takes_over_result_and_constraints(make: Callable[..., SweepStudy]) -> None:
    """A setting that a lint ruled out is not run again, and its twin breaks the same constraint."""
    study = make(3, lines=("c=choice(a, b)",))
    study.study.enqueue_trial({"c": "a"})
    finding = Finding("memory", 0, "needs 90 GB", "infeasible", 2.5)
    outcome = Outcome(Ending.INFEASIBLE, reason="needs 90 GB", findings=(finding,))
    first = run_one(study, outcome)
    study.study.enqueue_trial({"c": "a"})
    study.study.enqueue_trial({"c": "b"})
    assert study.ask() is not None
    ((twin, told),) = study.take_not_run()
    assert told.reason == f"the setting of trial {first}, not run again"
    trials = study.study.trials
    assert trials[twin].constraints == trials[first].constraints == {"memory": 2.5}
    record = record_of(trials[twin])
    assert (record.ending, record.duplicate_of) == (Ending.DUPLICATE, first)


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize(
    "directions", [("minimize",), ("maximize",), ("maximize", "minimize"), ("minimize", "minimize")]
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.MedianPruner(n_startup_trials=1),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        optuna.pruners.HyperbandPruner(min_resource=1, max_resource=3),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_pruners_judge_the_metric_and_not_the_objectives(
    make: Callable[..., SweepStudy],
    directions: tuple[str, ...],
    goal: Any,
    pruner: optuna.pruners.BasePruner,
) -> None:
    """Of a good and a bad curve only the bad one is ended, whatever the study's directions are."""
    metric = Metric("m", goal)
    study = make(9, directions=directions, pruner=pruner, metric=metric)
    for level in (1.0, 2.0, 3.0, 4.0, 0.5, 5.0, 0.25, 6.0):
        proposal = study.ask()
        assert proposal is not None
        steps = range(1, 12)
        said = [study.report(proposal.trial, n, metric.sign * (level + n / 100)) for n in steps]
        if level < 1.0:
            assert not any(said)
        if level > 4.0:
            assert any(said)
        values = [0.0] * len(directions)
        study.tell(proposal.trial, Outcome(Ending.COMPLETED, values=tuple(values)), RUN, log="")
    assert study.study.trials[0].intermediate_values[1] == metric.sign * 1.01


def test_a_pruner_sees_a_curve_whose_steps_begin_again(
    make: Callable[..., SweepStudy], caplog: pytest.LogCaptureFixture
) -> None:
    """Steps that begin again at every epoch reach the pruner, which counts on; it is said once for
    the study, with trial and step.
    """
    study = make(pruner=optuna.pruners.ThresholdPruner(upper=4))
    ended = []
    for _ in range(2):
        proposal = study.ask()
        assert proposal is not None
        study.plan(proposal.trial, Plan(60))
        verdicts = [
            study.report(proposal.trial, step, 5.0 if epoch == 2 and step == 3 else 1.0)
            for epoch in range(3)
            for step in range(20)
        ]
        ended.append([i for i, verdict in enumerate(verdicts) if verdict is not None])
    assert ended == [[43], [43]]
    said = [r.getMessage() for r in caplog.records if "steps go back" in r.getMessage()]
    assert len(said) == 1
    assert "trial 0: steps go back from 19 to 0 in reports of loss" in said[0]


@pytest.mark.parametrize(("first", "is_anew"), [(0, True), (401, False), (400, False)])
def test_a_task_that_does_not_load_its_checkpoint_is_said_to_begin_anew(
    make: Callable[..., SweepStudy], caplog: pytest.LogCaptureFixture, first: int, is_anew: bool
) -> None:
    """If the first report after a checkpoint is of the trial's first step, it is said, and counted
    as begun anew; one that goes on, or repeats the checkpoint's step, has gone on.
    """
    study = make(1)
    begun = study.ask()
    assert begun is not None
    for step in (0, 200, 400):
        study.report(begun.trial, step, 3.0)
    study.tell(begun.trial, Outcome(Ending.INTERRUPTED, reason="stopped"), RUN, log="")
    again = make(1)
    assert again.ask() is not None
    again.goes_on(begun.trial, Continued(400, 201, Watched(0, (3.0, 0), (3.0, 400))))
    again.report(begun.trial, 400, 3.0)  # the driver takes its last rows again
    again.report(begun.trial, first, 2.0)
    again.report(begun.trial, first + 1, 2.0)
    said = [r.getMessage() for r in caplog.records if "begins anew" in r.getMessage()]
    assert len(said) == is_anew
    assert all("trial 0" in line and "checkpoint of step 400" in line for line in said)
    assert not [r for r in caplog.records if "steps go back" in r.getMessage()]
    assert record_of(again.study.trials[0]).went_on == ((-1 if is_anew else 400, 400),)


def without_room(batch: int) -> Outcome:
    """A trial that ran out of memory alone."""
    finding = Finding("out_of_memory", 0, "out of memory", "infeasible", 0.5)
    memory = Memory(ram_bytes=10**10, requested_bytes=10**9 * batch, ran_out="ram")
    return Outcome(Ending.INFEASIBLE, reason="no", findings=(finding,), memory=memory)


def test_what_is_no_smaller_is_not_run(make: Callable[..., SweepStudy]) -> None:
    """A sampler's setting is replaced by another, and n_trials is of those that had room; a queued
    one counts. The sampler is told the constraint, and a restart knows it.
    """
    lines = ("b=range(1,9)", "x=interval(0.0, 1.0)")
    study = make(6, lines=lines, monotonic=["b"])
    for batch in (4, 8):
        study.study.enqueue_trial({"b": batch, "x": 0.5})
    first = run_one(study, without_room(4))
    assert run_one(study) >= 2  # after the queued one
    assert [number for number, _ in study.take_not_run()] == [1]
    again = make(6, lines=lines, monotonic=["b"])
    while again.n_to_ask:
        run_one(again)
    trials = again.study.trials
    ran = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    out = [trial for trial in trials if record_of(trial).ruled_out_by is not None]
    assert len(ran) == 4
    assert all(trial.params["b"] < 4 for trial in ran)
    assert all(trial.params["b"] >= 4 for trial in out)
    assert len(ran) + len(out) + 1 == len(trials)
    assert all(trial.constraints == {"out_of_memory": 0.5} for trial in out)
    assert record_of(trials[1]).ruled_out_by == first


def test_where_nothing_has_room_the_study_ends(make: Callable[..., SweepStudy]) -> None:
    """It gives up after a hundred proposals in a row, and says so."""
    study = make(3, lines=("b=range(4,9)", "x=interval(0.0, 1.0)"), monotonic=["b"])
    study.study.enqueue_trial({"b": 4, "x": 0.5})
    run_one(study, without_room(4))
    assert study.ask() is None
    assert study.enough == "100 settings in a row had no room in memory"
