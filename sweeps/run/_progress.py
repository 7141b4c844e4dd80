"""What a sweep shows while it runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from iolaus.sweeps.run.slots_log import SlotRow
from iolaus.sweeps.study.preview import Machine, Pace, Preview, Range, preview, preview_pruned
from iolaus.sweeps.text import size
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["Progress"]

log = logging.getLogger("sweeps")

# A preview is worth a line from here on: what is over before needs none.
PREVIEW_AFTER_S = 5.0
# From one estimate of the time left to the next.
LOOK_S = 0.2
MOST_LINES = 100  # of trials that ended, on the highest screen


@dataclass
class _Running:
    slot: int
    started_s: float
    is_warm: bool  # its worker is up: what came before its first report comes with every trial
    reported_s: float = 0.0
    first: tuple[int, float] | None = None  # report: its step, and when it came
    step: int | None = None
    value: float | None = None
    n_steps: int | None = None
    from_share: float | None = None  # of its run, where it goes on after a pause


@dataclass
class Progress:
    """The state of a sweep as its user sees it; a `iolaus.sweeps.run.driver.Watcher`.

    n_total: trials to reach, n_before: those an earlier session ran, paused: besides them, the
    trials that are paused, each with the share of its run that it has made. sign: 1 where smaller
    is better, -1 where larger.
    metric: the watched metric's name. clock: seconds. machine: what the slots hold. share: of its
    steps that a trial is expected to make. paces: of trials of earlier sessions. best: the value
    and the number of the study's best trial so far, whichever session ran it.
    """

    console: Console
    n_total: int
    n_before: int
    n_slots: int
    sign: int
    metric: str
    clock: Callable[[], float]
    paused: dict[int, float] = field(default_factory=dict)
    machine: Machine = field(default_factory=lambda: Machine(1))
    share: Range = field(default_factory=lambda: Range(1.0, 1.0, 1.0))
    paces: list[Pace] = field(default_factory=list)
    best: tuple[float, int] | None = None

    announced: Preview | None = field(default=None, init=False)  # what was said at the beginning
    _began_s: float | None = field(default=None, init=False)
    _counts: Counter[Ending] = field(default_factory=Counter, init=False)
    _running: dict[int, _Running] = field(default_factory=dict, init=False)
    _n_made: float = field(default=0.0, init=False)  # by trials that are over, in whole trials
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES), init=False)
    _note: str = field(default="", init=False)
    _rows: dict[int, SlotRow] = field(default_factory=dict, init=False)  # by trial
    _live: Live | None = field(default=None, init=False)
    _looked_s: float = field(default=-math.inf, init=False)
    _left: Preview | None = field(default=None, init=False)  # as of then

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the live display meanwhile; log lines of this process pass above it unharmed."""
        if not self.console.is_terminal:
            yield
            return
        with (
            Live(self, console=self.console, refresh_per_second=4, transient=True) as live,
            _log_through(live),
        ):
            yield

    def started(self, trial: int, slot: int) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        now_s = self.clock()
        is_warm = any(n for ending, n in self._counts.items() if ending is not Ending.INTERRUPTED)
        from_share = self.paused.pop(trial, None)
        self._running[trial] = _Running(slot, now_s, is_warm, from_share=from_share)
        self._began_s = now_s if self._began_s is None else self._began_s
        if from_share is not None and not self.console.is_terminal:
            self._print(f"trial {trial} goes on after its pause")

    def planned(self, trial: int, n_steps: int) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        self._running[trial].n_steps = n_steps

    def reported(self, trial: int, step: int, value: float | None) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        running = self._running[trial]
        running.step, running.reported_s = step, self.clock()
        running.first = running.first or (step, running.reported_s)
        running.value = running.value if value is None else value

    def sampled(self, rows: Sequence[SlotRow]) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        self._rows = {row.trial: row for row in rows}

    def ended(self, trial: int, outcome: Outcome) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        running = self._running.pop(trial, None)
        share = 0.0 if running is None else _share_of(running, outcome.ending)
        if outcome.ending is Ending.PAUSED:
            self.paused[trial] = share
        else:
            self._counts[outcome.ending] += 1
            self._n_made += share
        if running is not None and (pace := self._pace(running, outcome.ending)) is not None:
            self.paces.append(pace)
        if len(outcome.values) == 1 and (
            self.best is None or self.sign * (outcome.values[0] - self.best[0]) < 0
        ):
            self.best = (outcome.values[0], trial)
        line = self._line(trial, outcome, running)
        self._last.append(" ".join(line.split()))
        if not self.console.is_terminal or outcome.ending is Ending.FAILED:
            self._print(line)

    def draining(self, why: str) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        self._note = why
        self._print(f"no new trials: {why}")

    def _print(self, line: str) -> None:
        if self.console.is_terminal:
            self.console.print(Text(line))
        else:
            self.console.out(line, highlight=False)  # nothing to wrap or colour

    def tick(self) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`. Logs the preview once; the display redraws."""
        if self.announced is not None or self._began_s is None:
            return
        if self.paces or self.clock() - self._began_s >= PREVIEW_AFTER_S:
            self.announced = self.left()
            if self.announced is not None and self.announced.wall_s.high >= PREVIEW_AFTER_S:
                log.info("%s", self.announced.sentence())

    def shown(self) -> list[Pace]:
        """What trials have shown of the cost of one, those under way by their speed so far."""
        running = map(_pace_so_far, self._running.values())
        return [*self.paces, *(pace for pace in running if pace is not None)]

    def left(self) -> Preview | None:
        """What the rest takes; None until a trial has ended, or planned its steps and reported."""
        running = list(self._running.values())
        if not (paces := self.shown()):
            return None
        whole_s, now_s = fmean(pace.whole_s for pace in paces), self.clock()
        done = sum(
            min((r.from_share or 0.0) + (now_s - r.started_s) / whole_s, 1.0) for r in running
        )
        n_left = max(0.0, self.n_total - self._n_done() - done)
        n_places = max(self.n_slots, len(running))  # more than slots, in lanes
        machine = Machine(n_places, self.machine.n_cores, self.machine.n_gpus)
        if self.share.middle == 1:  # no pruner judges
            return preview(paces, self.share, n_left, machine)
        shares = [pace.share for pace in self.paces if pace.share is not None]
        by_paused = sum(self.paused.values())
        made = self._n_made + by_paused + done + self.n_before * (fmean(shares) if shares else 1.0)
        n_open = n_left + len(self.paused) - by_paused
        return preview_pruned(paces, self.share, self.n_total, made, n_open, machine)

    def _left_lately(self) -> Preview | None:
        """See `left`: not asked again for each of many trials, since it looks at all that ended."""
        now_s = self.clock()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s, self._left = now_s, self.left()
        return self._left

    def time_left_s(self) -> float | None:
        """The middle of what the rest takes; see `left`."""
        left = self.left()
        return None if left is None else left.wall_s.middle

    def _pace(self, running: _Running, ending: Ending) -> Pace | None:
        """What a trial that has ended shows; None for one that ended by no work of its own."""
        seconds = self.clock() - running.started_s
        show = (Ending.COMPLETED, Ending.PRUNED, Ending.PAUSED, Ending.DIVERGED)
        if seconds <= 0 or ending not in show or running.from_share is not None:
            return None
        share = _share_of(running, ending)
        if not share:
            return None
        so_far = None if running.is_warm else _pace_so_far(running)
        return Pace(seconds / share if so_far is None else so_far.whole_s, share)

    def __rich__(self) -> Group:
        """The live display: the sweep, what runs, and the last to end, as many as have room."""
        counted = Text(self._counted())
        width = max(4, min(30, self.console.width - len(counted) - 1))
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=max(self.n_total, 1), completed=self._n_done(), width=width), counted
        )
        rows = Table.grid(padding=(0, 2))
        for trial, running in sorted(self._running.items(), key=lambda item: item[1].slot):
            step = "starting" if running.step is None else f"step {running.step:,}"
            of = f" of {running.n_steps:,}" if running.n_steps and running.step is not None else ""
            value = "" if running.value is None else f"{self.metric} {running.value:.5g}"
            held = _held(self._rows[trial]) if trial in self._rows else ""
            rows.add_row(f"  slot {running.slot}", f"trial {trial}", step + of, value, held)
        note = [Text(self._note, style="bold")] if self._note else []
        room = self.console.height - len(self._running) - len(note) - 2  # and the line below
        last = list(self._last)[-room:] if room > 0 else []
        ended = [Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis") for line in last]
        return Group(head, rows, *ended, *note)

    def _n_done(self) -> int:
        n_over = sum(n for ending, n in self._counts.items() if ending is not Ending.INTERRUPTED)
        return self.n_before + n_over + len(self.paused)

    def _counted(self) -> str:
        n = self._counts
        n_pruned = n[Ending.PRUNED] + n[Ending.DIVERGED]
        n_done, n_running = self._n_done(), len(self._running)
        n_total = max(self.n_total, n_done + n_running)  # a finalist that was passed is one more
        parts = [f"{n_done}/{n_total} trials", f"{n_running} running"]
        parts += [f"{len(self.paused)} paused"] if self.paused else []
        parts += [f"{n_pruned} pruned"] if n_pruned else []
        parts += [f"{n[Ending.FAILED]} failed"] if n[Ending.FAILED] else []
        parts += [f"best {self.best[0]:.5g} (trial {self.best[1]})"] if self.best else []
        left = self._left_lately()
        parts += [left.time("left ")] if left is not None and left.wall_s.middle >= 1 else []
        return " · ".join(parts)

    def _line(self, trial: int, outcome: Outcome, running: _Running | None) -> str:
        value = "".join(f" {value:.5g}" for value in outcome.values)
        step = f" at step {running.step:,}" if running and running.step is not None else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        counted = (
            "" if self.console.is_terminal else f"  [{self._counted()}]"
        )  # there the live display shows it
        return f"trial {trial} {outcome.ending}{value}{step}{reason}{counted}"


def _held(row: SlotRow) -> str:
    """The memory of a trial, and how its GPU is used."""
    if not row.device:
        return "" if row.ram_bytes is None else size(row.ram_bytes)
    parts = [
        "" if row.gpu_bytes is None else size(row.gpu_bytes),
        "" if row.utilisation is None else f"{row.utilisation:.0%}",
        "" if row.temperature_c is None else f"{row.temperature_c} °C",
    ]
    return f"GPU {row.device[:12]}: {', '.join(filter(None, parts)) or 'in use'}"


def _share_of(running: _Running, ending: Ending) -> float:
    """The share of its steps that a trial has made that ended so; 0 where nobody knows."""
    if ending is Ending.COMPLETED:
        return 1.0
    if running.n_steps is None or running.step is None:
        return running.from_share or 0.0
    return min((running.step + 1) / running.n_steps, 1.0)


def _pace_so_far(running: _Running) -> Pace | None:
    """What a running trial shows: its steps at the speed between its first report and its last."""
    if running.first is None or running.step is None or running.n_steps is None:
        return None
    first, first_s = running.first
    if running.step <= first or running.reported_s <= first_s:
        return None
    step_s = (running.reported_s - first_s) / (running.step - first)
    begin_s = first_s - running.started_s if running.is_warm else first * step_s
    return Pace(begin_s + step_s * max(running.n_steps - first, 1))


@contextmanager
def _log_through(live: Live) -> Iterator[None]:
    # Log handlers hold the stream they were made with; while the display is live it must be rich's
    # stand-in.
    plain = {sys.__stdout__: sys.stdout, sys.__stderr__: sys.stderr} if live.is_started else {}
    handlers = [
        h
        for h in logging.getLogger().handlers
        if isinstance(h, logging.StreamHandler) and h.stream in plain
    ]
    kept = [(handler, handler.setStream(plain[handler.stream])) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in kept:
            if stream is not None:
                handler.setStream(stream)
