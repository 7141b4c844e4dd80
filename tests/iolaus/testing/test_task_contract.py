"""Our tasks and models keep the contract of tasks, and the contract notices those that do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from iolaus.testing import TaskContract
from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.settings import Settings
from iolaus.trainer.tasks.digits import Digits


class DigitSumContract(TaskContract):
    # Two such sequences are equal by chance: 100 openings, few of the places filled.
    max_shared = 0.02


class TestDigitSum(DigitSumContract):
    overrides = ("task=digit_sum",)


class TestDigitSumByLstm(DigitSumContract):
    overrides = ("task=digit_sum", "model=lstm")


class TestDigitSumByTransformer(DigitSumContract):
    overrides = ("task=digit_sum", "model=transformer", "model.dropout=0")


class TestDigits(TaskContract):
    overrides = ("task=digits", "model.n_layers=2")


class TestDigitsByCnn(TaskContract):
    overrides = ("task=digits", "model=cnn")


@pytest.mark.slow
class TestTextsByEncoder(TaskContract):
    overrides = (
        *("task=finetune", "task.packages=[optuna,sqlalchemy]", "task.length=12"),
        *("task.n_train=60", "task.n_val=20", "task.n_test=20", "model.dropout=0"),
    )
    max_shared = 0.05  # rare words are one symbol


@pytest.mark.slow
class TestTranslation(TaskContract):
    overrides = (
        *("task=translate", "task.n_train=60", "task.n_val=10", "task.n_test=10"),
        *("model.n_features=8", "model.n_hidden=8"),
    )


@dataclass(frozen=True, kw_only=True)
class Leaky(Digits):
    """Breaks the contract: validates on what it trains on."""

    def data(self) -> Splits:
        splits = super().data()
        return replace(splits, val=splits.train[:300])


@dataclass(frozen=True, kw_only=True)
class Moody(Digits):
    """Breaks the contract: its examples depend on what torch has drawn before."""

    def data(self) -> Splits:
        splits = super().data()
        noise = 1e-3 * torch.rand(splits.train.inputs.shape)
        return replace(splits, train=replace(splits.train, inputs=splits.train.inputs + noise))


@dataclass(frozen=True, kw_only=True)
class Mean(Digits):
    """Breaks the contract: the loss of a batch, not of each example."""

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        return super().loss(model, batch).mean()


@dataclass(frozen=True, kw_only=True)
class Relative(Digits):
    """Breaks the contract: an example's loss depends on the others in its batch."""

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        losses = super().loss(model, batch)
        return losses - losses.mean() / 2


@dataclass(frozen=True, kw_only=True)
class Lossless(Digits):
    """Breaks the contract: validation does not say what a trial returns."""

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        return {"accuracy": super().measures(model, batch)["accuracy"]}


@dataclass(frozen=True, kw_only=True)
class Undecided(Digits):
    """Breaks the contract: decides by a tensor's value, which no stacked model can."""

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        losses = super().loss(model, batch)
        return losses if losses.sum().item() > 0 else -losses


@pytest.mark.parametrize(
    ("task", "test"),
    [
        (Leaky, TaskContract.test_splits_share_no_examples),
        (Moody, TaskContract.test_data_come_from_the_settings_alone),
        (Mean, TaskContract.test_the_loss_is_one_finite_number_per_example),
        (Relative, TaskContract.test_a_loss_of_an_example_does_not_depend_on_its_batch),
        (Lossless, TaskContract.test_measures_have_the_loss_and_leave_no_trace),
        (Undecided, TaskContract.test_each_stacked_model_has_the_gradients_that_it_has_alone),
        (Undecided, TaskContract.test_lanes_train_what_the_loop_trains),
    ],
)
def test_what_breaks_the_contract_is_noticed(
    task: type[Digits], test: Callable[[TaskContract], None]
) -> None:
    """Each promise fails for a task that does not keep it."""

    class Contract(TaskContract):
        overrides = ("task=digits",)

        def settings(self) -> Settings:
            broken = task()
            return replace(super().settings(), task=broken, splits=broken.data())

    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        test(Contract())


def test_a_task_outside_lanes_says_why() -> None:
    """With in_lanes = False the contract asks for the reason, and takes no task that has none."""

    class Alone(TaskContract):
        in_lanes = False

        def settings(self) -> Settings:
            return replace(TestDigits().settings(), task=Undecided(), splits=Undecided().data())

    Alone().test_each_stacked_model_has_the_gradients_that_it_has_alone()

    class Pretends(TestDigits):
        in_lanes = False

    with pytest.raises(pytest.fail.Exception):
        Pretends().test_each_stacked_model_has_the_gradients_that_it_has_alone()
