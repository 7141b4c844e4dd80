"""What every task of the trainer promises: its data, its loss, and that it trains in lanes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.lanes.check import check
from iolaus.trainer.lanes.kind import NotInLanesError
from iolaus.trainer.settings import CONF, Settings, read

__all__ = ["TaskContract"]

CPU = torch.device("cpu")


class TaskContract(ABC):
    """Subclass it as `TestMyTask` and give `overrides`, such as `("task=digits", "model=cnn")`.

    conf: a folder of your own config groups, looked at before the trainer's; None if your YAML
    lies in the trainer's. max_shared: the share of validation and test examples that may equal a
    training example by chance, where examples are drawn. in_lanes: whether many models of it train
    as one (docs/lanes.md); where it is False, `iolaus lanes-check` must give a reason.
    """

    overrides: ClassVar[Sequence[str]]
    conf: ClassVar[Path | None] = None
    max_shared: ClassVar[float] = 0.0
    in_lanes: ClassVar[bool] = True

    def settings(self) -> Settings:
        """The run that the overrides ask for, on the CPU."""
        own = [] if self.conf is None else [f"hydra.searchpath=[file://{self.conf.absolute()}]"]
        with initialize_config_dir(str(CONF), version_base=None):
            return read(compose("config", [*own, *self.overrides, "device=cpu"]))

    def test_data_come_from_the_settings_alone(self) -> None:
        """The same at each call, whatever the generators of torch have drawn before."""
        task = self.settings().task
        torch.manual_seed(1)
        first = task.data()
        torch.manual_seed(2)
        torch.rand(3)
        assert _same(first, task.data()), "two calls of data() gave different examples"

    def test_another_data_seed_is_other_data(self) -> None:
        """Where a task has a data_seed, it decides the examples."""
        task = self.settings().task
        if "data_seed" not in {field.name for field in fields(task)}:
            return
        other = replace(task, data_seed=task.data_seed + 1)  # type: ignore[call-arg, attr-defined]
        assert not _same(task.data(), other.data()), "data_seed changes nothing"

    def test_no_split_is_empty_or_ragged(self) -> None:
        """Each of the three has examples, with one target each."""
        splits = self.settings().splits
        for name in ("train", "val", "test"):
            examples: Examples = getattr(splits, name)
            assert len(examples) > 0, f"{name} is empty"
            assert len(examples.inputs) == len(examples.targets), f"{name}: inputs and targets"

    def test_splits_share_no_examples(self) -> None:
        """What a model is measured by, it has not been trained on."""
        splits = self.settings().splits
        trained = set(_rows(splits.train))
        for name in ("val", "test"):
            rows = _rows(getattr(splits, name))
            share = sum(row in trained for row in rows) / len(rows)
            assert share <= self.max_shared, (
                f"{share:.1%} of {name} was trained on, above max_shared={self.max_shared:.1%}"
            )

    def test_the_loss_is_one_finite_number_per_example(self) -> None:
        """In training, [n_examples], before anything was learned."""
        run, model, batch = self._begin(torch.float32)
        losses = run.task.loss(model, batch)
        assert losses.shape == (len(batch),), f"loss is {tuple(losses.shape)}, want [{len(batch)}]"
        assert torch.isfinite(losses).all(), f"losses {losses.tolist()}"

    def test_the_loss_reaches_every_parameter(self) -> None:
        """Each gets a finite gradient of its own shape, and some are not 0."""
        run, model, batch = self._begin(torch.float32)
        run.task.loss(model, batch).sum().backward()  # type: ignore[no-untyped-call]
        for name, param in model.named_parameters():
            assert param.grad is not None, f"the loss does not depend on {name}"
            assert param.grad.shape == param.shape
            assert torch.isfinite(param.grad).all(), f"the gradient of {name} is not finite"
        assert any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)

    def test_measures_have_the_loss_and_leave_no_trace(self) -> None:
        """Validation gives "loss" among numbers per example, the same twice, changing no weight."""
        run, model, batch = self._begin(torch.float32)
        model.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first, second = (run.task.measures(model, batch) for _ in range(2))
        assert "loss" in first, f"measures are {', '.join(first)}; loss must be among them"
        for name, values in first.items():
            assert values.shape == (len(batch),), f"{name} is {tuple(values.shape)}"
            assert torch.equal(values, second[name]), f"{name} differs between two looks"
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), f"measuring changed {name}"

    def test_a_loss_of_an_example_does_not_depend_on_its_batch(self) -> None:
        """No model looks at other examples (GroupNorm, not BatchNorm): batch sizes compare."""
        run, model, batch = self._begin(torch.float64)
        model.eval()
        alone = torch.cat([run.task.loss(model, batch[i : i + 1]) for i in range(len(batch))])
        together = run.task.loss(model, batch)
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)

    def test_each_stacked_model_has_the_gradients_that_it_has_alone(self) -> None:
        """Under vmap over stacked weights, dropout off; what lanes rely on."""
        if not self.in_lanes:
            with pytest.raises(NotInLanesError):
                check(self.settings())
            return
        run, _, batch = self._begin(torch.float64)
        models = [run.task.build_model(run.node).double().eval() for _ in range(3)]
        weights, buffers = stack_module_state(models)

        def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            def model(*args: Tensor) -> Tensor:
                out: Tensor = functional_call(models[0], (weights, buffers), args)
                return out

            return run.task.loss(model, batch).sum()  # type: ignore[arg-type]

        together = torch.vmap(grad(loss))(weights, buffers)
        for lane, model in enumerate(models):
            run.task.loss(model, batch).sum().backward()  # type: ignore[no-untyped-call]
            for name, param in model.named_parameters():
                lanes, solo = together[name][lane], param.grad
                what = f"the gradient of {name} in lane {lane} is not the one it has alone"
                torch.testing.assert_close(lanes, solo, rtol=1e-9, atol=1e-12, msg=what)

    def test_lanes_train_what_the_loop_trains(self) -> None:
        """A few steps of two runs, alone and side by side, have the same losses."""
        if self.in_lanes:
            check(self.settings())

    def _begin(self, dtype: torch.dtype) -> tuple[Settings, nn.Module, Examples]:
        """A run, a fresh model and a batch of eight training examples."""
        run = self.settings()
        torch.manual_seed(0)
        model = run.task.build_model(run.node).to(dtype)
        return run, model, run.splits.train[:8].to(CPU, dtype)


def _rows(examples: Examples) -> list[bytes]:
    """Each example, input and target, as bytes."""
    inputs = examples.inputs.reshape(len(examples), -1).numpy()
    targets = examples.targets.reshape(len(examples), -1).numpy()
    return [a.tobytes() + b.tobytes() for a, b in zip(inputs, targets, strict=True)]


def _same(one: Splits, other: Splits) -> bool:
    return all(
        torch.equal(getattr(getattr(one, split), part), getattr(getattr(other, split), part))
        for split in ("train", "val", "test")
        for part in ("inputs", "targets")
    )
