"""What every schedule of the learning rate promises."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch

from iolaus.trainer.schedules import Schedule, corners

__all__ = ["ScheduleContract"]


class ScheduleContract(ABC):
    """Subclass it as `TestMySchedule` and give `make_schedule`.

    lr: the top rate that the schedule is asked with. peak: the highest rate it may give, by
    default lr or its floor, if that is higher. n_steps: of the run that is looked at.
    """

    lr: float = 0.1
    n_steps: int = 1000

    @abstractmethod
    def make_schedule(self) -> Schedule:
        """The schedule, always with the same settings."""

    def peak(self) -> float:
        """The highest rate that it may give."""
        schedule = self.make_schedule()
        return max(self.lr, float(schedule.min_lr), float(getattr(schedule, "end_lr", 0.0)))

    def test_the_rate_is_a_function_of_the_step(self) -> None:
        """The same step gives the same bits, in any order, by an equal or pickled schedule."""
        schedule = self.make_schedule()
        steps = (0, 7, 1, self.n_steps, 7, 0)
        first = [schedule(step, self.lr) for step in steps]
        others = (schedule, self.make_schedule(), copy.deepcopy(schedule), _pickled(schedule))
        for other in others:
            again = [other(step, self.lr) for step in reversed(steps)][::-1]
            assert again == first, f"steps {steps}: {first} at first, then {again}"

    def test_number_and_vector_of_steps_agree_to_the_last_bit(self) -> None:
        """A vector of steps gives the bits of one call per step, in any position, alone too."""
        schedule = self.make_schedule()
        steps = np.arange(0, self.n_steps, max(1, self.n_steps // 60))
        numbers = [schedule(int(step), self.lr) for step in steps]
        assert schedule(steps, self.lr).tolist() == numbers, "a vector gives other bits"
        assert [float(schedule(steps[[i]], self.lr)[0]) for i in (0, -1)] == [
            numbers[0],
            numbers[-1],
        ], "a vector of one gives other bits"

    def test_number_and_vector_of_trials_agree_to_the_last_bit(self) -> None:
        """Trials side by side, each with its own top rate, get the bits that each gets alone."""
        schedule = self.make_schedule()
        tops = self.lr * np.array([1.0, 0.3, 0.01])
        for step in (0, 1, self.n_steps // 3, self.n_steps):
            alone = [schedule(step, float(top)) for top in tops]
            together = (schedule(step, tops) + 0 * tops).tolist()
            assert together == alone, f"step {step}: {together} together, {alone} alone"

    def test_torch_vectors_agree_with_numpy_within_rounding(self) -> None:
        """A torch vector of steps gives float64 on its device, equal to numpy's within rounding."""
        schedule = self.make_schedule()
        rates = schedule(torch.arange(self.n_steps), self.lr)
        assert rates.dtype == torch.float64, f"rates are {rates.dtype}"
        expected = schedule(np.arange(self.n_steps), self.lr)
        np.testing.assert_allclose(rates.numpy(), expected, rtol=1e-9, atol=1e-12 * self.lr)

    def test_rates_are_finite_and_between_0_and_the_peak(self) -> None:
        """Also long after the end of the run; and never below the floor once warm-up is over."""
        schedule = self.make_schedule()
        steps = np.unique(np.r_[: self.n_steps, self.n_steps * np.array([1, 2, 10, 100])])
        rates = schedule(steps, self.lr)
        assert np.isfinite(rates).all(), f"not finite at steps {steps[~np.isfinite(rates)][:8]}"
        assert rates.min() >= 0, f"{rates.min()} at step {steps[rates.argmin()]}"
        highest = self.peak() * (1 + 1e-12)
        assert rates.max() <= highest, f"{rates.max()} at step {steps[rates.argmax()]}"
        after = steps >= schedule.warmup_steps
        assert (rates[after] >= schedule.min_lr).all(), f"below its floor {schedule.min_lr}"

    def test_a_warmup_is_a_line_from_0_to_where_the_schedule_begins(self) -> None:
        """At step 0 the rate is 0, half-way half of it, and then comes the whole schedule."""
        plain = dataclasses.replace(self.make_schedule(), warmup_steps=0, decay_during_warmup=False)
        warm = dataclasses.replace(plain, warmup_steps=20)
        first = dataclasses.replace(plain, min_lr=0.0)(0, self.lr)
        assert warm(0, self.lr) == 0
        assert warm(10, self.lr) == pytest.approx(first / 2, rel=1e-12, abs=0)
        steps = np.arange(self.n_steps)
        late, early = warm(steps + 20, self.lr), plain(steps, self.lr)
        assert late.tolist() == early.tolist(), "after its warm-up it is another schedule"

    def test_corners_of_its_plan_are_few_and_on_the_curve(self) -> None:
        """At most 64, in rising steps from 0 to the last, each with the exact rate of its step."""
        rates = self.make_schedule()(np.arange(self.n_steps), self.lr)
        points = corners(rates)
        steps = [step for step, _ in points]
        assert len(points) <= 64
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, self.n_steps - 1)
        assert all(rate == rates[step] for step, rate in points), "a corner is off the curve"

    def test_settings_out_of_range_are_refused(self) -> None:
        """When it is made, in a sentence that names setting and value."""
        for name in ("warmup_steps", "min_lr"):
            with pytest.raises(ValueError, match=rf"schedule\.{name} must be .*; got -1"):
                dataclasses.replace(self.make_schedule(), **{name: -1})  # type: ignore[arg-type]


def _pickled(schedule: Schedule) -> Schedule:
    again: Schedule = pickle.loads(pickle.dumps(schedule))
    return again
