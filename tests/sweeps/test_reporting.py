"""What a training function may say, in a sweep and outside."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import iolaus
from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.types import Plan, Verdict

VERDICT = Verdict("Rule", 3, "enough", {})


def make(watched: str = "loss") -> Reporter:
    return Reporter(watched, clock=lambda: 0.0)


reports = st.lists(
    st.tuples(st.integers(0, 2**62), st.dictionaries(st.text(min_size=1), st.floats(), min_size=1)),
    max_size=20,
)


def test_a_trial_is_not_stopped_at_its_last_report() -> None:
    """A verdict that comes when all planned steps are made changes nothing; before it ends, and
    without a plan too.
    """
    reporter = make()
    reporter.plan(Plan(10))
    reporter.take()  # the driver has the plan by then
    reporter.report(8, {"loss": 1.0})
    reporter.stop(VERDICT)
    for step in (9, 10):  # steps may count the updates made or start at 0
        reporter.report(step, {"loss": 1.0})
        assert not reporter.should_stop()
    assert not reporter.acknowledged
    for plan in (Plan(12), Plan(None)):
        other = make()
        other.plan(plan)
        other.stop(VERDICT)
        with pytest.raises(optuna.TrialPruned, match="enough"):
            other.report(10, {"loss": 1.0})
        assert other.acknowledged


@pytest.mark.parametrize(("n_steps", "end"), [(10, 50_009), (50_010, 50_009), (50_000, 50_000)])
def test_a_trial_that_begins_late_ends_at_its_own_last_step(n_steps: int, end: int) -> None:
    """A plan that would be over before the first report counts from there; until its end a verdict
    ends the trial.
    """
    reporter = make()
    reporter.plan(Plan(n_steps))
    reporter.report(50_000, {"loss": 1.0})
    reporter.stop(VERDICT)
    if end > 50_000:
        with pytest.raises(optuna.TrialPruned, match="enough"):
            reporter.report(50_001, {"loss": 1.0})
    whole = make()
    whole.plan(Plan(n_steps))
    whole.report(50_000, {"loss": 1.0})
    whole.stop(VERDICT)
    whole.report(end, {"loss": 1.0})
    assert not whole.acknowledged


def test_a_trial_that_diverges_at_its_last_report_is_ended() -> None:
    """Its result is not a number, whether or not a rule had wanted to stop it."""
    for verdict in (None, VERDICT):
        reporter = make()
        reporter.plan(Plan(10))
        if verdict is not None:
            reporter.stop(verdict)
        with pytest.raises(optuna.TrialPruned):
            reporter.report(9, {"loss": math.nan})
        assert reporter.acknowledged


@given(reports=reports, cuts=st.sets(st.integers(0, 20)))
def test_every_report_is_taken_once_and_in_order(reports: Any, cuts: set[int]) -> None:
    """Whenever batches are taken, together they are the reports; taking again gives nothing."""
    reporter = make("watched by nobody, not even by chance")
    rows = []
    for i, (step, metrics) in enumerate(reports):
        reporter.report(step, metrics)
        if i in cuts:
            batch = reporter.take()
            assert batch is not None
            rows += batch.rows
            assert reporter.take() is None
    batch = reporter.take()
    rows += batch.rows if batch else []
    assert repr([(row.step, dict(row.metrics)) for row in rows]) == repr(reports)


def test_reports_from_several_threads_are_all_taken() -> None:
    """A report may come from any thread while batches are being taken."""
    reporter = make()
    threads = [
        threading.Thread(
            target=lambda i=i: [reporter.report(step, {"m": i}) for step in range(500)]
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    rows = []
    while any(thread.is_alive() for thread in threads) or not rows or len(rows) < 2000:
        batch = reporter.take()
        rows += batch.rows if batch else []
    for i in range(4):
        assert [row.step for row in rows if row.metrics["m"] == i] == list(range(500))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_watched_metric_must_be_finite(bad: float) -> None:
    """A value that is not finite ends the trial as diverged, at once, and is kept; in other metrics
    it is just kept.
    """
    reporter = make()
    reporter.report(0, {"other": bad})
    assert reporter.verdict is None
    with pytest.raises(optuna.TrialPruned, match=f"loss became {bad} at step 7"):
        reporter.report(7, {"loss": bad, "other": 1.0})
    assert reporter.verdict is not None
    assert (reporter.verdict.rule, reporter.verdict.step) == ("diverged", 7)
    assert reporter.acknowledged
    batch = reporter.take()
    assert batch is not None
    assert [row.step for row in batch.rows] == [0, 7]


def test_the_first_verdict_stands() -> None:
    """A trial told to stop keeps its reason, whatever else happens before it has ended."""
    reporter = make()
    reporter.stop(VERDICT)
    reporter.stop(Verdict("Other", 4, "too late", {}))
    assert not reporter.acknowledged
    with pytest.raises(optuna.TrialPruned, match="enough"):
        reporter.report(5, {"loss": math.nan})
    assert reporter.verdict is VERDICT
    assert reporter.acknowledged


def test_a_task_may_ask_instead_of_being_thrown_out() -> None:
    """should_stop is False, then True once the sweep has decided, and asking counts as having
    noticed.
    """
    reporter = make()
    with reporting_to(reporter):
        assert not iolaus.should_stop()
        reporter.stop(VERDICT)
        assert not reporter.acknowledged
        assert iolaus.should_stop()
    assert reporter.acknowledged
    assert not iolaus.should_stop()


def saved(folder: Path) -> Path:
    """A folder to report as a checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "state").write_text("all of it")
    return folder


def test_a_trial_that_is_paused_may_save_after_its_next_report(tmp_path: Path) -> None:
    """One that asks for checkpoints is not thrown out at that report, and is at the checkpoint; the
    driver is told which it is.
    """
    reporter = make()
    reporter.place(str(tmp_path))
    assert not reporter.should_checkpoint()
    reporter.report(4, {"loss": 1.0})
    reporter.stop(VERDICT, is_pause=True)
    reporter.report(5, {"loss": 1.0})
    assert not reporter.should_stop()
    assert reporter.should_checkpoint()
    with pytest.raises(optuna.TrialPruned, match="enough"):
        reporter.report(5, {}, saved(tmp_path / "own"))
    assert reporter.acknowledged
    batch = reporter.take()
    assert batch is not None
    assert batch.kept is not None
    assert (batch.kept.step, batch.kept.n_bytes > 0) == (5, True)


@pytest.mark.parametrize(
    ("asks", "is_pause", "n_reports"), [(True, True, 2), (False, True, 1), (True, False, 1)]
)
def test_a_trial_that_does_not_save_ends_at_once(
    asks: bool, is_pause: bool, n_reports: int
) -> None:
    """One report more for one that asks for checkpoints and is to go on later; else the next ends
    it.
    """
    reporter = make()
    if asks:
        reporter.should_checkpoint()
    reporter.stop(VERDICT, is_pause)
    for step in range(1, n_reports):
        reporter.report(step, {"loss": 1.0})
    with pytest.raises(optuna.TrialPruned, match="enough"):
        reporter.report(n_reports, {"loss": 1.0})


def test_a_trial_that_diverges_while_it_is_paused_has_diverged() -> None:
    """What comes before its last checkpoint may end it for good."""
    reporter = make()
    reporter.should_checkpoint()
    reporter.stop(VERDICT, is_pause=True)
    with pytest.raises(optuna.TrialPruned, match="became nan"):
        reporter.report(5, {"loss": math.nan})
    assert reporter.verdict is not None
    assert reporter.verdict.rule == "diverged"
    assert not reporter.should_checkpoint()


class Sized:
    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value

    def __index__(self) -> int:
        return int(self.value)


@pytest.mark.parametrize(
    ("step", "metrics", "error", "sentence"),
    [
        (
            1.0,
            {"loss": 1},
            TypeError,
            r"step is a whole number of optimizer updates, got 1\.0 \(float\)",
        ),
        ("1", {"loss": 1}, TypeError, r"got '1' \(str\)"),
        (None, {"loss": 1}, TypeError, r"got None"),
        (-1, {"loss": 1}, ValueError, "step counts from 0, got -1"),
        (2**63, {"loss": 1}, ValueError, "step counts from 0.*got 9223372036854775808"),
        (3, {}, TypeError, r"no metric at step 3; write iolaus\.report\(step, loss=loss\)"),
        (3, {"loss": None}, TypeError, r"at step 3 got \{'loss': 'NoneType'\}"),
        (3, {"loss": "0.5"}, TypeError, r"at step 3 got \{'loss': 'str'\}"),
        (3, {"loss": [1.0]}, TypeError, r"at step 3 got \{'loss': 'list'\}"),
        (3, {"loss": 1j, "ok": 1.0}, TypeError, r"at step 3 got \{'loss': 'complex'\}"),
        (3, {"loss": 10**400}, TypeError, r"at step 3 got \{'loss': 'int'\}"),
    ],
)
def test_what_is_no_report_is_refused(
    step: Any, metrics: Any, error: type[Exception], sentence: str
) -> None:
    """The sentence says which call, at which step, and what came; nothing of the report is kept."""
    reporter = make()
    with pytest.raises(error, match=sentence) as refused:
        reporter.report(step, metrics)
    assert str(refused.value).startswith("iolaus.report: ")
    assert reporter.take() is None


def test_numbers_of_all_kinds_are_numbers() -> None:
    """Numpy's and torch's scalars, one-element tensors and anything with __float__ or __index__ are
    taken.
    """
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    reporter = make()
    with reporting_to(reporter):
        iolaus.report(
            numpy.int64(3), loss=torch.tensor([0.5]), a=numpy.float32(0.25), b=True, c=Sized(2.0)
        )
        iolaus.report(Sized(4), **{"grad_norm/W": torch.tensor(1.0, requires_grad=True)})
        with pytest.raises(TypeError, match=r"\{'loss': 'Tensor'\}"):
            iolaus.report(5, loss=torch.zeros(2))
    batch = reporter.take()
    assert batch is not None
    assert [(row.step, dict(row.metrics)) for row in batch.rows] == [
        (3, {"loss": 0.5, "a": 0.25, "b": 1.0, "c": 2.0}),
        (4, {"grad_norm/W": 1.0}),
    ]
    assert all(type(row.step) is int for row in batch.rows)


def test_plan_and_place_are_sent_once() -> None:
    """The plan and the folder come with the next batch, even without a report, and not again."""
    reporter = make()
    with reporting_to(reporter):
        iolaus.plan(100, lr=[(0, 0.1), (50, 1)])
    reporter.place("/somewhere")
    batch = reporter.take()
    assert batch is not None
    assert (batch.plan, batch.folder, list(batch.rows)) == (
        Plan(100, ((0, 0.1), (50, 1.0))),
        "/somewhere",
        [],
    )
    assert reporter.take() is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0,), "plan of 0 steps"),
        ((5, [(3, 0.1), (3, 0.2)]), "must rise"),
        ((5, [(3, 0.1), (1, 0.2)]), "must rise"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: tuple[Any, ...], sentence: str) -> None:
    """No steps, or corners that do not rise, are refused by what arrived."""
    with reporting_to(make()), pytest.raises(ValueError, match=sentence):
        iolaus.plan(*arguments)


def test_outside_a_sweep_nothing_happens() -> None:
    """A script that trains alone may call all three; it need not even have Optuna."""
    script = (
        "import sys; sys.modules['optuna'] = None; import iolaus;"
        "iolaus.report(0, loss=float('nan')); iolaus.report('?'); iolaus.plan(0);"
        "assert not iolaus.should_stop()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
