"""BERT's schedule at any batch size; a second run and a short shuffle buffer are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.analysis.data.sweep import load
from iolaus.analysis.single_changes import single_changes
from iolaus.trainer.lint import lint, preview
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]

N_SEEDS = 4
# The task with a model of ours and few texts, for what needs no transformers.
TEXTS = (
    *("task=finetune", "task.packages=[optuna,sqlalchemy]", "task.n_train=60", "task.n_val=20"),
    *("task.n_test=20", "model=gru", "model.n_classes=null", "model.n_symbols=2003"),
)


def of_bert(n_examples: int, batch_size: int, n_epochs: int, lr: float) -> list[float]:
    """The rate of each step, as BERT's run_classifier.py and optimization.py have it."""
    n_train_steps = int(n_examples / batch_size * n_epochs)
    n_warmup_steps = int(n_train_steps * 0.1)
    rates = []
    for global_step in range(n_train_steps):
        decayed = (lr - 0.0) * (1 - min(global_step, n_train_steps) / n_train_steps) ** 1.0 + 0.0
        is_warmup = float(global_step < n_warmup_steps)
        warmup = lr * (global_step / n_warmup_steps) if n_warmup_steps else 0.0
        rates.append((1.0 - is_warmup) * decayed + is_warmup * warmup)
    return rates


def test_every_rate_is_berts_at_any_batch_size_and_number_of_epochs(compose: Compose) -> None:
    """From the config to the rate of each step; the last is not 0, and the run has no other."""
    cfg = compose("task=digit_sum", "schedule=bert", "task.n_val=2", "task.n_test=2")

    @given(
        n_examples=st.integers(20, 3000), batch_size=st.integers(1, 128), n_epochs=st.integers(1, 6)
    )
    @settings(max_examples=40)
    def check(n_examples: int, batch_size: int, n_epochs: int) -> None:
        cfg.task.n_train, cfg.batch_size, cfg.steps = n_examples, batch_size, f"{n_epochs} epochs"
        published = of_bert(n_examples, batch_size, n_epochs, cfg.optim.lr)
        if published:
            run = read(cfg)
            rates = run.schedule(np.arange(run.n_steps), run.optim.lr)
            np.testing.assert_allclose(rates, published, rtol=1e-12)
            assert rates[-1] > 0

    check()


def test_a_second_run_that_resumes_trains_nothing_and_the_ways_out_do(
    compose: Compose, tmp_path: Path
) -> None:
    """With the same length it is over where it begins, which the lint says before any compute; with
    the weights alone, or more epochs, every step is left.
    """
    best = tmp_path / "best.pt"
    # The loss is reported at the end alone: the best weights are the last.
    train(read(compose(*TEXTS, "report_every=1000")), report=lambda *_, **__: None, keep=best)

    def findings(*overrides: str) -> dict[str, str]:
        return {f.name: f.text for f in lint(preview(read(compose(*TEXTS, *overrides))))}

    resumed = findings(f"resume={best}")
    assert list(resumed) == ["over"]
    assert "the run has 11 steps and would be taken up at step 11" in resumed["over"]
    assert f"Two ways out: init_checkpoint={best}" in resumed["over"]
    larger = findings(f"resume={best}", "batch_size=30")["over"]
    assert "the run has 6 steps and would be taken up at step 11" in larger
    assert "steps='8.5 epochs'" in larger
    assert findings(f"init_checkpoint={best}") == {}
    assert findings(f"resume={best}", "batch_size=30", "steps='8.5 epochs'") == {}
    fixed = findings(f"resume={best}", "steps=6 epochs", "schedule.decay_steps=11 steps")
    assert "the rate is exactly 0 from step 11 of 22 on" in fixed["zero"]


@pytest.mark.slow
def test_a_short_shuffle_buffer_costs_accuracy_that_is_said(
    compose: Compose, tmp_path: Path
) -> None:
    """Over 4 seeds, a buffer of 50 against one as long as a class is called worse.

    STATED
    """
    pytest.importorskip("transformers")
    rows: list[dict[str, object]] = []
    for trial in range(2 * N_SEEDS):
        buffer, seed = (50, 800)[trial // N_SEEDS], trial % N_SEEDS
        cfg = compose(
            *("task=finetune", "task.n_train=800", "task.n_val=200", "task.n_test=40"),
            *(f"batch.shuffle_buffer={buffer}", f"seed={seed}", "eval_every=1 epochs"),
        )
        known = {"trial": trial, "seed": seed, "params.batch.shuffle_buffer": buffer}
        train(read(cfg), report=lambda step, k=known, **m: rows.append(k | {"step": step} | m))
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    (said,) = single_changes(load(tmp_path / "runs.parquet"))
    assert "with batch.shuffle_buffer=50 and at" in said
    assert "a difference of -0." in said
    assert "cannot be told" not in said
