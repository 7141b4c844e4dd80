"""All the lanes of one process: trials go to the stack of their kind, blocks of steps are trained in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path

from iolaus.sweeps.run.lanes import Desk, LaneTrial
from iolaus.sweeps.types import Plan
from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes.check import check
from iolaus.trainer.lanes.group import Group, Passenger, board
from iolaus.trainer.lanes.kind import Kind, NotInLanesError, kind_of
from iolaus.trainer.lanes.width import best_width
from iolaus.trainer.loop import seeded, start
from iolaus.trainer.settings import Settings, read

# A stack that begins with the lanes that happen to be there is made wider at once, so it waits this long for each.
FILL_S = 0.2


class Lanes:
    """Groups of lanes by kind; a group lasts while it has passengers. compile: see `Stepper`."""

    def __init__(self, compile: bool | None = None) -> None:  # noqa: A002 (torch's word)
        self._compile = compile
        self._groups: dict[Kind, Group] = {}
        self._waiting: list[Passenger] = []
        self._n_steps_before = (0, 0)  # of groups that are gone

    @property
    def n_lane_steps(self) -> tuple[int, int]:
        """Steps made, times lanes: with a passenger, and in all."""
        counts = [self._n_steps_before, *(group.n_lane_steps for group in self._groups.values())]
        return sum(full for full, _ in counts), sum(n for _, n in counts)

    @property
    def n_waiting_by_kind(self) -> list[int]:
        """Runs that begin with the next block, counted by kind."""
        kinds = [kind_of(p.run, p.state.model, p.course.size) for p in self._waiting]
        return list(Counter(kinds).values())

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
                before, of_group = self._n_steps_before, group.n_lane_steps
                self._n_steps_before = (before[0] + of_group[0], before[1] + of_group[1])
                del self._groups[kind]
                continue
            self._waiting += group.run_block()


def run_lanes(desk: Desk) -> None:
    """The trainer's lane runner (`hydra.sweeper.lane_runner`): trains what the desk gives, side by side."""
    lanes = Lanes()
    room = _Room(desk)
    desk.open(room.n_trials)
    while True:
        boarded = _fill(desk, lanes, room)
        if not room.begin(lanes.n_waiting_by_kind):
            lanes = Lanes()
            for trial in boarded:
                _train_alone(desk, trial, room.why_alone)
            continue
        lanes.run_block()
        desk.fill(*lanes.n_lane_steps)
        desk.flush()


def _fill(desk: Desk, lanes: Lanes, room: _Room) -> list[LaneTrial]:
    """Board trials as long as there is room and there are some; returns those that have."""
    boarded = []
    while not room.is_full(lanes.n_passengers):
        trial = desk.take(room.wait_s(lanes.n_passengers))
        if trial is None:
            break
        try:
            run = read(trial.config)
            room.consider(run)
            keep = trial.folder / "best.pt" if trial.config.keep_best else None
            lanes.board(run, _hooks(trial), keep, partial(_finished, desk, trial))
            boarded.append(trial)
        except NotInLanesError as error:
            _train_alone(desk, trial, str(error))
        except Exception as error:
            desk.finish(trial, error)
    return boarded


def _train_alone(desk: Desk, trial: LaneTrial, why: str) -> None:
    desk.say(f"trains alone, not in lanes: {why}")
    desk.run_alone(trial)


class _Room:
    """How many trials a worker takes: the lanes asked for, or as many as pay, and a few that wait to refill them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._n_lanes = desk.n_lanes
        self._faults: dict[Hashable, str | None] = {}  # what keeps a kind of run out of lanes; None: nothing
        self._pays_from = 1  # lanes in one stack
        self._has_begun = False
        self.why_alone = ""  # why nothing is to be trained in lanes any more

    @property
    def n_trials(self) -> int:
        """To ask the driver for; 1 until the first trial has shown how many lanes pay."""
        return 1 if self._n_lanes is None else self._n_lanes + _n_spare(self._n_lanes)

    def wait_s(self, n_passengers: int) -> float | None:
        """How long to wait for a trial: the first block waits for its lanes to fill, later ones do not."""
        if n_passengers == 0:
            return None
        return 0 if self._has_begun else FILL_S

    def is_full(self, n_passengers: int) -> bool:
        """Whether no more lanes are to be opened for now."""
        return self._n_lanes is not None and n_passengers >= self._n_lanes

    def consider(self, run: Settings) -> None:
        """Check a run of a new kind; measure how many lanes pay if nobody has said so.

        Raises NotInLanesError if it is not to run in lanes.
        """
        model = json.dumps([run.node["model"], run.node["task"]], sort_keys=True, default=str)
        kind = (model, run.precision, type(run.clip), run.optim.kind, run.loss.reduction, run.loss.flood is None)
        if self.why_alone:
            raise NotInLanesError(self.why_alone)
        if kind not in self._faults:
            self._faults[kind] = self._fault_of(run)
            self._desk.open(1 if all(self._faults.values()) else self.n_trials)
        if (fault := self._faults[kind]) is not None:
            raise NotInLanesError(fault)

    def begin(self, n_by_kind: Sequence[int]) -> bool:
        """Whether to train in lanes what has boarded; judged once, before the first block.

        n_by_kind: how many runs of each kind there are. Where a search over batch sizes, say, spreads them over stacks
        so thin that the solo loop is faster, all train alone, unless the user has asked for lanes by number.
        """
        mean = sum(n_by_kind) / max(len(n_by_kind), 1)
        if not self._has_begun and n_by_kind and mean < self._pays_from:
            self.why_alone = (
                f"{sum(n_by_kind)} lanes are spread over {len(n_by_kind)} kinds of trials (batch sizes, shapes), and a "
                f"stack pays from {self._pays_from} lanes on; more trials or a number for hydra.sweeper.lanes open more"
            )
            self._desk.open(1)
        self._has_begun = self._has_begun or bool(n_by_kind)
        return not (self.why_alone and n_by_kind)

    def _fault_of(self, run: Settings) -> str | None:
        try:
            check(run)
        except NotInLanesError as error:
            return str(error)
        if self._n_lanes is None:
            width = best_width(run, self._desk.most)
            self._n_lanes, self._pays_from = width.n_lanes, width.pays_from
            self._desk.say(str(width))
        return "the solo loop is as fast" if self._n_lanes == 1 else None


def _n_spare(n_lanes: int) -> int:
    """Trials kept waiting, so that a lane that falls empty is refilled at once."""
    return -(-n_lanes // 8) if n_lanes > 1 else 0


def _hooks(trial: LaneTrial) -> Hooks:
    reporter = trial.reporter
    return Hooks(
        tell=trial.tell,
        report=lambda step, **metrics: reporter.report(step, metrics),
        should_stop=reporter.should_stop,
        plan=lambda n_steps, lr: reporter.plan(Plan(n_steps, tuple(lr))),
        ask_remedy=reporter.remedy,
    )


def _finished(desk: Desk, trial: LaneTrial, outcome: Summary | BaseException) -> None:
    if isinstance(outcome, Summary):
        trial.tell(outcome.conclusion)
        desk.finish(trial, outcome.final["val_loss"])
    else:
        desk.finish(trial, outcome)
