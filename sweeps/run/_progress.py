"""What a sweep shows while it runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from iolaus.sweeps.text import duration
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["Progress"]


@dataclass
class _Running:
    slot: int
    started_s: float
    step: int | None = None
    value: float | None = None
    n_steps: int | None = None


@dataclass
class Progress:
    """The state of a sweep as its user sees it; a `iolaus.sweeps.run.driver.Watcher`.

    n_total: trials to reach, n_before: those an earlier session ran. sign: 1 where smaller is
    better, -1 where larger.
    metric: the watched metric's name. clock: seconds.
    """

    console: Console
    n_total: int
    n_before: int
    n_slots: int
    sign: int
    metric: str
    clock: Callable[[], float]

    _counts: Counter[Ending] = field(default_factory=Counter, init=False)
    _running: dict[int, _Running] = field(default_factory=dict, init=False)
    _durations_s: list[float] = field(default_factory=list, init=False)
    _best: tuple[float, int] | None = field(default=None, init=False)
    _note: str = field(default="", init=False)
    _live: Live | None = field(default=None, init=False)

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
        self._running[trial] = _Running(slot, self.clock())

    def planned(self, trial: int, n_steps: int) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        self._running[trial].n_steps = n_steps

    def reported(self, trial: int, step: int, value: float | None) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        running = self._running[trial]
        running.step = step
        running.value = running.value if value is None else value

    def ended(self, trial: int, outcome: Outcome) -> None:
        """See `iolaus.sweeps.run.driver.Watcher`."""
        running = self._running.pop(trial, None)
        self._counts[outcome.ending] += 1
        if running is not None and outcome.ending is not Ending.INTERRUPTED:
            self._durations_s.append(self.clock() - running.started_s)
        if len(outcome.values) == 1 and (
            self._best is None or self.sign * (outcome.values[0] - self._best[0]) < 0
        ):
            self._best = (outcome.values[0], trial)
        if not self.console.is_terminal or outcome.ending is Ending.FAILED:
            self._print(self._line(trial, outcome, running))

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
        """See `iolaus.sweeps.run.driver.Watcher`. The live display redraws by itself."""

    def time_left_s(self) -> float | None:
        """An estimate from the mean duration of the trials so far.

        None before the first has ended.
        """
        if not self._durations_s:
            return None
        n_left = max(0, self.n_total - self.n_before - len(self._durations_s))
        mean_s = sum(self._durations_s) / len(self._durations_s)
        spent_s = sum(min(self.clock() - r.started_s, mean_s) for r in self._running.values())
        return max(0.0, (n_left * mean_s - spent_s) / self.n_slots)

    def __rich__(self) -> Group:
        """The live display."""
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
            rows.add_row(f"  slot {running.slot}", f"trial {trial}", step + of, value)
        note = [Text(self._note, style="bold")] if self._note else []
        return Group(head, rows, *note)

    def _n_done(self) -> int:
        return self.n_before + sum(
            n for ending, n in self._counts.items() if ending is not Ending.INTERRUPTED
        )

    def _counted(self) -> str:
        n = self._counts
        n_pruned = n[Ending.PRUNED] + n[Ending.DIVERGED]
        parts = [f"{self._n_done()}/{self.n_total} trials", f"{len(self._running)} running"]
        parts += [f"{n_pruned} pruned"] if n_pruned else []
        parts += [f"{n[Ending.FAILED]} failed"] if n[Ending.FAILED] else []
        parts += [f"best {self._best[0]:.5g} (trial {self._best[1]})"] if self._best else []
        left_s = self.time_left_s()
        parts += [f"about {duration(left_s)} left"] if left_s is not None and left_s >= 1 else []
        return " · ".join(parts)

    def _line(self, trial: int, outcome: Outcome, running: _Running | None) -> str:
        value = f" {outcome.values[0]:.5g}" if len(outcome.values) == 1 else ""
        step = f" at step {running.step:,}" if running and running.step is not None else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        counted = (
            "" if self.console.is_terminal else f"  [{self._counted()}]"
        )  # there the live display shows it
        return f"trial {trial} {outcome.ending}{value}{step}{reason}{counted}"


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
