"""Translation: its data, its attention losses, its scores, and runs equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.deterministic import deterministic
from iolaus.trainer.loop import train
from iolaus.trainer.models.encoder_decoder import PAD
from iolaus.trainer.settings import Settings, read
from iolaus.trainer.tasks.translation import ParallelText, SpokenNumbers, Translation

Compose = Callable[..., DictConfig]
Reports = list[dict[str, float]]
SMALL = (
    *("task=translate", "task.n_train=64", "task.n_val=8", "task.n_test=8", "device=cpu"),
    *("model.n_features=16", "model.n_hidden=16", "steps=4", "report_every=1", "eval_every=2"),
    *("checkpoint.every_seconds=null", "deterministic=true"),
)


@pytest.fixture(scope="module")
def small(compose: Compose) -> Callable[..., Settings]:
    """A small run with these overrides."""
    return lambda *overrides: read(compose(*SMALL, *overrides))


def trained(run: Settings) -> Reports:
    rows: Reports = []
    train(run, report=lambda step, **metrics: rows.append({"step": step} | metrics))
    return rows


def course(rows: Reports) -> Reports:
    """The reports without the raw values of the terms."""
    return [{k: v for k, v in row.items() if not k.startswith("term/")} for row in rows]


def test_the_same_number_in_two_languages() -> None:
    """Each pair is one number's words, END closes the target, and the inputs are a word behind."""
    task = SpokenNumbers(source="de", target="en", highest=29, n_train=20, n_val=5, n_test=5)
    train_pairs, *_ = task.pairs()
    assert (("einundzwanzig",), ("twenty", "one")) in [pair for s in task.pairs() for pair in s]
    examples = task.data().train
    assert [task.text(row) for row in examples.targets] == [" ".join(t) for _, t in train_pairs]
    n_target = examples.targets.shape[1]
    said = examples.inputs[:, -n_target:]
    whole = said[:, 1:] != PAD
    assert torch.equal(said[:, 1:][whole], examples.targets[:, :-1][whole])


def test_a_users_text_is_read_by_its_lines(tmp_path: Path) -> None:
    """Words at spaces, pairs by line, empty and long ones left out, unknown words one symbol."""
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("".join(f"un mot {i}\n" for i in range(10)) + "\nlong " * 1 + "x " * 9)
    files[1].write_text("".join(f"a word {i}\n" for i in range(10)) + "empty\nlong")
    task = ParallelText(
        source_file=str(files[0]), target_file=str(files[1]), n_val=2, n_test=2, longest=5
    )
    pairs = [pair for split in task.pairs() for pair in split]
    assert sorted(pairs) == [(("un", "mot", str(i)), ("a", "word", str(i))) for i in range(10)]
    assert task.text(task.data().val.targets[0]) == "a word <unk>"
    files[1].write_text("one line\n")
    with pytest.raises(ValueError, match=r"has 12 lines and .* 1: each needs the translation"):
        task.pairs()


def test_scores_are_those_of_sacrebleu() -> None:
    """100 and 0 for what is right, and sacrebleu's own numbers for what is not."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.ter import TER

    task = SpokenNumbers(n_train=50, n_val=20, n_test=5)
    val = task.data().val

    class Parrot:
        """Writes the targets, those of the first `n_late` examples a word late."""

        def __init__(self, n_late: int) -> None:
            self.targets = val.targets.clone()
            self.targets[:n_late, 1:] = val.targets[:n_late, :-1]

        def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
            return source, source

        def decode(self, said: Tensor, memory: Tensor, ends: Tensor) -> tuple[Tensor, list[Tensor]]:
            at = min(said.shape[1] - 1, self.targets.shape[1] - 1)
            return torch.nn.functional.one_hot(self.targets[:, [at]], 100).float(), []

    assert task.scores(Parrot(0), val) == {"bleu": pytest.approx(100), "ter": 0.0}  # type: ignore[arg-type]
    parrot = Parrot(10)
    said = [task.text(row) for row in parrot.targets]
    references = [[task.text(row) for row in val.targets]]
    assert task.scores(parrot, val) == {  # type: ignore[arg-type]
        "bleu": BLEU().corpus_score(said, references).score,
        "ter": TER().corpus_score(said, references).score,
    }


@pytest.mark.parametrize("kind", ["heads", "layers", "simplified"])
def test_attention_losses_see_no_padding(small: Callable[..., Settings], kind: str) -> None:
    """Each lies between that of one word and that of all words alike, and more padding changes
    nothing; their gradients are finite.
    """
    run = small(f"task.attention_loss={kind}")
    task = run.task
    assert isinstance(task, Translation)
    torch.manual_seed(0)
    model, batch = task.build_model(run.node).double(), run.splits.train[:16]
    _, raw = task.terms(model, batch, task.term_names(run.node))
    n_words = (batch.inputs[:, : task._lengths[0]] != PAD).sum(1).double()
    highest = 1 - 1 / n_words if kind == "simplified" else n_words.log()
    for values in raw.values():
        assert (values >= -1e-12).all()
        assert (values <= highest + 1e-12).all()
    sum(values.sum() for values in raw.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_loss_that_does_nothing_changes_nothing(small: Callable[..., Settings]) -> None:
    """With weight 0 the three kinds make the run without them, to the last bit; so does a second
    run. With a weight they part from it at the step from which they are in.
    """
    alone = trained(small())
    assert trained(small()) == alone
    for kind in ("heads", "layers", "simplified"):
        assert course(trained(small(f"task.attention_loss={kind}"))) == alone
    late = course(
        trained(
            small(
                *("task.attention_loss=heads", "loss.terms.attention.weight=0.5"),
                "loss.terms.attention.from_step=1 epochs",  # 2 steps
            )
        )
    )
    assert late[:2] == alone[:2]
    assert late[2]["loss"] != alone[2]["loss"]


def test_parameters_made_in_another_order_begin_elsewhere(small: Callable[..., Settings]) -> None:
    """The same model with other first weights, which their checksum says."""
    first, second = (trained(small(f"model.decoder_first={said}")) for said in ("false", "true"))
    assert first[0]["first_weights"] != second[0]["first_weights"]
    assert first[0]["loss"] != second[0]["loss"]
    assert "first_weights" not in first[1]
    undetermined = trained(replace(small(), deterministic=False))
    assert "first_weights" not in undetermined[0]


def test_what_was_set_is_set_again_after_a_deterministic_run() -> None:
    """Threads and algorithms, also where the run raises."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    within = []

    def fail() -> None:
        with deterministic(True):
            within.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert within == [(1, True)]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_scores_are_reported_once_at_the_end(small: Callable[..., Settings]) -> None:
    """Of validation, and of the test set if it is asked for."""
    *before, last = trained(small("test=true"))
    names = {f"{split}_{score}" for split in ("val", "test") for score in ("bleu", "ter")}
    assert names <= last.keys()
    assert not any(names & row.keys() for row in before)
    assert "test_bleu" not in trained(small())[-1]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.attention_loss=some", "task.attention_loss is one of none, heads"),
        ("task.mask_after_log=true", "needs task.attention_loss=heads"),
        ("task.highest=70", "all 80 must be different ones of the 71"),
        ("+loss.terms.attn.weight=1", r"loss\.terms\.attn names no extra loss term"),
        ("model.n_heads=5", r"model\.n_features=16 must be a multiple of model\.n_heads=5"),
    ],
)
def test_bad_settings_are_refused(compose: Compose, override: str, said: str) -> None:
    """In a sentence, before any compute."""
    from iolaus.trainer.lint import preview

    with pytest.raises(BadInputError, match=said):
        preview(read(compose(*SMALL, override)))
