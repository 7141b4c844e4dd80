"""What a sweep shows while it runs."""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from iolaus.sweeps.run._progress import Progress
from iolaus.sweeps.run.slots_log import SlotRow
from iolaus.sweeps.study.preview import Pace, Range
from iolaus.sweeps.text import duration
from iolaus.sweeps.types import Ending, Outcome


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make(
    n_total: int = 10, n_before: int = 0, terminal: bool = False, sign: int = 1
) -> tuple[Progress, Clock, Any]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, width=100, force_terminal=terminal, color_system=None)
    return Progress(console, n_total, n_before, 2, sign, "loss", clock), clock, out


def shown(progress: Progress) -> str:
    """The live display as text."""
    out = io.StringIO()
    Console(file=out, width=100).print(progress)
    return out.getvalue()


outcomes = st.builds(
    Outcome,
    ending=st.sampled_from(Ending),
    values=st.sampled_from([(), (1.0,), (math.inf,), (-math.inf,), (1.0, 2.0)]),
    reason=st.sampled_from(["", "[bold]no markup[/]", "two\nlines", "x" * 300]),
)
events = st.lists(
    st.tuples(
        st.sampled_from(["start", "plan", "report", "end"]),
        st.integers(0, 3),
        outcomes,
        st.floats(0, 1e6),
    ),
    max_size=30,
)


@given(events=events, n_total=st.integers(1, 40), terminal=st.booleans())
def test_it_can_always_be_shown(events: Any, n_total: int, terminal: bool) -> None:
    """Whatever happens in a sweep, the display holds the right counts and an estimate that is not
    negative.
    """
    progress, clock, _ = make(n_total, terminal=terminal)
    running: set[int] = set()
    paused: set[int] = set()
    ended = []
    for kind, trial, outcome, passed_s in events:
        clock.now_s += passed_s
        if kind == "start" and trial not in running:
            progress.started(trial, trial)
            running.add(trial)
            paused.discard(trial)
        elif kind == "plan" and trial in running:
            progress.planned(trial, 100)
        elif kind == "report" and trial in running:
            progress.reported(trial, 3, None if len(ended) % 2 else passed_s)
        elif kind == "end":  # also of one that never started
            progress.ended(trial, outcome)
            running.discard(trial)
            if outcome.ending is Ending.PAUSED:
                paused.add(trial)
            else:
                ended.append(outcome)
        left_s = progress.time_left_s()
        assert left_s is None or (left_s >= 0 and math.isfinite(left_s))
    text = shown(progress)
    n_done = sum(outcome.ending is not Ending.INTERRUPTED for outcome in ended) + len(paused)
    # One more may run, and so be reached, than was planned: a finalist that was passed.
    n_reached = max(n_total, n_done + len(running))
    assert f"{n_done}/{n_reached} trials" in text
    assert f"{len(running)} running" in text
    for trial in running:
        assert f"trial {trial}" in text
    n_failed = sum(outcome.ending is Ending.FAILED for outcome in ended)
    assert (f"{n_failed} failed" in text) == (n_failed > 0)


@pytest.mark.parametrize(("sign", "best"), [(1, "best -1 (trial 1)"), (-1, "best 2 (trial 2)")])
def test_best_follows_the_direction(sign: int, best: str) -> None:
    """The best trial is the one with the lowest value, or the highest where that is better."""
    progress, _, out = make(sign=sign)
    for trial, value in enumerate((1.0, -1.0, 2.0)):
        progress.started(trial, 0)
        progress.ended(trial, Outcome(Ending.COMPLETED, values=(value,)))
    assert best in shown(progress)
    assert out.getvalue().splitlines()[-1].startswith("trial 2 completed 2")


def test_the_estimate_is_the_mean_duration_times_what_is_left() -> None:
    """Two slots and trials of 10 s: eight left, one of them half done, take 37.5 s; an earlier
    session's are done.
    """
    progress, clock, _ = make(n_total=12, n_before=2)
    assert progress.time_left_s() is None
    for trial in (0, 1):
        progress.started(trial, trial)
    clock.now_s = 10
    for trial in (0, 1):
        progress.ended(trial, Outcome(Ending.COMPLETED, values=(1.0,)))
    assert progress.time_left_s() == pytest.approx(40)
    progress.started(2, 0)
    clock.now_s = 15
    assert progress.time_left_s() == pytest.approx(37.5)
    assert "about 38 s left" in shown(progress)


def test_plain_lines_where_there_is_no_terminal() -> None:
    """Without a terminal each trial is one line, its reason as it is, with no markup and no cursor
    movement.
    """
    progress, _, out = make()
    with progress.showing():
        progress.started(0, 0)
        progress.reported(0, 1499, 0.25)
        progress.ended(0, Outcome(Ending.FAILED, reason="KeyError: [red]'a'[/red] " + "x" * 200))
        progress.draining("interrupted")
    line, note = out.getvalue().splitlines()
    assert line.startswith("trial 0 failed at step 1,499: KeyError: [red]'a'[/red] xxx")
    assert line.endswith("[1/10 trials · 0 running · 1 failed]")
    assert note == "no new trials: interrupted"


def test_log_lines_pass_above_the_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the display is live, a log handler writes through it; afterwards it has its own stream
    again.
    """
    progress, _, out = make(terminal=True)
    handler = logging.StreamHandler(sys.__stderr__)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    logging.getLogger().addHandler(handler)
    try:
        with progress.showing():
            assert handler.stream is sys.stderr is not sys.__stderr__
            logging.getLogger().warning("in between")
        assert handler.stream is sys.__stderr__
    finally:
        logging.getLogger().removeHandler(handler)
    assert "in between" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.9, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    """One or two units, rounded so that there is never a sixtieth of anything."""
    assert duration(seconds) == words


def test_the_preview_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When the first trials have reported for some seconds, with its range; later not again."""
    progress, clock, _ = make(n_total=12)
    caplog.set_level(logging.INFO)
    for trial in (0, 1):
        progress.started(trial, trial)
        progress.planned(trial, 100)
    for now_s in range(1, 9):
        clock.now_s = now_s
        for trial in (0, 1):
            progress.reported(trial, now_s, 1.0)  # a step a second
        progress.tick()
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("12 trials left: about 9 min 55 s (4 min 58 s to 21 min 30 s); ")
    assert progress.announced is not None
    assert progress.announced.n_paces == 2


def test_a_sweep_that_goes_on_has_its_preview_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The trials of earlier sessions have shown what one takes, and made their part of all."""
    progress, clock, _ = make(n_total=30, n_before=20)
    progress.share = Range(0.2, 0.6, 0.8)
    progress.paces += [Pace(100.0, 1.0)] * 10 + [Pace(100.0, 0.5)] * 10
    caplog.set_level(logging.INFO)
    progress.started(20, 0)
    clock.now_s = 0.2
    progress.tick()
    (line,) = (record.message for record in caplog.records)
    assert "0.30 of their steps are made" in line  # 18 of 30 are expected, 15 made, 10 open
    assert "by other sweeps' trials), at the speed of 20 trials" in line


def test_what_the_first_trials_wait_for_is_not_paid_by_all() -> None:
    """A worker that compiles for 100 s does so once: the speed is that between the reports."""
    progress, clock, _ = make(n_total=12)
    for trial in (0, 1):
        progress.started(trial, trial)
        progress.planned(trial, 100)
    clock.now_s = 100
    for step in range(10):
        clock.now_s += 1
        for trial in (0, 1):
            progress.reported(trial, step, 1.0)
    assert [pace.whole_s for pace in progress.shown()] == [100.0, 100.0]
    for trial in (0, 1):
        progress.ended(trial, Outcome(Ending.PRUNED))
    assert [(p.whole_s, p.share) for p in progress.shown()] == [(100.0, 0.1)] * 2


def test_the_best_is_the_studys_not_the_sessions() -> None:
    """A session that goes on shows what an earlier one has found, until it finds better."""
    progress, *_ = make()
    progress.best = (0.5, 3)
    for trial, value in ((7, 0.9), (8, 0.4)):
        assert "best 0.5 (trial 3)" in shown(progress)
        progress.started(trial, 0)
        progress.ended(trial, Outcome(Ending.COMPLETED, (value,)))
    assert "best 0.4 (trial 8)" in shown(progress)


@pytest.mark.parametrize("height", [3, 10, 40])
def test_the_last_trials_to_end_fill_the_screen(height: int) -> None:
    """With why they ended, the latest below, as many as the height has room for."""
    progress, *_ = make(n_total=30, terminal=True)
    progress.console = Console(file=io.StringIO(), width=100, height=height, force_terminal=True)
    for trial in range(20):
        progress.started(trial, 0)
        progress.ended(trial, Outcome(Ending.PRUNED, (), "stalled\nsince step 3 " + "x" * 200))
    progress.started(20, 0)
    lines = shown(progress).splitlines()
    ended = [line for line in lines if "pruned" in line and "stalled since step 3" in line]
    assert len(ended) == min(20, max(height - 3, 0))
    assert len(lines) < height or not ended
    if ended:
        assert ended[-1].startswith("  trial 19 pruned")


def test_what_a_slot_holds_is_shown() -> None:
    """Beside each running trial its memory, and of its GPU how busy and hot it is."""
    progress, _, _ = make(terminal=True)
    for trial in range(3):
        progress.started(trial, trial)
    row = SlotRow(0.0, 0, 0, 0, "0", 5 * 2**30, 2**30, 3.0, 9 * 2**30, 0.25, 61)
    without = dataclasses.replace(row, trial=1, device="", utilisation=None)
    unknown = dataclasses.replace(
        row, trial=2, gpu_bytes=None, utilisation=None, temperature_c=None
    )
    progress.sampled([row, without, unknown])
    lines = shown(progress).splitlines()
    assert lines[1].rstrip().endswith("GPU 0: 5 GiB, 25%, 61 °C")
    assert lines[2].rstrip().endswith("1 GiB")
    assert lines[3].rstrip().endswith("GPU 0: in use")
