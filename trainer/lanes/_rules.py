"""The optimizers on stacked weights [n_lanes, n_weights], each lane with its own numbers.

The formulas are torch.optim's. What depends on the step is worked out on the host in float64, as
torch.optim does, and comes as coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iolaus.trainer.optim import OptimSettings

__all__ = ["Rule", "own_settings", "per_weight", "rows_of", "rule_of"]

SETTINGS = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adam": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
    "rmsprop": ("momentum", "alpha", "eps"),
}
DEFAULTS = {
    "momentum": 0.0,
    "dampening": 0.0,
    "nesterov": False,
    "beta1": 0.9,
    "beta2": 0.999,
    "alpha": 0.99,
    "eps": 1e-8,
}


@dataclass(frozen=True)
class Rule:
    """What is equal in all lanes of one optimizer: its kind, and which of its terms there are."""

    kind: str
    has_momentum: bool
    nesterov: bool
    has_decay: bool
    has_scales: bool

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of its state in torch.optim, each of the weights' shape."""
        if self.kind == "sgd":
            return ("momentum_buffer",) if self.has_momentum else ()
        if self.kind == "rmsprop":
            return ("square_avg", *(("momentum_buffer",) if self.has_momentum else ()))
        return ("exp_avg", "exp_avg_sq")

    def coefficients(
        self,
        lr: NDArray[np.float64],
        n_updates: NDArray[np.float64],
        own: Mapping[str, NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """What an update takes from the host, [3, ...], for rates and updates made so far [...].

        own: each lane's settings, broadcast against them.
        """
        if self.kind == "sgd":
            # torch.optim's first momentum is the gradient itself, without dampening.
            fresh = np.where(n_updates == 0, 1.0, 1.0 - own["dampening"])
            return np.stack([lr, fresh, np.zeros_like(lr)])
        if self.kind == "rmsprop":
            return np.stack([lr, np.ones_like(lr), np.zeros_like(lr)])
        t = n_updates + 1
        first, second = 1 - own["beta1"] ** t, 1 - own["beta2"] ** t
        return np.stack([lr / first, np.sqrt(second), lr])

    def apply(self, rows: Mapping[str, Tensor], grads: Tensor, coefficients: Tensor) -> None:
        """Update rows["weights"] and the moments in place.

        grads: of the weights' shape. coefficients: of `coefficients`, [3, n_lanes].
        """
        weights, decay = rows["weights"], rows["decay"]
        a, b, lr = (c[:, None] for c in coefficients.unbind())
        if self.has_scales:
            a, lr = a * rows["scale"], lr * rows["scale"]
        if self.has_decay and self.kind == "adamw":
            weights.mul_(1 - lr * decay)
        elif self.has_decay:
            grads = grads + decay * weights
        if self.kind == "sgd":
            if self.has_momentum:
                momentum, buffer = rows["momentum"][:, None], rows["momentum_buffer"]
                buffer.mul_(momentum).add_(grads * b)
                grads = grads + momentum * buffer if self.nesterov else buffer
            weights.sub_(a * grads)
            return
        if self.kind == "rmsprop":
            square = rows["square_avg"]
            square.mul_(rows["alpha"][:, None]).add_(
                grads * grads * rows["one_minus_alpha"][:, None]
            )
            change = grads / (square.sqrt() + rows["eps"][:, None])
            if self.has_momentum:
                buffer = rows["momentum_buffer"]
                buffer.mul_(rows["momentum"][:, None]).add_(change)
                change = buffer
            weights.sub_(a * change)
            return
        average, square = rows["exp_avg"], rows["exp_avg_sq"]
        average.lerp_(grads, rows["one_minus_beta1"][:, None].expand_as(grads))
        square.mul_(rows["beta2"][:, None]).add_(grads * grads * rows["one_minus_beta2"][:, None])
        weights.sub_(a * (average / (square.sqrt() / b + rows["eps"][:, None])))


def rule_of(optim: OptimSettings, groups: Sequence[Mapping[str, Any]]) -> Rule:
    """The rule for an optimizer's settings and parameter groups.

    Raises ValueError for a setting lanes do not have.
    """
    unknown = sorted(set(optim.settings) - set(SETTINGS[optim.kind]))
    if unknown:
        known = ", ".join(SETTINGS[optim.kind])
        raise ValueError(
            f"optim.{unknown[0]} is not known in lanes, where {optim.kind} has {known}"
        )
    own = own_settings(optim)
    return Rule(
        kind=optim.kind,
        has_momentum=own.get("momentum", 0.0) != 0,
        nesterov=optim.kind == "sgd" and bool(own["nesterov"]),
        has_decay=any(group["weight_decay"] != 0 for group in groups),
        has_scales=any(group["lr_scale"] != 1 for group in groups),
    )


def own_settings(optim: OptimSettings) -> dict[str, float]:
    """A lane's own settings of its optimizer, each a number."""
    return {name: float(optim.settings.get(name, DEFAULTS[name])) for name in SETTINGS[optim.kind]}


def rows_of(optim: OptimSettings) -> dict[str, float]:
    """Of `own_settings`, what `Rule.apply` reads as rows."""
    own = own_settings(optim)
    if optim.kind == "sgd":
        return {"momentum": own["momentum"]}
    if optim.kind == "rmsprop":
        return {**own, "one_minus_alpha": 1 - own["alpha"]}
    betas = {
        "one_minus_beta1": 1 - own["beta1"],
        "one_minus_beta2": 1 - own["beta2"],
        "beta2": own["beta2"],
    }
    return {**betas, "eps": own["eps"]}


def per_weight(groups: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], name: str) -> Tensor:
    """A setting of the parameter groups for each weight, float64 [n_weights].

    Parameters come in the order of `sizes`.
    """
    of = {param: float(group[name]) for group in groups for param in group["names"]}
    return torch.cat(
        [torch.full((n,), of[param], dtype=torch.float64) for param, n in sizes.items()]
    )
