"""The trials in one stack, trained in blocks of steps.

What each measures, reports and keeps is its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optuna import TrialPruned
from torch import Tensor, nn

from iolaus.trainer.checkpoint import WRITE_S, SmoothedLoss, write_best
from iolaus.trainer.course import Course, Hooks, Summary
from iolaus.trainer.data import Batches, Examples
from iolaus.trainer.lanes.kind import Kind
from iolaus.trainer.lanes.rules import own_settings
from iolaus.trainer.lanes.stack import Stack
from iolaus.trainer.lanes.stepper import Stepper
from iolaus.trainer.loop import State, float_type
from iolaus.trainer.settings import Settings

# Lanes may stand empty up to this share of the stack before it is made narrower, if the steps to
# come then take less by this many times what tracing them has taken.
EMPTY_SHARE = 0.5
NARROWER_PAYS = 2


@dataclass(slots=True)
class LaneRun:
    """A run in a lane: what the solo loop has in local variables.

    state: the model and optimizer it began with; they also carry a lane's weights to a checkpoint.
    n_updates: made by the optimizer so far. keep: the file for the best weights, or None. kept:
    (step, examples, n_updates) of the best.
    carried: the state of its best weights, while it moves to another stack. done: called with the
    summary, or with what was raised, when the run is over.
    """

    run: Settings
    state: State
    course: Course
    batches: Batches
    keep: Path | None
    done: Callable[[Summary | BaseException], None]
    n_updates: int = 0
    smoothed: SmoothedLoss = field(default_factory=SmoothedLoss)
    kept: tuple[int, int, int] | None = None
    carried: dict[str, Tensor] = field(default_factory=dict)
    window: list[NDArray[np.float64]] = field(default_factory=list)
    began_s: float = field(default_factory=time.perf_counter)
    written_s: float = field(
        default_factory=time.perf_counter
    )  # when its best weights were last, or could have been


def begin_lane_run(
    run: Settings,
    state: State,
    hooks: Hooks,
    keep: Path | None,
    done: Callable[[Summary | BaseException], None],
) -> LaneRun:
    """A run that begins where `iolaus.trainer.loop.start` put it."""
    course = Course(run, hooks, state.step, state.examples)
    batches = Batches(run.splits.train, run.seed, run.shuffle_buffer)
    n_updates = max((int(s.get("step", 1)) for s in state.optimizer.state.values()), default=0)
    return LaneRun(run, state, course, batches, keep, done, n_updates)


class Group:
    """A stack with its runs; None where a lane is empty.

    data: the kind's, on its device, made once.
    """

    def __init__(
        self, kind: Kind, run: Settings, model: nn.Module, compile: bool | None = None
    ) -> None:
        self.kind = kind
        self.stack = Stack(kind, run, model)
        self.lanes: list[LaneRun | None] = []
        self.n_lane_steps = (0, 0)  # with a run, and in all
        self._stepper = Stepper(self.stack, compile)
        self._train, self._val, self._test = (
            examples.to(run.device, float_type(run))
            for examples in (run.splits.train, run.splits.val, run.splits.test)
        )
        self._step_s: float | None = None  # the least so far, as the step is now

    @property
    def lane_runs(self) -> list[LaneRun]:
        """The runs under way."""
        return [p for p in self.lanes if p is not None]

    def admit(self, new_runs: Sequence[LaneRun]) -> None:
        """Give each new run a lane, empty ones first; the stack is made wider for the others."""
        empty = [lane for lane, p in enumerate(self.lanes) if p is None]
        if len(new_runs) > len(empty):
            self._resize(len(self.lane_runs) + len(new_runs))
            empty = [lane for lane, p in enumerate(self.lanes) if p is None]
        for lane, run in zip(empty, new_runs, strict=False):
            self.lanes[lane] = run
            self.stack.write(lane, run.state.model, run.state.optimizer, run.run)
            for name, value in run.carried.items():
                self.stack.kept[name][lane] = value
            run.carried = {}

    def make_narrow(self) -> None:
        """Drop empty lanes if they are many and what they would compute in vain takes longer than a new trace."""
        n, width = len(self.lane_runs), len(self.lanes)
        if n >= width * (1 - EMPTY_SHARE):
            return
        steps_to_come = max((p.run.n_steps - p.course.step for p in self.lane_runs), default=0)
        saved_s = steps_to_come * (self._step_s or 0.0) * (1 - n / width)
        if n == 0 or saved_s > NARROWER_PAYS * self._stepper.trace_s:
            self._resize(n)

    def run_block(self) -> list[LaneRun]:
        """Train all lanes to the next step at which one may have to report.

        Returns those whose batch size changes. Passengers that are over are told so and leave;
        their lanes are empty.
        """
        self._finish(
            [lane for lane, p in self._admitted() if p.course.is_over], {}, {}
        )  # resumed at their last step
        if not self.lane_runs:
            return []
        n_steps = self._n_steps_of_block()
        ended: dict[int, dict[str, Tensor]] = {}
        rates = {lane: p.course.rates[p.course.step :] for lane, p in self._admitted()}
        measured = self._train_block(n_steps, ended)
        n_full = self.n_lane_steps[0]
        for lane, p in self._admitted():
            own = min(n_steps, p.run.n_steps - p.course.step)
            p.window.append(measured[:own, :, lane])
            for _ in range(own):
                p.course.advance()
            p.n_updates += own
            n_full += own
        self.n_lane_steps = (n_full, self.n_lane_steps[1] + n_steps * len(self.lanes))

        due = [lane for lane, p in self._admitted() if p.course.reports or p.course.evaluates]
        measures = self._evaluate(
            [lane for lane, p in self._admitted() if p.course.evaluates], ended, self._val, "val"
        )
        rows: dict[int, dict[str, float]] = {}
        improved = []
        for lane in due:
            p = self._at(lane)
            window = summarise(p.window, self.stack.names) if p.course.reports else {}
            try:
                lr = float(rates[lane][min(n_steps, len(rates[lane])) - 1])
                rows[lane] = p.course.row(lr, window, measures.get(lane, {}))
            except Exception as error:  # the task's, such as a watched metric that is not measured
                self._leave(lane, error)
                continue
            if window:
                p.window = []
                if p.smoothed.offer(window["loss"]):
                    p.kept = (p.course.step, p.course.examples, p.n_updates)
                    improved.append(lane)
        self.stack.keep([lane for lane in improved if lane not in ended])
        for lane in improved:
            for name, value in ended.get(lane, {}).items():
                self.stack.kept[name][lane] = value
        for lane in improved:
            if time.perf_counter() - self._at(lane).written_s >= WRITE_S:
                failure = self._write(lane)
                if failure is not None:
                    self._leave(lane, failure)
        for lane, metrics in rows.items():
            if self.lanes[lane] is not None:
                self._report(lane, metrics, measures, ended)
        self._finish([lane for lane, p in self._admitted() if p.course.is_over], measures, ended)
        movers = [
            (lane, p) for lane, p in self._admitted() if p.course.size != self.kind.batch_size
        ]
        for lane, p in movers:
            self.stack.read(
                self.stack.snapshot(lane), p.n_updates, p.state.model, p.state.optimizer
            )
            p.carried = {name: kept[lane].clone() for name, kept in self.stack.kept.items()}
            self.lanes[lane] = None
        return [p for _, p in movers]

    def _n_steps_of_block(self) -> int:
        """To the first report, evaluation or change of the batch size of any lane.

        Ends of runs do not count.
        """
        n = math.inf
        for _, p in self._admitted():
            step = p.course.step
            changes = [start - step for start in p.run.batches.starts if start > step]
            n = min(
                n,
                *changes,
                *(every - step % every for every in (p.run.report_every, p.run.eval_every)),
            )
        return int(n)

    def _train_block(
        self, n_steps: int, ended: dict[int, dict[str, Tensor]]
    ) -> NDArray[np.float64]:
        """Make the updates; returns what they measured, [n_steps, 3 + n_params, n_lanes], in one transfer."""
        places, keys, coefficients = self._inputs(n_steps)
        ends = {lane: p.run.n_steps - p.course.step for lane, p in self._admitted()}
        longest = max(ends.values(), default=0)
        if self._stepper.prepare(
            longest, self._step_s, (*self._batch(places[0]), keys[0], coefficients[0])
        ):
            self._step_s = None
        results = []
        began = time.perf_counter()
        for i in range(n_steps):
            results.append(self._stepper(*self._batch(places[i]), keys[i], coefficients[i]))
            for lane, end in ends.items():
                if end == i + 1 < n_steps:  # the rest of the block is not its business
                    ended[lane] = self.stack.snapshot(lane)
        measured = torch.stack(results).double().cpu().numpy()
        step_s = (time.perf_counter() - began) / n_steps
        self._step_s = step_s if self._step_s is None else min(self._step_s, step_s)
        return measured

    def _inputs(self, n_steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each step and lane: places [n_steps, n, batch], keys [n_steps, n, 2], coefficients [n_steps, 3, n]."""
        n, size = len(self.lanes), self.kind.batch_size
        places = torch.zeros((n_steps, n, size), dtype=torch.int64)
        keys = torch.zeros((n_steps, n, 2), dtype=torch.int64)
        coefficients = np.zeros((n_steps, 3, n))
        coefficients[:, 1] = 1.0  # Adam divides by it, in empty lanes too
        for lane, p in self._admitted():
            step = p.course.step
            own = min(n_steps, p.run.n_steps - step)
            places[:own, lane] = p.batches.places(p.course.examples, own * size).view(own, size)
            keys[:, lane, 0] = p.run.seed
            keys[:, lane, 1] = torch.arange(step, step + n_steps)
            lr = p.course.rates[step : step + own]
            t = p.n_updates + np.arange(own, dtype=np.float64)
            settings = {
                name: np.float64(value) for name, value in own_settings(p.run.optim).items()
            }
            coefficients[:own, :, lane] = self.kind.rule.coefficients(lr, t, settings).T  # type: ignore[arg-type]
        device, dtype = self._train.targets.device, self.stack.rows["weights"].dtype
        return (
            places.to(device, non_blocking=True),
            keys.to(device, non_blocking=True),
            torch.from_numpy(coefficients).to(device, dtype, non_blocking=True),
        )

    def _batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets [n, batch, ...] at these places [n, batch]."""
        batch = self._train[places.reshape(-1)]
        return batch.inputs.reshape(*places.shape, *batch.inputs.shape[1:]), batch.targets.reshape(
            places.shape
        )

    def traced_step(self) -> Callable[[], object]:
        """One update of all lanes, always the same, for those who measure how long it takes."""
        places, keys, coefficients = self._inputs(1)
        arguments = (*self._batch(places[0]), keys[0], coefficients[0])
        self._stepper.trace(*arguments)
        return lambda: self._stepper(*arguments)

    def _evaluate(
        self,
        lanes: Sequence[int],
        ended: dict[int, dict[str, Tensor]],
        examples: Examples,
        split: str,
    ) -> dict[int, dict[str, float]]:
        if not lanes:
            return {}
        rows = {
            name: torch.stack(
                [
                    ended[lane][name] if lane in ended else self.stack.rows[name][lane]
                    for lane in lanes
                ]
            )
            for name in self.stack.rows
            if name == "weights" or name.startswith("buffer/")
        }
        means = self.stack.evaluate(rows["weights"], self.stack.buffers_of(rows), examples, split)
        return dict(zip(lanes, means, strict=True))

    def _report(
        self,
        lane: int,
        metrics: dict[str, float],
        measures: dict[int, dict[str, float]],
        ended: dict[int, dict[str, Tensor]],
    ) -> None:
        p = self._at(lane)
        try:
            intervention = p.course.report(metrics)
        except (TrialPruned, Exception) as error:
            self._leave(lane, error)
            return
        if intervention is not None:
            if intervention.action == "rewind" and p.kept is not None:
                self.stack.rewind(lane)
                p.n_updates = p.kept[2]
                ended.pop(lane, None)
                if p.course.ended != "done":
                    measures.pop(lane, None)
            p.course.comply(intervention, None if p.kept is None else p.kept[0])

    def _finish(
        self,
        lanes: Sequence[int],
        measures: dict[int, dict[str, float]],
        ended: dict[int, dict[str, Tensor]],
    ) -> None:
        """Let runs that are over leave with their summaries."""
        unmeasured = [lane for lane in lanes if lane not in measures]
        measures = measures | self._evaluate(unmeasured, ended, self._val, "val")
        tested = self._evaluate(lanes, ended, self._test, "test") if self.kind.tests else {}
        for lane in lanes:
            p = self._at(lane)
            seconds = time.perf_counter() - p.began_s
            kept_step = None if p.kept is None else p.kept[0]
            self._leave(
                lane, p.course.summary(seconds, measures[lane], tested.get(lane, {}), kept_step)
            )

    def _leave(self, lane: int, outcome: Summary | BaseException) -> None:
        p = self._at(lane)
        failure = self._write(lane)
        self.lanes[lane] = None
        p.done(outcome if failure is None or isinstance(outcome, BaseException) else failure)

    def _write(self, lane: int) -> Exception | None:
        """The best weights of a lane to their file, as the solo loop writes them.

        Returns what went wrong, such as a folder that is gone: the other lanes are not to die of
        it.
        """
        p = self._at(lane)
        if p.keep is None or p.kept is None:
            return None
        step, examples, n_updates = p.kept
        model, optimizer = p.state.model, p.state.optimizer
        self.stack.read(
            {name: kept[lane] for name, kept in self.stack.kept.items()},
            n_updates,
            model,
            optimizer,
        )
        about: dict[str, Any] = {
            "step": step,
            "examples": examples,
            "smoothed_loss": p.smoothed.lowest,
        }
        p.written_s = time.perf_counter()
        try:
            write_best(
                p.keep, {**about, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            )
        except Exception as error:
            return error
        return None

    def _resize(self, n_lanes: int) -> None:
        n_lanes = self._stepper.width_for(n_lanes, round(n_lanes / (1 - EMPTY_SHARE)))
        admitted = [lane for lane, _ in self._admitted()]
        self.lanes = [self.lanes[lane] for lane in admitted] + [None] * (n_lanes - len(admitted))
        self.stack.resize(admitted, n_lanes)
        self._stepper.resized()
        self._step_s = None

    def _admitted(self) -> list[tuple[int, LaneRun]]:
        return [(lane, p) for lane, p in enumerate(self.lanes) if p is not None]

    def _at(self, lane: int) -> LaneRun:
        run = self.lanes[lane]
        assert run is not None
        return run


def summarise(window: list[NDArray[np.float64]], names: list[str]) -> dict[str, float]:
    """As `iolaus.trainer.loop.summarise`, for what `Stack.step` measured of one lane, blocks of [n_steps, 3 + n_params]."""
    steps = np.concatenate(window)
    loss, clipped = steps[:, :2].mean(axis=0).tolist()
    norm, *norms = steps[:, 2:].max(axis=0).tolist()
    metrics = {"loss": loss, "clipped": clipped, "grad_norm": norm}
    return metrics | {f"grad_norm/{name}": value for name, value in zip(names, norms, strict=True)}
