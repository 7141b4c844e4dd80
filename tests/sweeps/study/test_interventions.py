"""Interventions: what a stalled trial is offered before it is ended."""

import math

import optuna
import pytest
from optuna.trial import FrozenTrial

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import AllOf, VerdictPruner
from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.sweep_study import OnStall, Plans, SweepStudy
from iolaus.sweeps.types import Intervention, Plan, Verdict

VERDICT = Verdict("stalled", 7, "stalled since step 3")
INTERVENTION_MARK = Intervention("decay", 0.5, VERDICT)


class Always(VerdictPruner):
    """Gives a verdict by this rule at every report."""

    def __init__(self, rule: str = "stalled") -> None:
        self.rule = rule

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict:
        return Verdict(self.rule, trial.last_step or 0, self.rule)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter("loss", clock=lambda: 0.0)


def test_a_intervention_is_given_out_once_and_recorded(reporter: Reporter) -> None:
    """The task gets an intervention once, and the curve says at which step it was taken and by
    which factor.
    """
    reporter.report(5, {"loss": 1.0})
    assert reporter.intervention() is None
    reporter.offer(INTERVENTION_MARK)
    assert reporter.intervention() is INTERVENTION_MARK
    assert reporter.intervention() is None
    for step in (6, 7, 8):
        reporter.report(step, {"loss": 1.0})
    batch = reporter.take()
    assert batch is not None
    assert [(row.step, dict(row.metrics)) for row in batch.rows][1] == (
        5,
        {"intervention/decay": 0.5},
    )


def test_a_task_that_never_asks_is_ended(reporter: Reporter) -> None:
    """An intervention left lying for a whole report ends the trial with the verdict behind it; one
    report is not enough.
    """
    reporter.offer(INTERVENTION_MARK)
    reporter.report(1, {"loss": 1.0})
    with pytest.raises(optuna.TrialPruned, match="stalled since step 3"):
        reporter.report(2, {"loss": 1.0})
    assert reporter.verdict is VERDICT


def test_a_task_that_never_asks_may_save_before_it_is_paused(reporter: Reporter) -> None:
    """Where it may go on later it gets one report more, as with any other pause."""
    reporter.offer(INTERVENTION_MARK, is_pause=True)
    assert not reporter.should_checkpoint()
    for step in (1, 2):
        reporter.report(step, {"loss": 1.0})
    assert reporter.should_checkpoint()
    with pytest.raises(optuna.TrialPruned):
        reporter.report(3, {"loss": 1.0})


def test_a_trial_that_is_being_stopped_gets_no_intervention() -> None:
    """It may report once or twice before it ends, and save what an intervention would change."""
    storage, pruner = LiveStorage(optuna.storages.InMemoryStorage()), Always("behind")
    space = parse_space({}, ["+x=5"], lambda _: [], lambda _: False)
    made = open_study(storage, "s", ["minimize"], None, pruner, space)
    plans = Plans(n_trials=1, on_stall=OnStall("decay"), pauses=True)
    study = SweepStudy(made, storage, space, plans, Metric("loss"), "here:1")
    assert study.ask() is not None
    assert isinstance(study.report(0, 5, 1.0), Verdict)
    pruner.rule = "stalled"
    assert isinstance(study.report(0, 6, 1.0), Verdict)


@pytest.mark.parametrize(
    "on_stall", [OnStall(), OnStall("decay", 0.5, 1), OnStall("rewind", 0.1, 3)]
)
def test_interventions_are_bounded_and_given_time(on_stall: OnStall) -> None:
    """A stall is answered by n_times interventions, each given a share of the run once it is
    taken, then by the end.
    """
    storage = LiveStorage(optuna.storages.InMemoryStorage())
    space = parse_space({}, ["+x=5"], lambda _: [], lambda _: False)
    made = open_study(storage, "s", ["minimize"], None, Always(), space)
    study = SweepStudy(
        made, storage, space, Plans(n_trials=1, on_stall=on_stall), Metric("loss"), "here:1"
    )
    proposal = study.ask()
    assert proposal is not None
    n_steps, step, trial = 1000, 0, proposal.trial
    study.plan(trial, Plan(n_steps))
    n_interventions = 0 if on_stall.action == "prune" else on_stall.n_times
    for _ in range(n_interventions):
        answer = study.report(trial, step, 1.0)
        assert isinstance(answer, Intervention)
        assert (answer.action, answer.factor) == (on_stall.action, on_stall.factor)
        step += 100
        assert study.report(trial, step, 1.0) is None  # not taken yet: nothing is decided twice
        study.intervened(trial, step)
        assert study.report(trial, step + 100, 1.0) is None
        step += 150
    assert isinstance(study.report(trial, step, 1.0), Verdict)
    assert math.isfinite(study.watched(trial).grace_until)


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        (AllOf([Always("stalled"), Always("MedianPruner")]), Intervention),
        (AllOf([Always("MedianPruner"), Always("rebound")]), Intervention),
        (AllOf([Always("MedianPruner"), Always("behind")]), Verdict),
        (Always("behind"), Verdict),
    ],
)
def test_a_stall_among_rules_that_agree_is_answered(pruner: VerdictPruner, kind: type) -> None:
    """A joined verdict is met by an intervention if one of its rules is one that a lower rate may
    answer.
    """
    storage = LiveStorage(optuna.storages.InMemoryStorage())
    space = parse_space({}, ["+x=5"], lambda _: [], lambda _: False)
    made = open_study(storage, "s", ["minimize"], None, pruner, space)
    study = SweepStudy(
        made, storage, space, Plans(n_trials=1, on_stall=OnStall("decay")), Metric("loss"), "here:1"
    )
    proposal = study.ask()
    assert proposal is not None
    assert isinstance(study.report(proposal.trial, 5, 1.0), kind)


@pytest.mark.parametrize(("action", "factor"), [("pray", 0.5), ("decay", 1.0), ("rewind", 0.0)])
def test_a_intervention_is_checked(action: str, factor: float) -> None:
    """Only known actions that really lower the rate are interventions."""
    with pytest.raises(ValueError, match="intervention"):
        Intervention(action, factor, VERDICT)
