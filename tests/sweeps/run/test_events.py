"""The event log: nothing is lost of what the scheduler decided by, and the file replays."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.run import scheduler as s
from iolaus.sweeps.run.events import (
    MOST_TEXT,
    EventLog,
    Session,
    as_logged,
    from_json,
    replay_events,
    to_json,
)
from iolaus.sweeps.types import Ending, Outcome, Verdict

numbers = st.integers(0, 2**40)
short = st.text(max_size=MOST_TEXT)
verdicts = st.builds(
    Verdict, st.text(max_size=20), numbers, st.text(min_size=1, max_size=MOST_TEXT)
)
outcomes = st.builds(Outcome, st.sampled_from(Ending))
events = st.one_of(
    st.builds(s.Freed, numbers, numbers),
    st.builds(s.Proposed, numbers, numbers),
    st.builds(s.Exhausted, numbers),
    st.builds(s.Judged, numbers, verdicts),
    st.builds(s.TimedOut, numbers, short),
    st.builds(s.Ended, numbers, outcomes),
    st.builds(s.Died, numbers, short),
    st.builds(s.Renewed, numbers),
    st.builds(s.Interrupted),
    st.builds(s.Halted, short),
)

# Two slots, three trials; one is pruned, one fails, a worker dies; one hangs.
STORY: list[s.Event] = [
    s.Freed(0, 1),
    s.Proposed(0, 0),
    s.Freed(1, 2),
    s.Proposed(1, 1),
    s.Proposed(1, 2),
    s.Judged(1, Verdict("stalled", 3, "it does not keep up", {"slope": 0.5})),
    s.Ended(1, Outcome(Ending.PRUNED)),
    s.Died(0, "it was killed by SIGKILL"),
    s.Proposed(1, 3),
    s.TimedOut(3, "timed out after 3 s: trial_timeout is 2 s"),
    s.Lost(3, "lost"),
    s.Renewed(1),
    s.Ended(2, Outcome(Ending.COMPLETED, values=(0.123456,), returned="SECRET")),
]


def written(path: Path, story: list[s.Event], session: Session) -> list[list[s.Action]]:
    """Log a session of these events; returns what its scheduler did, its beginning included."""
    scheduler, ticks = session.scheduler(), itertools.count(10.0, 0.25)
    log = EventLog(path, session, clock=lambda: next(ticks))
    actions = [scheduler.start()]
    for event in story:
        log.add(event)
        actions.append(scheduler.handle(event))
    log.close()
    return actions


def bare(action: Any) -> Any:
    """An action without a verdict's numbers, and with no more of an outcome than its ending."""
    if isinstance(action, s.Stop):
        return dataclasses.replace(action, verdict=dataclasses.replace(action.verdict, numbers={}))
    if isinstance(action, s.Tell):
        return dataclasses.replace(action, outcome=Outcome(action.outcome.ending))
    return action


def replayed(path: Path) -> list[list[Any]]:
    return [[bare(action) for action in actions] for _, actions in replay_events(path)]


@given(event=events)
def test_every_event_survives_json(event: s.Event) -> None:
    """An event comes back from its line equal, for every type of event and any text."""
    assert from_json(json.loads(json.dumps(to_json(event)))) == event == as_logged(event)


def test_no_type_of_event_is_forgotten() -> None:
    """The events drawn above are all that the scheduler knows."""
    drawn = {type(event) for event in STORY} | {s.Exhausted, s.Interrupted, s.Halted}
    assert drawn == set(get_args(s.Event))


def test_a_log_replays_to_what_was_decided(tmp_path: Path) -> None:
    """Replay gives each session's beginning, each event, and the actions the scheduler answered."""
    path, session = tmp_path / "events.jsonl", Session(2, 3, 1.0, "0.1", "2026-01-01T00:00:00")
    actions = written(path, STORY, session) + written(path, STORY[:4], session)
    assert replayed(path) == [[bare(a) for a in answer] for answer in actions]
    again = [event for event, _ in replay_events(path)]
    assert again == [session, *map(as_logged, STORY), session, *map(as_logged, STORY[:4])]


def test_a_log_keeps_no_value_and_is_bounded(tmp_path: Path) -> None:
    """What a task returned or raised is not in the log, and no line is longer than it may."""
    path = tmp_path / "events.jsonl"
    raised = Outcome(Ending.FAILED, reason="ValueError: SECRET", returned="SECRET")
    written(path, [*STORY, s.Ended(2, raised), s.Halted("x" * 10_000)], Session(2, 3, 1.0))
    assert "SECRET" not in path.read_text()
    assert "0.123456" not in path.read_text()
    assert max(map(len, path.read_text().splitlines())) < MOST_TEXT + 200


def test_each_event_has_its_time(tmp_path: Path) -> None:
    """Seconds since the session began, as the clock has them; each line is there at once."""
    path, now = tmp_path / "events.jsonl", [100.0]
    log = EventLog(path, Session(1, 1, 1.0), clock=lambda: now[0])
    now[0] = 107.5
    log.add(s.Interrupted())
    assert json.loads(path.read_text().splitlines()[1]) == {"t": 7.5, "Interrupted": {}}
    log.close()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    """A step or a number of lanes that comes from a user's numpy code is logged as any other."""
    verdict = Verdict("mine", cast(int, np.int64(3)), "why")
    written(
        tmp_path / "events.jsonl",
        [s.Freed(0, cast(int, np.int32(2))), s.Judged(0, verdict)],
        Session(1, 1, 1.0),
    )
    freed, judged = [event for event, _ in replay_events(tmp_path / "events.jsonl")[1:]]
    assert (freed, judged) == (s.Freed(0, 2), s.Judged(0, Verdict("mine", 3, "why")))


@pytest.mark.parametrize("n_lost", [1, 2, 10, 40])
def test_a_line_cut_by_a_crash_is_skipped(n_lost: int, tmp_path: Path) -> None:
    """The last line of a killed session may be cut anywhere; a later session is appended whole."""
    path, session = tmp_path / "events.jsonl", Session(2, 3, 1.0)
    actions = written(path, STORY, session)
    text = path.read_text()
    path.write_text(text[:-n_lost])
    whole = actions if n_lost == 1 else actions[:-1]  # all but the line's end is there
    assert replayed(path) == [[bare(a) for a in answer] for answer in whole]
    more = written(path, STORY[:2], session)
    assert replayed(path) == [[bare(a) for a in answer] for answer in whole + more]


@pytest.mark.parametrize("line", ['{"t": 1, "Freed": {"sl', '{"t": 1, "Odd": {}}', "[1]", "7"])
def test_a_broken_line_in_between_is_named(line: str, tmp_path: Path) -> None:
    """A log that is damaged amid a session is refused, with its file and the line."""
    path = tmp_path / "events.jsonl"
    written(path, STORY, Session(2, 3, 1.0))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]))
    with pytest.raises(ValueError, match=r"events\.jsonl, line 4"):
        replay_events(path)


def test_a_full_disk_costs_only_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written there is one warning, and no error."""
    with caplog.at_level(logging.WARNING):
        log = EventLog(Path("/dev/full"), Session(1, 1, 1.0), clock=lambda: 0.0)
        log.add(s.Interrupted())
        log.add(s.Interrupted())
        log.close()
        EventLog(tmp_path / "missing" / "events.jsonl", Session(1, 1, 1.0), lambda: 0.0).close()
    assert [r.message.partition(" ends here")[0] for r in caplog.records] == [
        "/dev/full",
        str(tmp_path / "missing" / "events.jsonl"),
    ]
