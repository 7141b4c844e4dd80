"""Trials of several batch sizes share a stack where that is exact and pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn

from iolaus.trainer.data import Examples
from iolaus.trainer.lanes import _sizes, serve
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._sizes import is_filling_up_exact, stack_size
from iolaus.trainer.lanes.kind import Kind, kind_of
from iolaus.trainer.loop import seeded, start
from iolaus.trainer.settings import CONF, Settings, read
from iolaus.trainer.tasks.digits import Digits

Compose = Callable[..., DictConfig]
COMMON = ("precision=float64", "report_every=5", "eval_every=10", "clip=norm", "optim=adam")
DIGIT_SUM = ("task=digit_sum", "task.n_train=200", "task.n_val=50", "task.n_test=50")


@pytest.fixture(scope="module")
def digits_kind() -> Kind:
    with initialize_config_dir(str(CONF), version_base=None):
        run = read(hydra_compose("config", ["task=digits"]))
    return kind_of(run, model_of(run), 1)


def model_of(run: Settings) -> nn.Module:
    with seeded(run.seed, run.device):
        return start(run).model


@pytest.mark.parametrize(
    "runs",
    [
        ("task=digits", "model=mlp"),
        ("task=digits", "model=mlp", "model.dropout=0.3", "task.max_shift=1"),
        ("task=digits", "model=cnn", "loss.flood=2.2"),
        (*DIGIT_SUM, "model=lstm"),
        (*DIGIT_SUM, "model=rnn", "loss.reduction=mean", "loss.l1=0.001"),
    ],
    ids=" ".join,
)
def test_a_batch_that_is_filled_up_is_the_batch_alone(
    compose: Compose, alone: Any, together: Any, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside larger batches, in their stack, a run's numbers are the solo loop's to 1e-10 in
    float64; so are those of one whose batches grow and shrink among them.
    """
    monkeypatch.setattr(_sizes, "STEP_COSTS_EXAMPLES", {"cpu": 10**6})
    sizes = ("batch_size=24", "batch_size=16", "batch.schedule=[[0,8],[4,24],[11,12]]")
    settings = [
        read(compose(*runs, *COMMON, size, f"seed={i}", f"steps={15 + i}"))
        for i, size in enumerate(sizes)
    ]
    stacks = built(monkeypatch)
    assert_equal(alone(settings), together(settings))
    assert stacks == [24]


def test_where_examples_know_of_each_other_each_size_has_its_stack(
    compose: Compose, alone: Any, together: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With BatchNorm no batch is filled up, however little that would cost."""
    settings = [
        read(compose("task=digits", "model=cnn", "model.norm=batch", *COMMON, size, "steps=5"))
        for size in ("batch_size=8", "batch_size=16", "batch_size=15")
    ]
    stacks = built(monkeypatch)
    assert_equal(alone(settings), together(settings))
    assert stacks == [16, 15, 8]


def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the batch size of each stack that is made."""
    sizes: list[int] = []
    monkeypatch.setattr(
        serve, "Group", lambda kind, *given: sizes.append(kind.batch_size) or Group(kind, *given)
    )
    return sizes


def assert_equal(alone: Any, together: Any) -> None:
    for one, other in zip(alone, together, strict=True):
        assert [r["step"] for r in one.reports] == [r["step"] for r in other.reports]
        for a, b in zip(one.reports, other.reports, strict=True):
            assert b == pytest.approx(a, rel=1e-10, abs=1e-10)
        assert other.outcome.final == pytest.approx(one.outcome.final, rel=1e-10, abs=1e-10)


class MeanRemoved(nn.Sequential):
    """A model whose output for an example depends on the others, by no module one could name."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return y - y.mean(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Digits):
    """A loss that compares the examples of a batch."""

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        logits: Tensor = model(batch.inputs)
        return (logits @ logits.T).logsumexp(-1)


@pytest.mark.parametrize(
    ("is_exact", "overrides"),
    [
        (True, ["task=digits"]),
        (True, ["task=digits", "model.dropout=0.1", "task.flip=0.5"]),
        (True, [*DIGIT_SUM, "model=transformer", "model.dropout=0.1"]),
        (False, ["task=digits", "model=cnn", "model.norm=batch"]),
        (False, ["task=digits", "batch.accumulate=2"]),
    ],
    ids=str,
)
def test_whose_batches_may_be_filled_up(
    compose: Compose, is_exact: bool, overrides: list[str]
) -> None:
    """Those whose examples know nothing of each other; the model is the same afterwards."""
    run = read(compose(*overrides, "batch_size=16"))
    model = model_of(run)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert is_filling_up_exact(run, model) == is_exact
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_examples_that_know_of_each_other_are_found_by_what_comes_out(compose: Compose) -> None:
    """A mean over the batch in a model, or a loss that compares its examples, has no name."""
    run = read(compose("task=digits"))
    model = model_of(run)
    assert not is_filling_up_exact(run, MeanRemoved(*model))
    task = Contrastive(**{f.name: getattr(run.task, f.name) for f in dataclasses.fields(run.task)})
    assert not is_filling_up_exact(dataclasses.replace(run, task=task), model)


@given(
    own=st.integers(1, 200),
    n_runs=st.integers(1, 20),
    n_steps=st.integers(0, 10**5),
    stacks=st.dictionaries(
        st.integers(1, 200), st.dictionaries(st.integers(1, 200), st.integers(0, 20)), max_size=4
    ),
)
def test_a_run_joins_the_stack_that_adds_fewest_examples(
    digits_kind: Kind, own: int, n_runs: int, n_steps: int, stacks: dict[int, dict[int, int]]
) -> None:
    """Never one of smaller batches; one of its own size if there is one; none if more is added for
    the runs of its size than a step of one more stack costs, which is less in a long run.
    """
    asks = dataclasses.replace(digits_kind, batch_size=own)
    size = stack_size(asks, n_runs, n_steps, stacks)
    assert size == own or size in stacks
    assert size >= own
    if own in stacks:
        assert size == own
    if size != own:
        added = (n_runs + stacks[size].get(own, 0)) * (size - own)
        assert added * n_steps <= 100 * (n_steps + 1000) * (1 + 1e-9)
        assert stack_size(asks, n_runs, n_steps // 2, stacks) <= size
