"""The event log of a sweep, and its replay.

The scheduler does nothing but answer events, so a file of events tells all that it ever decided.
`events.jsonl` in a sweep's folder has one JSON object a line: first a session's line with the
scheduler's arguments, then each event with the seconds since then,

    {"session": {"n_slots": 2, "n_to_run": 20, "max_failure_rate": 0.5, ...}}
    {"t": 0.213, "Freed": {"slot": 0, "n_lanes": 1}}

The log holds no value that a task returned and no text that it raised: of an outcome it keeps the
ending, of a verdict the rule, the step and the sentence. Texts are cut at `MOST_TEXT` characters.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from iolaus.sweeps.run import scheduler as s
from iolaus.sweeps.run.scheduler import Action, Event, Scheduler
from iolaus.sweeps.types import Ending, Outcome, Verdict

__all__ = ["EventLog", "Session", "as_logged", "from_json", "replay_events", "to_json"]

log = logging.getLogger("sweeps")

MOST_TEXT = 300

_KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        s.Freed,
        s.Proposed,
        s.Exhausted,
        s.Judged,
        s.TimedOut,
        s.Lost,
        s.Ended,
        s.Died,
        s.Renewed,
        s.Interrupted,
        s.Halted,
    )
}


@dataclass(frozen=True, slots=True)
class Session:
    """What a session begins with: its scheduler's arguments, and what was run when.

    version: of this package. started: the time of day, ISO 8601.
    """

    n_slots: int
    n_to_run: int
    max_failure_rate: float
    version: str = ""
    started: str = ""
    may_get_more: bool = False
    n_paused: int = 0

    def scheduler(self) -> Scheduler:
        """A scheduler as this session had it."""
        return Scheduler(
            *(self.n_slots, self.n_to_run, self.max_failure_rate),
            *(self.may_get_more, self.n_paused),
        )


class EventLog:
    """Appends a session's events to a file, line by line as they come.

    path: in a folder that exists. clock: seconds, any origin. A disk that takes no more costs the
    log its end, with one warning, and the sweep nothing.
    """

    def __init__(self, path: Path, session: Session, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._start_s = clock()
        self._file: FileIO | None = None
        try:
            is_cut = _is_cut(path)
            self._file = FileIO(path, "a")  # with no buffer: a line is there at once, or not at all
        except OSError as error:
            self._give_up(error)
            return
        if is_cut:  # the session before was killed amid a line
            self._append(b"\n")
        self._write({"session": dataclasses.asdict(session)})

    def add(self, event: Event) -> None:
        """Write an event, before anything is done about it."""
        self._write({"t": round(self._clock() - self._start_s, 3), **to_json(event)})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        # default: numpy's whole numbers, which users' pruners and lane runners may give
        self._append(json.dumps(line, default=int).encode() + b"\n")

    def _append(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("%s ends here: %s; the sweep goes on", self._path, error.strerror)
        self.close()


def _is_cut(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def to_json(event: Event) -> dict[str, Any]:
    """An event as plain data: its name, and what the log keeps of its fields."""
    fields = {f.name: _plain(getattr(event, f.name)) for f in dataclasses.fields(event)}
    return {type(event).__name__: fields}


def _plain(value: Any) -> Any:
    match value:
        case Verdict(rule=rule, step=step, reason=reason):
            return {"rule": rule, "step": step, "reason": reason[:MOST_TEXT]}
        case Outcome(ending=ending):
            return {"ending": str(ending)}
        case str():
            return value[:MOST_TEXT]
        case _:
            return value


def from_json(line: Mapping[str, Any]) -> Event:
    """The event of `to_json`. Raises ValueError for anything else."""
    name = next((name for name in line if name in _KINDS), None)
    if name is None:
        raise ValueError(f"no event among {sorted(line)}; there are {', '.join(_KINDS)}")
    fields = dict(line[name])
    try:
        if "verdict" in fields:
            fields["verdict"] = Verdict(**fields["verdict"])
        if fields.get("outcome") is not None:
            fields["outcome"] = Outcome(Ending(fields["outcome"]["ending"]))
        return _KINDS[name](**fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{name} does not have the fields {sorted(fields)}") from error


def as_logged(event: Event) -> Event:
    """What is left of an event in the log."""
    return from_json(to_json(event))


def replay_events(path: Path) -> list[tuple[Session | Event, list[Action]]]:
    """What the schedulers of a sweep decided, event by event, from its `events.jsonl`.

    Each session comes with the actions that began it. Line cut short by a crash: skipped, at the
    end of a session. Raises ValueError, with the file and the line, for what is no event anywhere
    else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "events.jsonl")
    >>> events = EventLog(path, Session(1, 1, 0.5), clock=lambda: 0.0)
    >>> events.add(s.Freed(0))
    >>> events.close()
    >>> [actions for _, actions in replay_events(path)]
    [[Spawn(slot=0)], [Ask(slot=0)]]
    """
    replayed: list[tuple[Session | Event, list[Action]]] = []
    scheduler: Scheduler | None = None
    cut: str | None = None  # a line that may only be the last of its session
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            cut = cut or f"{where} is no event: {error}"
            continue
        if not isinstance(line, dict):
            raise ValueError(f"{where}: an event is an object, got {text[:MOST_TEXT]}")
        if "session" in line:
            session = Session(**line["session"])
            scheduler, cut = session.scheduler(), None
            replayed.append((session, scheduler.start()))
            continue
        if cut is not None:
            raise ValueError(f"{cut}; a line is cut short only where a session ends")
        if scheduler is None:
            raise ValueError(f"{where}: an event before the first session's line")
        try:
            event = from_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        replayed.append((event, scheduler.handle(event)))
    return replayed
