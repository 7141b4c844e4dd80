"""Texts in classes: documentation strings by the package they are of, or a user's own file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.docstrings import docstrings
from iolaus.trainer.tasks.base import Classification

__all__ = ["TextClassification"]

# Symbols before the words of a vocabulary: beyond a text's end, a rare word, a text's beginning.
PADDING, RARE, BEGINNING = range(3)
N_SPECIAL = 3
MIN_WORDS = 8  # a documentation string with fewer says too little of its package
SPARE = 1.5  # so many times as many strings are read as are needed, since modules are not divided,
N_SPARE = 100  # and so many more


class Text(NamedTuple):
    """A text and the number of its class."""

    label: int
    text: str


@dataclass(frozen=True, kw_only=True)
class TextClassification(Classification):
    """Texts, cut or filled to `length` symbols, and the class of each.

    file: a table with tab-separated columns `label` and `text` (named in its first line, no
    quoting), of which n_val and n_test lines are drawn by data_seed; the others are for training,
    in the order of the file, n_train at most (None: all). file=None: documentation strings of
    `packages`, equally many of each. A module's strings are in one split only, drawn by data_seed,
    and the names of the packages are taken out of them. They stand in the order of their labels, so
    without shuffling a batch has one label.
    pretrained: a folder whose tokenizer reads the texts; None: words in lower case, of which the
    n_words most frequent in training are known. Raises ValueError where texts are missing.
    """

    packages: Sequence[str] = ()
    file: str | None = None
    n_train: int | None = 1600
    n_val: int = 400
    n_test: int = 400
    length: int = 32
    n_words: int = 2000
    pretrained: str | None = None
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "packages", tuple(self.packages))  # so that it has a hash
        if (self.file is None) == (not self.packages):
            raise ValueError("give either task.packages or task.file, and the other as null or []")
        if self.file is None and (self.n_train is None or len(self.packages) < 2):
            raise ValueError("task.packages names at least two, and task.n_train how many texts")
        if min(self.n_val, self.n_test, self.n_train or 1, self.n_words) < 1 or self.length < 2:
            raise ValueError(
                "task.n_train, n_val, n_test and n_words must be from 1 up, length from 2; "
                f"got {self.n_train}, {self.n_val}, {self.n_test}, {self.n_words}, {self.length}"
            )

    @property
    def labels(self) -> Sequence[str]:
        """The name of each class."""
        return self.packages if self.file is None else _table(self.file)[0]

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        """The model of the config; with `n_classes: null` it has as many as there are labels."""
        model, n_labels = cfg["model"], len(self.labels)
        if model.get("n_classes", n_labels) not in (None, n_labels):
            raise ValueError(
                f"model.n_classes={model['n_classes']}, and the task has {n_labels} labels: "
                "leave it null"
            )
        return super().build_model({**cfg, "model": {**model, "n_classes": n_labels}})

    def data(self) -> Splits:
        """Inputs int64 [n, length], targets int64 [n]."""
        rng = np.random.default_rng(self.data_seed)
        splits = self._of_packages(rng) if self.file is None else self._of_file(self.file, rng)
        train, *_ = splits
        if self.pretrained is None:
            encode = _by_words((text for _, text in train), self.n_words, self.length)
        else:
            encode = _by_tokenizer(Path(self.pretrained), self.length)
        return Splits(
            *(
                Examples(encode([t.text for t in own]), torch.tensor([t.label for t in own]))
                for own in splits
            )
        )

    def _of_packages(self, rng: np.random.Generator) -> Sequence[list[Text]]:
        """Texts for training, validation and test, label by label."""
        n_packages = len(self.packages)
        sizes = [(self.n_train or 0) // n_packages, self.n_val // n_packages]
        sizes.append(self.n_test // n_packages)
        splits: tuple[list[Text], ...] = ([], [], [])
        names = re.compile(rf"\b({'|'.join(self.packages)})\b", re.IGNORECASE)
        seen = set[str]()
        for label, package in enumerate(self.packages):
            long = (d for d in docstrings([package]) if d.text.count(" ") >= MIN_WORDS)
            modules: dict[str, list[Text]] = {}
            for found in islice(long, int(SPARE * sum(sizes)) + N_SPARE):
                text = names.sub(" ", found.text)
                if (start := " ".join(_words(text)[: self.length])) not in seen:
                    seen.add(start)
                    modules.setdefault(found.module, []).append(Text(label, text))
            own = [modules[name] for name in rng.permutation(sorted(modules)).tolist()]
            for split, size in zip(splits, sizes, strict=True):
                taken: list[Text] = []
                while own and len(taken) < size:
                    taken += own.pop()
                if len(taken) < size:
                    raise ValueError(
                        f"task.packages: {package} has too few documentation strings for "
                        f"{sum(sizes)} of each package; ask for fewer texts, or leave it out"
                    )
                split += taken[:size]
        return splits

    def _of_file(self, file: str, rng: np.random.Generator) -> Sequence[list[Text]]:
        """Texts for training in the order of the file, for validation and test as drawn."""
        texts = _table(file)[1]
        n_others = self.n_val + self.n_test
        if n_others >= len(texts):
            raise ValueError(
                f"task.file={file} has {len(texts)} texts, and task.n_val={self.n_val} and "
                f"task.n_test={self.n_test} leave none for training"
            )
        places = rng.permutation(len(texts)).tolist()
        train = [texts[i] for i in sorted(places[n_others:])][: self.n_train]
        others = [texts[i] for i in places[:n_others]]
        return train, others[: self.n_val], others[self.n_val :]


Encode = Callable[[Sequence[str]], torch.Tensor]


def _by_words(train: Iterable[str], n_words: int, length: int) -> Encode:
    """Numbers of the most frequent words, of equally frequent ones the first by alphabet."""
    counts = Counter(word for text in train for word in _words(text))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:n_words]
    numbers = {word: number for number, word in enumerate(frequent, N_SPECIAL)}

    def encode(texts: Sequence[str]) -> torch.Tensor:
        rows = np.full((len(texts), length), PADDING, np.int64)
        rows[:, 0] = BEGINNING
        for row, text in zip(rows, texts, strict=True):
            words = _words(text)[: length - 1]
            row[1 : 1 + len(words)] = [numbers.get(word, RARE) for word in words]
        return torch.from_numpy(rows)

    return encode


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _by_tokenizer(folder: Path, length: int) -> Encode:
    """Numbers of the tokenizer in a folder."""
    if not folder.is_dir():
        raise ValueError(
            f"task.pretrained={folder} is no folder on this machine; give one that save_pretrained "
            "of transformers has written, with its tokenizer"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ModuleNotFoundError(
            f"task.pretrained needs transformers ({error}): pip install transformers"
        ) from error
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def encode(texts: Sequence[str]) -> torch.Tensor:
        settings = {"truncation": True, "max_length": length, "padding": "max_length"}
        return torch.tensor(tokenizer(list(texts), **settings)["input_ids"])

    return encode


@lru_cache(maxsize=1)
def _table(file: str) -> tuple[tuple[str, ...], list[Text]]:
    """The labels of a table, sorted, and its texts."""
    try:
        with Path(file).open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"label", "text"} <= set(table.fieldnames or ()):
                raise ValueError(
                    f"task.file={file}: the first line names columns label and text, separated by "
                    f"a tab; it names {', '.join(table.fieldnames or ()) or 'none'}"
                )
            rows = [(row["label"], row["text"]) for row in table]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"task.file={file} cannot be read: {error}") from error
    for number, (label, text) in enumerate(rows, 2):
        if not label or not text:
            raise ValueError(f"task.file={file}, line {number}: a label, a tab and a text, please")
    labels = tuple(sorted({label for label, _ in rows}))
    numbers = {label: number for number, label in enumerate(labels)}
    return labels, [Text(numbers[label], text) for label, text in rows]
