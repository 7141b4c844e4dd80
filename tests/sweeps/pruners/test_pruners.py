"""Pruners give reasons, work in plain Optuna, and compose."""

from __future__ import annotations

import copy
import math
import pickle
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest
import yaml
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.pruners import (
    AllOf,
    AnyOf,
    CurvePruner,
    Holdout,
    Interval,
    StalledLoss,
    VerdictPruner,
    WarmUp,
    verdict_of,
)
from iolaus.sweeps.pruners.compose import parts
from iolaus.sweeps.pruners.curve_pruner import StudyView
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.pruners.verdicts import distinct, plan_of
from iolaus.sweeps.types import Plan, Verdict

optuna.logging.set_verbosity(optuna.logging.WARNING)

N = 50


class Always(VerdictPruner):
    """Ends every trial and notes when it was asked."""

    def __init__(self, rule: str = "always") -> None:
        self.rule, self.asked = rule, list[int]()

    def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
        step = trial.last_step or 0
        self.asked.append(step)
        return Verdict(self.rule, step, f"{self.rule} at {step}", {"step": step})


def quiet(make: Callable[[], optuna.pruners.BasePruner]) -> optuna.pruners.BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make()


def run(
    curves: Sequence[Sequence[float]],
    pruner: optuna.pruners.BasePruner,
    plan: Plan | None = None,
    direction: str = "minimize",
    n_jobs: int = 1,
) -> optuna.Study:
    """A study of one trial per curve, as a user of plain Optuna writes it."""

    def objective(trial: optuna.Trial) -> float:
        if plan is not None:
            trial.set_user_attr(Plan.N_STEPS_ATTR, plan.n_steps)
            trial.set_user_attr(Plan.LR_ATTR, plan.lr)
        for step, loss in enumerate(curves[trial.number]):
            trial.report(loss, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return curves[trial.number][-1]

    study = optuna.create_study(pruner=pruner, direction=direction)
    study.optimize(objective, n_trials=len(curves), n_jobs=n_jobs)
    return study


def last_steps(study: optuna.Study) -> list[int]:
    return [t.last_step or 0 for t in study.trials]


def falling(floor: float, seed: int, n: int = N) -> list[float]:
    rng = np.random.default_rng(seed)
    return list(floor + np.exp(-np.arange(n) / 8) + 0.01 * rng.normal(size=n))


def sweep(n_trials: int = 20, seed: int = 0) -> list[list[float]]:
    floors = np.random.default_rng(seed).uniform(0, 1, n_trials)
    return [falling(floor, i) for i, floor in enumerate(floors)]


def frozen(losses: Sequence[float], **attributes: object) -> tuple[optuna.Study, FrozenTrial]:
    """A running trial with these losses in a study of its own."""
    study = optuna.create_study()
    trial = study.ask()
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    for step, loss in enumerate(losses):
        trial.report(loss, step)
    return study, study.trials[0]


def test_bad_trials_stop_early_and_the_best_is_found():
    """On curves whose order shows early, most compute is saved and the best trial runs to its
    end.
    """
    curves = sweep(40)
    study = run(curves, StalledLoss(n_steps=N))
    best = int(np.argmin([min(c) for c in curves]))
    assert study.trials[best].state is TrialState.COMPLETE
    assert sum(last_steps(study)) < 0.5 * 40 * N


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_ends_a_trial_at_that_report(bad):
    """Divergence needs no peers, no horizon, no patience, and is worded."""
    curve = [*falling(0, 0)[:7], bad, *falling(0, 0)[8:]]
    trial = run([curve], StalledLoss()).trials[0]
    assert (trial.state, trial.last_step) == (TrialState.PRUNED, 7)
    assert trial.user_attrs["verdict_rule"] == "diverged"
    assert trial.user_attrs["verdict_step"] == 7
    assert "step 7" in trial.user_attrs["verdict"]


def test_losses_of_any_size_are_judged_alike():
    """Losses whose squares overflow neither raise nor warn, and the same trials stop at the same
    steps.
    """
    curves = sweep()
    huge = [[loss * 2.0**600 for loss in curve] for curve in curves]
    assert last_steps(run(huge, StalledLoss(n_steps=N))) == last_steps(
        run(curves, StalledLoss(n_steps=N))
    )


FLAT = [1.0 - 0.02 * step for step in range(20)] + [0.6] * 80


def test_a_flat_curve_stops_without_peers():
    """The first trial of a study is stopped when its loss stands still and its length is known."""
    trial = run([FLAT], StalledLoss(n_steps=100)).trials[0]
    assert trial.state is TrialState.PRUNED
    assert 30 <= trial.last_step <= 60
    assert trial.user_attrs["verdict"].startswith("stalled since step")


def test_while_the_length_is_unknown_the_best_that_runs_goes_on():
    """Without a length anywhere the stalled are stopped, but never the best of those that run, so
    one finishes.
    """
    study = optuna.create_study(pruner=StalledLoss())
    running = {study.ask(): level for level in (0.3, 0.0, 0.6, 0.2)}
    stopped = {}
    diverged = study.ask()
    for step, loss in enumerate(
        (-5.0, math.nan)
    ):  # what a lost trial had shown protects and threatens nobody
        diverged.report(loss, step)
    study.tell(diverged, state=TrialState.PRUNED)
    for step, loss in enumerate(FLAT):
        for trial, level in list(running.items()):
            trial.report(loss + level, step)
            if trial.should_prune():
                stopped[running.pop(trial)] = step
                study.tell(trial, state=TrialState.PRUNED)
    assert list(running.values()) == [0.0]
    assert sorted(stopped) == [0.2, 0.3, 0.6]
    assert all(30 <= step <= 60 for step in stopped.values())


def test_a_study_of_unknown_length_has_finished_trials():
    """One trial after the other, with nobody saying how long they are: the first finishes, the best
    is kept.
    """
    curves = sweep(30)
    study = run(curves, StalledLoss())
    assert study.trials[0].state is TrialState.COMPLETE
    assert study.trials[int(np.argmin([min(c) for c in curves]))].state is TrialState.COMPLETE
    assert sum(last_steps(study)) < 0.7 * 30 * N


def test_a_falling_curve_runs_on_without_peers():
    """A first trial whose loss keeps falling is left alone."""
    assert (
        run([[1.0 - 0.01 * step for step in range(100)]], StalledLoss()).trials[0].state
        is TrialState.COMPLETE
    )


def test_a_plateau_before_a_planned_drop_is_no_stall():
    """A trial that is flat, but whose rate will fall tenfold, waits for it; with the rate constant
    it does not.
    """
    drop = Plan(100, ((0, 0.1), (89, 0.1), (90, 0.01)))
    assert run([FLAT], StalledLoss(), drop).trials[0].last_step >= 89
    assert run([FLAT], StalledLoss(), Plan(100, ((0, 0.1), (99, 0.1)))).trials[0].last_step < 60


def test_trials_stay_while_they_are_where_winners_were():
    """Winners that broke through from a plateau protect the trials on it; without them the same
    trials are stopped.
    """
    lucky = [*[1.0] * 25, *np.linspace(0.9, 0.1, 25)]
    leaders = [list(np.linspace(1, 0.5, N) - 0.001 * i) for i in range(8)]

    def last_step(finished: list[list[float]]) -> int:
        study = run(finished, optuna.pruners.NopPruner())
        study.pruner = StalledLoss(n_steps=N)
        trial = study.ask()
        for step in range(24):
            trial.report(1.0, step)
            if trial.should_prune():
                return step
        return 24

    assert last_step([*leaders, *leaders[:2]]) < 10
    assert last_step([*leaders, lucky, lucky]) == 24


def test_while_a_rate_change_is_ahead_peers_wait_for_three_finished_trials():
    """Nobody is stopped for standing badly while no trial has shown what the coming drop of the
    rate does.
    """

    def verdicts(lr: tuple[tuple[int, float], ...], n_complete: int) -> Verdict | None:
        study = optuna.create_study()
        trials = [study.ask() for _ in range(10)]
        for i, trial in enumerate(trials):
            trial.set_user_attr(Plan.N_STEPS_ATTR, N)
            trial.set_user_attr(Plan.LR_ATTR, lr)
            for step in range(N if i < n_complete else 6):
                trial.report(i + math.exp(-step), step)
            if i < n_complete:
                study.tell(trial, float(i))
        return StalledLoss().verdict(study, study.trials[-1])

    ahead = ((0, 0.1), (40, 0.1), (41, 0.01))
    assert verdicts(ahead, 0) is None
    assert verdicts(ahead, 3) is not None
    assert verdicts((), 0) is not None


def test_maximising_mirrors_minimising():
    """Negated values under direction=maximize stop the same trials at the same steps; words have
    the user's sign.
    """
    curves = sweep()
    down = run(curves, StalledLoss(n_steps=N))
    up = run([[-v for v in c] for c in curves], StalledLoss(n_steps=N), direction="maximize")
    assert last_steps(down) == last_steps(up)
    text = next(
        t.user_attrs["verdict"] for t in up.trials if "peers" in t.user_attrs.get("verdict", "")
    )
    assert "on course for -" in text


def test_several_objectives_prune_on_the_reported_metric():
    """Optuna refuses to prune with several directions; the rule reads intermediate values and a
    flag.
    """
    study = optuna.create_study(directions=["minimize", "maximize"])
    for i in range(8):
        trial = study.ask()
        for step in range(10):
            study._storage.set_trial_intermediate_value(trial._trial_id, step, i + math.exp(-step))
    bad, good = study.trials[-1], study.trials[0]
    assert StalledLoss(n_steps=N).verdict(study, bad) is not None
    assert StalledLoss(n_steps=N).verdict(study, good) is None
    assert StalledLoss(n_steps=N, direction="maximize").verdict(study, good) is not None


def test_the_horizon_is_learned_from_finished_trials():
    """Without n_steps anywhere, the longest finished trial tells how long a trial is."""
    curves = [falling(0.1 * (i % 3), i) for i in range(6)] + [falling(2, 9)]
    study = run([*[[1 - 0.01 * s for s in range(N)]] * 6, *curves], StalledLoss())
    assert study.trials[-1].last_step < 10
    assert f"by step {N}" in study.trials[-1].user_attrs["verdict"]


def test_a_copy_forgets_and_learns_anew():
    """Pickled and copied pruners have the same settings and reach the same verdict from the study
    alone.
    """
    pruner = StalledLoss(n_steps=N, caution=1.5)
    study = run(sweep(), pruner)
    bad, good = study.ask(), study.ask()
    for step in range(12):
        bad.report(2.0, step)
        good.report(-step / 10, step)
    for other in (copy.deepcopy(pruner), pickle.loads(pickle.dumps(pruner))):
        assert other.__reduce__() == pruner.__reduce__()
        for trial in study.trials[-2:]:
            assert other.verdict(study, trial) == pruner.verdict(study, trial)
    assert pruner.verdict(study, study.trials[-2]) is not None


def test_a_pruner_serves_one_study_after_the_other():
    """What was seen in one study does not count in the next."""
    pruner = StalledLoss(n_steps=N)
    first = last_steps(run(sweep(), pruner))
    assert last_steps(run(sweep(), pruner)) == first


def test_studies_of_one_name_are_not_one():
    """What was seen in a study does not count in another of the same name in another storage."""
    seen = {}
    shared = StalledLoss(n_steps=N)
    for name, pruner in (("fresh", StalledLoss(n_steps=N)), ("used", shared)):
        if name == "used":
            other = optuna.create_study(study_name="same", pruner=shared)
            other.optimize(
                lambda trial: [trial.report(-9.0 - s, s) or trial.should_prune() for s in range(N)][
                    -1
                ],
                9,
            )
        study = optuna.create_study(study_name="same", pruner=pruner)
        for curve in sweep():
            trial = study.ask()
            ends = [
                step
                for step, loss in enumerate(curve)
                if trial.report(loss, step) or trial.should_prune()
            ]
            study.tell(trial, curve[-1])
            seen.setdefault(name, []).append(ends)
    assert seen["fresh"] == seen["used"]


def test_a_verdict_of_a_stall_has_a_slope_that_is_flat():
    """The slope in its numbers is that of the stall, not of the way down to it: within 2.5
    errors of flat.
    """
    found = []
    for seed in range(40):
        losses = np.exp(-np.arange(80) / 8) + 0.02 * np.random.default_rng(seed).normal(size=80)
        study, trial = frozen(losses)
        verdict = StalledLoss(n_steps=100).verdict(study, trial)
        if verdict is not None:
            found.append(verdict.numbers["slope"] / verdict.numbers["slope_error"])
    assert len(found) > 10
    assert min(found) > -2.5


def test_numbers_that_are_not_known_are_left_out_of_the_sentence():
    """Where no finished peer has reported at this step, nothing is said of what they went on to
    gain.
    """
    study = optuna.create_study()
    for i in range(4):  # finished, but long before
        trial = study.ask()
        trial.report(0.1 * i, 0)
        study.tell(trial, 0.1 * i)
    for i in range(8):
        trial = study.ask()
        for step in range(3, 15):
            trial.report(i + math.exp(-step), step)
    verdict = StalledLoss(n_steps=N).verdict(study, study.trials[-1])
    assert verdict is not None
    assert "nan" not in verdict.reason
    assert all(math.isfinite(number) for number in verdict.numbers.values())


def test_threads_of_one_study_share_a_pruner():
    """study.optimize(n_jobs=4) works: every trial ends, the best completes."""
    curves = sweep(24)
    study = run(curves, StalledLoss(n_steps=N), n_jobs=4)
    assert all(t.state.is_finished() and t.state is not TrialState.FAIL for t in study.trials)
    assert study.trials[int(np.argmin([min(c) for c in curves]))].state is TrialState.COMPLETE


def test_reports_between_two_questions_are_not_lost():
    """Asked only at every fifth report, the rule still sees all of them in the peers it compares
    with.
    """
    every, fifth = sweep(), sweep()

    def objective(trial: optuna.Trial) -> float:
        for step, loss in enumerate(fifth[trial.number]):
            trial.report(loss, step)
            if step % 5 == 4 and trial.should_prune():
                raise optuna.TrialPruned
        return fifth[trial.number][-1]

    study = optuna.create_study(pruner=StalledLoss(n_steps=N))
    study.optimize(objective, n_trials=len(fifth))
    asked_always = run(every, StalledLoss(n_steps=N))
    assert sum(last_steps(study)) <= 1.4 * sum(last_steps(asked_always)) + 5 * len(every)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_steps": 0}, "n_steps=0"),
        ({"caution": 0}, "caution=0"),
        ({"caution": math.inf}, "caution=inf"),
        ({"direction": "down"}, "'down'"),
    ],
)
def test_nonsense_is_refused_with_what_arrived(arguments, match):
    """Bad arguments raise at once and say what to give."""
    with pytest.raises(ValueError, match=match):
        StalledLoss(**arguments)


def test_plans_come_from_user_attributes():
    """A trial's plan is read as stored by Optuna: JSON lists, or nothing at all."""
    _, trial = frozen([1.0], n_steps=7, lr_plan=[[0, 0.1], [6, 0.01]])
    assert plan_of(trial) == Plan(7, ((0, 0.1), (6, 0.01)))
    assert plan_of(frozen([1.0])[1]) == Plan()


def test_any_of_takes_the_first_verdict_and_asks_all():
    """One verdict is enough; pruners with a state see every report."""
    never, first, second = optuna.pruners.NopPruner(), Always("a"), Always("b")
    verdict = AnyOf([never, first, second]).verdict(*frozen([1.0, 2.0]))
    assert verdict is not None
    assert verdict.rule == "a"
    assert second.asked == [1]
    assert AnyOf([never]).verdict(*frozen([1.0])) is None


def test_all_of_joins_the_reasons():
    """All must agree at the same report; the reader sees every reason."""
    verdict = AllOf([Always("a"), Always("b")]).verdict(*frozen([1.0, 2.0]))
    assert verdict is not None
    assert (verdict.rule, verdict.reason, verdict.numbers) == (
        "a+b",
        "a at 1; and b at 1",
        {"step": 1},
    )
    assert AllOf([Always(), optuna.pruners.NopPruner()]).verdict(*frozen([1.0])) is None


def test_a_combination_has_the_parts_it_asks():
    """Through every combination, however nested; any other pruner is one part."""
    median, stalled, nop = optuna.pruners.MedianPruner(), StalledLoss(), optuna.pruners.NopPruner()
    nested = Holdout(AnyOf([WarmUp(Interval(median, 2), 3), AllOf([stalled, nop])]))
    assert list(parts(nested)) == [median, stalled, nop]
    assert list(parts(median)) == [median]


@pytest.mark.parametrize("combine", [AnyOf, AllOf])
@pytest.mark.parametrize("pruners", [[], optuna.pruners.NopPruner()])
def test_an_empty_combination_is_refused(combine, pruners):
    """A list of at least one pruner is asked for."""
    with pytest.raises(ValueError, match="at least one pruner"):
        combine(pruners)


def test_warm_up_waits_unless_the_loss_is_lost():
    """Before the step nobody is asked, but of a non-finite value."""
    inner = Always()
    assert last_steps(run([falling(0, 0)], WarmUp(inner, 10))) == [10]
    assert inner.asked == [10]
    assert last_steps(run([[1.0, math.nan, 1.0]], WarmUp(Always(), 10))) == [1]


def test_interval_asks_once_per_interval():
    """The first report of each interval is judged, whatever steps the reports are at."""
    asked = Always()
    pruner = Interval(asked, 10)
    study, _ = frozen([])
    trial = study.ask()
    for step in (0, 3, 9, 12, 14, 31, 32, 40):
        trial.report(1.0, step)
        pruner.verdict(study, study.trials[-1])
    assert asked.asked == [0, 12, 31, 40]


@pytest.mark.parametrize(
    "make",
    [lambda: WarmUp(Always(), -1), lambda: Interval(Always(), 0), lambda: Holdout(Always(), 2)],
)
def test_wrappers_refuse_nonsense(make):
    """Each says its name, what arrived and what to give."""
    with pytest.raises(ValueError, match="give"):
        make()


def test_a_holdout_lets_its_share_run_on_and_marks_it():
    """The asked share of trials runs on, the same in every process, marked with the first
    verdict.
    """
    study = run([falling(0, i, 5) for i in range(300)], Holdout(Always(), 0.2, seed=3))
    held_out = [t for t in study.trials if t.state is TrialState.COMPLETE]
    assert 59 <= len(held_out) <= 61
    assert all(
        t.user_attrs["held_out_step"] == 0 and t.user_attrs["held_out"] == "always at 0"
        for t in held_out
    )
    again = run([falling(0, i, 5) for i in range(300)], Holdout(Always(), 0.2, seed=3))
    assert [t.state for t in again.trials] == [t.state for t in study.trials]
    assert all("verdict" in t.user_attrs for t in study.trials if t.state is TrialState.PRUNED)


@pytest.mark.parametrize("seed", range(8))
def test_one_of_the_first_three_is_held_out_and_then_one_in_each_block(seed):
    """At 3 % a small sweep has one of the first three that were to be ended, and no other of 33."""
    study = run([falling(0, i, 5) for i in range(100)], Holdout(Always(), seed=seed))
    held_out = [t.number for t in study.trials if t.state is TrialState.COMPLETE]
    assert [number * 3 // 100 for number in held_out] == [0, 1, 2]
    assert held_out[0] < 3


def test_a_holdout_goes_on_where_an_earlier_session_ended():
    """Those ended and held out before count, whoever asked; one held out stays so."""
    curves = [falling(0, i, 5) for i in range(70)]
    whole = run(curves, Holdout(Always(), seed=2))
    study = run(curves[:20], Holdout(Always(), seed=2))
    study.pruner = Holdout(Always(), seed=2)
    first = next(t.number for t in study.trials if t.state is TrialState.COMPLETE)
    for curve in curves[20:]:
        trial = study.ask()
        for step, loss in enumerate(curve):
            trial.report(loss, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])
    assert [t.state for t in study.trials] == [t.state for t in whole.trials]
    view = StudyView(study, lambda number: study.trials[number])
    again = Holdout(Always(), seed=2)
    again.start(view)
    assert again.observe(first, 99, 1.0, Plan()) is None


def test_a_holdout_tells_how_often_ending_was_wrong():
    """Told at each end of a trial that has run its course, of those held out, by what is known
    then: one among the best so far may be overtaken.
    """
    told = []

    class Listens(CurvePruner):
        def observe(self, trial, step, loss, plan):
            return Verdict("always", step, "always")

        def held_out(self, n_wrong, n_finished):
            told.append((n_wrong, n_finished))

    pruner = Holdout(Listens(), 1.0)
    for trial, loss in enumerate((5.0, 6.0, 1.0, 0.5)):
        assert pruner.observe(trial, 0, loss, Plan()) is None
        pruner.finished(trial, PeerOutcome.COMPLETE)
    # Of n trials the goal is the place of 1.25 n^(1/3), rounded up: 2 of 1 to 4.
    assert told == [(1, 1), (2, 2), (2, 3), (2, 4)]


def test_a_diverged_trial_is_never_held_out():
    """Running on with NaN would teach nothing."""
    assert last_steps(run([[1.0, math.nan, 1.0]], Holdout(StalledLoss(), 1.0))) == [1]


def test_combinations_come_from_yaml():
    """Every pruner here can be nested in a config by _target_, around Optuna's own too."""
    config = OmegaConf.create(
        """
        _target_: iolaus.sweeps.pruners.Holdout
        holdout_fraction: 0.1
        pruner:
          _target_: iolaus.sweeps.pruners.AnyOf
          pruners:
            - {_target_: iolaus.sweeps.pruners.StalledLoss, n_steps: 50, caution: 2}
            - _target_: iolaus.sweeps.pruners.Interval
              interval_steps: 5
              pruner:
                _target_: iolaus.sweeps.pruners.WarmUp
                n_steps: 10
                pruner:
                  _target_: iolaus.sweeps.pruners.AllOf
                  pruners:
                    - {_target_: optuna.pruners.MedianPruner}
                    - {_target_: optuna.pruners.ThresholdPruner, upper: 0.5}
        """
    )
    study = run(sweep(), instantiate(config))
    assert any(t.state is TrialState.PRUNED for t in study.trials)


OPTUNAS = {
    "median": (optuna.pruners.MedianPruner, "against the median"),
    "percentile": (lambda: optuna.pruners.PercentilePruner(25.0), "25th percentile"),
    "asha": (lambda: optuna.pruners.SuccessiveHalvingPruner(1, 2), "best 1/2 of its rung"),
    "hyperband": (lambda: optuna.pruners.HyperbandPruner(1, 50), "best 1/3 of its rung"),
    "threshold": (lambda: optuna.pruners.ThresholdPruner(upper=1.5), "outside"),
    "patient": (lambda: optuna.pruners.PatientPruner(None, 3), "worse than those before"),
    "patient median": (
        lambda: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), 1),
        "against the median",
    ),
    "wilcoxon": (optuna.pruners.WilcoxonPruner, "worse than trial"),
}


@pytest.mark.parametrize("name", OPTUNAS)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_reason_is_found_for_optunas_own_pruners(name, direction):
    """verdict_of ends exactly the trials that the pruner ends, with a sentence that names the
    comparison.
    """
    sign = 1 if direction == "minimize" else -1
    make, words = OPTUNAS[name]

    class Worded(VerdictPruner):
        def __init__(self) -> None:
            self.inner = quiet(make)

        def verdict(self, study: optuna.Study, trial: FrozenTrial) -> Verdict | None:
            return verdict_of(self.inner, study, trial)

    curves = [
        [sign * v for v in c]
        for c in [*sweep(15), list(np.linspace(2, 3, N)), list(np.linspace(2.2, 3, N))]
    ]
    bare = optuna.create_study(pruner=quiet(make), direction=direction, study_name="same")
    worded = optuna.create_study(pruner=Worded(), direction=direction, study_name="same")
    for study in (bare, worded):

        def objective(trial: optuna.Trial) -> float:
            for step, loss in enumerate(curves[trial.number]):
                trial.report(loss, step)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return curves[trial.number][-1]

        study.optimize(objective, n_trials=len(curves))
    assert last_steps(bare) == last_steps(worded)
    verdicts = [t.user_attrs["verdict"] for t in worded.trials if t.state is TrialState.PRUNED]
    if name == "threshold" and direction == "maximize":
        return  # values are negative here: nothing is above the threshold
    assert verdicts
    assert all(words in v for v in verdicts)
    assert all(
        t.user_attrs["verdict_rule"] == type(quiet(make)).__name__
        for t in worded.trials
        if "verdict" in t.user_attrs
    )


def test_a_pruner_nobody_knows_still_gets_a_sentence():
    """Any class gets its name, step and value, even when it ends a trial that has not reported."""

    class Odd(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            return True

    verdict = verdict_of(Odd(), *frozen([0.5]))
    assert verdict == Verdict("Odd", 0, "does not keep up: 0.5 at step 0 (Odd)", {"value": 0.5})
    assert "before its first report" in verdict_of(Odd(), *frozen([])).reason


def by_hand(
    curves: Sequence[Sequence[float]], order: Sequence[int], pruner: CurvePruner, plan: Plan
) -> list[tuple[int, Verdict]]:
    """Every verdict on curves that come one loss at a time, each trial's next by `order`."""
    at, verdicts = dict.fromkeys(range(len(curves)), 0), []
    pruner.start(StudyView(optuna.create_study(), lambda _: pytest.fail("nobody may look")))
    for trial in order:
        step = at.get(trial, -1)
        if step < 0:
            continue
        at[trial] += 1
        verdict = pruner.observe(trial, step, curves[trial][step], plan)
        if verdict is not None:
            verdicts.append((trial, verdict))
            pruner.finished(trial, PeerOutcome.STOPPED)
        if verdict is not None or at[trial] == len(curves[trial]):
            if verdict is None:
                pruner.finished(trial, PeerOutcome.COMPLETE)
            del at[trial]
    return verdicts


def in_plain_optuna(
    curves: Sequence[Sequence[float]],
    order: Sequence[int],
    pruner: CurvePruner,
    plan: Plan,
    direction: str,
) -> list[tuple[int, Verdict]]:
    """The same in a study: reported, asked, told."""
    study = optuna.create_study(pruner=pruner, direction=direction)
    sign = -1 if direction == "maximize" else 1
    running = {i: study.ask() for i in range(len(curves))}
    at, verdicts = dict.fromkeys(running, 0), []
    for number in running:
        running[number].set_user_attr(Plan.N_STEPS_ATTR, plan.n_steps)
        running[number].set_user_attr(Plan.LR_ATTR, plan.lr)
    for number in order:
        if number not in running:
            continue
        trial, step = running[number], at[number]
        at[number] += 1
        trial.report(sign * curves[number][step], step)
        verdict = pruner.verdict(study, study.trials[number])
        if verdict is not None:
            verdicts.append((number, verdict))
            study.tell(running.pop(number), state=TrialState.PRUNED)
        elif at[number] == len(curves[number]):
            study.tell(running.pop(number), 0.0)
    return verdicts


PRUNERS: dict[str, Callable[[], CurvePruner]] = {
    "stalled": StalledLoss,
    "combined": lambda: Interval(WarmUp(AnyOf([StalledLoss(caution=0.5)]), 4), 3),
}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_trials=st.integers(1, 14),
    n_steps=st.none() | st.just(40),
    lr=st.sampled_from([(), ((0, 0.1), (20, 0.1), (21, 0.01))]),
    make=st.sampled_from(list(PRUNERS)),
    direction=st.sampled_from(["minimize", "maximize"]),
)
def test_losses_that_come_one_by_one_are_judged_as_in_a_study(
    seed, n_trials, n_steps, lr, make, direction
):
    """Observed as they come, whatever the order of reports, curves get the verdicts they get from a
    study; where larger is better only the signs of words and numbers differ.
    """
    rng = np.random.default_rng(seed)
    curves = []
    for level in rng.uniform(0, 2, n_trials):
        n = int(rng.integers(1, 41))
        curve = level + rng.exponential() * np.exp(-np.arange(n) / 6) + 0.01 * rng.normal(size=n)
        curves.append([*curve[:-1], math.nan if rng.random() < 0.1 else curve[-1]])
    order = rng.permutation(np.repeat(np.arange(n_trials), [len(c) for c in curves])).tolist()
    plan = Plan(n_steps, lr)
    expected = by_hand(curves, order, PRUNERS[make](), plan)
    found = in_plain_optuna(curves, order, PRUNERS[make](), plan, direction)
    assert [(trial, v.rule, v.step) for trial, v in found] == [
        (trial, v.rule, v.step) for trial, v in expected
    ]
    if direction == "minimize":
        assert repr(found) == repr(expected)


def waiting(orders_agree: bool, n_complete: int, step: int = 11) -> Verdict | None:
    """The verdict on the worst of 28 trials, whose order half-way was the same or the opposite."""
    pruner, worst = StalledLoss(), 27
    for i in range(28):
        for s in range(N if i < n_complete else step + 1 - (i == worst)):
            early = i if orders_agree or s > step // 2 or i == worst else 26 - i
            pruner.learn(i, s, 10.0 + early + 0.001 * math.exp(-s), Plan(N))
        if i < n_complete:
            pruner.finished(i, PeerOutcome.COMPLETE)
    return pruner.observe(worst, step, 37.0, Plan(N))


def test_early_standing_counts_where_the_order_has_held():
    """Before two fifths of the run a trial ends for its standing only if order has held since half
    of its steps, or if eight trials have finished.
    """
    assert waiting(orders_agree=True, n_complete=0) is not None
    assert waiting(orders_agree=False, n_complete=7) is None
    assert waiting(orders_agree=False, n_complete=0, step=30) is not None
    assert waiting(orders_agree=True, n_complete=8) is not None


def plateau(leaves_at: int, floor: float) -> list[float]:
    """A loss of 2.8 until it breaks through within five steps."""
    return [floor + (2.8 - floor) * min(1.0, max(0.0, 1 - (s - leaves_at) / 5)) for s in range(N)]


@pytest.mark.parametrize(("step", "ends"), [(15, False), (30, True)])
def test_a_plateau_is_no_stall_until_the_latest_departure_has_passed(step, ends):
    """Whoever is where those that broke through once stood goes on; long after the last of them has
    left the plateau, one still on it ends, and the verdict says so.
    """
    pruner = StalledLoss()
    curves = [plateau(4 + i, 1.3 - 0.02 * i) for i in range(16)]
    for i, curve in enumerate(curves):
        for s, loss in enumerate(curve):
            pruner.learn(i, s, loss + 0.001 * ((7 * s + i) % 5), Plan(N))
        pruner.finished(i, PeerOutcome.COMPLETE)
    for i in range(16, 22):
        for s in range(step):
            pruner.learn(i, s, 2.8 + 0.001 * ((7 * s + i) % 5), Plan(N))
    verdict = pruner.observe(21, step, 2.8, Plan(N))
    assert (verdict is not None) == ends


@pytest.mark.parametrize("broke_through", [False, True])
def test_a_breakthrough_of_trials_that_still_run_protects_the_plateau(broke_through):
    """Trials further on that have not finished show what comes, too: where they broke through from
    here to the goal, one that is here goes on; where they did not, it ends.
    """
    pruner = StalledLoss()
    for i in range(8):
        for s, loss in enumerate(plateau(2, 1.3)):
            pruner.learn(i, s, loss + 0.001 * ((7 * s + i) % 5), Plan(N))
        pruner.finished(i, PeerOutcome.COMPLETE)
    for i in range(8, 14):
        for s, loss in enumerate(plateau(20 if broke_through else N, 1.0)[:30]):
            pruner.learn(i, s, loss + 0.001 * ((7 * s + i) % 5), Plan(N))
    for s in range(15):
        pruner.learn(14, s, 2.8 + 0.001 * (7 * s % 5), Plan(N))
    assert (pruner.observe(14, 15, 2.8, Plan(N)) is None) == broke_through


def test_a_verdict_never_denies_what_peers_have_shown():
    """Of every verdict on plateaus and slopes: what peers near it show is short of the goal."""
    curves = [plateau(3 + 3 * (i % 12), 1.0 + 0.1 * (i % 7)) for i in range(24)] + sweep(20)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(44), N)).tolist()
    found = by_hand(curves, order, StalledLoss(), Plan(N))
    assert found
    for _, verdict in found:
        if "reach_as_peers" in verdict.numbers:
            assert verdict.numbers["reach_as_peers"] > verdict.numbers["goal"]


@settings(max_examples=60, deadline=None)
@given(reach=st.floats(-1e6, 1e6), above=st.floats(1e-9, 10))
def test_a_sentence_never_contradicts_itself(reach, above):
    """Two numbers that are compared are shown with the digits that tell them apart."""
    a, b = distinct(reach + above, reach)
    assert reach + above == reach or float(a) > float(b)


def test_verdicts_fit_in_two_lines():
    """The cause comes first, and no sentence of ours is longer than 200 characters."""
    study = run(sweep(40), StalledLoss(n_steps=N))
    said = [t.user_attrs["verdict"] for t in study.trials if "verdict" in t.user_attrs]
    assert said
    assert max(map(len, said)) <= 200
    assert all(text.startswith(("behind: ", "stalled since step ")) for text in said)


def test_the_package_for_optunahub_is_complete_and_its_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OptunaHub's files are there, the front matter is text, and the example prunes with reasons.

    OptunaHub itself is stood in for: it imports the package's folder as a module.
    """
    root = Path(__file__).parents[3] / "docs/optunahub/package"
    folder = root / "pruners/stalled_loss"
    files = {"README.md", "LICENSE", "__init__.py", "example.py", "requirements.txt"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == files
    about = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert "pruner" in about["tags"]
    assert all(isinstance(value, str | list) for value in about.values())

    def load_local_module(package: str, registry_root: str) -> ModuleType:
        assert Path(registry_root) == root
        spec = spec_from_file_location("loaded", f"{registry_root}/{package}/__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    stand_in = ModuleType("optunahub")
    stand_in.load_local_module = load_local_module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optunahub", stand_in)
    runpy.run_path(str(folder / "example.py"), run_name="__main__")
    *pruned, best = capsys.readouterr().out.splitlines()
    assert len(pruned) > 5
    assert all(len(line.split()) > 5 for line in pruned)
    assert best.startswith("best {'lr': ")
