"""Translation: numbers as they are spoken in two languages, or a user's own parallel text.

With extra losses on the attention that may do nothing: what of a difference between such runs is
real?
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iolaus.trainer.build import build
from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.models.encoder_decoder import PAD
from iolaus.trainer.tasks.base import Task

__all__ = ["ParallelText", "SpokenNumbers", "Translation"]

BEGIN, END, UNKNOWN = 1, 2, 3
N_SPECIAL = 4
ATTENTION_LOSSES = ("none", "heads", "layers", "simplified")

Words = tuple[str, ...]
Pair = tuple[Words, Words]


@dataclass(frozen=True, kw_only=True)
class Translation(Task):
    """Pairs of sentences in words; the model is given the target's words so far and says the next.

    attention_loss: the extra terms of the loss, from the attention of the target's words to the
    source's: "none"; "heads", the entropy of each head of each layer (attention.LAYER.HEAD);
    "layers", the entropy of the mean over the heads of each layer (attention.LAYER); "simplified",
    1 minus the sum of squares of that mean, which takes no logarithm. Each is a mean over the words
    of the target, per example. Their weights are in loss.terms.attention.
    mask_after_log: the entropy is taken of the padding too and then set to 0 there: the value is
    the same, and its gradient NaN, since 0 times the logarithm of 0 is. With "heads" only.

    A subclass writes `pairs`. The vocabularies are those of the training pairs.
    """

    term_groups: ClassVar[tuple[str, ...]] = ("attention",)

    attention_loss: str = "none"
    mask_after_log: bool = False

    def __post_init__(self) -> None:
        if self.attention_loss not in ATTENTION_LOSSES:
            raise ValueError(
                f"task.attention_loss is one of {', '.join(ATTENTION_LOSSES)}; "
                f"got {self.attention_loss!r}"
            )
        if self.mask_after_log and self.attention_loss != "heads":
            raise ValueError("task.mask_after_log=true needs task.attention_loss=heads")

    @abstractmethod
    def pairs(self) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
        """Pairs of words for training, validation and test, the same at each call."""

    def data(self) -> Splits:
        """Inputs int64 [n, s + t]: the source, then BEGIN and the target; targets int64 [n, t].

        The targets are the target and END, a word further on than the inputs. PAD fills up.
        """
        return Splits(*(self._as_examples(pairs) for pairs in self._pairs))

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """The model of the config for the sizes of the data."""
        sizes = {
            "n_source": N_SPECIAL + len(self._words[0]),
            "n_target": N_SPECIAL + len(self._words[1]),
            "source_length": self._lengths[0],
            "target_length": self._lengths[1],
        }
        model = build({**cfg["model"], **sizes}, "model")
        if not isinstance(model, nn.Module):
            raise TypeError(f"model._target_ must name an nn.Module; got {type(model)}")
        return model

    def term_names(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        """One per layer, or per layer and head."""
        n_layers, n_heads = cfg["model"]["n_layers"], cfg["model"]["n_heads"]
        match self.attention_loss:
            case "none":
                return ()
            case "heads":
                return tuple(
                    f"attention.{i}.{head}" for i in range(n_layers) for head in range(n_heads)
                )
            case _:
                return tuple(f"attention.{i}" for i in range(n_layers))

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        """Cross-entropy per word of the target, END included, [n_examples]."""
        return cross_entropy(model(batch.inputs), batch.targets)

    def terms(
        self, model: nn.Module, batch: Examples, names: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, and these of the attention losses."""
        if not names:
            return self.loss(model, batch), {}
        logits, scores = model.attend(batch.inputs)  # type: ignore[operator]
        return cross_entropy(logits, batch.targets), {
            name: _mean(self._attention_loss(name, scores), batch.targets != PAD) for name in names
        }

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        """Cross-entropy per word, and the share of words that are said right, of each example."""
        logits = model(batch.inputs).float()
        right = (logits.argmax(-1) == batch.targets).to(logits.dtype)
        return {
            "loss": cross_entropy(logits, batch.targets),
            "accuracy": _mean(right, batch.targets != PAD),
        }

    def scores(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """BLEU and TER of sacrebleu, 0 to 100 (TER may exceed it), of what the model writes.

        The words are taken one by one, each the most likely. Raises ModuleNotFoundError without
        sacrebleu.
        """
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.ter import TER

        said = [self.text(row) for row in translated(model, examples.inputs, self._lengths)]
        references = [[self.text(row) for row in examples.targets]]
        return {
            "bleu": BLEU().corpus_score(said, references).score,
            "ter": TER().corpus_score(said, references).score,
        }

    def text(self, symbols: Tensor) -> str:
        """The target's words up to END, joined by spaces; what is no word is <unk>."""
        words = []
        for symbol in symbols.tolist():
            if symbol == END:
                break
            if symbol >= N_SPECIAL:
                words.append(self._words[1][symbol - N_SPECIAL])
            elif symbol == UNKNOWN:
                words.append("<unk>")
        return " ".join(words)

    def _attention_loss(self, name: str, scores: Sequence[Tensor]) -> Tensor:
        """[n_examples, t], of one head or of a layer's mean."""
        _, layer, *head = name.split(".")
        own = scores[int(layer)]
        own = own[:, int(head[0])] if head else own
        if self.attention_loss == "simplified":
            return 1.0 - own.softmax(-1).mean(1).square().sum(-1)
        if head and self.mask_after_log:
            each = own.softmax(-1) * own.log_softmax(-1)
            return -each.masked_fill(own == -torch.inf, 0.0).sum(-1)
        shares = own.softmax(-1) if head else own.softmax(-1).mean(1)
        # The logarithm is taken of 1 where the share is 0: no gradient comes from there.
        return -(shares * shares.masked_fill(shares == 0, 1.0).log()).sum(-1)

    @cached_property
    def _pairs(self) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
        return self.pairs()

    @cached_property
    def _words(self) -> tuple[Words, Words]:
        """The words of either language in the training pairs, in alphabetical order."""
        train = self._pairs[0]
        source, target = (
            tuple(sorted({word for pair in train for word in pair[side]})) for side in (0, 1)
        )
        return source, target

    @cached_property
    def _lengths(self) -> tuple[int, int]:
        """The longest source, and the longest target with END, of all three sets."""
        pairs = [pair for split in self._pairs for pair in split]
        return max(len(pair[0]) for pair in pairs), 1 + max(len(pair[1]) for pair in pairs)

    def _as_examples(self, pairs: Sequence[Pair]) -> Examples:
        source, target = (
            {word: N_SPECIAL + i for i, word in enumerate(words)} for words in self._words
        )
        n_source, n_target = self._lengths
        inputs = np.full((len(pairs), n_source + n_target), PAD, np.int64)
        targets = np.full((len(pairs), n_target), PAD, np.int64)
        for row, (of_source, of_target) in enumerate(pairs):
            said = [target.get(word, UNKNOWN) for word in of_target]
            inputs[row, : len(of_source)] = [source.get(word, UNKNOWN) for word in of_source]
            inputs[row, n_source : n_source + 1 + len(said)] = [BEGIN, *said]
            targets[row, : 1 + len(said)] = [*said, END]
        return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))


@dataclass(frozen=True, kw_only=True)
class SpokenNumbers(Translation):
    """Numbers from 0 up to `highest` in the words of two languages, such as "fr" and "en".

    The numbers are drawn by data_seed without repetition. The words are those of num2words
    (https://pypi.org/project/num2words), in small letters, apart at hyphens, without commas.
    """

    source: str = "fr"
    target: str = "en"
    highest: int = 999_999
    n_train: int = 1024
    n_val: int = 100
    n_test: int = 100
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        n_all = self.n_train + self.n_val + self.n_test
        if min(self.n_train, self.n_val, self.n_test) < 1 or n_all > self.highest + 1:
            raise ValueError(
                f"each set needs a number, and all {n_all} must be different ones of the "
                f"{self.highest + 1} up to task.highest={self.highest}"
            )

    def pairs(self) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
        """Raises ModuleNotFoundError without num2words, ValueError for a language it has not."""
        try:
            from num2words import num2words
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "task=translate takes its words from num2words: pip install num2words"
            ) from error

        def words(number: int, language: str) -> Words:
            try:
                said: str = num2words(number, lang=language)
            except NotImplementedError as error:
                raise ValueError(f"num2words does not speak {language!r}: {error}") from error
            return tuple(said.lower().replace("-", " ").replace(",", "").split())

        sizes = (self.n_train, self.n_val, self.n_test)
        rng = np.random.default_rng(self.data_seed)
        drawn = rng.choice(self.highest + 1, sum(sizes), replace=False).tolist()
        pairs = [(words(n, self.source), words(n, self.target)) for n in drawn]
        ends = np.cumsum(sizes)
        return pairs[: ends[0]], pairs[ends[0] : ends[1]], pairs[ends[1] :]


@dataclass(frozen=True, kw_only=True)
class ParallelText(Translation):
    """A user's own text in two files, a sentence per line, the translation in the same line.

    Words are what spaces separate: cut them, or the parts of words, beforehand. Pairs of which one
    side is empty or longer than `longest` words are left out. n_val and n_test pairs are set aside
    by data_seed; words that training does not have are one unknown word.
    """

    source_file: str
    target_file: str
    n_val: int = 1000
    n_test: int = 1000
    longest: int = 100
    data_seed: int = 0

    def pairs(self) -> tuple[Sequence[Pair], Sequence[Pair], Sequence[Pair]]:
        """Raises ValueError for files of different lengths, or with too few pairs."""
        sides = []
        for path in (self.source_file, self.target_file):
            with Path(path).open(encoding="utf-8") as file:
                sides.append([tuple(line.split()) for line in file])
        if len(sides[0]) != len(sides[1]):
            raise ValueError(
                f"{self.source_file} has {len(sides[0])} lines and {self.target_file} "
                f"{len(sides[1])}: each needs the translation of the other's in the same line"
            )
        whole = [
            pair
            for pair in zip(*sides, strict=True)
            if all(1 <= len(side) <= self.longest for side in pair)
        ]
        if min(self.n_val, self.n_test) < 1 or len(whole) <= self.n_val + self.n_test:
            raise ValueError(
                f"task.n_val={self.n_val} and task.n_test={self.n_test} must be from 1 up and "
                f"leave some of the {len(whole)} pairs for training"
            )
        order = np.random.default_rng(self.data_seed).permutation(len(whole))
        pairs = [whole[i] for i in order]
        n_train = len(whole) - self.n_val - self.n_test
        end = n_train + self.n_val
        return pairs[:n_train], pairs[n_train:end], pairs[end:]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean per word of logits [n, t, n_words] for targets [n, t], PAD left out, [n]."""
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return _mean(losses, targets != PAD)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over the second dimension of those that count, [n]."""
    weights = counts.to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1)


def translated(model: Any, inputs: Tensor, lengths: tuple[int, int]) -> Tensor:
    """What a model writes for the sources in inputs, word by word, int64 [n, t], END included."""
    n_source, n_target = lengths
    memory, ends = model.encode(inputs[:, :n_source])
    said = inputs.new_full((len(inputs), 1), BEGIN)
    for _ in range(n_target):
        logits, _ = model.decode(said, memory, ends)
        said = torch.cat([said, logits[:, -1].argmax(-1, keepdim=True)], 1)
        if bool((said == END).any(1).all()):
            break
    return said[:, 1:]
