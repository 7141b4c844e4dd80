"""The named extra terms of a loss: their settings, and which of them is not finite.

A task's loss is the main one plus weight times each extra term (`Task.terms`). A weight of 0 is not
the same as no term: where the gradient of a term is NaN, 0 times it is NaN too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "MAIN",
    "MOST_TERMS",
    "Blame",
    "TermSettings",
    "Weights",
    "blamed",
    "terms_of",
    "weights_at",
]

MAIN = "loss"  # what the main term is called where a term is blamed
# Raw values of so many terms go into each report; with more of them all go into every second, third
# ... one, so that what a report takes on average stays bounded (about 7 bytes per value).
MOST_TERMS = 12

Weights = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TermSettings:
    """How a term counts.

    weight: what it is multiplied by, any finite number; None: it is left out. from_step: it is left
    out, not even computed, for so many updates. Raises ValueError for other weights.
    """

    weight: float | None = 1.0
    from_step: int = 0

    def __post_init__(self) -> None:
        if self.weight is not None and not math.isfinite(self.weight):
            raise ValueError(
                f"the weight of a term must be a finite number, or null to leave the term out; "
                f"got {self.weight}"
            )


@dataclass(frozen=True, slots=True)
class Blame:
    """The term whose gradient is not finite, and the parameter in which that came first.

    step: of the update. term: the first of those that make it so; MAIN for the main one. parameter:
    the first in the order of the backward pass. value: mean of the raw term per example, which may
    well be finite. n_others: terms of which the same is true.
    """

    step: int
    term: str
    parameter: str
    value: float
    n_others: int = 0

    @property
    def metric(self) -> str:
        """The name under which it is reported, with the value 1."""
        return f"not_finite/{self.term}/{self.parameter}"

    @property
    def sentence(self) -> str:
        """What to tell a person."""
        though = f", though its value, {self.value:.4g}, is" if math.isfinite(self.value) else ""
        others = f" (as that of {self.n_others} more terms)" if self.n_others else ""
        return (
            f"the gradient of the loss term {self.term} is not finite at step {self.step}{though}"
            f"{others}; in the backward pass first that of {self.parameter}"
        )


def terms_of(
    names: Sequence[str],
    groups: Sequence[str],
    node: Mapping[str, Any],
    in_steps: Callable[[Any], int],
    task: str,
) -> dict[str, TermSettings]:
    """The settings of each term that is not left out, by its name.

    names: of `Task.term_names`. groups: `Task.term_groups`, the keys that node may have;
    `attention` sets all terms whose names are that or begin with `attention.`. node: `loss.terms`
    of the config. in_steps: turns a length such as "3 epochs" into steps. task: its class, for
    messages. Raises ValueError for a key that is none of the groups and for settings that are none.
    """
    known = {field.name for field in fields(TermSettings)}
    for key, given in node.items():
        if key not in groups:
            has = f"it has {', '.join(groups)}" if groups else "it has none"
            raise ValueError(f"loss.terms.{key} names no extra loss term of {task}; {has}")
        if not isinstance(given, Mapping) or not set(given) <= known:
            raise ValueError(f"loss.terms.{key} takes {', '.join(sorted(known))}; got {given!r}")
    found = {}
    for name in names:
        own: Mapping[str, Any] = next((v for key, v in node.items() if _belongs(name, key)), {})
        settings = TermSettings(
            weight=own.get("weight", 1.0), from_step=in_steps(own.get("from_step", 0))
        )
        if settings.weight is not None:
            found[name] = settings
    return found


def _belongs(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def weights_at(terms: Mapping[str, TermSettings], step: int) -> dict[str, float]:
    """The weights of the terms that are in the update after `step` updates."""
    return {
        name: own.weight
        for name, own in terms.items()
        if own.weight is not None and step >= own.from_step
    }


def blamed(
    model: nn.Module, step: int, names: Sequence[str], losses: Callable[[str], Iterator[Tensor]]
) -> Blame | None:
    """Which term makes the gradient of an update not finite; None if none does by itself.

    names: of the extra terms; the main one is looked at first. losses: of a name, the raw term of
    each part of the batch [n_examples], computed with the same dropout as in the update. The
    gradients that the parameters hold are left as they were. Takes a forward and a backward pass
    per term.
    """
    kept = {name: param.grad for name, param in model.named_parameters()}
    guilty: list[Blame] = []
    try:
        for term in (MAIN, *names):
            total, n_examples = 0.0, 0
            with _first_not_finite(model) as found:
                for part in losses(term):
                    total, n_examples = total + float(part.detach().sum()), n_examples + len(part)
                    if part.requires_grad:
                        part.sum().backward()  # type: ignore[no-untyped-call]
            if found:
                guilty.append(Blame(step, term, found[0], total / max(n_examples, 1)))
    finally:
        for name, param in model.named_parameters():
            param.grad = kept[name]
    return replace(guilty[0], n_others=len(guilty) - 1) if guilty else None


@contextmanager
def _first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """The parameters whose gradients become not finite within, in the backward pass's order."""
    found: list[str] = []

    def look(name: str) -> Callable[[Tensor], None]:
        def look_at(param: Tensor) -> None:
            if param.grad is not None and not bool(torch.isfinite(param.grad).all()):
                found.append(name)

        return look_at

    hooks = []
    for name, param in model.named_parameters():
        param.grad = None
        if param.requires_grad:
            add: Any = param.register_post_accumulate_grad_hook
            hooks.append(add(look(name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
