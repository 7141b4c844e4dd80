from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from iolaus.trainer.data import Examples
from iolaus.trainer.models.cnn import CNN
from iolaus.trainer.models.mlp import MLP
from iolaus.trainer.settings import read
from iolaus.trainer.tasks.base import Classification
from iolaus.trainer.tasks.digits import Digits

Compose = Callable[..., DictConfig]


def test_digits_are_scikit_learns_split_in_three() -> None:
    """Each image is in exactly one set, scaled to 0-1, under its own label."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    splits = Digits().data()
    assert [len(examples) for examples in (splits.train, splits.val, splits.test)] == [
        1197,
        300,
        300,
    ]

    def keyed(images: Tensor, targets: Tensor) -> list[tuple[object, ...]]:
        rows = torch.cat([images.reshape(len(images), -1) * 16, targets[:, None]], 1)
        return sorted(map(tuple, rows.tolist()))

    together = [
        torch.cat([getattr(e, name) for e in (splits.train, splits.val, splits.test)])
        for name in ("inputs", "targets")
    ]
    assert keyed(*together) == keyed(
        torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels)
    )
    assert not torch.equal(splits.train.inputs, Digits(data_seed=1).data().train.inputs)
    with pytest.raises(ValueError, match=r"task\.n_val=1000 and task\.n_test=900 must .* 1797"):
        Digits(n_val=1000, n_test=900)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_the_published_formula_in_training_only(smoothing: float) -> None:
    """The loss is (1 - s) * cross-entropy + s * the mean over all classes; validation stays plain
    cross-entropy.
    """
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64)
    batch = Examples(logits, torch.tensor([0, 1, 2, 3, 4, 0, 1]))

    class Task(Classification):
        def data(self) -> None:  # type: ignore[override]
            raise AssertionError("not asked for")

    task = Task(label_smoothing=smoothing)
    logs = logits.log_softmax(-1)
    plain = -logs[torch.arange(7), batch.targets]
    expected = (1 - smoothing) * plain - smoothing * logs.mean(-1)
    torch.testing.assert_close(task.loss(nn.Identity(), batch), expected)
    measures = task.measures(nn.Identity(), batch)
    torch.testing.assert_close(measures["loss"].double(), plain, rtol=1e-5, atol=1e-6)
    assert measures["accuracy"].tolist() == (logits.argmax(-1) == batch.targets).float().tolist()


def test_models_are_what_their_names_say() -> None:
    """The MLP's layers have the widths asked for; without hidden layers it is linear; the CNN
    refuses odd sizes.
    """
    model = MLP(n_inputs=64, n_classes=10, n_hidden=5, n_layers=2)
    assert [tuple(p.shape) for p in model.parameters()] == [
        (5, 64),
        (5,),
        (5, 5),
        (5,),
        (10, 5),
        (10,),
    ]
    assert len(list(MLP(n_inputs=64, n_classes=10, n_layers=0).parameters())) == 2
    for settings in ({"side": 6}, {"n_channels": 10}):
        with pytest.raises(ValueError, match=r"model\.side=.* must be a multiple of 4"):
            CNN(**{"n_channels_in": 1, "side": 8, "n_classes": 10, **settings})


@pytest.mark.parametrize(
    "overrides", [["task=digit_sum", "model=transformer"], ["task=digits", "model.dropout=0.5"]]
)
def test_dropout_is_on_in_training_only_and_each_stacked_model_draws_its_own(
    compose: Compose, overrides: list[str]
) -> None:
    """Equal models on equal batches have different losses and gradients in training, and equal ones
    in evaluation.
    """
    run = read(compose(*overrides))
    torch.manual_seed(0)
    model = run.task.build_model(run.node)
    batch = run.splits.train[:8]
    weights = {
        name: param.detach().expand(3, *param.shape) for name, param in model.named_parameters()
    }

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return run.task.loss(lambda inputs: functional_call(model, weights, (inputs,)), batch).sum()  # type: ignore[arg-type]

    stacked = torch.vmap(grad_and_value(loss), randomness="different")
    grads, losses = stacked(weights)
    assert losses.unique().numel() == 3
    assert all(not torch.equal(grad[0], grad[1]) for grad in grads.values())
    model.eval()
    grads, losses = stacked(weights)
    torch.testing.assert_close(losses, losses[:1].expand(3))
    for lanes in grads.values():
        torch.testing.assert_close(lanes, lanes[:1].expand_as(lanes))
