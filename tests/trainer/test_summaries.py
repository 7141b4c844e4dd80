"""Texts and their summaries, and the model that reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from iolaus.testing import TaskContract
from iolaus.trainer.models.summariser import END, PAD, UNKNOWN, BidirectionalLSTM, Summariser
from iolaus.trainer.tasks import summaries
from iolaus.trainer.tasks.summaries import Summaries, read_pairs, words_of

WORDS = [f"w{i}" for i in range(30)]


def pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        text = [WORDS[i] for i in rng.integers(30, size=int(rng.integers(5, 12)))]
        found.append({"article": " ".join(text), "summary": " ".join(text[:3])})
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    summaries._cached.cache_clear()
    yield tmp_path / "cache" / "iolaus"
    summaries._cached.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "news.jsonl"
    path.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs(300)))
    return path


def task(path: Path, **settings: object) -> Summaries:
    known = {"n_text": 8, "n_summary": 5, "n_vocabulary": 20, "n_scored": 0}
    return Summaries(path=str(path), **(known | settings))  # type: ignore[arg-type]


class TestSummaries(TaskContract):
    # Documentation strings of a small package; what lanes stack is the same for any data.
    overrides = (
        *("task=summarise", "task.packages=[optuna]", "task.n_scored=0", "task.n_vocabulary=200"),
        *("task.n_text=6", "task.n_summary=4", "model.n_hidden=6", "model.n_embedding=5"),
        *("model.n_sampled=20", "model.n_layers=2", "batch_size=4"),
    )


def test_words_are_numbered_by_how_often_they_are_trained_on(file: Path) -> None:
    """Behind the four special ones, from the most frequent in the training pairs; the others are
    unknown, a summary ends with its end, and what is short is padded.
    """
    made = task(file)
    splits, vocabulary = made.data(), made.vocabulary()
    assert vocabulary.words[:4] == ("<pad>", "<unknown>", "<start>", "<end>")
    assert len(vocabulary.words) == 20
    trained = torch.cat([splits.train.inputs.ravel(), splits.train.targets.ravel()])
    counts = torch.bincount(trained, minlength=20)
    assert (counts[4:].diff() <= 0).all()
    assert counts[UNKNOWN] > 0
    assert (splits.train.targets == END).sum(1).eq(1).all()
    for row in splits.train.inputs.tolist():
        n = sum(word != PAD for word in row)
        assert PAD not in row[:n]
        assert n >= 5
    assert splits.train.targets.max() < 20


def test_texts_are_set_aside_by_what_they_are(file: Path, tmp_path: Path) -> None:
    """A text is in the same split wherever in the file it stands, a tenth each are set aside, and
    one that stands twice counts once.
    """
    one = task(file).data()
    sizes = [len(split) for split in (one.train, one.val, one.test)]
    assert sum(sizes) <= 300
    assert 10 <= sizes[1] <= 60
    assert 10 <= sizes[2] <= 60
    turned = tmp_path / "turned.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    turned.write_text("".join([*lines[::-1], *lines]))
    other = task(turned).data()
    assert [len(split) for split in (other.train, other.val, other.test)] == sizes
    assert {tuple(row) for row in one.val.inputs.tolist()} == {
        tuple(row) for row in other.val.inputs.tolist()
    }


def test_tables_and_lines_of_json_are_read_alike(tmp_path: Path, file: Path) -> None:
    """A .tsv with the columns of these names gives the pairs of the .jsonl."""
    table = tmp_path / "news.tsv"
    rows = [f"{pair['summary']}\t{pair['article']}\n" for pair in pairs(300)]
    table.write_text("summary\tarticle\n" + "".join(rows))
    keys = ("article", "summary")
    assert list(read_pairs(table, *keys)) == list(read_pairs(file, *keys))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """File and line, what was asked for and what is there."""
    path = tmp_path / "news.jsonl"
    path.write_text('{"article": "a b", "title": "a"}\n')
    with pytest.raises(ValueError, match=r"news.jsonl, pair 1: .*'summary'.*it has article, title"):
        list(read_pairs(path, "article", "summary"))
    path.write_text('{"article": "a", "summary": "a"}\n{"article"\n')
    with pytest.raises(ValueError, match=r"news.jsonl, line 2 is no JSON"):
        list(read_pairs(path, "article", "summary"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "nowhere.jsonl"}, "task.path=nowhere.jsonl is no file"),
        ({"path": "news.txt"}, "task.path must end in .jsonl or .tsv; got news.txt"),
        ({}, "name a file or some packages"),
        ({"packages": ["hydra"], "n_text": 0}, "task.n_text must be from 1 up; got 0"),
        ({"packages": ["hydra"], "n_vocabulary": 4}, "task.n_vocabulary must be above 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], said: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=said):
        Summaries(**settings)  # type: ignore[arg-type]


def test_pairs_that_are_too_short_are_left_out(tmp_path: Path) -> None:
    """Where text or summary has fewer words than min_words; a file of them alone is refused."""
    path = tmp_path / "news.jsonl"
    path.write_text("".join('{"article": "one", "summary": "one two"}\n' for _ in range(3)))
    with pytest.raises(ValueError, match=r"no pair of .*news.jsonl is left for train"):
        task(path).data()


def test_numbered_words_are_kept_under_a_checksum(file: Path, own_cache: Path) -> None:
    """A second look reads one file; a changed source or setting makes another, and a damaged one is
    made again.
    """
    first = task(file).data()
    (kept,) = own_cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    summaries._cached.cache_clear()
    assert torch.equal(task(file).data().train.inputs, first.train.inputs)
    assert kept.stat().st_size > 100
    task(file, n_text=9).data()
    with file.open("a") as more:
        more.write(json.dumps(pairs(1, seed=5)[0]) + "\n")
    task(file).data()
    assert len(list(own_cache.iterdir())) == 3


def test_documentation_is_split_by_module() -> None:
    """Body to first line; no module has strings in two splits."""
    found = list(summaries._documented(["omegaconf"]))
    assert len(found) > 20
    assert all("\n" not in pair.summary for pair in found)
    assert {pair.group.partition(".")[0] for pair in found} == {"omegaconf"}
    split = {pair.group: summaries._split_of(pair.group, 0) for pair in found}
    assert set(split.values()) <= {"train", "val", "test"}


class Copies(nn.Module):
    """Writes the first words of what it reads."""

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        return torch.cat([texts[:, :3], torch.full_like(texts[:, :1], END)], 1)


def test_rouge_of_a_perfect_summary_is_1_and_unknown_words_are_wrong(file: Path) -> None:
    """The summaries here are the first three words: who copies them has all that are known."""
    pytest.importorskip("rouge_score")
    all_known = task(file, n_vocabulary=100, n_scored=10)
    found = all_known.scores(Copies(), all_known.data().val)
    assert found == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    few_known = task(file, n_vocabulary=10, n_scored=10)
    assert few_known.scores(Copies(), few_known.data().val)["rouge1"] < 0.8
    assert task(file).scores(Copies(), all_known.data().val) == {}


def test_a_number_without_a_word_is_unknown(file: Path) -> None:
    """A model may write any of its n_vocabulary numbers, also where the texts have fewer words."""
    few = task(file, n_vocabulary=100)
    vocabulary = few.vocabulary()
    assert len(vocabulary.words) == 34
    assert vocabulary.text([4, 34, 99, UNKNOWN, END, 5], "?") == f"{vocabulary.words[4]} ? ? ?"
    assert vocabulary.text([4, 99, PAD]) == vocabulary.words[4]


def test_words_and_signs() -> None:
    """Lower case, and each sign by itself."""
    assert words_of("Returns `x`, if any.") == ["returns", "`", "x", "`", ",", "if", "any", "."]


def test_the_reader_is_torchs_bidirectional_lstm() -> None:
    """With equal weights, on texts of different length, packed for torch and padded for ours."""
    torch.manual_seed(0)
    ours = BidirectionalLSTM(3, 4).double()
    reference = nn.LSTM(3, 4, bidirectional=True).double()
    with torch.no_grad():
        for direction, suffix in enumerate(("", "_reverse")):
            for name in ("weight_ih", "weight_hh"):
                theirs = getattr(reference, f"{name}_l0{suffix}")
                theirs.copy_(getattr(ours, name)[direction].t())
            getattr(reference, f"bias_ih_l0{suffix}").copy_(ours.bias[direction, 0])
            getattr(reference, f"bias_hh_l0{suffix}").zero_()
    lengths = [5, 2, 4]
    inputs = torch.randn(5, 3, 3, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=False)
    out, (hidden, cell) = reference(packed)
    expected, _ = nn.utils.rnn.pad_packed_sequence(out)
    is_word = torch.arange(5)[:, None, None] < torch.tensor(lengths)[None, :, None]
    states, our_hidden, our_cell = ours(inputs, is_word)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(our_hidden, hidden[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(our_cell, cell[0], rtol=1e-12, atol=1e-14)


def test_padding_changes_nothing() -> None:
    """Losses and what is written are the same however far a text is padded."""
    torch.manual_seed(0)
    model = Summariser(20, 4, 5, 6, n_layers=2, n_sampled=0, embedding_std=0.5).double().eval()
    texts, targets = torch.randint(4, 20, (3, 7)), torch.randint(4, 20, (3, 4))
    texts[1, 4:] = PAD
    longer = torch.cat([texts, torch.zeros(3, 5, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(longer, targets), model(texts, targets), rtol=1e-12, atol=0)
    assert torch.equal(model(longer), model(texts))


def test_what_is_written_is_the_likeliest_word_after_the_ones_before() -> None:
    """The loss of each written word, given those before, is the lowest of all words there."""
    torch.manual_seed(0)
    model = Summariser(12, 3, 5, 6, n_layers=1, n_sampled=0, embedding_std=1.0).double().eval()
    texts = torch.randint(4, 12, (5, 6))
    written = model(texts)
    for place in range(3):
        losses = []
        for word in range(12):
            tried = written.clone()
            tried[:, place] = word
            losses.append(model(texts, tried)[:, place])
        assert torch.equal(torch.stack(losses, 1).argmin(1), written[:, place])
