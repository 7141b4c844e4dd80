"""All the lanes of one process: trials go to the stack of their kind, blocks of steps are trained in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.course import Hooks, Summary
from trainer.lanes.group import Group, Passenger, board
from trainer.lanes.kind import Kind, kind_of
from trainer.loop import seeded, start
from trainer.settings import Settings


class Lanes:
    """Groups of lanes by kind; a group lasts while it has passengers. compile: see `Stepper`."""

    def __init__(self, compile: bool | None = None) -> None:  # noqa: A002 (torch's word)
        self._compile = compile
        self._groups: dict[Kind, Group] = {}
        self._waiting: list[Passenger] = []
        self.n_lane_steps = self.n_full_lane_steps = 0

    @property
    def n_passengers(self) -> int:
        """Runs under way or about to be."""
        return len(self._waiting) + sum(len(group.passengers) for group in self._groups.values())

    def board(
        self, run: Settings, hooks: Hooks, keep: Path | None, done: Callable[[Summary | BaseException], None]
    ) -> None:
        """Take a run, which begins with the next block. done: called once, when it is over.

        Raises NotInLanesError if it cannot run in lanes, ValueError or RuntimeError if it cannot run at all.
        """
        with seeded(run.seed, run.device):
            state = start(run)
        kind_of(run, state.model, run.batches.at(state.step))
        self._waiting.append(board(run, state, hooks, keep, done))

    def run_block(self) -> None:
        """Train every group for a block."""
        waiting: dict[Kind, list[Passenger]] = {}
        for passenger in self._waiting:
            kind = kind_of(passenger.run, passenger.state.model, passenger.course.size)
            waiting.setdefault(kind, []).append(passenger)
        self._waiting = []
        for kind, newcomers in waiting.items():
            if kind not in self._groups:
                first = newcomers[0]
                self._groups[kind] = Group(kind, first.run, first.state.model, self._compile)
            self._groups[kind].admit(newcomers)
        for kind, group in list(self._groups.items()):
            group.make_narrow()
            if not group.passengers:
                self.n_lane_steps += group.n_lane_steps
                self.n_full_lane_steps += group.n_full_lane_steps
                del self._groups[kind]
                continue
            self._waiting += group.run_block()
