"""The optimizer of a run: torch.optim with the parameters in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

__all__ = ["OptimSettings", "build_optimizer", "load_moments", "param_groups", "set_lr"]


def _without_dynamo(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The optimizer without what torch.compile wants to know of it.

    Torch wraps these methods so that their first call loads `torch._dynamo`, which takes as long as
    to load torch. What they wrap is in `__wrapped__`; `step` calls it without gradients.
    """
    plain = ("zero_grad", "add_param_group", "state_dict", "load_state_dict")
    methods = {name: _wrapped(getattr(kind, name)) for name in plain}
    step = torch.no_grad()(_wrapped(kind.step))
    return type(kind.__name__, (kind,), {**methods, "step": step})


def _wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return found


KINDS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": _without_dynamo(torch.optim.SGD),
    "adam": _without_dynamo(torch.optim.Adam),
    "adamw": _without_dynamo(torch.optim.AdamW),
    "rmsprop": _without_dynamo(torch.optim.RMSprop),
}


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """What conf/optim/ says.

    kind: sgd, adam, adamw or rmsprop. lr: the top rate, which the schedule shapes. settings: the
    optimizer's own, under torch's names (momentum, nesterov, eps ...), but for Adam's betas, which
    are two settings, beta1 and beta2.
    weight_decay: for weights of two or more dimensions; for biases and norms too with
    decay_vectors.
    groups: mappings {params, lr_scale, weight_decay}: parameters whose name matches the pattern
    `params` (as file names do, "encoder.*") have their rate multiplied by lr_scale and a weight
    decay of their own. The first match counts. Raises ValueError for a kind, a number or a group
    that cannot be.
    """

    kind: str
    lr: float
    weight_decay: float = 0.0
    decay_vectors: bool = False
    groups: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"optim.kind={self.kind} is not known; there are {', '.join(KINDS)}")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"optim.{name} must be finite and from 0 up; got {value}")
        for group in self.groups:
            if "params" not in group or not set(group) <= {"params", "lr_scale", "weight_decay"}:
                raise ValueError(
                    "a group of optim.groups has params (a pattern), and lr_scale or weight_decay; "
                    f"got {dict(group)}"
                )


def param_groups(model: nn.Module, optim: OptimSettings) -> list[dict[str, Any]]:
    """Parameter groups for torch.optim.

    Each has `lr_scale`, `weight_decay` and the `names` of its parameters. Every parameter that
    takes gradients is in one group. Raises ValueError for a pattern that matches no parameter.
    """
    named = {name: param for name, param in model.named_parameters() if param.requires_grad}
    for group in optim.groups:
        if not any(fnmatchcase(name, group["params"]) for name in named):
            raise ValueError(
                f"optim.groups: no parameter is called like {group['params']!r}; "
                f"there are {', '.join(named)}"
            )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, param in named.items():
        own = next((g for g in optim.groups if fnmatchcase(name, g["params"])), {})
        default_decay = optim.weight_decay if param.ndim >= 2 or optim.decay_vectors else 0.0
        key = (float(own.get("lr_scale", 1.0)), float(own.get("weight_decay", default_decay)))
        group = groups.setdefault(
            key, {"params": [], "names": [], "lr_scale": key[0], "weight_decay": key[1]}
        )
        group["params"].append(param)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(model: nn.Module, optim: OptimSettings) -> torch.optim.Optimizer:
    """The torch optimizer over `param_groups`.

    Raises ValueError for a setting that the optimizer does not take.
    """
    kind: Any = KINDS[optim.kind]
    settings = dict(optim.settings)
    if "beta1" in settings:
        settings["betas"] = (settings.pop("beta1"), settings.pop("beta2"))
    try:
        optimizer: torch.optim.Optimizer = kind(param_groups(model, optim), lr=optim.lr, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optim, for kind {optim.kind}: {error}") from error
    return optimizer


def load_moments(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over the moments of a saved state dict; the settings stay those of the optimizer."""
    settings = [{**group} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved))
    for group, ours in zip(optimizer.param_groups, settings, strict=True):
        group.update({name: ours[name] for name in ours if name != "params"})


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group the rate `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
