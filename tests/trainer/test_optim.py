from __future__ import annotations

import copy
import subprocess
import sys
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


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "rmsprop"])
def test_an_optimizer_does_what_torchs_own_does(kind: str) -> None:
    """The same bits, step by step, also of one that takes over the other's state."""
    own = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}[kind]
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    given = {"momentum": 0.9} if kind in ("sgd", "rmsprop") else {}
    ours = build_optimizer(models[0], OptimSettings(kind=kind, lr=0.1, settings=given))
    theirs = getattr(torch.optim, own)(
        param_groups(models[1], OptimSettings(kind=kind, lr=0.1)), 0.1, **given
    )
    assert isinstance(ours, getattr(torch.optim, own))
    assert type(ours).__name__ == own
    for step in range(4):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.zero_grad()
            model(torch.full((5, 3), step + 1.0)).square().sum().backward()
            optimizer.step()
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(one, other)
        if step == 1:
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))


@pytest.mark.slow
def test_training_alone_loads_nothing_that_it_does_not_use() -> None:
    """`torch._dynamo` takes as long to load as torch itself; the solo loop does without."""
    script = (
        "import sys, hydra; from iolaus.trainer.settings import CONF, read; "
        "from iolaus.trainer.loop import train; import iolaus.trainer.__main__\n"
        "with hydra.initialize_config_dir(str(CONF), version_base=None):\n"
        "    run = read(hydra.compose('config', ['task=digits', 'model=mlp', 'steps=3']))\n"
        "train(run)\n"
        "print([m for m in ('torch._dynamo', 'sympy', 'optuna', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
