"""All the lanes of one worker: trials go to the stack of their kind, stacks train in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from iolaus.sweeps.run.lanes import LaneServer, LaneTrial
from iolaus.sweeps.types import Plan
from iolaus.trainer.checkpoint import state_to_resume
from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._lane_run import LaneRun, begin_lane_run
from iolaus.trainer.lanes._remembered import remembered
from iolaus.trainer.lanes._sizes import is_filling_up_exact, stack_size
from iolaus.trainer.lanes._width import best_width
from iolaus.trainer.lanes.check import check
from iolaus.trainer.lanes.kind import Kind, NotInLanesError, kind_of
from iolaus.trainer.loop import seeded, start
from iolaus.trainer.settings import Settings, read

__all__ = ["Lanes", "may_begin", "run_lanes"]

# A stack that begins with the lanes that happen to be there is made wider at once, so it waits this
# long for each.
FILL_S = 0.2


class Lanes:
    """Groups of lanes by kind; a group lasts while it has runs. compile: see `Stepper`."""

    def __init__(
        self,
        compile: bool | None = None,  # noqa: A002 (torch's word)
    ) -> None:
        self._compile = compile
        self._groups: dict[Kind, Group] = {}
        self._fills_up: dict[Kind, bool] = {}  # by kinds without their batch sizes
        self._waiting: list[LaneRun] = []
        self._n_steps_before = (0, 0)  # of groups that are gone

    @property
    def n_lane_steps(self) -> tuple[int, int]:
        """Steps times lanes made so far: of lanes with a run, and of all."""
        counts = [self._n_steps_before, *(group.n_lane_steps for group in self._groups.values())]
        return sum(full for full, _ in counts), sum(n for _, n in counts)

    @property
    def n_waiting_by_kind(self) -> list[int]:
        """Runs that begin with the next block, counted by the stack they join."""
        return [len(runs) for runs in self._by_stack().values()]

    @property
    def n_lane_runs(self) -> int:
        """Runs under way or about to be."""
        return len(self._waiting) + sum(len(group.lane_runs) for group in self._groups.values())

    def admit(
        self,
        run: Settings,
        hooks: Hooks,
        keep: Path | None,
        done: Callable[[Summary | BaseException], None],
        folder: Path | None = None,
    ) -> None:
        """Take a run, which begins, or goes on from its checkpoint, with the next block.

        keep, folder: see `train`. done: called once, when it is over.

        Raises NotInLanesError if it cannot run in lanes, ValueError or RuntimeError if it cannot
        run at all.
        """
        with seeded(run.seed, run.device):
            kept = state_to_resume(run, hooks.get_checkpoint())
            state = start(run, kept)
            lane_run = begin_lane_run(run, state, hooks, keep, done, folder, kept)
        kind_of(run, state.model, run.batches.at(state.step))
        self._waiting.append(lane_run)

    def run_block(self) -> None:
        """Train every group for a block."""
        waiting = self._by_stack()
        self._waiting = []
        for kind, new_runs in waiting.items():
            if kind not in self._groups:
                first = new_runs[0]
                self._groups[kind] = Group(kind, first.run, first.state.model, self._compile)
            self._groups[kind].admit(new_runs)
        for kind, group in list(self._groups.items()):
            group.make_narrow()
            if not group.lane_runs:
                before, of_group = self._n_steps_before, group.n_lane_steps
                self._n_steps_before = (before[0] + of_group[0], before[1] + of_group[1])
                del self._groups[kind]
                continue
            self._waiting += group.run_block()

    def _by_stack(self) -> dict[Kind, list[LaneRun]]:
        """The waiting runs by the kind of the stack that each joins."""
        own_kinds: dict[Kind, list[LaneRun]] = {}
        for lane_run in self._waiting:
            kind = kind_of(lane_run.run, lane_run.state.model, lane_run.course.size)
            own_kinds.setdefault(kind, []).append(lane_run)
        stacks: dict[Kind, dict[int, Counter[int]]] = {}  # of each kind, by size
        for kind, group in self._groups.items():
            stacks.setdefault(kind.of_any_size, {})[kind.batch_size] = group.n_by_size
        joined: dict[Kind, list[LaneRun]] = {}
        for kind in sorted(own_kinds, key=lambda kind: kind.batch_size, reverse=True):
            runs, alike = own_kinds[kind], stacks.setdefault(kind.of_any_size, {})
            n_steps = max(run.course.steps_left for run in runs)
            size = stack_size(kind, len(runs), n_steps, alike)
            if size != kind.batch_size and not self._may_fill_up(kind, runs[0]):
                size = kind.batch_size
            alike.setdefault(size, Counter())[kind.batch_size] += len(runs)
            joined.setdefault(replace(kind, batch_size=size), []).extend(runs)
        return joined

    def _may_fill_up(self, kind: Kind, lane_run: LaneRun) -> bool:
        if kind.of_any_size not in self._fills_up:
            is_exact = is_filling_up_exact(lane_run.run, lane_run.state.model)
            self._fills_up[kind.of_any_size] = is_exact
        return self._fills_up[kind.of_any_size]


def run_lanes(server: LaneServer) -> None:
    """Train the trials that a lane server gives, side by side (`hydra.sweeper.lane_runner`)."""
    lanes = Lanes()
    room = _Room(server)
    alone = _Alone(server)
    server.open(room.n_trials)
    while True:
        admitted = _fill(server, lanes, room, alone)
        if not room.begin(lanes.n_waiting_by_kind):
            lanes = Lanes()
            for trial in admitted:
                alone.add(trial, room.why_alone)
        if not lanes.n_lane_runs:
            alone.run()
            server.open(room.n_trials)
            continue
        lanes.run_block()
        server.fill(*lanes.n_lane_steps)
        server.flush()


def _load() -> None:
    """Import what takes a second, before workers are forked and while their driver is busy."""
    import torch._dynamo  # noqa: F401 (else `torch.func.grad` does at its first use, in every worker)


run_lanes.load = _load  # type: ignore[attr-defined]


def _fill(server: LaneServer, lanes: Lanes, room: _Room, alone: _Alone) -> list[LaneTrial]:
    """Admit trials as long as there is room and there are some; returns those admitted."""
    admitted: list[LaneTrial] = []
    while not room.is_full(lanes.n_lane_runs) and alone.lets_in(lanes.n_lane_runs):
        trial = server.take(room.wait_s(lanes.n_lane_runs))
        if trial is None:
            break
        try:
            run = read(trial.config)
            room.consider(run)
            keep = trial.folder / "best.pt" if trial.config.keep_best else None
            lanes.admit(run, _hooks(trial), keep, partial(_finished, server, trial), trial.folder)
            admitted.append(trial)
            alone.passed_by()
        except NotInLanesError as error:
            alone.add(trial, str(error))
            if alone.lets_in(lanes.n_lane_runs):
                server.open(room.n_trials + len(alone.trials))  # it takes no lane's place
        except Exception as error:
            server.finish(trial, error)
    if not alone.lets_in(lanes.n_lane_runs):
        server.open(1)  # other slots may have what would wait here
    return admitted


def may_begin(n_alone: int, n_passed: int, n_lanes: int) -> bool:
    """Whether trials may still begin in lanes while n_alone wait to run alone.

    n_passed: begun since the first of those came. n_lanes: lanes with a run. Those that wait run
    when no lane has one, so that none stands still for them; at once if none has. Before, as many
    others may begin as have one, and then no more, so that the wait ends. Not fewer, since
    the last runs of a stack take as long as all of them: lanes run out once for all that wait.
    """
    return n_alone == 0 or n_passed < n_lanes


class _Alone:
    """Trials that no lane takes; they wait until no lane has a run."""

    def __init__(self, server: LaneServer) -> None:
        self._server = server
        self.trials: list[LaneTrial] = []
        self._n_passed = 0

    def add(self, trial: LaneTrial, why: str) -> None:
        """Have a trial wait."""
        self._server.say(f"trains alone, not in lanes: {why}")
        self._server.hold(trial)
        self.trials.append(trial)

    def passed_by(self) -> None:
        """A trial has begun in a lane."""
        self._n_passed += bool(self.trials)

    def lets_in(self, n_lanes: int) -> bool:
        """See `may_begin`."""
        return may_begin(len(self.trials), self._n_passed, n_lanes)

    def run(self) -> None:
        """Run those that wait, one after the other."""
        for trial in self.trials:
            self._server.run_alone(trial)
        self.trials, self._n_passed = [], 0


class _Room:
    """How many trials a worker takes: as many lanes as asked for, or as pay, and some to refill."""

    def __init__(self, server: LaneServer) -> None:
        self._server = server
        self._n_lanes = server.n_lanes
        # What keeps a kind of run out of lanes; None: nothing.
        self._faults: dict[Hashable, str | None] = {}
        self._pays_from = 1  # lanes in one stack
        self._has_begun = False
        self.why_alone = ""  # why nothing is to be trained in lanes any more

    @property
    def n_trials(self) -> int:
        """To ask the driver for; 1 until the first trial has shown how many lanes pay.

        And 1 as long as no trial can be trained in lanes.
        """
        is_useless = bool(self._faults) and all(self._faults.values())
        if self._n_lanes is None or self.why_alone or is_useless:
            return 1
        return self._n_lanes + _n_spare(self._n_lanes)

    def wait_s(self, n_lane_runs: int) -> float | None:
        """How long to wait for a trial.

        The first block waits for its lanes to fill, later ones do not.
        """
        if n_lane_runs == 0:
            return None
        return 0 if self._has_begun else FILL_S

    def is_full(self, n_lane_runs: int) -> bool:
        """Whether no more lanes are to be opened for now."""
        return self._n_lanes is not None and n_lane_runs >= self._n_lanes

    def consider(self, run: Settings) -> None:
        """Check a run of a new kind; measure how many lanes pay if nobody has said so.

        Raises NotInLanesError if it is not to run in lanes.
        """
        model = json.dumps([run.node["model"], run.node["task"]], sort_keys=True, default=str)
        kind = (
            model,
            run.precision,
            type(run.clip),
            run.optim.kind,
            run.loss.reduction,
            run.loss.flood is None,
            run.loss.l1 == 0,
            run.early_stop.needs_other_data,
            not run.loss.terms,
            run.deterministic,
        )
        if self.why_alone:
            raise NotInLanesError(self.why_alone)
        if kind not in self._faults:
            self._faults[kind] = self._fault_of(run, kind)
            self._server.open(self.n_trials)
        if (fault := self._faults[kind]) is not None:
            raise NotInLanesError(fault)

    def begin(self, n_by_kind: Sequence[int]) -> bool:
        """Whether to train what was admitted in lanes; decided once, before the first block.

        n_by_kind: how many runs of each kind there are. Where a search over batch sizes, say,
        spreads them over stacks so thin that the solo loop is faster, all train alone, unless the
        user has asked for lanes by number.
        """
        mean = sum(n_by_kind) / max(len(n_by_kind), 1)
        if not self._has_begun and n_by_kind and mean < self._pays_from:
            self.why_alone = (
                f"{sum(n_by_kind)} lanes are spread over {len(n_by_kind)} kinds of trials (batch "
                f"sizes, shapes), and a stack pays from {self._pays_from} lanes on; more trials, "
                "or a number for hydra.sweeper.lanes, open more"
            )
            self._server.open(1)
        self._has_begun = self._has_begun or bool(n_by_kind)
        return not (self.why_alone and n_by_kind)

    def _fault_of(self, run: Settings, kind: Hashable) -> str | None:
        try:
            check(run)
        except NotInLanesError as error:
            return str(error)
        if self._n_lanes is None:
            most = self._server.most
            width = remembered(run, kind, most, lambda: best_width(run, most))
            self._n_lanes, self._pays_from = width.n_lanes, width.pays_from
            self._server.say(str(width))
        return "the solo loop is as fast" if self._n_lanes == 1 else None


def _n_spare(n_lanes: int) -> int:
    """Trials kept waiting, so that a lane that falls empty is refilled at once."""
    return -(-n_lanes // 8) if n_lanes > 1 else 0


def _hooks(trial: LaneTrial) -> Hooks:
    reporter = trial.reporter
    return Hooks(
        tell=trial.tell,
        report=lambda step, *, checkpoint=None, **metrics: reporter.report(
            step, metrics, checkpoint
        ),
        should_stop=reporter.should_stop,
        plan=lambda n_steps, lr: reporter.plan(Plan(n_steps, tuple(lr))),
        ask_intervention=reporter.intervention,
        get_checkpoint=reporter.get_checkpoint,
        should_checkpoint=reporter.should_checkpoint,
    )


def _finished(server: LaneServer, trial: LaneTrial, outcome: Summary | BaseException) -> None:
    if isinstance(outcome, Summary):
        trial.tell(outcome.conclusion)
        server.finish(trial, outcome.result)
    else:
        server.finish(trial, outcome)
