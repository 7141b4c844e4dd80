from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from iolaus.trainer.models.cnn import CNN
from iolaus.trainer.optim import OptimSettings, build_optimizer, param_groups, set_lr

MODEL = CNN(n_channels_in=1, side=8, n_classes=10)


def groups(**settings: Any) -> dict[str, tuple[float, float]]:
    """(lr_scale, weight_decay) of each parameter."""
    optim = OptimSettings(kind="adamw", lr=0.1, weight_decay=0.01, **settings)
    return {
        name: (g["lr_scale"], g["weight_decay"])
        for g in param_groups(MODEL, optim)
        for name in g["names"]
    }


def test_weight_decay_skips_biases_and_norms_unless_asked() -> None:
    """Only parameters of two or more dimensions decay by default; every parameter is in one
    group.
    """
    expected = {
        name: (1.0, 0.01 if param.ndim > 1 else 0.0) for name, param in MODEL.named_parameters()
    }
    assert groups() == expected
    assert {value for name, value in expected.items() if name.startswith("1.")} == {
        (1.0, 0.0)
    }  # GroupNorm
    assert set(groups(decay_vectors=True).values()) == {(1.0, 0.01)}


def test_the_first_matching_group_counts() -> None:
    """Patterns choose parameters by name, as for files; the first match gives rate and decay."""
    own = groups(
        groups=[
            {"params": "9.bias", "lr_scale": 3.0},
            {"params": "9.*", "lr_scale": 0.1, "weight_decay": 0.5},
        ]
    )
    assert (own["9.weight"], own["9.bias"], own["0.weight"]) == (
        (0.1, 0.5),
        (3.0, 0.0),
        (1.0, 0.01),
    )


def test_a_pattern_without_a_match_is_refused() -> None:
    """The sentence names the pattern and the parameters there are."""
    with pytest.raises(
        ValueError, match=r"no parameter is called like 'encoder\.\*'; there are 0\.weight"
    ):
        groups(groups=[{"params": "encoder.*", "lr_scale": 1.0}])


def test_each_group_gets_its_share_of_the_rate() -> None:
    """After one SGD step on gradients of one, each parameter has moved by lr times its own
    scale.
    """
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = [param.detach().clone() for param in model.parameters()]
    optim = OptimSettings(kind="sgd", lr=1.0, groups=[{"params": "0.*", "lr_scale": 0.25}])
    optimizer = build_optimizer(model, optim)
    set_lr(optimizer, 0.5)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    moved = [
        float((old - new.detach()).abs().max())
        for old, new in zip(before, model.parameters(), strict=True)
    ]
    assert moved == pytest.approx([0.125, 0.125, 0.5, 0.5])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"nesterov": True, "momentum": 0.0}, "optim, for kind sgd: Nesterov momentum requires"),
        ({"beta": 0.9}, "optim, for kind sgd: .*beta"),
    ],
)
def test_what_the_optimizer_refuses_is_told_with_its_kind(
    settings: dict[str, Any], sentence: str
) -> None:
    """Torch's own complaint comes with the place in the config."""
    with pytest.raises(ValueError, match=sentence):
        build_optimizer(MODEL, OptimSettings(kind="sgd", lr=0.1, settings=settings))
