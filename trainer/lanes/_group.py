"""The runs in one stack, trained in blocks of steps; what each reports and keeps is its own."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from optuna import TrialPruned
from torch import Tensor, nn

from iolaus.sweeps.types import Intervention
from iolaus.trainer.best_weights import WRITE_S
from iolaus.trainer.checkpoint import RunState
from iolaus.trainer.course import Summary
from iolaus.trainer.data import Examples
from iolaus.trainer.lanes._lane_run import LaneRun
from iolaus.trainer.lanes._rules import own_settings
from iolaus.trainer.lanes._stack import Stack
from iolaus.trainer.lanes._stepper import Stepper
from iolaus.trainer.lanes.kind import Kind
from iolaus.trainer.loop import float_type, scores
from iolaus.trainer.settings import Settings
from iolaus.trainer.tasks.base import Task

__all__ = ["Group"]

# Lanes may stand empty up to this share of the stack before it is made narrower, if the steps to
# come then take less by this many times what tracing them has taken.
EMPTY_SHARE = 0.5
NARROWER_PAYS = 2

LaneState: TypeAlias = dict[str, Tensor]  # weights, moments and buffers, as of `Stack.snapshot`
Metrics: TypeAlias = dict[str, float]


@dataclass(slots=True)
class _Block:
    """What a block of steps leaves behind, by lane.

    ended: the state of each run whose last step was not the block's last, at its own: the lane went
    on computing. measures: on the validation set, where that was due, of the weights a run has now.
    """

    ended: dict[int, LaneState] = field(default_factory=dict)
    measures: dict[int, Metrics] = field(default_factory=dict)


class Group:
    """A stack with its runs.

    lanes: the run in each lane, None where a lane is empty. n_lane_steps: steps times lanes made so
    far, of lanes with a run, and of all. compile: see `Stepper`. The data, which are the kind's,
    are put on its device once.
    """

    def __init__(
        self,
        kind: Kind,
        run: Settings,
        model: nn.Module,
        compile: bool | None = None,  # noqa: A002 (torch's word)
    ) -> None:
        self.kind = kind
        self.stack = Stack(kind, run, model)
        self.lanes: list[LaneRun | None] = []
        self.n_lane_steps = (0, 0)
        self._stepper = Stepper(self.stack, compile)
        self._train, self._val, self._test_set = (
            examples.to(run.device, float_type(run))
            for examples in (run.splits.train, run.splits.val, run.splits.test)
        )
        self._step_s: float | None = None  # the least so far, as the step is now

    @property
    def lane_runs(self) -> list[LaneRun]:
        """The runs under way."""
        return [run for run in self.lanes if run is not None]

    def admit(self, new_runs: Sequence[LaneRun]) -> None:
        """Give each new run a lane, empty ones first; the stack is made wider for the others."""
        empty = [lane for lane, run in enumerate(self.lanes) if run is None]
        if len(new_runs) > len(empty):
            self._resize(len(self.lane_runs) + len(new_runs))
            empty = [lane for lane, run in enumerate(self.lanes) if run is None]
        for lane, run in zip(empty, new_runs, strict=False):
            self.lanes[lane] = run
            self.stack.write(lane, run.state.model, run.state.optimizer, run.run, run.course.size)
            if run.best_state is not None:
                best = run.best_state
                run.carried = self.stack.state_of(best.model, best.optimizer, run.run)
            self.stack.keep_state(lane, run.carried)
            run.best_state, run.carried = None, {}

    @property
    def n_by_size(self) -> Counter[int]:
        """The runs under way, counted by the size of their batches."""
        return Counter(run.course.size for run in self.lane_runs)

    def make_narrow(self) -> None:
        """Drop empty lanes if they are many, and computing them would take longer than a trace."""
        n, width = len(self.lane_runs), len(self.lanes)
        if n >= width * (1 - EMPTY_SHARE):
            return
        steps_to_come = max((run.course.steps_left for run in self.lane_runs), default=0)
        saved_s = steps_to_come * (self._step_s or 0.0) * (1 - n / width)
        if n == 0 or saved_s > NARROWER_PAYS * self._stepper.trace_s:
            self._resize(n)

    def run_block(self) -> list[LaneRun]:
        """Train all lanes to the next step at which one may have to report, and report.

        Runs that are over leave with their summaries. Returns those whose batch size changes, for
        whom another stack may be the right one. Both kinds' lanes are empty afterwards.
        """
        self._finish(_Block())  # runs that were resumed at their last step
        if not self.lane_runs:
            return []
        sizes = {lane: run.course.size for lane, run in self._admitted()}
        block = self._train_lanes(min(run.course.steps_to_pause for run in self.lane_runs))
        rows = self._measure(block)
        self._keep_best(rows, block)
        self._report(rows, block)
        self._finish(block)
        self._save()
        return self._release_movers(sizes)

    def _train_lanes(self, n_steps: int) -> _Block:
        """Make the updates, and book each run's own: the rest of the block is not its business."""
        own = {lane: min(n_steps, run.course.steps_left) for lane, run in self._admitted()}
        measured, ended = self._update(
            n_steps, [(lane, n) for lane, n in own.items() if n < n_steps]
        )
        for lane, n in own.items():
            self._at(lane).advance(measured[:n, :, lane])
        n_full, n_all = self.n_lane_steps
        self.n_lane_steps = (n_full + sum(own.values()), n_all + n_steps * len(self.lanes))
        return _Block(ended)

    def _update(
        self, n_steps: int, ends: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float64], dict[int, LaneState]]:
        """Make n_steps updates of all lanes.

        Returns what they measured, [n_steps, 3 + n_params, n_lanes], in one transfer from the
        device, and of each (lane, n) in ends the lane's state after n of them.
        """
        places, keys, coefficients = self._inputs(n_steps)
        longest = max((run.course.steps_left for run in self.lane_runs), default=0)
        if self._stepper.prepare(
            longest, self._step_s, (*self._batch(places[0]), keys[0], coefficients[0])
        ):
            self._step_s = None
        results, states = [], {}
        began = time.perf_counter()
        for i in range(n_steps):
            results.append(self._stepper(*self._batch(places[i]), keys[i], coefficients[i]))
            states.update({lane: self.stack.snapshot(lane) for lane, n in ends if n == i + 1})
        measured = torch.stack(results).double().cpu().numpy()
        step_s = (time.perf_counter() - began) / n_steps
        self._step_s = step_s if self._step_s is None else min(self._step_s, step_s)
        return measured, states

    def _inputs(self, n_steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the steps of a block take from the host, on the device.

        Places in the data [n_steps, n, batch], keys (seed, step) of the dropout [n_steps, n, 2] and
        the rule's coefficients [n_steps, 3, n]; after its last step a lane has those of step 0.
        A batch smaller than the stack's is filled up with its own first example, so that nothing
        is computed that is not finite where its losses are.
        """
        n = len(self.lanes)
        places = torch.zeros((n_steps, n, self.kind.batch_size), dtype=torch.int64)
        keys = torch.zeros((n_steps, n, 2), dtype=torch.int64)
        coefficients = np.zeros((n_steps, 3, n))
        coefficients[:, 1] = 1.0  # Adam divides by it, in empty lanes too
        for lane, run in self._admitted():
            step, own = run.course.step, min(n_steps, run.course.steps_left)
            size = run.course.size
            its = run.batches.places(run.course.examples, own * size).view(own, size)
            places[:own, lane, :size], places[:own, lane, size:] = its, its[:, :1]
            keys[:, lane, 0] = run.run.seed
            keys[:, lane, 1] = torch.arange(step, step + n_steps)
            lr = run.course.rates[step : step + own]
            t = run.n_updates + np.arange(own, dtype=np.float64)
            settings = {
                name: np.asarray(value, np.float64)
                for name, value in own_settings(run.run.optim).items()
            }
            coefficients[:own, :, lane] = self.kind.rule.coefficients(lr, t, settings).T
        device, dtype = self._train.targets.device, self.stack.rows["weights"].dtype
        return (
            places.to(device, non_blocking=True),
            keys.to(device, non_blocking=True),
            torch.from_numpy(coefficients).to(device, dtype, non_blocking=True),
        )

    def _batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets [n, batch, ...] at these places [n, batch]."""
        batch = self._train[places.reshape(-1)]
        inputs = batch.inputs.reshape(*places.shape, *batch.inputs.shape[1:])
        return inputs, batch.targets.reshape(*places.shape, *batch.targets.shape[1:])

    def traced_step(self) -> Callable[[], object]:
        """One update of all lanes, always the same, for those who measure how long it takes."""
        places, keys, coefficients = self._inputs(1)
        arguments = (*self._batch(places[0]), keys[0], coefficients[0])
        self._stepper.trace(*arguments)
        return lambda: self._stepper(*arguments)

    def _measure(self, block: _Block) -> dict[int, Metrics]:
        """The metrics of each lane in which a report or an evaluation is due.

        A run whose metrics raise, such as one that watches what its task does not measure, leaves.
        """
        evaluated = [lane for lane, run in self._admitted() if run.course.evaluates]
        block.measures = self._evaluate(evaluated, block.ended, self._val, "val")
        rows = {}
        for lane, run in self._admitted():
            if not run.course.pauses:
                continue
            window, measured = np.concatenate(run.window), block.measures.get(lane, {})
            try:
                if run.course.is_last:
                    measured |= self._scores(lane, block)
                rows[lane] = run.course.row(window, self.stack.names, measured)
            except Exception as error:
                self._leave(lane, error)
        self._test([lane for lane in rows if lane in block.measures], block)
        return rows

    def _test(self, validated: Sequence[int], block: _Block) -> None:
        """Measure the test set where the weights are the best on validation so far."""
        best = [lane for lane in validated if self._at(lane).course.tests]
        for lane, tested in self._evaluate(best, block.ended, self._test_set, "test").items():
            self._at(lane).course.tested = tested

    def _evaluate(
        self,
        lanes: Sequence[int],
        ended: Mapping[int, LaneState],
        examples: Examples,
        split: str,
    ) -> dict[int, Metrics]:
        """The task's measures of the weights that the runs in these lanes have, by lane."""
        if not lanes:
            return {}
        rows = {
            name: torch.stack([ended[k][name] if k in ended else tensor[k] for k in lanes])
            for name, tensor in self.stack.rows.items()
            if name == "weights" or name.startswith("buffer/")
        }
        means = self.stack.evaluate(rows["weights"], self.stack.buffers_of(rows), examples, split)
        return dict(zip(lanes, means, strict=True))

    def _scores(self, lane: int, block: _Block) -> Metrics:
        """The task's scores of the weights that the run in a lane has at its end."""
        run = self._at(lane)
        if type(run.run.task).scores is Task.scores:
            return {}
        state = block.ended[lane] if lane in block.ended else self.stack.snapshot(lane)
        self.stack.read(state, run.n_updates, run.state.model, run.state.optimizer)
        return scores(run.run, run.state.model, self._val, self._test_set)

    def _keep_best(self, rows: Mapping[int, Metrics], block: _Block) -> None:
        """Keep the weights of each run whose smoothed loss is the lowest so far.

        To its file they go if that was written some time ago, or the loss has rebounded since; a
        run that cannot write leaves.
        """
        improved = [
            lane
            for lane, metrics in rows.items()
            if self._at(lane).course.reports and self._at(lane).offer(metrics["loss"])
        ]
        self.stack.keep([lane for lane in improved if lane not in block.ended])
        for lane in improved:
            self.stack.keep_state(lane, block.ended.get(lane, {}))
        rebounded = [lane for lane in rows if self._at(lane).has_rebounded]
        for lane in (*improved, *rebounded):
            run = self._at(lane)
            is_due = time.perf_counter() - run.written_s >= WRITE_S
            if not is_due and lane not in rebounded:
                continue
            if (failure := self._write(lane)) is not None:
                self._leave(lane, failure)
            elif lane in rebounded:
                run.keep_before_rebound()

    def _report(self, rows: Mapping[int, Metrics], block: _Block) -> None:
        """Report each run's metrics, and comply with what the sweep answers."""
        for lane, metrics in rows.items():
            run = self.lanes[lane]
            if run is None:  # it has left since it was measured
                continue
            try:
                intervention = run.course.report(metrics)
            except (TrialPruned, Exception) as error:
                self._leave(lane, error)
                continue
            if intervention is not None:
                self._comply(lane, run, intervention, block)

    def _comply(self, lane: int, run: LaneRun, intervention: Intervention, block: _Block) -> None:
        if intervention.action == "rewind" and run.best is not None:
            self.stack.rewind(lane)
            run.n_updates = run.best.n_updates
            block.ended.pop(lane, None)
            if run.course.ended != "done":  # as in the solo loop, which then measures once more
                block.measures.pop(lane, None)
        run.course.comply(intervention, run.best_step)

    def _finish(self, block: _Block) -> None:
        """Let runs that are over leave with their summaries."""
        lanes = [lane for lane, run in self._admitted() if run.course.is_over]
        unmeasured = [lane for lane in lanes if lane not in block.measures]
        measures = block.measures | self._evaluate(unmeasured, block.ended, self._val, "val")
        untested = [lane for lane in lanes if self.kind.tests and not self._at(lane).course.tested]
        tested = self._evaluate(untested, block.ended, self._test_set, "test")
        for lane in untested:
            self._at(lane).course.tested = tested[lane]
        for lane in lanes:
            run = self._at(lane)
            seconds = time.perf_counter() - run.began_s
            if run.saves.is_due_at_end(run.course.ended) and not self._save_last(lane, block):
                continue
            self._leave(
                lane,
                run.course.summary(seconds, measures[lane], run.best_step, self.stack.n_weights),
            )

    def _save_last(self, lane: int, block: _Block) -> bool:
        """Write the state after a run's last step; False if it cannot, and has left."""
        try:
            self._at(lane).saves.save(self._state_of(lane, block.ended.get(lane)))
        except (TrialPruned, Exception) as error:
            self._leave(lane, error)
            return False
        return True

    def _save(self) -> None:
        """Write the exact states that are due; a run that cannot, or is told to end, leaves."""
        began = time.perf_counter()
        due = [lane for lane, run in self._admitted() if run.saves.is_due(run.course.step)]
        for lane in due:
            run = self._at(lane)
            try:
                run.saves.save(self._state_of(lane))
            except (TrialPruned, Exception) as error:
                self._leave(lane, error)
        cost_s = time.perf_counter() - began
        for lane in due:
            if (run_there := self.lanes[lane]) is not None:
                run_there.saves.saved(cost_s)

    def _state_of(self, lane: int, ended: LaneState | None = None) -> RunState:
        """The exact state of a lane's run, in the solo loop's form.

        ended: the lane's state at the run's end, where its lane has been trained on since.
        """
        run = self._at(lane)
        model, optimizer = run.state.model, run.state.optimizer
        state = self.stack.snapshot(lane) if ended is None else ended
        self.stack.read(state, run.n_updates, model, optimizer)
        now = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        if run.best is not None:
            self.stack.read(self.stack.kept_state(lane), run.best.n_updates, model, optimizer)
        n_measured = 3 + len(self.stack.names)
        return RunState(
            model=now[0],
            optimizer=now[1],
            scaler={},
            course=run.course.state_dict(time.perf_counter() - run.began_s),
            best={"smoothed": asdict(run.smoothed), "kept": run.kept_best},
            window=torch.from_numpy(np.concatenate([np.empty((0, n_measured)), *run.window])),
            random=run.random,
        )

    def _release_movers(self, sizes: Mapping[int, int]) -> list[LaneRun]:
        """Take the runs whose next batch has another size out of their lanes, with their states.

        sizes: of the batches so far, by lane.
        """
        movers = [(lane, run) for lane, run in self._admitted() if run.course.size != sizes[lane]]
        for lane, run in movers:
            state = self.stack.snapshot(lane)
            self.stack.read(state, run.n_updates, run.state.model, run.state.optimizer)
            run.carried = self.stack.kept_state(lane)
            self.lanes[lane] = None
        return [run for _, run in movers]

    def _leave(self, lane: int, outcome: Summary | BaseException) -> None:
        """Empty the lane; its run is over, its best weights are written."""
        run = self._at(lane)
        failure = self._write(lane)
        self.lanes[lane] = None
        run.done(outcome if failure is None or isinstance(outcome, BaseException) else failure)

    def _write(self, lane: int) -> Exception | None:
        """Write the best weights of a lane's run to its file, if it has both (`LaneRun.write`)."""
        run = self._at(lane)
        if run.keep is None or run.best is None:
            return None
        best = self.stack.kept_state(lane)
        self.stack.read(best, run.best.n_updates, run.state.model, run.state.optimizer)
        return run.write()

    def _resize(self, n_lanes: int) -> None:
        """Make the stack as wide as this, or as a width a little above that is traced already."""
        n_lanes = self._stepper.width_for(n_lanes, round(n_lanes / (1 - EMPTY_SHARE)))
        admitted = [lane for lane, _ in self._admitted()]
        self.lanes = [self.lanes[lane] for lane in admitted] + [None] * (n_lanes - len(admitted))
        self.stack.resize(admitted, n_lanes)
        self._stepper.resized()
        self._step_s = None

    def _admitted(self) -> list[tuple[int, LaneRun]]:
        return [(lane, run) for lane, run in enumerate(self.lanes) if run is not None]

    def _at(self, lane: int) -> LaneRun:
        run = self.lanes[lane]
        assert run is not None
        return run
