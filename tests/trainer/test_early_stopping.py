from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.best_weights import load_best
from iolaus.trainer.course import Summary
from iolaus.trainer.early_stopping import EarlyState, EarlyStopping
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]
# Few examples and no regularisation: validation is best early.
OVERFITS = (
    *("task=digits", "task.n_train=60", "optim=adam", "optim.lr=0.01", "batch_size=20"),
    *("steps=400", "report_every=10", "eval_every=10", "early_stop.patience=3"),
)


def trained(cfg: DictConfig, **own: Any) -> tuple[Summary, list[dict[str, float]], list[str]]:
    reports: list[dict[str, float]] = []
    lines: list[str] = []
    summary = train(
        read(cfg),
        tell=lines.append,
        report=lambda step, **m: reports.append({"step": step} | m),
        **own,
    )
    return summary, reports, lines


@given(
    values=st.lists(st.one_of(st.floats(0, 3), st.just(math.nan)), min_size=1, max_size=30),
    patience=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_it_stops_after_the_patience_since_the_best(
    values: list[float], patience: int, mode: str
) -> None:
    """The first evaluation with more than `patience` since the best of all before, NaN left out."""
    rule = EarlyStopping(patience=patience, mode=mode)
    state, stopped = EarlyState(), None
    for step, value in enumerate(values):
        state = rule.next(state, step, {"val_loss": value})
        if rule.ended(state, step) is not None:
            stopped = step
            break
    better = max if mode == "max" else min
    expected = None
    for step in range(len(values)):
        known = [v for v in values[: step + 1] if not math.isnan(v)]
        best = values.index(better(known)) if known else -1
        if step - best > patience:
            expected = step
            break
    assert stopped == expected


def test_a_run_that_is_stopped_returns_its_lowest_validation_loss(compose: Compose) -> None:
    """It ends a patience after its best, and says so; without patience it goes on to its end."""
    summary, reports, _ = trained(compose(*OVERFITS))
    losses = {int(r["step"]): r["val_loss"] for r in reports if "val_loss" in r}
    best = min(losses, key=losses.__getitem__)
    assert summary.n_steps == best + 40 < 400
    assert summary.result == losses[best] < summary.final["val_loss"]
    assert summary.ended.startswith(
        f"stopped early at step {best + 40}: val_loss was best at step {best}, and not in 4"
    )
    assert trained(compose(*OVERFITS, "early_stop.patience=null"))[0].ended == "done"


@pytest.mark.parametrize(
    "then", ["retrain_steps", pytest.param("retrain_epochs", marks=pytest.mark.slow)]
)
def test_it_trains_anew_on_all_examples(compose: Compose, tmp_path: Path, then: str) -> None:
    """From new weights, for as many steps or epochs as the best took, on training and validation
    examples; the result stays that of the run that was stopped.
    """
    plain, _, _ = trained(compose(*OVERFITS, "test=true"))
    cfg = compose(*OVERFITS, "test=true", f"early_stop.then={then}")
    summary, reports, lines = trained(cfg, keep=tmp_path / "best.pt")
    assert summary.result == plain.result
    assert summary.n_steps == plain.n_steps == reports[-1]["step"]
    n_steps = plain.best_step * (1 if then == "retrain_steps" else 6)  # 60 and 300 examples
    assert f"training anew on all 360 examples, for {n_steps:,} steps" in lines
    assert summary.tested["test_accuracy"] > plain.tested["test_accuracy"]
    assert load_best(tmp_path / "retrained.pt")["step"] <= n_steps


def test_it_goes_on_until_the_loss_of_the_stop_is_beaten(compose: Compose) -> None:
    """With validation examples among the others, until the loss on these is below that of then."""
    stop = trained(compose(*OVERFITS))[0]
    summary, reports, _ = trained(compose(*OVERFITS, "early_stop.then=continue"))
    losses = {int(r["step"]): r["val_loss"] for r in reports if "val_loss" in r}
    assert stop.n_steps < summary.n_steps < 400
    after = [loss for step, loss in losses.items() if step > stop.n_steps]
    assert after[-1] < losses[stop.n_steps] <= min(after[:-1], default=math.inf)
    assert "it went on with all examples, and val_loss is below" in summary.ended


def test_a_run_of_few_parameters_says_how_many(compose: Compose) -> None:
    """The last line of the log has the number of trained parameters."""
    summary, _, _ = trained(compose("task=digits", "model.n_layers=0", "steps=1"))
    assert summary.n_params == 650
    assert summary.conclusion.endswith("650 parameters")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("early_stop.patience=-1", r"early_stop\.patience must be null or a whole number"),
        ("early_stop.then=rest", r"early_stop\.then is one of stop, retrain_steps"),
        ("early_stop.watch=val_x", r"early_stop\.mode=auto: is val_x better"),
        ("early_stop.min_delta=-1", r"early_stop\.min_delta must be from 0 up"),
    ],
)
def test_settings_out_of_range_are_refused(compose: Compose, overrides: str, sentence: str) -> None:
    """By name, with what arrived, when the config is read."""
    with pytest.raises(BadInputError, match=sentence):
        read(compose(overrides))


def test_a_metric_that_is_not_measured_is_named(compose: Compose) -> None:
    """At the first evaluation, with those there are."""
    cfg = compose(*OVERFITS, "early_stop.watch=val_error")
    with pytest.raises(ValueError, match=r"early_stop\.watch=val_error is not measured"):
        trained(cfg)
    assert torch.is_grad_enabled()
