"""The course of one run seen from outside its model: how far it is, what is reported when.

Both loops follow it, the solo loop (loop.py) and the lanes (lanes/): what a trial reports does not
depend on which of the two trained it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import iolaus
from iolaus.sweeps.signals import has_diverged
from iolaus.sweeps.types import Intervention
from iolaus.trainer.early_stopping import EarlyState
from iolaus.trainer.lengths import Every
from iolaus.trainer.plateau import LossDriven
from iolaus.trainer.schedules import corners
from iolaus.trainer.settings import Settings
from iolaus.trainer.terms import MOST_TERMS, Blame

__all__ = ["Course", "Hooks", "Summary", "before_fall", "planned_rates"]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a run talks to. tell: gets lines of text for the log; the others are as in `iolaus`."""

    tell: Callable[[str], None] = lambda _: None
    report: Callable[..., None] = iolaus.report
    should_stop: Callable[[], bool] = iolaus.should_stop
    plan: Callable[..., None] = iolaus.plan
    ask_intervention: Callable[[], Intervention | None] = iolaus.intervention
    get_checkpoint: Callable[[], Path | None] = iolaus.get_checkpoint
    should_checkpoint: Callable[[], bool] = iolaus.should_checkpoint


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Measures are of the validation set and, if asked for, the test set; losses are per example.
    seconds: of training, in all processes that trained it, without the pauses between them.
    steps_per_s: of the last of these processes. final: after the last step. best: at the lowest
    validation loss, after best_step updates. tested: of these weights, or of the run that was
    trained anew on all examples, empty unless the settings say `test`; of the last ones where none
    has been validated since they did. kept_step: the updates behind the weights of the lowest
    smoothed training loss, which are kept; None if nothing was reported. n_params: trained
    parameters of the model.
    """

    n_steps: int
    examples: int
    seconds: float
    steps_per_s: float
    final: dict[str, float]
    best: dict[str, float]
    best_step: int
    tested: dict[str, float]
    kept_step: int | None
    ended: str
    n_params: int = 0
    was_stopped_early: bool = False

    @property
    def result(self) -> float:
        """What a trial returns: the last validation loss; of a run stopped early the lowest.

        NaN for one that has diverged.
        """
        if self.ended.startswith("diverged"):
            return math.nan
        return (self.best if self.was_stopped_early else self.final)["val_loss"]

    @property
    def conclusion(self) -> str:
        """The last line of a run's log."""
        final, tested = (
            "".join(f"{name} {value:.4g}  " for name, value in measures.items())
            for measures in (self.final, self.tested)
        )
        return (
            f"{self.ended}  {final}"
            f"best val_loss {self.best['val_loss']:.4g} at step {self.best_step}  {tested}"
            f"best weights kept from step {self.kept_step}  "
            f"{self.n_steps} steps, {self.examples} examples in {self.seconds:.1f} s "
            f"({self.steps_per_s:.0f} steps/s), {self.n_params:,} parameters"
        )


# What of a course is a plain value that a checkpoint keeps as it is.
_STATE = ("step", "examples", "lr_factor", "best", "best_step", "seconds", "running_loss")


@dataclass(slots=True)
class Course:
    """One run between two updates; who trains it calls `advance`, and `row` and `report` when due.

    step: updates made. examples: seen, which is also the place in the data. lr_factor: what
    interventions have made of the scheduled rate. ended: "done", or why the run ended before its
    last step. rates: of every step, [n_steps], with the interventions from the steps on at which
    they were taken, as far as they are known: a schedule that looks at the loss makes new ones at
    each evaluation. seconds: of training in earlier processes. running_loss: of
    `LossSettings.running`, at the last report. blame: the loss term whose gradient was not finite,
    if one has been found. earlier: what `state_dict` gave in
    the process that the run goes on from.
    """

    run: Settings
    hooks: Hooks
    step: int = 0
    examples: int = 0
    lr_factor: float = 1.0
    ended: str = "done"
    rates: NDArray[np.float64] = field(init=False)
    best: dict[str, float] = field(init=False)
    best_step: int = 0
    measured: dict[str, float] = field(default_factory=dict)
    tested: dict[str, float] = field(default_factory=dict)  # at best_step, if at all
    seconds: float = 0.0
    running_loss: float | None = None
    blame: Blame | None = None
    earlier: InitVar[Mapping[str, Any] | None] = None
    early: EarlyState = field(default_factory=EarlyState)
    _plateau: Any = None  # the state of a schedule that looks at the loss
    _first_step: int = field(init=False)  # of this process

    def __post_init__(self, earlier: Mapping[str, Any] | None) -> None:
        self.best = {"val_loss": math.inf}
        if isinstance(self.run.schedule, LossDriven):
            self._plateau = self.run.schedule.start(self.run.optim.lr)
        self.rates = self._planned()
        if earlier is not None:
            for name in _STATE:
                setattr(self, name, earlier.get(name, getattr(self, name)))
            self.tested = dict(earlier.get("tested", {}))
            self.rates = earlier["rates"].numpy()
            self.early = EarlyState(**earlier["early"])
            if self._plateau is not None:
                self._plateau = type(self._plateau)(**earlier["plateau"])
            if len(self.rates) != self.run.n_steps:  # it is extended
                to_come = self._planned()[self.step :] * self.lr_factor
                self.rates = np.concatenate([self.rates[: self.step], to_come])
            self.hooks.tell(f"going on exactly from step {self.step} of {self.run.n_steps}")
        self._first_step = self.step
        self._announce()

    @property
    def is_over(self) -> bool:
        """Whether no update is left to make."""
        return self.step >= self.run.n_steps or self.ended != "done"

    @property
    def is_on_all(self) -> bool:
        """Whether the next update is on training and validation examples together."""
        return self.early.stopped_step is not None

    @property
    def is_last(self) -> bool:
        """Whether the last update has been made."""
        return self.step == self.run.n_steps

    @property
    def size(self) -> int:
        """Examples in the batch of the next update."""
        return self.run.batches.at(self.step)

    @property
    def lr(self) -> float:
        """The rate of the next update."""
        return float(self.rates[self.step])

    @property
    def steps_left(self) -> int:
        """Updates to the run's end."""
        return self.run.n_steps - self.step

    @property
    def steps_to_pause(self) -> int:
        """Updates to the next report, evaluation, checkpoint by steps or change of the batch size.

        The run's end is none of these.
        """
        changes = [start - self.step for start in self.run.batches.starts if start > self.step]
        run = self.run
        every = [run.report_every, run.eval_every, run.checkpoint.every_steps or run.report_every]
        if self.step < run.norms_each_step_until:
            every.append(Every(1))
        return min(*changes, *(one.next(self.step) - self.step for one in every))

    @property
    def reports(self) -> bool:
        """Whether what was measured since the last report is due after this many updates."""
        return self.is_last or self.run.report_every.is_due(self.step)

    @property
    def reports_norms(self) -> bool:
        """Whether the norms of the gradients are due after this many updates."""
        return self.reports or self.step <= self.run.norms_each_step_until

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation is due after this many updates."""
        return self.is_last or self.run.eval_every.is_due(self.step)

    @property
    def pauses(self) -> bool:
        """Whether anything is to be reported after this many updates."""
        return self.reports_norms or self.evaluates

    @property
    def tests(self) -> bool:
        """Whether the weights are the best on validation so far, and the test set is asked for."""
        return self.run.test and bool(self.measured) and self.best_step == self.step

    def advance(self, n_updates: int = 1) -> None:
        """So many updates have been made."""
        for _ in range(n_updates):
            self.examples += self.size
            self.step += 1

    def row(
        self, window: NDArray[np.float64], names: Sequence[str], measured: Mapping[str, float]
    ) -> dict[str, float]:
        """The metrics to report now; may change the rates to come.

        Means of loss and clipped, maxima of norms, each since it was last reported. NaN in one step
        is NaN in the metric.

        window: what each update since the last report of the loss measured,
        [n, 3 + n_params + n_terms]: mean loss per example, whether it was clipped (0 or 1), before
        clipping the norm of the gradient and of each parameter's, in the order of names, and the
        raw mean of each extra term of the loss. measured: of an evaluation, empty
        if none is due. Raises ValueError if the schedule watches what is not measured.
        """
        lr = float(self.rates[self.step - 1])  # of the last update
        metrics: dict[str, float] = {}
        if self.reports:
            loss, clipped = window[:, :2].mean(axis=0).tolist()
            metrics = {"loss": loss, "clipped": clipped}
            self.running_loss = self.run.loss.running(self.running_loss, window[:, 0].tolist())
            if self.running_loss is not None:
                metrics["running_loss"] = self.running_loss
        if self.reports_norms:
            n_since = max(1, self.step - self.run.norms_each_step_until)
            norms = window[-n_since:, 2 : 3 + len(names)].max(axis=0).tolist()
            of = ("grad_norm", *(f"grad_norm/{name}" for name in names))
            metrics |= dict(zip(of, norms, strict=True))
        if self.reports:
            metrics |= {"lr": lr, "examples": self.examples}
            metrics |= self._terms(window[:, 3 + len(names) :])
        if self.blame is not None and self.blame.step > self.step - len(window):
            metrics[self.blame.metric] = 1.0
        metrics |= measured
        if measured:
            metrics["epoch"] = self.examples / len(self.run.splits.train)
            self.measured = dict(measured)
            if measured["val_loss"] < self.best["val_loss"]:
                self.best, self.best_step = self.measured, self.step
            self.hooks.tell(self._line(lr, metrics))
            self.early = self.run.early_stop.next(self.early, self.step, measured)
            if isinstance(self.run.schedule, LossDriven):
                self._plateau = self.run.schedule.next(
                    self._plateau, _watched(self.run.schedule.watch, measured)
                )
                self.rates = self._planned() * self.lr_factor
        return metrics

    def report(self, metrics: Mapping[str, float]) -> Intervention | None:
        """Report metrics at this step.

        Ends the run, or returns an intervention to comply with first. Raises optuna.TrialPruned out
        of the report.
        """
        self.hooks.report(self.step, **metrics)
        intervention = self.hooks.ask_intervention()
        if has_diverged(metrics.get("loss", 0.0)):
            why = f"; {self.blame.sentence}" if self.blame is not None else ""
            self.ended = f"diverged: the loss is {metrics['loss']} at step {self.step}{why}"
        elif self.blame is not None and self.run.precision == "fp16":
            self.ended = (
                "diverged: no update is made any more, since the gradient scaler leaves out those "
                f"whose gradient is not finite; {self.blame.sentence}"
            )
        elif self.hooks.should_stop():
            self.ended = f"stopped by the sweep at step {self.step}"
        elif (stopped := self.run.early_stop.ended(self.early, self.step)) is not None:
            self.ended = stopped
        return intervention

    def comply(self, intervention: Intervention, kept_step: int | None) -> None:
        """Lower the rates to come; the weights are the caller's business.

        kept_step: of the best weights.
        """
        self.lr_factor *= intervention.factor
        self.rates = np.concatenate(
            [self.rates[: self.step], self.rates[self.step :] * intervention.factor]
        )
        back = f" with the weights of step {kept_step}" if intervention.action == "rewind" else ""
        self.hooks.tell(
            f"step {self.step}: {intervention.verdict.reason}; going on{back} "
            f"at {self.lr_factor:.3g} times the planned rate"
        )
        self._announce()

    def tell_of_rebound(self, kept_step: int | None, kept: Path) -> None:
        """Say which weights are kept from before a rebound, and where."""
        self.hooks.tell(
            f"step {self.step}: the loss has climbed back; the weights of step {kept_step}, before "
            f"the rebound, are kept in {kept}"
        )

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """All of it that decides what comes, for a checkpoint. seconds: of this process so far."""
        return {name: getattr(self, name) for name in _STATE} | {
            "seconds": self.seconds + seconds,
            "tested": self.tested,
            "rates": torch.from_numpy(self.rates),
            "early": asdict(self.early),
            "plateau": None if self._plateau is None else asdict(self._plateau),
        }

    def summary(
        self, seconds: float, final: dict[str, float], kept: int | None, n_params: int
    ) -> Summary:
        """How the run ended. seconds: of this process."""
        return Summary(
            self.step,
            self.examples,
            self.seconds + seconds,
            (self.step - self._first_step) / max(seconds, 1e-9),
            final,
            self.best,
            self.best_step,
            self.tested,
            kept,
            self.ended,
            n_params,
            self.early.stopped_step is not None and self.run.early_stop.then != "continue",
        )

    def _terms(self, window: NDArray[np.float64]) -> dict[str, float]:
        """The mean of each extra term since it is in, [n, n_terms] in; in every so many reports."""
        terms = self.run.loss.terms
        every = -(-len(terms) // MOST_TERMS)
        if not terms or self.run.report_every.times(self.step) % every:
            return {}
        n_in = {name: min(self.step - own.from_step, len(window)) for name, own in terms.items()}
        return {
            f"term/{name}": float(window[-n_in[name] :, i].mean())
            for i, name in enumerate(terms)
            if n_in[name] > 0
        }

    def _planned(self) -> NDArray[np.float64]:
        top = self.run.optim.lr if self._plateau is None else self._plateau.lr
        return planned_rates(self.run, top)

    def _announce(self) -> None:
        """Say how long the run will be and, where they are known, which rates lie ahead."""
        known = not isinstance(self.run.schedule, LossDriven)
        self.hooks.plan(self.run.n_steps, corners(self.rates) if known else ())

    def _line(self, lr: float, metrics: Mapping[str, float]) -> str:
        width = len(str(self.run.n_steps))
        shown = [
            f"{name} {metrics[name]:.4g}"
            for name in metrics
            if name in ("loss", "grad_norm") or name[:4] == "val_"
        ]
        return f"step {self.step:>{width}}/{self.run.n_steps}  lr {lr:.3g}  " + "  ".join(shown)


def planned_rates(run: Settings, top: float) -> NDArray[np.float64]:
    """The learning rate of every step, [n_steps].

    top: the highest rate, or, of a schedule that looks at the loss, what it is now.
    """
    rates: NDArray[np.float64] = run.schedule(np.arange(run.n_steps), top)
    return rates


def before_fall(run: Settings) -> int | None:
    """The last report before a rate that was constant since warm-up begins to fall.

    From there a longer run can go on. None where the rate never falls, falls all the time (before a
    tenth of the run), or depends on the loss.
    """
    if isinstance(run.schedule, LossDriven):
        return None
    rates = planned_rates(run, run.optim.lr)
    warm = min(int(np.ceil(run.schedule.warmup_steps)), run.n_steps - 1)
    others = np.flatnonzero(rates[warm:] != rates[warm])
    if not len(others):
        return None
    step = run.report_every.last(warm + int(others[0]))
    return step if step >= max(warm, 0.1 * run.n_steps) else None


def _watched(name: str, measured: Mapping[str, float]) -> float:
    if name not in measured:
        raise ValueError(
            f"schedule.watch={name} is not measured by this task; there are {', '.join(measured)}"
        )
    return measured[name]
