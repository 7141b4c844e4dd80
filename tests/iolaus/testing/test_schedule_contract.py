"""The contract of schedules notices those that do not keep it; tests/trainer has those that do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest

from iolaus.testing import ScheduleContract
from iolaus.trainer.schedules import Constant, Schedule, Values


@dataclass(frozen=True, kw_only=True)
class Counting(Constant):
    """Breaks the contract: the rate depends on how often it was asked."""

    asked: list[int] = field(default_factory=list)

    def __call__(self, step: Values, lr: Values) -> Values:
        self.asked.append(1)
        return super().__call__(step, lr) / len(self.asked)


@dataclass(frozen=True, kw_only=True)
class Lax(Constant):
    """Breaks the contract: it does not look at its settings."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Given(Constant):
    """A schedule by a formula of (xp, t, lr)."""

    formula: Callable[[ModuleType, Values, Values], Values]

    def _decay(self, xp: ModuleType, t: Values, lr: Values) -> Values:
        return self.formula(xp, t, lr)


@pytest.mark.parametrize(
    ("schedule", "test"),
    [
        (Counting(), ScheduleContract.test_the_rate_is_a_function_of_the_step),
        (
            Given(formula=lambda xp, t, lr: lr + 0 * t if len(t) > 2 else lr / 2 + 0 * t),
            ScheduleContract.test_number_and_vector_of_steps_agree_to_the_last_bit,
        ),
        (
            Given(formula=lambda xp, t, lr: np.max(lr) + 0 * t),
            ScheduleContract.test_number_and_vector_of_trials_agree_to_the_last_bit,
        ),
        (
            Given(formula=lambda xp, t, lr: (lr if xp is np else lr / 2) + 0 * t),
            ScheduleContract.test_torch_vectors_agree_with_numpy_within_rounding,
        ),
        (
            Given(formula=lambda xp, t, lr: lr * (1 + t / 100)),
            ScheduleContract.test_rates_are_finite_and_between_0_and_the_peak,
        ),
        (
            Given(formula=lambda xp, t, lr: xp.where(t > 50, t * np.nan, lr + 0 * t)),
            ScheduleContract.test_rates_are_finite_and_between_0_and_the_peak,
        ),
        (Lax(), ScheduleContract.test_settings_out_of_range_are_refused),
    ],
)
def test_what_breaks_the_contract_is_noticed(
    schedule: Schedule, test: Callable[[ScheduleContract], None]
) -> None:
    """Each promise fails for a schedule that does not keep it."""

    class Contract(ScheduleContract):
        def make_schedule(self) -> Schedule:
            return schedule

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(Contract())
