from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from iolaus.testing import ScheduleContract
from iolaus.trainer.phases import OneCycle, Staged, WarmupStableDecay
from iolaus.trainer.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    MultiStep,
    Polynomial,
    Schedule,
    corners,
)

N_STEPS = 60

rates = st.floats(1e-6, 10.0)
shares = st.floats(0.01, 1.0)
lengths = st.floats(0.5, 200.0)
whole = st.integers(2, 40)


def torch_rates(
    make: Callable[[torch.optim.Optimizer], Any], lr: float, n_steps: int = N_STEPS
) -> list[float]:
    """The rate of each step under one of torch's own schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    seen = []
    for _ in range(n_steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def ours(schedule: Schedule, lr: float, n_steps: int = N_STEPS) -> list[float]:
    return [schedule(step, lr) for step in range(n_steps)]


@given(lr=rates, rate=shares)
def test_exponential_with_decay_steps_1_is_torchs_exponential(lr: float, rate: float) -> None:
    """Exponential agrees with ExponentialLR at every step."""
    reference = torch_rates(lambda o: lr_scheduler.ExponentialLR(o, rate), lr)
    assert ours(Exponential(decay_rate=rate, decay_steps=1), lr) == pytest.approx(
        reference, rel=1e-12, abs=1e-300
    )


@given(lr=rates, rate=shares, every=whole)
def test_staircase_is_torchs_step(lr: float, rate: float, every: int) -> None:
    """The staircase agrees with StepLR at every step."""
    reference = torch_rates(lambda o: lr_scheduler.StepLR(o, every, rate), lr)
    staircase = Exponential(decay_rate=rate, decay_steps=every, staircase=True)
    assert ours(staircase, lr) == pytest.approx(reference, rel=1e-12)


@given(lr=rates, rate=shares, every=lengths, floor=rates)
def test_exponential_with_a_floor_is_the_published_formula(
    lr: float, rate: float, every: float, floor: float
) -> None:
    """Exponential with a floor is max(min_lr, lr * decay_rate ** (step / decay_steps)) at every
    step.
    """
    published = [max(floor, lr * rate ** (step / every)) for step in range(N_STEPS)]
    assert ours(Exponential(decay_rate=rate, decay_steps=every, min_lr=floor), lr) == pytest.approx(
        published, rel=1e-13
    )


@given(
    lr=rates, gamma=shares, milestones=st.lists(st.integers(0, N_STEPS + 5), min_size=1, max_size=5)
)
def test_multistep_is_torchs_multistep(lr: float, gamma: float, milestones: list[int]) -> None:
    """MultiStep agrees with MultiStepLR at every step, also where two milestones coincide."""
    # torch multiplies when it arrives at a milestone, so one at 0 never takes effect there.
    milestones = [milestone + 1 for milestone in milestones]
    reference = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, milestones, gamma), lr)
    assert ours(
        MultiStep(milestone_steps=tuple(milestones), decay_rate=gamma), lr
    ) == pytest.approx(reference, rel=1e-12)


@given(lr=rates, n=whole, power=st.sampled_from([0.5, 1.0, 2.0, 3.7]))
def test_polynomial_is_torchs_polynomial(lr: float, n: int, power: float) -> None:
    """Polynomial agrees with PolynomialLR at every step, the end included."""
    reference = torch_rates(lambda o: lr_scheduler.PolynomialLR(o, n, power), lr)
    assert ours(Polynomial(decay_steps=n, power=power), lr) == pytest.approx(
        reference, rel=1e-9, abs=1e-12 * lr
    )


@given(
    lr=st.floats(1e-6, 1),
    n_examples=st.integers(64, 4000),
    batch=st.integers(1, 64),
    end=st.floats(0, 1e-7),
    power=shares,
)
def test_bert_is_the_published_formula(
    lr: float, n_examples: int, batch: int, end: float, power: float
) -> None:
    """With decay_during_warmup, Polynomial is BERT's: a ramp to lr, then the decay as if it had
    begun in step 0.
    """
    total = int(n_examples / batch * 3)
    warmup = int(total * 0.1)
    schedule = Polynomial(
        decay_steps=total, power=power, end_lr=end, warmup_steps=warmup, decay_during_warmup=True
    )
    for step in {
        0,
        1,
        total // 20,
        total // 10,
        total // 10 + 1,
        total // 2,
        total - 1,
        total,
        2 * total,
    }:
        decayed = (lr - end) * (1 - min(step, total) / total) ** power + end
        published = lr * step / warmup if step < warmup else decayed
        assert schedule(step, lr) == pytest.approx(published, rel=1e-12)


@given(lr=rates, n=whole, end=st.floats(0, 1e-6))
def test_cosine_is_torchs_cosine_and_then_stays(lr: float, n: int, end: float) -> None:
    """Cosine agrees with CosineAnnealingLR up to its end and stays there, where torch's climbs
    again.
    """
    reference = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, n, end), lr)
    rates_ = ours(Cosine(decay_steps=n, end_lr=end), lr)
    n_compared = min(n + 1, N_STEPS)
    assert rates_[:n_compared] == pytest.approx(reference[:n_compared], rel=1e-9, abs=1e-12 * lr)
    assert rates_[n:] == [end] * len(rates_[n:])


@given(lr=rates, n=whole, factor=st.integers(1, 3))
def test_cosine_with_restarts_is_torchs(lr: float, n: int, factor: int) -> None:
    """Cosine with restarts agrees with CosineAnnealingWarmRestarts at every step."""
    reference = torch_rates(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, n, factor), lr)
    schedule = Cosine(decay_steps=n, restarts=True, period_factor=factor)
    assert ours(schedule, lr) == pytest.approx(reference, rel=1e-9, abs=1e-12 * lr)


def test_restarts_come_on_their_step_where_a_logarithm_would_miss_them() -> None:
    """Period k begins exactly at (3**k - 1) / 2 periods, though math.log(243, 3) is below 5."""
    schedule = Cosine(decay_steps=1, restarts=True, period_factor=3)
    assert [schedule((3**k - 1) // 2, 0.5) for k in range(12)] == [0.5] * 12


@given(lr=rates, rate=st.floats(0, 10), n=lengths)
def test_inverse_time_is_the_published_formula(lr: float, rate: float, n: float) -> None:
    """InverseTime is lr / (1 + k t) with k = decay_rate / decay_steps."""
    published = [lr / (1 + rate / n * step) for step in range(N_STEPS)]
    assert ours(InverseTime(decay_rate=rate, decay_steps=n), lr) == pytest.approx(
        published, rel=1e-12
    )


@given(lr=rates, n=st.integers(10, N_STEPS), rise=st.floats(0.15, 0.85))
def test_one_cycle_is_torchs(lr: float, n: int, rise: float) -> None:
    """OneCycle agrees with OneCycleLR at every step of the cycle, and stays at its lowest rate
    afterwards.
    """
    reference = torch_rates(
        lambda o: lr_scheduler.OneCycleLR(o, lr, n, pct_start=rise, cycle_momentum=False), lr, n
    )
    schedule = OneCycle(cycle_steps=n, rise_share=rise)
    assert ours(schedule, lr, n) == pytest.approx(reference, rel=1e-9, abs=1e-12 * lr)
    assert schedule(3 * n, lr) == pytest.approx(lr / 25 / 1e4, rel=1e-9)


@given(lr=rates, stable=st.floats(0, 50), n=lengths, power=st.sampled_from([0.5, 1.0, 2.0]))
def test_warmup_stable_decay_is_the_published_formula(
    lr: float, stable: float, n: float, power: float
) -> None:
    """WarmupStableDecay holds lr, then follows 1 - x ** power to 0."""
    published = [lr * (1 - min(max(step - stable, 0) / n, 1) ** power) for step in range(N_STEPS)]
    schedule = WarmupStableDecay(stable_steps=stable, decay_steps=n, power=power)
    assert ours(schedule, lr) == pytest.approx(published, rel=1e-11, abs=1e-14 * lr)


def test_staged_is_one_exponential_after_the_other() -> None:
    """Each stage decays from its own rate and its own first step; the last one goes on."""
    stages = [(0.55, 0.8, 20, 30), (0.15, 0.8, 100, 10), (0.06, 0.5, 5, 7)]
    names = ("lr", "decay_rate", "decay_steps", "length_steps")
    schedule = Staged(stages=tuple(dict(zip(names, stage, strict=True)) for stage in stages))
    expected = [
        lr * rate ** (s / every) for lr, rate, every, length in stages for s in range(length)
    ]
    expected += [0.06 * 0.5 ** (s / 5) for s in range(7, 20)]
    assert ours(schedule, lr=123.0) == pytest.approx(expected, rel=1e-13)


def test_stages_with_a_global_step_begin_where_textsum_would() -> None:
    """`max(min_lr, lr * 0.8 ** (global_step / decay_steps))`: stages 2 to 6, a sixth of 60,000
    steps each, begin at 0.12, 0.064, 0.055, 0.010 and 0.010, and not at their own rates.
    """
    published = [(0.55, 2e3), (0.15, 1e4), (0.10, 1e4), (0.06, 8e4), (0.05, 3e3), (0.01, 3e3)]
    stages = tuple(
        {"lr": lr, "decay_rate": 0.8, "decay_steps": every, "length_steps": 10_000}
        for lr, every in published
    )
    schedule = Staged(stages=stages, min_lr=0.01, stage_steps="global")
    steps = np.arange(0, 60_000, 500)
    expected = [
        max(0.01, published[step // 10_000][0] * 0.8 ** (step / published[step // 10_000][1]))
        for step in steps.tolist()
    ]
    assert schedule(steps, 1.0).tolist() == pytest.approx(expected, rel=1e-12)
    begins = schedule(np.arange(10_000, 60_000, 10_000), 1.0).round(3).tolist()
    assert begins == [0.12, 0.064, 0.055, 0.01, 0.01]
    assert "stage_steps=global: a stage begins below its lr" in schedule.note
    local = dataclasses.replace(schedule, stage_steps="local")
    assert local(10_000, 1.0) == 0.15
    assert "stage_steps=local: each stage begins at its own lr" in local.note


@given(lr=rates, warmup=st.integers(1, 30), rate=shares)
def test_after_warmup_a_schedule_begins_as_if_it_were_step_0(
    lr: float, warmup: int, rate: float
) -> None:
    """Warm-up is a line from 0, then comes the whole schedule: torch's SequentialLR of LambdaLR and
    ExponentialLR.
    """
    reference = torch_rates(
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LambdaLR(o, lambda step: step / warmup),
                lr_scheduler.ExponentialLR(o, rate),
            ],
            [warmup],
        ),
        lr,
    )
    schedule = Exponential(decay_rate=rate, decay_steps=1, warmup_steps=warmup)
    assert ours(schedule, lr) == pytest.approx(reference, rel=1e-12)


def _stages(draw: st.DrawFn) -> tuple[dict[str, float], ...]:
    stage = st.fixed_dictionaries(
        {"lr": rates, "decay_rate": shares, "decay_steps": lengths, "length_steps": lengths}
    )
    return tuple(draw(st.lists(stage, min_size=1, max_size=4)))


@st.composite
def any_schedule(draw: st.DrawFn) -> Schedule:
    """A schedule of any kind with any settings."""
    kind = draw(st.sampled_from(KINDS))
    settings = {name: draw(strategy) for name, strategy in KINDS_SETTINGS[kind].items()}
    if kind is Staged:
        settings["stages"] = _stages(draw)
    common = {
        "warmup_steps": draw(st.just(0.0) | lengths),
        "min_lr": draw(st.just(0.0) | st.floats(1e-9, 1e-3)),
    }
    return kind(**settings, **common)


KINDS_SETTINGS: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    Constant: {},
    Exponential: {"decay_rate": shares, "decay_steps": lengths, "staircase": st.booleans()},
    MultiStep: {"decay_rate": shares, "milestone_steps": st.lists(lengths, max_size=3).map(tuple)},
    Polynomial: {
        "decay_steps": lengths,
        "power": st.sampled_from([0.5, 1.0, 2.0, 3.3]),
        "end_lr": st.floats(0, 1e-6),
    },
    Cosine: {"decay_steps": lengths, "restarts": st.booleans(), "period_factor": st.integers(1, 3)},
    InverseTime: {"decay_steps": lengths, "decay_rate": st.floats(0, 10)},
    OneCycle: {"cycle_steps": st.floats(10, 200), "rise_share": st.floats(0.2, 0.8)},
    WarmupStableDecay: {
        "stable_steps": lengths,
        "decay_steps": lengths,
        "power": st.sampled_from([0.5, 1.0, 2.0]),
    },
    Staged: {},
}
KINDS = list(KINDS_SETTINGS)


CONTRACT = [name for name in dir(ScheduleContract) if name.startswith("test_")]


@pytest.mark.parametrize("promise", CONTRACT)
@given(schedule=any_schedule(), lr=rates, n_steps=st.integers(1, 2000))
def test_every_schedule_keeps_the_contract(
    promise: str, schedule: Schedule, lr: float, n_steps: int
) -> None:
    """Each promise of the contract holds for any kind of schedule with any settings."""
    top = lr

    class Contract(ScheduleContract):
        lr = top

        def make_schedule(self) -> Schedule:
            return schedule

        def peak(self) -> float:
            own = [stage.lr for stage in schedule.filled] if isinstance(schedule, Staged) else []
            return max([super().peak(), *own])

    contract = Contract()
    contract.n_steps = n_steps
    getattr(contract, promise)()


@given(
    st.lists(
        st.tuples(rates, shares, lengths, st.just(0.0) | lengths, st.floats(0, 1e-3)),
        min_size=1,
        max_size=9,
    )
)
def test_number_and_vector_of_trials_agree_to_the_last_bit(trials: list[tuple[float, ...]]) -> None:
    """Trials side by side, each with its own settings, get the bits that each would get alone."""
    lr, rate, n, warmup, floor = (np.array(column) for column in zip(*trials, strict=True))
    together = Exponential(decay_rate=rate, decay_steps=n, warmup_steps=warmup, min_lr=floor)
    for step in (0, 3, 50, 1000):
        alone = [
            Exponential(decay_rate=r, decay_steps=k, warmup_steps=w, min_lr=f)(step, top)
            for top, r, k, w, f in trials
        ]
        assert together(step, lr).tolist() == alone


@given(
    st.lists(
        st.tuples(lengths, st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.floats(0, 1e-7)),
        min_size=1,
        max_size=5,
    )
)
def test_a_vector_of_powers_agrees_to_the_last_bit(trials: list[tuple[float, ...]]) -> None:
    """Exponents that numpy would shortcut (square, root) round the same alone and among others."""
    n, power, end = (np.array(column) for column in zip(*trials, strict=True))
    together = Polynomial(decay_steps=n, power=power, end_lr=end)
    steps = np.arange(40)
    table = together(steps[:, None], 0.3)
    assert table.shape == (40, len(trials))
    for trial, (k, p, e) in enumerate(trials):
        assert (
            table[:, trial].tolist()
            == Polynomial(decay_steps=k, power=p, end_lr=e)(steps, 0.3).tolist()
        )


@given(schedule=any_schedule(), lr=rates)
def test_schedules_are_continuous_where_they_should_be(schedule: Schedule, lr: float) -> None:
    """Without staircase, milestones, restarts, stages or a floor above the start, 1e-6 steps change
    next to nothing.

    The end of the warm-up is looked at closely; a power below 1 is steep where it ends, so those
    are left out.
    """
    jumps = isinstance(schedule, MultiStep | Staged) or getattr(schedule, "staircase", False)
    steep = getattr(schedule, "power", 1.0) < 1 or getattr(schedule, "restarts", False)
    if jumps or steep or schedule.min_lr > lr / 25 or schedule.decay_during_warmup:
        return
    warmup = float(schedule.warmup_steps)
    steps = np.concatenate(
        [np.linspace(0, 400, 57), np.linspace(max(warmup - 1, 0), warmup + 1, 57)]
    )
    gaps = np.abs(schedule(steps + 1e-6, lr) - schedule(steps, lr))
    assert gaps.max() <= 1e-4 * lr


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Exponential(decay_rate=0.0, decay_steps=10),
            r"schedule.decay_rate must be in \(0, 1\]; got 0.0",
        ),
        (
            lambda: Exponential(decay_rate=1.1, decay_steps=10),
            r"schedule.decay_rate must be in \(0, 1\]; got 1.1",
        ),
        (
            lambda: Exponential(decay_rate=0.5, decay_steps=0),
            "schedule.decay_steps must be above 0; got 0",
        ),
        (
            lambda: Exponential(decay_rate=0.5, decay_steps=math.nan),
            "schedule.decay_steps must be above 0; got nan",
        ),
        (lambda: Constant(warmup_steps=-1), "schedule.warmup_steps must be from 0 up; got -1"),
        (lambda: Constant(min_lr=math.nan), "schedule.min_lr must be from 0 up; got nan"),
        (
            lambda: Exponential(decay_rate=np.array([0.5, 2.0]), decay_steps=1),
            "schedule.decay_rate must be",
        ),
        (lambda: OneCycle(cycle_steps=3), "leaves no step to rise"),
        (lambda: Staged(stages=()), "schedule.stages is empty"),
        (lambda: Staged(stages=(), stage_steps="both"), "schedule.stage_steps is local .* 'both'"),
        (
            lambda: Cosine(decay_steps=5, period_factor=1.5),
            "schedule.period_factor must be a whole number",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Schedule], sentence: str) -> None:
    """A setting that cannot be is refused when the schedule is made, with its name and value."""
    with pytest.raises(ValueError, match=sentence):
        make()


def test_corners_follow_the_curve() -> None:
    """Lines through the corners of a smooth schedule are within a thousandth of its peak
    everywhere.
    """
    rates_ = Cosine(decay_steps=9000, warmup_steps=1000)(np.arange(10_000), 0.1)
    steps, values = zip(*corners(rates_), strict=True)
    assert np.abs(np.interp(np.arange(10_000), steps, values) - rates_).max() <= 1e-3 * 0.1
