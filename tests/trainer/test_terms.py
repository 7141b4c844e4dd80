"""The extra terms of a loss: their weights, when they come in, what is reported, who is blamed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.reporting import Row
from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.lanes.kind import NotInLanesError, kind_of
from iolaus.trainer.loop import start, train, update
from iolaus.trainer.settings import LossSettings, Settings, read
from iolaus.trainer.tasks.base import Task
from iolaus.trainer.terms import MAIN, MOST_TERMS, TermSettings, terms_of, weights_at

Compose = Callable[..., DictConfig]
N_TERMS = 48  # 6 layers of 8 heads


@dataclass(frozen=True, kw_only=True)
class Line(Task):
    """A straight line through points, with terms extra.0, extra.1 ... on its two parameters.

    bad: the number of the term whose value is 0 and whose gradient is NaN.
    """

    term_groups: ClassVar[tuple[str, ...]] = ("extra",)
    n_terms: int = N_TERMS
    bad: int = -1

    def data(self) -> Splits:
        x = torch.linspace(-1, 1, 8)[:, None]
        return Splits(*(Examples(x, 3 * x[:, 0] + 1) for _ in range(3)))

    def build_model(self, cfg: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(1, 1)

    def term_names(self, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"extra.{i}" for i in range(self.n_terms))

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        return F.mse_loss(model(batch.inputs)[:, 0], batch.targets, reduction="none")

    def terms(
        self, model: nn.Module, batch: Examples, names: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        said = model(batch.inputs)[:, 0]
        raw = {name: int(name.split(".")[1]) + said**2 for name in names}
        if (bad := f"extra.{self.bad}") in raw:
            hidden = torch.full_like(said, -torch.inf)
            shares = torch.stack([said, hidden], 1).softmax(1)
            logs = torch.stack([said, hidden], 1).log_softmax(1)
            raw[bad] = (shares * logs).masked_fill(hidden[:, None] == -torch.inf, 0.0).sum(1)
        return F.mse_loss(said, batch.targets, reduction="none"), raw

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        return {"loss": self.loss(model, batch)}


@pytest.fixture
def line(compose: Compose) -> Callable[..., Settings]:
    """A run of `Line` with all its terms on these settings."""

    def made(task: Line, term: TermSettings, *overrides: str) -> Settings:
        cfg = compose(
            *("task=digits", "model=mlp", "steps=12", "batch_size=4", "report_every=1"),
            *("eval_every=12", "checkpoint.every_seconds=null", "optim.lr=0.01", "device=cpu"),
            *overrides,
        )
        names = task.term_names({}) if term.weight is not None else ()
        loss = LossSettings(terms=dict.fromkeys(names, term))
        return replace(read(cfg), task=task, splits=task.data(), loss=loss)

    return made


def reports(run: Settings) -> tuple[str, list[dict[str, float]]]:
    """How a run ended, and its reports."""
    rows: list[dict[str, float]] = []
    ended = train(run, report=lambda step, **metrics: rows.append({"step": step} | metrics)).ended
    return ended, rows


@pytest.mark.parametrize("weight", [0.0, 0.25, -1.0])
@pytest.mark.parametrize("n_accumulate", [1, 2])
def test_the_gradient_is_that_of_the_weighted_sum(
    line: Callable[..., Settings], weight: float, n_accumulate: int
) -> None:
    """By autograd over the sum written out by hand, whole or in parts; the raw values are kept."""
    run = line(Line(n_terms=3), TermSettings(weight=weight))
    run = replace(run, n_accumulate=n_accumulate)
    torch.manual_seed(0)
    state, batch = start(run), run.splits.train
    w, b = state.model.weight.detach().clone(), state.model.bias.detach().clone()
    w.requires_grad_(), b.requires_grad_()
    said = batch.inputs[:, 0] * w[0, 0] + b[0]
    total = (said - batch.targets) ** 2 + weight * (0 + 1 + 2 + 3 * said**2)
    total.mean().backward()
    found = update(run, state, batch, 0.0, weights_at(run.loss.terms, 0))
    torch.testing.assert_close(found.norms, torch.stack([w.grad.norm(), b.grad.norm()]))
    torch.testing.assert_close(found.loss, total.mean().detach())
    raw = torch.stack([(i + said**2).mean() for i in range(3)]).detach()
    torch.testing.assert_close(found.terms, raw)


def test_a_term_is_left_out_until_its_step(line: Callable[..., Settings]) -> None:
    """Up to there the run is the one without terms, to the last bit; then it is reported, and acts.

    Where the term comes in between two reports, what is reported is its mean since.
    """
    _, without = reports(line(Line(), TermSettings(weight=None)))
    _, late = reports(line(Line(n_terms=2), TermSettings(weight=0.5, from_step=5)))
    assert late[:5] == without[:5]
    assert late[5] != without[5]
    assert ["term/extra.0" in row for row in late] == [False] * 5 + [True] * 7
    _, seldom = reports(line(Line(n_terms=2), TermSettings(from_step=5), "report_every=4"))
    _, each = reports(line(Line(n_terms=2), TermSettings(from_step=5)))
    mean = sum(row["term/extra.1"] for row in each[5:8]) / 3
    assert seldom[1]["term/extra.1"] == pytest.approx(mean, rel=1e-6)


def test_a_weight_of_nothing_is_no_term(line: Callable[..., Settings]) -> None:
    """Null leaves a term out: nothing is computed, and a NaN in its gradient does no harm."""
    ended, rows = reports(line(Line(bad=7), TermSettings(weight=None)))
    assert ended == "done"
    assert not any(name.startswith(("term/", "not_finite/")) for row in rows for name in row)


@pytest.mark.parametrize("n_accumulate", [1, 2])
def test_the_term_and_the_first_parameter_are_blamed(
    line: Callable[..., Settings], n_accumulate: int
) -> None:
    """A weight of 0 does not keep a NaN gradient out; the term, not the rate, is named.

    The bias is the last operation forwards, so its gradient comes first.
    """
    run = replace(line(Line(bad=7), TermSettings(weight=0.0)), n_accumulate=n_accumulate)
    ended, rows = reports(run)
    assert rows[0]["not_finite/extra.7/bias"] == 1.0
    assert ended == (
        "diverged: the loss is nan at step 2; the gradient of the loss term extra.7 is not finite "
        "at step 1, though its value, 0, is; in the backward pass first that of bias"
    )


def test_in_half_precision_a_bad_term_is_blamed_once_no_scale_helps(
    line: Callable[..., Settings],
) -> None:
    """The scaler halves 65,536 to 1 in 16 updates that it leaves out; the next one names the term
    and ends the run, which would go on for ever with the weights it has. Its result is NaN.
    """
    run = line(Line(n_terms=8, bad=7), TermSettings(weight=0.0), "precision=fp16", "steps=40")
    summary = train(run, report=lambda *_, **__: None)
    assert summary.n_steps == 17
    assert summary.ended.startswith("diverged: no update is made any more")
    assert "the gradient of the loss term extra.7 is not finite at step 17" in summary.ended
    assert math.isnan(summary.result)
    sound = train(replace(run, task=Line(n_terms=8)), report=lambda *_, **__: None)
    assert sound.ended == "done"


def test_the_main_term_may_be_to_blame(line: Callable[..., Settings]) -> None:
    """Where the loss itself is not finite, no extra term is named for it."""
    run = line(Line(), TermSettings(weight=0.0))
    state, batch = start(run), run.splits.train
    broken = Examples(batch.inputs, torch.full_like(batch.targets, torch.inf))
    blame = update(run, state, broken, 0.0, weights_at(run.loss.terms, 0)).blame
    assert blame is not None
    assert (blame.term, blame.n_others) == (MAIN, 0)


def test_a_run_cut_off_with_terms_is_the_run_that_was_not(
    line: Callable[..., Settings], tmp_path: Path
) -> None:
    """What a checkpoint amid a window has measured of the terms counts in the next report."""
    run = line(Line(n_terms=2), TermSettings(), "report_every=4", "checkpoint.every_steps=6")
    kept: list[Path] = []
    whole: list[dict[str, float]] = []

    def report(step: int, checkpoint: Path | None = None, **metrics: float) -> None:
        if checkpoint is not None:
            kept.append(checkpoint.rename(tmp_path / f"kept-{step}"))
        whole.append({"step": step} | metrics)

    train(run, report=report, folder=tmp_path)
    again: list[dict[str, float]] = []
    train(
        run,
        report=lambda step, **metrics: again.append({"step": step} | metrics),
        get_checkpoint=lambda: kept[0],
    )
    rows = [row for row in whole if len(row) > 1]
    assert again == rows[1:]


def test_the_logs_of_48_losses_are_bounded(line: Callable[..., Settings], tmp_path: Path) -> None:
    """On average a report has MOST_TERMS of them, each below 8 bytes on disk, and all are reported.

    So a run of 48 losses takes at most 100 bytes a report for them.
    """
    run = line(Line(), TermSettings(weight=0.001), "steps=96", "eval_every=96")
    _, rows = reports(run)
    said = [
        Row(int(row["step"]), row["step"] * 0.01, {k: row[k] for k in row if k[:5] == "term/"})
        for row in rows
    ]
    n_values = sum(len(row.metrics) for row in said)
    assert {name for row in said for name in row.metrics} == {f"term/extra.{i}" for i in range(48)}
    assert n_values <= MOST_TERMS * len(rows)
    writer = CurveWriter(tmp_path, "one", clock=lambda: 0.0)
    writer.add(0, said)
    writer.close()
    n_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.parquet"))
    assert n_bytes / n_values < 8
    assert n_bytes / len(rows) < 100


def test_what_names_no_term_is_refused() -> None:
    """A key of loss.terms that the task has not, another setting, a weight that is no number."""
    names, groups = ("extra.0", "extra.1"), ("extra",)
    with pytest.raises(
        ValueError, match=r"loss\.terms\.exrta names no extra loss term of my\.Task; it "
    ):
        terms_of(names, groups, {"exrta": {}}, int, "my.Task")
    with pytest.raises(ValueError, match=r"loss\.terms\.extra names .* it has none"):
        terms_of((), (), {"extra": {}}, int, "my.Task")
    with pytest.raises(ValueError, match=r"loss\.terms\.extra takes from_step, weight; got"):
        terms_of(names, groups, {"extra": {"rate": 1}}, int, "my.Task")
    with pytest.raises(ValueError, match="finite"):
        terms_of(names, groups, {"extra": {"weight": float("nan")}}, int, "my.Task")
    assert terms_of(names, groups, {"extra": {"weight": None}}, int, "my.Task") == {}
    assert terms_of(names, groups, {}, int, "my.Task") == dict.fromkeys(names, TermSettings())


def test_lanes_are_refused_in_a_sentence(line: Callable[..., Settings]) -> None:
    """Runs with extra terms, and those that must be equal to the last bit, train alone."""
    run = line(Line(), TermSettings())
    with pytest.raises(NotInLanesError, match="the loss has extra terms"):
        kind_of(run, nn.Linear(1, 1), 4)
    with pytest.raises(NotInLanesError, match="deterministic=true: in lanes the bits"):
        kind_of(replace(run, deterministic=True), nn.Linear(1, 1), 4)
