"""The contract of a task: its data, its model and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iolaus.trainer.build import build
from iolaus.trainer.data import Examples, Splits

__all__ = ["Classification", "Task"]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What is trained; to add one, subclass it and name the class in a file of conf/task/.

    A subclass writes `data`, `loss` and `measures`, or only `data` if it is a `Classification`. The
    loss and the measures are per example and free of side effects, so that the same code trains one
    model or many stacked ones; `model` is called like any module. term_groups: the keys of
    loss.terms, where the loss has extra terms.
    """

    term_groups: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def data(self) -> Splits:
        """Training, validation and test examples, the same at each call.

        They come from the task's own settings, not from the run's seed: trials that differ in seed
        see the same data in another order.
        """

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """A fresh model for the composed config `cfg`, initialised from torch's generator."""
        model = build(cfg["model"], "model")
        if not isinstance(model, nn.Module):
            raise TypeError(
                "model._target_ must name an nn.Module; "
                f"{cfg['model']['_target_']} gave {type(model)}"
            )
        return model

    @property
    def n_draws(self) -> int:
        """Random numbers per training example that `augment` takes; 0 where it changes nothing."""
        return 0

    def augment(self, batch: Examples, uniform: Tensor) -> Examples:  # noqa: ARG002
        """A training batch as it is trained on, changed by uniform [n_examples, n_draws] in [0, 1).

        Called where n_draws is above 0. It draws nothing by itself, so that a run in a lane, or
        taken up again, sees what it would have seen.
        """
        return batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        """The training loss of each example, [n_examples]."""

    @abstractmethod
    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        """What validation reports, name -> [n_examples].

        "loss" must be among them, and is what a trial returns. Where it is another thing than the
        training loss (over all words, not a sample of them), "objective" is that of the validation
        examples: the two are compared.
        """

    def term_names(self, _cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the loss's extra terms for the composed config; by default there are none.

        `attention.0.3` is set by loss.terms.attention. Runs with extra terms are not trained in
        lanes.
        """
        return ()

    def terms(
        self, model: nn.Module, batch: Examples, _names: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, and the extra terms of these names, raw; each [n_examples].

        The weights of loss.terms are applied by who calls it.
        """
        return self.loss(model, batch), {}

    def scores(self, _model: nn.Module, _examples: Examples) -> dict[str, float]:
        """Measures of a whole set, such as BLEU, name -> number; taken once, after the last step.

        By default there are none.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """A task whose model gives logits [n_examples, n_classes] for whole-number targets.

    label_smoothing: the share of each target spread evenly over all classes while training (Szegedy
    et al., arXiv 1512.00567); validation measures the plain cross-entropy, so that trials stay
    comparable.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"task.label_smoothing must be in [0, 1); got {self.label_smoothing}")

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        """Cross-entropy of each example, [n_examples], with label smoothing."""
        logits = model(batch.inputs)
        return F.cross_entropy(
            logits, batch.targets, reduction="none", label_smoothing=self.label_smoothing
        )

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        """Cross-entropy and accuracy (1.0 where the target's logit is largest) of each example."""
        logits = model(batch.inputs).float()
        loss = F.cross_entropy(logits, batch.targets, reduction="none")
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch.targets).to(torch.float32)}
