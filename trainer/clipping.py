"""Gradient clipping: pure functions of the gradients, for one model or many stacked ones.

Each takes weights and gradients (tensors of equal shapes, in the model's order) and `norms`, the
gradients' own L2 norms [n_params], and returns the new gradients and whether anything was clipped,
a boolean tensor that stays on the device. A norm that is NaN or infinite makes NaN of what it
scales, as torch.nn.utils does: hiding it would train on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Adaptive",
    "Clipping",
    "GlobalNorm",
    "NoClipping",
    "ParameterNorm",
    "Threshold",
    "Value",
    "gradient_norms",
    "total_norm",
]

Grads: TypeAlias = Sequence[Tensor]


def gradient_norms(grads: Grads) -> Tensor:
    """L2 norm of each gradient, [n_params]."""
    return torch.stack([torch.linalg.vector_norm(grad) for grad in grads])


def total_norm(norms: Tensor) -> Tensor:
    """L2 norm of all gradients together, a scalar, from their own norms [n_params]."""
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


@dataclass(frozen=True, kw_only=True)
class Clipping(ABC):
    """A rule that bounds gradients; to add one, subclass it and name it in conf/clip/.

    A subclass writes `__call__`.
    """

    @abstractmethod
    def __call__(self, weights: Grads, grads: Grads, norms: Tensor) -> tuple[list[Tensor], Tensor]:
        """The clipped gradients, and whether any of them was changed."""

    def with_threshold(self, _threshold: Any) -> Clipping:
        """The same rule with another threshold, if it has one."""
        return self


@dataclass(frozen=True, kw_only=True)
class NoClipping(Clipping):
    """Gradients as they are."""

    def __call__(self, _weights: Grads, grads: Grads, norms: Tensor) -> tuple[list[Tensor], Tensor]:
        """The same gradients."""
        return list(grads), torch.zeros((), dtype=torch.bool, device=norms.device)


@dataclass(frozen=True, kw_only=True)
class Threshold(Clipping):
    """A rule with one threshold: a number, or a tensor of one element.

    Raises ValueError for a number that is not above 0.
    """

    threshold: Any

    def __post_init__(self) -> None:
        # A tensor is let through unread: under vmap there is no number in it that could be looked
        # at.
        if not isinstance(self.threshold, Tensor) and not float(self.threshold) > 0:
            raise ValueError(
                f"clip.threshold must be above 0; got {self.threshold}; "
                "use clip=none to clip nothing"
            )

    def with_threshold(self, threshold: Any) -> Threshold:
        """The same rule with another threshold."""
        return replace(self, threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class GlobalNorm(Threshold):
    """All gradients scaled by one factor so that their common norm is at most the threshold.

    Source: Pascanu et al., arXiv 1211.5063; bit for bit torch.nn.utils.clip_grad_norm_.
    """

    def __call__(self, _weights: Grads, grads: Grads, norms: Tensor) -> tuple[list[Tensor], Tensor]:
        """Direction kept; NaN everywhere if one gradient is not finite."""
        factor = _factor(self.threshold, total_norm(norms))
        return [grad * factor for grad in grads], factor < 1.0


@dataclass(frozen=True, kw_only=True)
class Value(Threshold):
    """Each element cut to [-threshold, threshold], so that the direction changes.

    As torch.nn.utils.clip_grad_value_ does. Source: Mikolov, Statistical Language Models Based on
    Neural Networks (2012), section 3.3.
    """

    def __call__(
        self, _weights: Grads, grads: Grads, _norms: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """NaN elements stay NaN, infinite ones become the threshold."""
        clipped = [grad.clamp(-self.threshold, self.threshold) for grad in grads]
        return clipped, torch.stack([(grad.abs() > self.threshold).any() for grad in grads]).any()


@dataclass(frozen=True, kw_only=True)
class ParameterNorm(Threshold):
    """Each parameter's gradient scaled so that its own norm is at most the threshold."""

    def __call__(self, _weights: Grads, grads: Grads, norms: Tensor) -> tuple[list[Tensor], Tensor]:
        """As torch.nn.utils.clip_grad_norm_ on each parameter alone."""
        factors = _factor(self.threshold, norms)
        return [grad * factor for grad, factor in zip(grads, factors.unbind(), strict=True)], (
            factors < 1.0
        ).any()


@dataclass(frozen=True, kw_only=True)
class Adaptive(Threshold):
    """Each unit's gradient scaled to at most threshold times the norm of the unit's weights.

    A unit is one row of a matrix, one output channel of a convolution, or a whole vector.
    min_weight_norm: weights count as at least this large, so that what begins at 0 can move.
    Thresholds are shares: 0.01 is usual.
    Source: Brock et al., arXiv 2102.06171, section 4.1 (AGC).
    """

    min_weight_norm: float = 1e-3

    def __call__(self, weights: Grads, grads: Grads, _norms: Tensor) -> tuple[list[Tensor], Tensor]:
        """A unit with a non-finite gradient becomes NaN, the others do not notice."""
        clipped, any_clipped = [], []
        for weight, grad in zip(weights, grads, strict=True):
            unit_norm = _unit_norm(grad)
            limit = self.threshold * _unit_norm(weight).clamp(min=self.min_weight_norm)
            over = ~(unit_norm <= limit)  # also where the norm is NaN
            clipped.append(torch.where(over, grad * (limit / unit_norm), grad))
            any_clipped.append(over.any())
        return clipped, torch.stack(any_clipped).any()


def _factor(threshold: Any, norm: Tensor) -> Tensor:
    # The 1e-6 and the order of operations are torch.nn.utils', so that the bits are too.
    return torch.clamp(threshold / (norm + 1e-6), max=1.0)


def _unit_norm(x: Tensor) -> Tensor:
    if x.ndim <= 1:
        norm: Tensor = torch.linalg.vector_norm(x)
    else:
        norm = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return norm
