"""What cannot be stacked is refused by name; nothing is trained that is not the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from iolaus.trainer.dropout import own_streams
from iolaus.trainer.lanes import _width as width
from iolaus.trainer.lanes._width import best_width
from iolaus.trainer.lanes.check import TOLERANCE, check, check_command
from iolaus.trainer.lanes.kind import NotInLanesError, kind_of, structure_of
from iolaus.trainer.settings import Settings, read
from iolaus.trainer.tasks.digits import Digits

Compose = Callable[..., DictConfig]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 16, batch_first=True)
        self.output = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.gru(x.squeeze(1))[0][:, -1])


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(x.flatten(1))
        return y if y.sum() > 0 else 2 * y


class Masking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.output(x.flatten(1))
        return y - y[y > 0].mean()


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.dropout(x.flatten(1), 0.5, self.training))


class Tupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)
        self.sizes = ([64], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(1))


class Derived(nn.Module):
    """Has a tensor that is computed from a parameter: copy.deepcopy refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)
        self.twice = 2 * self.output.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(1))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Parametrized(nn.Module):
    """Torch gives each of its parametrized modules a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)
        nn.utils.parametrize.register_parametrization(self.output, "weight", Doubled())

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(1))


class Sharing(nn.Module):
    """Drops out by one module in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), self.dropout, nn.Linear(32, 16)
        )
        self.output = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(self.layers(x)))


class Remembering(nn.Module):
    """Keeps a tensor that is neither parameter nor buffer from the first step to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(64, 10)
        self.seen = [torch.randn(1).item()]

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(1)) * self.seen[0]


def made_of(run: Settings, model: Callable[[], nn.Module]) -> Settings:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Custom(Digits):
        def build_model(self, cfg: Any) -> nn.Module:
            return model()

    return dataclasses.replace(run, task=Custom())


@pytest.fixture
def run(compose: Compose) -> Settings:
    return read(compose("task=digits", "batch_size=32"))


@pytest.mark.parametrize(
    ("model", "named", "advice"),
    [
        (Recurrent, "gru (GRU)", "write the cells"),
        (Deciding, "the model (Deciding)", "torch.where"),
        (Masking, "the model (Masking)", "mask"),
        (Dropping, "the model (Dropping)", "nn.Dropout"),
        (Remembering, "", "no parameter or buffer"),
    ],
)
def test_what_cannot_be_stacked_is_named(
    run: Settings, model: Any, named: str, advice: str
) -> None:
    """The message names the module, what to use instead, and is one sentence."""
    with pytest.raises(NotInLanesError) as error:
        check(made_of(run, model))
    assert named in str(error.value)
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_copied_or_told_apart_is_refused(run: Settings) -> None:
    """A model that deepcopy refuses, or a list where a kind is told apart, runs alone: no trial
    fails by it.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Listed(Digits):
        words: Any

    with pytest.raises(NotInLanesError, match="the model cannot be copied"):
        check(made_of(run, Derived))
    for refused in (made_of(run, Tupled), dataclasses.replace(run, task=Listed(words=["a"]))):
        with pytest.raises(NotInLanesError, match="unhashable type: 'list'; take tuples"):
            check(refused)
    check(dataclasses.replace(run, task=Listed(words=("a",))))


def test_parametrized_modules_share_a_stack(run: Settings) -> None:
    """Two models with the same parametrizations have one structure, and train as they do alone."""
    assert structure_of(Parametrized()) == structure_of(Parametrized())
    assert check(made_of(run, Parametrized)).difference <= TOLERANCE["float64"]


def test_a_dropout_in_several_places_has_masks_of_its_own(run: Settings) -> None:
    """A dropout module that a model has under two names draws from the trial's own stream under
    both.
    """
    assert not any(type(module) is nn.Dropout for module in own_streams(Sharing()).modules())
    assert check(made_of(run, Sharing)).difference <= TOLERANCE["float64"]


def test_batch_norm_keeps_each_lanes_statistics(run: Settings) -> None:
    """BatchNorm's running statistics are buffers, stacked and updated for each lane."""
    norm = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)
    )
    assert check(made_of(run, norm)).difference <= TOLERANCE["float64"]


def test_frozen_parameters_are_the_lanes_own(run: Settings) -> None:
    """A layer that is not trained, but drawn from the seed, differs from lane to lane as it does
    alone.
    """

    def frozen() -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        for param in model[1].parameters():
            param.requires_grad = False
        return model

    assert check(made_of(run, frozen)).difference <= TOLERANCE["float64"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("precision=fp16",), "bf16 or float32"),
        (("optim=adam", "+optim.amsgrad=true"), "optim.amsgrad"),
        (("early_stop.patience=1", "early_stop.then=continue"), "changes the training data"),
    ],
)
def test_settings_that_lanes_do_not_have(
    compose: Compose, overrides: tuple[str, ...], reason: str
) -> None:
    """A setting without a stacked form is refused, never ignored."""
    with pytest.raises(NotInLanesError, match=reason):
        check(read(compose("task=digits", *overrides)))


def test_what_differs_in_more_than_values_is_another_kind(run: Settings, compose: Compose) -> None:
    """Batch size, width, optimizer and plain numbers inside modules separate; rates, seeds and
    thresholds do not.
    """

    def kind(*overrides: str, size: int = 32) -> Any:
        settings = read(compose("task=digits", "batch_size=32", *overrides))
        return kind_of(settings, settings.task.build_model(settings.node), size)

    same = ["optim.lr=0.3", "seed=7", "schedule=cosine", "steps=50", "optim.weight_decay=0"]
    assert all(kind() == kind(override) for override in same)
    assert kind("clip=norm", "clip.threshold=1") == kind("clip=norm", "clip.threshold=2")
    other = [
        "model.n_hidden=64",
        "optim=adam",
        "optim.momentum=0.9",
        "clip=norm",
        "model.dropout=0.1",
        "test=true",
    ]
    kinds = [kind(), kind(size=64), *(kind(override) for override in other)]
    assert len(set(kinds)) == len(kinds)
    assert structure_of(nn.Dropout(0.1)) != structure_of(nn.Dropout(0.2))


def test_the_command_says_whether_how_and_how_fast() -> None:
    """lanes-check prints the size, the difference to the solo loop, and the lanes that pay."""
    text = check_command(["task=digits", "model.n_hidden=8", "batch_size=8"])
    assert "weights trains in lanes" in text
    assert "relative" in text
    assert "times one trial alone" in text


def test_auto_takes_the_solo_loop_where_lanes_do_not_pay(run: Settings) -> None:
    """With a clock on which every step takes the same time, wider is better up to the bound; with
    none left, 1.
    """
    ticks = iter(range(10**6))
    assert best_width(run, most=8, clock=lambda: float(next(ticks))).n_lanes == 8
    assert best_width(run, most=1).n_lanes == 1


@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_auto_measures_in_each_precision(compose: Compose, precision: str) -> None:
    """The lanes that pay are measured with inputs of the type that the run trains with."""
    assert best_width(
        read(compose("task=digits", "batch_size=8", f"precision={precision}")), most=4
    ).n_lanes in (1, 4)


def test_auto_stops_where_memory_does(run: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A width that does not fit into the GPU's memory is not taken, and the narrower ones are still
    there.
    """
    measure = width._seconds_in_lanes

    def scarce(
        run: Settings, n_lanes: int, clock: Callable[[], float]
    ) -> tuple[float, float | None]:
        if n_lanes > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(run, n_lanes, clock)

    monkeypatch.setattr(width, "_seconds_in_lanes", scarce)
    ticks = iter(range(10**6))
    assert best_width(run, most=16, clock=lambda: float(next(ticks))).n_lanes == 4


def test_auto_plans_no_more_rates_than_it_takes_steps(
    run: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured does not depend on how long a schedule takes to be laid out."""
    planned: list[int] = []
    monkeypatch.setattr(
        "iolaus.trainer.course.planned_rates",
        lambda run, top: planned.append(run.n_steps) or np.full(9, top),
    )
    best_width(run, most=4)
    assert max(planned) < 10
