"""What trials must have in common to be trained as one stacked model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from iolaus.trainer.clipping import Clipping
from iolaus.trainer.lanes._rules import Rule, rule_of
from iolaus.trainer.lengths import Every
from iolaus.trainer.optim import param_groups
from iolaus.trainer.settings import Settings
from iolaus.trainer.tasks.base import Task

__all__ = ["Kind", "NotInLanesError", "kind_of", "structure_of"]


class NotInLanesError(ValueError):
    """A run, or its model, cannot be trained in lanes; says why, and what to use instead."""


@dataclass(frozen=True)
class Kind:
    """What is equal in all lanes of a stack; everything else is a value of its own in each lane.

    structure: the modules with their plain attributes, parameters and buffers; see `structure_of`.
    batch_size: of the largest batches; smaller ones may be filled up to it (`stack_size`). clip:
    with 1 for a threshold. flooded: whether the loss is kept above a level. penalised: whether
    weights are.
    """

    task: Task
    structure: Hashable
    batch_size: int
    rule: Rule
    clip: Clipping
    reduction: str
    is_flooded: bool
    is_penalised: bool
    n_accumulate: int
    precision: str
    device: torch.device
    report_every: Every
    norms_each_step_until: int
    eval_every: Every
    tests: bool

    @property
    def of_any_size(self) -> Kind:
        """The same for all batch sizes."""
        return dataclasses.replace(self, batch_size=0)


def kind_of(run: Settings, model: nn.Module, batch_size: int) -> Kind:
    """The kind of a run whose model is `model`, while its batches have this size.

    Raises NotInLanesError for what lanes cannot do.
    """
    if run.precision == "fp16":
        raise NotInLanesError(
            "precision=fp16 scales all gradients by one factor that depends on them: "
            "take bf16 or float32"
        )
    if run.early_stop.needs_other_data:
        raise NotInLanesError(
            f"early_stop.then={run.early_stop.then} changes the training data: take then=stop"
        )
    if run.deterministic:
        raise NotInLanesError(
            "deterministic=true: in lanes the bits of a sum depend on how many lanes there are"
        )
    if run.loss.terms:
        raise NotInLanesError(
            "the loss has extra terms (loss.terms): their gradients are looked at one by one where "
            "one is not finite"
        )
    try:
        rule = rule_of(run.optim, param_groups(model, run.optim))
    except ValueError as error:
        raise NotInLanesError(str(error)) from error
    kind = Kind(
        task=run.task,
        structure=(structure_of(model), json.dumps(run.node["model"], sort_keys=True, default=str)),
        batch_size=batch_size,
        rule=rule,
        clip=run.clip.with_threshold(1.0),
        reduction=run.loss.reduction,
        is_flooded=run.loss.flood is not None,
        is_penalised=run.loss.l1 > 0,
        n_accumulate=run.n_accumulate,
        precision=run.precision,
        device=run.device,
        report_every=run.report_every,
        norms_each_step_until=run.norms_each_step_until,
        eval_every=run.eval_every,
        tests=run.test,
    )
    try:
        hash(kind)
    except TypeError as error:
        raise NotInLanesError(
            "kinds of trials are distinguished by the settings of the task and the plain "
            f"attributes of the modules, but: {error}; take tuples"
        ) from error
    return kind


def structure_of(model: nn.Module) -> Hashable:
    """All of a model but the values of its parameters and buffers: equal if two compute the same.

    Modules with their types and plain attributes (numbers, texts, tuples of them), parameters and
    buffers with shapes and whether they are trained. A custom module that keeps what it computes
    with in other objects is not seen through.
    """
    modules = tuple(
        (name, type_before_parametrizations(module), _plain(vars(module)))
        for name, module in model.named_modules()
    )
    params = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
    buffers = tuple((name, tuple(b.shape), b.dtype) for name, b in model.named_buffers())
    return modules, params, buffers


def _plain(attributes: Mapping[str, Any]) -> Hashable:
    kinds = (bool, int, float, str, tuple, type(None))
    return tuple(
        (name, value)
        for name, value in sorted(attributes.items())
        if isinstance(value, kinds) and name not in ("training", "n_calls")
    )
