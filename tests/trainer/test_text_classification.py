"""Texts of a user's file and documentation strings become examples; a small encoder takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.lint import preview
from iolaus.trainer.settings import read
from iolaus.trainer.tasks.text_classification import BEGINNING, PADDING, RARE, TextClassification

Compose = Callable[..., DictConfig]

OF_FILE = ("task=finetune", "task.packages=[]", "task.n_val=4", "task.n_test=4", "task.length=6")
# A model of ours that takes such texts, for what needs no transformers.
GRU = ("model=gru", "model.n_classes=null", "model.n_symbols=2003")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twenty texts in the order of their two labels."""
    path = tmp_path / "mine.tsv"
    lines = [
        f"{label}\t{label}ish text, number {i}" for label in ("bad", "good") for i in range(10)
    ]
    path.write_text("\n".join(["label\ttext", *lines]))
    return path


def test_a_file_is_split_by_the_seed_and_training_keeps_its_order(table: Path) -> None:
    """All lines are used once; texts are cut or filled, rare words are one symbol."""
    task = TextClassification(file=str(table), n_train=None, n_val=4, n_test=4, length=5, n_words=4)
    splits = task.data()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 4, 4)
    targets = [split.targets for split in (splits.train, splits.val, splits.test)]
    assert torch.cat(targets).sum() == 10
    assert splits.train.targets.tolist() == sorted(splits.train.targets.tolist())
    words = splits.train.inputs
    assert words.shape == (12, 5)
    assert (words[:, 0] == BEGINNING).all()
    # the four most frequent: "," "number" "text", and one of the labels' words
    assert sorted(words[:, 2:].unique().tolist()) == [3, 4, 5]
    assert set(words[:, 1].unique().tolist()) == {RARE, 6}
    assert not (words == PADDING).any()
    assert (task.data().train.inputs == words).all()


def test_documentation_strings_are_as_many_of_each_package_and_no_name_is_left() -> None:
    """In the order of the packages, and the package's own name is not among the words."""
    task = TextClassification(packages=("optuna", "hydra"), n_train=20, n_val=10, n_test=10)
    splits = task.data()
    assert splits.train.targets.tolist() == [0] * 10 + [1] * 10
    assert splits.val.targets.bincount().tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"optuna has too few documentation strings for 600"):
        TextClassification(packages=("optuna", "hydra"), n_train=1000, n_val=100, n_test=100).data()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.packages=[]"], "either task.packages or task.file"),
        (["task.packages=[torch]"], "names at least two"),
        (["task.packages=[torch,no_such]"], "the package 'no_such' is not installed"),
        (["task.n_val=0"], "must be from 1 up"),
        (["task.packages=[]", "task.file=nowhere.tsv"], r"task\.file=nowhere\.tsv cannot be read"),
        ([*OF_FILE, "task.file={table}", "task.n_val=16"], "leave none for training"),
        (["task.pretrained=nowhere"], r"task\.pretrained=nowhere is no folder on this machine"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    compose: Compose, table: Path, overrides: list[str], sentence: str
) -> None:
    """Before any compute: what was asked and what to give."""
    small = ("task.n_train=8", "task.n_test=4")
    words = [word.replace("{table}", str(table)) for word in overrides]
    with pytest.raises(BadInputError, match=sentence):
        read(compose("task=finetune", *small, *words))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("a\tb\nx\ty", "first line names columns label and text"),
        ("", "it names none"),
        ("label\ttext\ngood\tone\nbad\t", "line 3: a label, a tab and a text"),
        ("label\ttext\ngood", "line 2: a label, a tab and a text"),
    ],
)
def test_a_table_that_is_none_is_refused_by_file_and_line(
    tmp_path: Path, lines: str, sentence: str
) -> None:
    """A missing column, text or label."""
    path = tmp_path / "bad.tsv"
    path.write_text(lines)
    with pytest.raises(ValueError, match=sentence):
        TextClassification(file=str(path)).data()


def test_the_model_has_as_many_classes_as_there_are_labels(compose: Compose, table: Path) -> None:
    """Any model for sequences takes the texts; a number of classes that is wrong is said."""
    file = f"task.file={table}"
    run = read(compose(*OF_FILE, *GRU, file))
    assert run.task.build_model(run.node)(run.splits.val.inputs).shape == (4, 2)
    wrong = read(compose(*OF_FILE, *GRU, file, "model.n_classes=19"))
    with pytest.raises(BadInputError, match=r"model\.n_classes=19, and the task has 2 labels"):
        preview(wrong)


def test_an_encoder_is_drawn_anew_or_read_from_a_folder(
    compose: Compose, table: Path, tmp_path: Path
) -> None:
    """What `save_pretrained` wrote gives the same logits, with another number of classes too; what
    lies beyond a text's end changes nothing.
    """
    transformers = pytest.importorskip("transformers")
    file = f"task.file={table}"
    run = read(compose(*OF_FILE, file))
    model = run.task.build_model(run.node).eval()
    tokens = run.splits.val.inputs.clone()
    tokens[:, -2:] = PADDING
    with torch.no_grad():
        assert model(tokens).shape == (4, 2)
        torch.testing.assert_close(model(tokens), model(tokens[:, :-2]))

    folder = tmp_path / "encoder"
    model.net.save_pretrained(folder)
    # A tokenizer for it, of words that are in the texts.
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "text", "number", "good", "bad"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    again = read(compose(*OF_FILE, file, f"task.pretrained={folder}"))
    read_back = again.task.build_model(again.node).eval()
    assert again.splits.train.inputs.max() < len(vocabulary)
    with torch.no_grad():
        torch.testing.assert_close(read_back(tokens), model(tokens))

    missing = read(compose(*OF_FILE, file, f"model.pretrained={tmp_path}"))
    with pytest.raises(BadInputError, match=r"model\.pretrained=.*there is no config\.json"):
        preview(missing)
