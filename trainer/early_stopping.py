"""Early stopping: when a run has stopped to improve on validation, and what is done then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from iolaus.trainer.plateau import watched_sign

__all__ = ["THEN", "EarlyState", "EarlyStopping"]

THEN = ("stop", "retrain_steps", "retrain_epochs", "continue")


@dataclass(frozen=True, kw_only=True)
class EarlyState:
    """Where a run is, after some evaluations.

    best: the watched metric's so far, lower is better, at best_step. n_bad: evaluations since then.
    stopped_step: after so many updates the run had stopped to improve, None if it has not yet;
    stopped_loss: its validation loss then. is_beaten: whether it has been lower since.
    """

    best: float = math.inf
    best_step: int = 0
    n_bad: int = 0
    stopped_step: int | None = None
    stopped_loss: float = math.nan
    is_beaten: bool = False


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stops a run after more than `patience` evaluations without a new best of a metric.

    patience: evaluations, or None for never. watch, mode: the metric and its goal, as a schedule
    that looks at the loss has them. min_delta: by how much a new best is better. then:
    - "stop": the run is over, and its result is the lowest validation loss.
    - "retrain_steps", "retrain_epochs": besides, a new run from new weights trains on training and
      validation examples together, for as many updates, or epochs, as the best was reached after.
    - "continue": the run goes on with training and validation examples together until the loss on
      the latter is below what it was at the stop.
    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 7.8, algorithms 7.1 to
    7.3; there 7.3 waits for the training loss of the stop.
    """

    patience: int | None = None
    watch: str = "val_loss"
    mode: str = "auto"
    min_delta: float = 0.0
    then: str = "stop"

    def __post_init__(self) -> None:
        if self.patience is not None and (
            isinstance(self.patience, bool)
            or not isinstance(self.patience, int)
            or self.patience < 0
        ):
            raise ValueError(
                "early_stop.patience must be null or a whole number of evaluations from 0 up; got "
                f"{self.patience!r}"
            )
        if self.then not in THEN:
            raise ValueError(f"early_stop.then is one of {', '.join(THEN)}; got {self.then!r}")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"early_stop.min_delta must be from 0 up; got {self.min_delta}")
        watched_sign("early_stop", self.watch, self.mode)

    @property
    def needs_other_data(self) -> bool:
        """Whether training goes on, or begins anew, with validation examples among the others."""
        return self.patience is not None and self.then != "stop"

    def next(self, state: EarlyState, step: int, measured: Mapping[str, float]) -> EarlyState:
        """The state after an evaluation. A NaN is never a new best.

        Raises ValueError if what is watched is not measured.
        """
        if self.patience is None:
            return state
        if state.stopped_step is not None:
            beaten = state.is_beaten or measured["val_loss"] < state.stopped_loss
            return replace(state, is_beaten=beaten)
        if self.watch not in measured:
            raise ValueError(
                f"early_stop.watch={self.watch} is not measured by this task; there are "
                f"{', '.join(measured)}"
            )
        value = measured[self.watch] * watched_sign("early_stop", self.watch, self.mode)
        if value < state.best - self.min_delta:
            return EarlyState(best=value, best_step=step)
        bad = replace(state, n_bad=state.n_bad + 1)
        if bad.n_bad <= self.patience:
            return bad
        return replace(bad, stopped_step=step, stopped_loss=measured["val_loss"])

    def ended(self, state: EarlyState, step: int) -> str | None:
        """Why a run in this state is over after so many updates; None if it is not."""
        if state.stopped_step is None or (self.then == "continue" and not state.is_beaten):
            return None
        if self.then == "continue":
            return (
                f"stopped early at step {step}: after step {state.stopped_step} it went on with "
                f"all examples, and val_loss is below {state.stopped_loss:.4g}, its value there"
            )
        return (
            f"stopped early at step {step}: {self.watch} was best at step {state.best_step}, and "
            f"not in {state.n_bad} evaluations since"
        )

    def n_steps_again(self, state: EarlyState, n_train: int, n_all: int) -> int | None:
        """Updates on all n_all examples after a run on n_train has stopped; None for none."""
        if state.stopped_step is None or state.best_step < 1:
            return None
        if self.then == "retrain_epochs":
            return max(1, round(state.best_step * n_all / n_train))
        return state.best_step if self.then == "retrain_steps" else None
