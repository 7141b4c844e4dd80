"""When and where runs will end, and how right that was, said of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.run_ends import run_end_sentences, run_ends
from iolaus.analysis.report.trial import described

Make = Callable[..., Sweep]


def test_running_trials_say_when_and_where_they_end(made_sweep: Make) -> None:
    """One sentence each, of the first four; steps and seconds left are the plan's less those made.

    The made-up trials make 100 steps a second.
    """
    sweep = made_sweep(6, state="running")
    sweep = dataclasses.replace(sweep, trials=sweep.trials.assign(n_steps=2000))
    said = run_end_sentences(sweep)
    last = int(sweep.curves.loc[sweep.curves["trial"] == 0, "step"].max())
    left_s = round((2000 - last) / 100)
    assert said[0].startswith(f"Trial 0: step {last} of 2,000: about {left_s} s left, loss ")
    assert said[4:] == ["2 more trials run."]
    assert said[0] == f"Trial 0: {described(sweep, 0)['will end']}."


def test_per_cents_that_are_still_below_one_are_no_shares(made_sweep: Make) -> None:
    """Whether an accuracy ends at 1 or at 100 is seen by all trials, not by the one asked."""
    sweep = made_sweep(2, state="running")
    steps = sweep.curves["step"]
    rising = steps / steps.max() * sweep.curves["trial"].map({0: 0.9, 1: 40.0})
    sweep = dataclasses.replace(
        sweep,
        metric="val_acc",
        metric_goal="maximize",
        trials=sweep.trials.assign(n_steps=5000),
        curves=sweep.curves.assign(metric="val_acc", value=rising),
    )
    assert run_ends(sweep)[0].high > 1


def test_of_completed_trials_it_is_said_how_right_it_was(made_sweep: Make) -> None:
    """How many ends lay in the interval, of all that were asked, at a quarter and at half."""
    sweep = made_sweep(12, state="complete")
    sweep = dataclasses.replace(sweep, trials=sweep.trials.assign(n_steps=800))
    (said,) = run_end_sentences(sweep)
    start = "Where completed trials would end in loss, as foreseen from their reports so far: at a "
    assert said.startswith(f"{start}quarter of the run ")
    assert "; at half of the run " in said
    assert "of 12 ends lay in the interval" in said
    about = described(sweep, 0)
    assert "it came to" in about["foreseen at 25%"]
    assert "it took 4 s" in about["foreseen at 50%"]


def test_nothing_is_said_where_the_length_is_not_known(made_sweep: Make) -> None:
    """Trials that announced no number of steps end nobody knows when."""
    sweep = made_sweep(6)
    sweep = dataclasses.replace(sweep, trials=sweep.trials.assign(n_steps=float("nan")))
    assert run_end_sentences(sweep) == []
