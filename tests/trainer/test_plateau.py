from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from iolaus.trainer.plateau import LossDriven, Newbob, ReduceOnPlateau

losses = st.lists(
    st.floats(0.01, 10) | st.just(float("nan")) | st.just(1.0), min_size=1, max_size=60
)


def driven(schedule: LossDriven[Any], measured: list[float], lr: float) -> list[float]:
    """The rate after each measurement."""
    state = schedule.start(lr)
    seen = []
    for value in measured:
        state = schedule.next(state, value)
        seen.append(state.lr)
    return seen


@given(
    measured=losses,
    lr=st.floats(1e-3, 1),
    factor=st.floats(0.05, 0.95),
    patience=st.integers(0, 5),
    cooldown=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    mode=st.sampled_from(["rel", "abs"]),
    min_lr=st.sampled_from([0.0, 1e-3, 0.05]),
)
def test_reduce_on_plateau_is_torchs(
    measured: list[float],
    lr: float,
    factor: float,
    patience: int,
    cooldown: int,
    threshold: float,
    mode: str,
    min_lr: float,
) -> None:
    """ReduceOnPlateau agrees with ReduceLROnPlateau after every measurement, NaN among them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=mode,  # type: ignore[arg-type]
        cooldown=cooldown,
        min_lr=min_lr,
    )
    expected = []
    for value in measured:
        reference.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    schedule = ReduceOnPlateau(
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=mode,
        cooldown=cooldown,
        min_lr=min_lr,
    )
    assert driven(schedule, measured, lr) == expected


def returnn_newbob(
    errors: list[float],
    lr: float,
    threshold: float,
    factor: float,
    n: int,
    interval: int,
    growth: float,
) -> list[float]:
    """RETURNN's rule written for a whole list: epochs count from 1, and the rate of the *next*
    epoch is asked for.
    """
    seen = []
    for epoch in range(2, len(errors) + 2):
        past = errors[: epoch - 1]
        last = past[-(n + 1) :]
        if len(last) > 1 and not (interval > 1 and epoch % interval != 1):
            relative = [(last[i + 1] - last[i]) / abs(last[i + 1]) for i in range(len(last) - 1)]
            mean = sum(relative) / len(relative)
            if mean > threshold:
                lr *= factor
            if mean < threshold:
                lr *= growth
        seen.append(lr)
    return seen


@given(
    errors=st.lists(st.floats(0.1, 10), min_size=1, max_size=60),
    threshold=st.sampled_from([-0.01, 0.0, 0.05]),
    factor=st.floats(0.3, 0.9),
    n=st.integers(1, 9),
    interval=st.integers(1, 9),
    growth=st.sampled_from([1.0, 1.05]),
)
def test_newbob_is_returnns(
    errors: list[float], threshold: float, factor: float, n: int, interval: int, growth: float
) -> None:
    """Newbob agrees with the published rule at every measurement."""
    schedule = Newbob(
        factor=factor,
        growth_factor=growth,
        relative_error_threshold=threshold,
        n_measurements=n,
        update_interval=interval,
    )
    expected = returnn_newbob(errors, 0.1, threshold, factor, n, interval, growth)
    assert driven(schedule, errors, 0.1) == pytest.approx(expected, rel=1e-12)


def test_newbob_as_it_is_published() -> None:
    """num_epochs=9, update_interval=1, threshold 0, factor 0.7: errors of nine evaluations are
    averaged, at each of them.
    """
    shipped = compose_schedule("newbob")
    assert driven(shipped, [1.0] * 30, 0.1) == [0.1] * 30
    rising = driven(shipped, [1.0 + 0.01 * i for i in range(30)], 0.1)
    assert rising == pytest.approx([0.1 * 0.7**i for i in range(30)])
    # One bad evaluation is made good by the mean of the eight before.
    once = [1.0 - 0.02 * i for i in range(9)]
    assert driven(shipped, [*once, once[-1] + 0.05], 0.1) == [0.1] * 10


def compose_schedule(name: str) -> LossDriven:
    from hydra import compose, initialize_config_dir

    from iolaus.trainer.settings import CONF, read

    with initialize_config_dir(str(CONF), version_base=None):
        schedule = read(compose("config", [f"schedule={name}"])).schedule
    assert isinstance(schedule, LossDriven)
    return schedule


@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@given(accuracies=st.lists(st.floats(0.1, 1), min_size=1, max_size=40))
def test_a_rising_accuracy_is_no_plateau(threshold_mode: str, accuracies: list[float]) -> None:
    """What is better when it is higher goes by torch's mode max; its name says so."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    given_ = {"factor": 0.5, "patience": 2, "threshold": 0.01, "threshold_mode": threshold_mode}
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", eps=1e-8, **given_)
    expected = []
    for value in accuracies:
        reference.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    for named in ({"watch": "val_accuracy"}, {"watch": "val_x", "mode": "max"}):
        assert driven(ReduceOnPlateau(**given_, **named), accuracies, 0.1) == expected
    newbob = Newbob(watch="val_accuracy", relative_error_threshold=0.0)
    assert driven(newbob, sorted(accuracies), 0.1) == [0.1] * len(accuracies)


@pytest.mark.parametrize("schedule", [ReduceOnPlateau, Newbob])
def test_a_metric_of_unknown_goal_is_asked_for(schedule: type[LossDriven]) -> None:
    """Neither is assumed."""
    with pytest.raises(ValueError, match="is val_x better when it is lower or higher"):
        schedule(watch="val_x")


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1), st.floats(0.1, 0.9), st.integers(0, 3)),
        min_size=1,
        max_size=5,
    ),
    losses,
)
def test_trials_side_by_side_go_as_alone(
    trials: list[tuple[float, float, int]], measured: list[float]
) -> None:
    """A vector of trials, each with its own factor and patience and its own losses, moves like each
    alone.
    """
    lr, factor, patience = (np.array(column) for column in zip(*trials, strict=True))
    scale = np.arange(1, len(trials) + 1)
    for together, alone in (
        (
            ReduceOnPlateau(factor=factor, patience=patience),
            [ReduceOnPlateau(factor=f, patience=p) for _, f, p in trials],
        ),
        (Newbob(factor=factor), [Newbob(factor=f) for _, f, _ in trials]),
    ):
        vector = driven(together, [value * scale for value in measured], lr)
        for i, (schedule, (top, _, _)) in enumerate(zip(alone, trials, strict=True)):
            assert [rates[i] for rates in vector] == driven(
                schedule, [value * scale[i] for value in measured], top
            )


def test_a_state_is_never_changed() -> None:
    """Transitions are pure: the same state and measurement give the same next state, again and
    again.
    """
    schedule = ReduceOnPlateau(patience=0)
    state = schedule.next(schedule.start(0.1), 1.0)
    assert schedule.next(state, 2.0) == schedule.next(state, 2.0)
    assert (state.lr, state.best, state.n_bad) == (0.1, 1.0, 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: ReduceOnPlateau(factor=1.0),
            r"schedule\.factor must be between 0 and 1; got 1\.0",
        ),
        (lambda: ReduceOnPlateau(threshold_mode="percent"), r'threshold_mode is "rel" or "abs"'),
        (lambda: ReduceOnPlateau(patience=-1), r"schedule\.patience must be from 0 up"),
        (lambda: Newbob(n_measurements=0), r"schedule\.n_measurements must be from 1 up; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, sentence: str) -> None:
    """What cannot be is refused when the schedule is made."""
    with pytest.raises(ValueError, match=sentence):
        make()
