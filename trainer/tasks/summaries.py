"""Texts and their summaries: a file of your own, or documentation strings and their first lines."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.docstrings import docstrings
from iolaus.trainer.models.summariser import END, PAD, UNKNOWN
from iolaus.trainer.tasks.base import Task

__all__ = ["Summaries", "Vocabulary", "read_pairs", "words_of"]

SPECIAL = ("<pad>", "<unknown>", "<start>", "<end>")  # as models.summariser numbers them
SPLITS = ("train", "val", "test")
TEST_SHARE = VAL_SHARE = 10  # per cent of the groups
ROUGE = ("rouge1", "rouge2", "rougeL")


class Pair(NamedTuple):
    """A text and its summary; texts of one group are in one split."""

    group: str
    text: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Summaries(Task):
    """Summarise a text, word by word.

    path: your own file, .jsonl (an object a line, with text_key and summary_key) or .tsv (columns
    of these names in its first line); None for the documentation strings of `packages`, the body of
    each with its first line. n_text, n_summary: words that are kept of each, the summary's with its
    end. min_words: pairs of which one has fewer are left out. n_vocabulary: most frequent words of
    the training texts and summaries, four of them special; others are unknown. n_train, n_val,
    n_test: pairs at most, in file order. data_seed: which groups (modules; in your own file the
    texts) are set aside, a tenth each for validation and test. n_scored: validation examples whose
    summaries are written at the end of a run and scored by ROUGE, 0 for none.

    The file is read line by line. Vocabulary and numbered words are kept in `cache_folder()` under
    a checksum of what they come from. A text that stands twice counts once.
    """

    path: str | None = None
    text_key: str = "article"
    summary_key: str = "summary"
    packages: Sequence[str] = ()
    n_text: int = 120
    n_summary: int = 30
    min_words: int = 2
    n_vocabulary: int = 20_000
    n_train: int = 1_000_000
    n_val: int = 1000
    n_test: int = 1000
    data_seed: int = 0
    n_scored: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "packages", tuple(self.packages))  # has a hash, as lanes ask for
        for name in ("n_text", "n_summary", "min_words", "n_train", "n_val", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name} must be from 1 up; got {getattr(self, name)}")
        if self.n_vocabulary <= len(SPECIAL):
            raise ValueError(
                f"task.n_vocabulary must be above {len(SPECIAL)}, the special words; "
                f"got {self.n_vocabulary}"
            )
        if self.path is not None and Path(self.path).suffix not in (".jsonl", ".tsv"):
            raise ValueError(f"task.path must end in .jsonl or .tsv; got {self.path}")
        if self.path is not None and not Path(self.path).is_file():
            raise ValueError(f"task.path={self.path} is no file")
        if self.path is None and not self.packages:
            raise ValueError(
                "task.path and task.packages are both empty: name a file or some packages"
            )
        if self.n_scored and find_spec("rouge_score") is None:
            raise ValueError(
                "ROUGE comes from the package rouge-score: pip install rouge-score, or take "
                "task.n_scored=0"
            )

    def data(self) -> Splits:
        """Inputs int64 [n, n_text] and targets int64 [n, n_summary], padded with 0."""
        known = self._numbered()
        splits = {}
        for split in SPLITS:
            texts, summaries = (
                torch.from_numpy(known[f"{split}_{part}"].astype(np.int64))
                for part in ("texts", "summaries")
            )
            if not len(texts):
                raise ValueError(
                    f"no pair of {self._source()} is left for {split}: it has too few, or "
                    f"task.min_words={self.min_words} is too high"
                )
            splits[split] = Examples(texts, summaries)
        return Splits(**splits)

    def vocabulary(self) -> Vocabulary:
        """The words behind the numbers."""
        return Vocabulary(tuple(map(str, self._numbered()["words"])))

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        """The mean cross-entropy of a summary's words, by a sample of the words in training."""
        return _per_summary(model(batch.inputs, batch.targets), batch.targets)

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        """The mean cross-entropy of a summary's words: over all words, and as in training.

        "objective" is by a sample of the words, and lower: only that compares with the training
        loss.
        """
        losses = {
            "loss": model(batch.inputs, batch.targets),
            "objective": model(batch.inputs, batch.targets, sampled=True),
        }
        return {name: _per_summary(loss, batch.targets) for name, loss in losses.items()}

    def scores(self, model: nn.Module, examples: Examples) -> dict[str, float]:
        """ROUGE-1, -2 and -L, F, of the summaries that the model writes for the first n_scored.

        0 to 1. Unknown words count as wrong.
        """
        if not self.n_scored:
            return {}
        from rouge_score.rouge_scorer import RougeScorer

        first, vocabulary = examples[: self.n_scored], self.vocabulary()
        scorer = RougeScorer(list(ROUGE))
        pairs = zip(first.targets.tolist(), model(first.inputs).tolist(), strict=True)
        found = [
            scorer.score(vocabulary.text(true, "unknowable"), vocabulary.text(written))
            for true, written in pairs
        ]
        return {name: float(np.mean([score[name].fmeasure for score in found])) for name in ROUGE}

    def _source(self) -> str:
        return self.path or f"the documentation strings of {', '.join(self.packages)}"

    def _pairs(self) -> Iterator[Pair]:
        if self.path is not None:
            return read_pairs(Path(self.path), self.text_key, self.summary_key)
        return _documented(self.packages)

    def _numbered(self) -> dict[str, NDArray[np.generic]]:
        """`_number` of this task's data, from the cache where it has been done before."""
        settings = [getattr(self, name) for name in _DECISIVE]
        source = _file_sum(self.path) if self.path is not None else _source_sum(self.packages)
        key = hashlib.sha256(json.dumps([FORMAT, source, settings]).encode()).hexdigest()[:32]
        return _cached(self, cache_folder() / f"summaries-{key}.npz")


# What decides the numbered words, beside their source, and the version of the file.
_DECISIVE = (
    *("text_key", "summary_key", "n_text", "n_summary", "min_words", "n_vocabulary"),
    *("n_train", "n_val", "n_test", "data_seed"),
)
FORMAT = 1


@dataclass(frozen=True)
class Vocabulary:
    """Words by falling frequency, behind the special ones; a word's number is its place."""

    words: tuple[str, ...]

    def text(self, numbers: Sequence[int], unknown: str = "") -> str:
        """The words up to the first end, with `unknown` for those that are not known.

        Nor is a number without a word: a model of n_vocabulary numbers may write it where the texts
        have fewer words.
        """
        upto = numbers[: numbers.index(END)] if END in numbers else numbers
        said = [n for n in upto if n == UNKNOWN or n >= len(SPECIAL)]
        known = range(len(SPECIAL), len(self.words))
        return " ".join(filter(None, (self.words[n] if n in known else unknown for n in said)))


def words_of(text: str) -> list[str]:
    """Words in lower case, and each sign by itself."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def read_pairs(path: Path, text_key: str, summary_key: str) -> Iterator[Pair]:
    """The pairs of a .jsonl or .tsv file, line by line; each text is a group of its own.

    Raises ValueError, naming file and line, for a line that has not both.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows: Iterator[object]
        if path.suffix == ".tsv":
            # Quotes in running text are quotes.
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            rows = (_parsed(line, path, n) for n, line in enumerate(file, 1) if line.strip())
        for n, row in enumerate(rows, 1):
            known = row if isinstance(row, dict) else {}
            text, summary = known.get(text_key), known.get(summary_key)
            if not isinstance(text, str) or not isinstance(summary, str):
                raise ValueError(
                    f"{path}, pair {n}: it needs texts {text_key!r} and {summary_key!r} "
                    f"(task.text_key, task.summary_key); it has {', '.join(known) or 'no keys'}"
                )
            yield Pair(text, text, summary)


def _parsed(line: str, path: Path, number: int) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number} is no JSON: {error}") from error


def _documented(packages: Sequence[str]) -> Iterator[Pair]:
    """The body of each documentation string, and its first line; the module is the group."""
    for found in docstrings(packages):
        summary, _, body = found.text.partition("\n")
        yield Pair(found.module, body, summary)


def _number(task: Summaries) -> dict[str, NDArray[np.generic]]:
    """The words and numbered pairs of a task, from one pass over its source.

    words [n_vocabulary] and, of each split, SPLIT_texts [n, n_text] and SPLIT_summaries [n,
    n_summary], int32.
    """
    first_seen = {word: n for n, word in enumerate(SPECIAL)}  # numbers as words come along
    rows: dict[str, list[NDArray[np.int32]]] = {
        f"{split}_{part}": [] for split in SPLITS for part in ("texts", "summaries")
    }
    for split, text, summary in _chosen(task):
        for part, words, width in (
            ("texts", text, task.n_text),
            ("summaries", [*summary[: task.n_summary - 1], SPECIAL[END]], task.n_summary),
        ):
            numbers = [first_seen.setdefault(word, len(first_seen)) for word in words]
            rows[f"{split}_{part}"].append(_row(numbers, width))
    widths = {"texts": task.n_text, "summaries": task.n_summary}
    tables = {
        name: np.stack(own) if own else np.empty((0, widths[name.partition("_")[2]]), np.int32)
        for name, own in rows.items()
    }
    trained = np.concatenate([tables["train_texts"].ravel(), tables["train_summaries"].ravel()])
    counts = np.bincount(trained, minlength=len(first_seen))
    names = list(first_seen)
    # Of equally frequent words the first in the alphabet, so that file order does not matter.
    known = (n for n in range(len(SPECIAL), len(names)) if counts[n])
    ordered = sorted(known, key=lambda n: (-counts[n], names[n]))
    kept = [*range(len(SPECIAL)), *ordered[: task.n_vocabulary - len(SPECIAL)]]
    final = np.full(len(names), UNKNOWN, np.int32)
    final[kept] = np.arange(len(kept), dtype=np.int32)
    numbered = {name: final[table] for name, table in tables.items()}
    return {"words": np.array([names[n] for n in kept]), **_each_once(numbered)}


def _each_once(tables: dict[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
    """The pairs whose numbered text has not been in a split before: none is in two."""
    seen: set[bytes] = set()
    kept: dict[str, NDArray[np.int32]] = {}
    for split in SPLITS:
        new = []
        for i, row in enumerate(tables[f"{split}_texts"]):
            if (text := row.tobytes()) not in seen:
                seen.add(text)
                new.append(i)
        for part in ("texts", "summaries"):
            kept[f"{split}_{part}"] = tables[f"{split}_{part}"][new]
    return kept


def _chosen(task: Summaries) -> Iterator[tuple[str, list[str], list[str]]]:
    """(split, words of the text, of the summary) of the pairs that are used."""
    left = {split: getattr(task, f"n_{split}") for split in SPLITS}
    for pair in task._pairs():
        split = _split_of(pair.group, task.data_seed)
        # Of a long article only the first words are looked at.
        text = words_of(pair.text[: 40 * task.n_text])[: task.n_text]
        summary = words_of(pair.summary)
        if left[split] and min(len(text), len(summary)) >= task.min_words:
            left[split] -= 1
            yield split, text, summary


def _split_of(group: str, seed: int) -> str:
    drawn = hashlib.blake2b(group.encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    place = int.from_bytes(drawn.digest(), "little") % 100
    return "test" if place < TEST_SHARE else "val" if place < TEST_SHARE + VAL_SHARE else "train"


def _row(numbers: Sequence[int], length: int) -> NDArray[np.int32]:
    row = np.full(length, PAD, np.int32)
    row[: len(numbers)] = numbers[:length]
    return row


def _per_summary(losses: Tensor, summaries: Tensor) -> Tensor:
    is_word = (summaries != PAD).to(losses.dtype)
    return (losses * is_word).sum(1) / is_word.sum(1)


def cache_folder() -> Path:
    """Where numbered words are kept: iolaus/ in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iolaus"


def _file_sum(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4)
def _source_sum(packages: tuple[str, ...]) -> str:
    """Of what is known of the packages' sources without reading them: names, sizes and times."""
    known = []
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            stats = ((path, path.stat()) for path in sorted(Path(folder).rglob("*.py")))
            known += [(package, str(path), s.st_size, s.st_mtime_ns) for path, s in stats]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@lru_cache(maxsize=2)
def _cached(task: Summaries, path: Path) -> dict[str, NDArray[np.generic]]:
    """What the file has, or `_number` of the task, which is then written there if it can be."""
    try:
        with path.open("rb") as file, np.load(file) as known:
            return {name: known[name] for name in known.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # there is none, or half of one
        made = _number(task)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as written:
            np.savez_compressed(written, allow_pickle=False, **made)
        os.replace(unfinished, path)  # noqa: PTH105 (atomic on every system)
    except OSError:
        unfinished.unlink(missing_ok=True)
    return made
