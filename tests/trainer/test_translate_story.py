"""Extra losses with weight 0: what they change, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig
from scipy.stats import t

from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.difference import diff
from iolaus.analysis.ranking.rank import rank
from iolaus.analysis.ranking.scores import scores
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

N_SEEDS = 4
VARIANTS = ("none", "heads", "layers", "simplified", "decoder first")
SCORES = ("val_bleu", "val_ter", "test_bleu", "test_ter")


@pytest.mark.slow
def test_losses_that_do_nothing_are_one_tier(
    compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The four variants are the same to the last bit with each seed, which is said, and one tier by
    every score; a fifth that only begins elsewhere differs from them by no more than chance.

    The first part leaves nothing to luck. The second fails by luck once in 1,000 times: Student's
    two-sided quantile of that, divided by the four scores.
    """
    rows: list[dict[str, object]] = []
    for trial in range(len(VARIANTS) * N_SEEDS):
        setting, seed = divmod(trial, N_SEEDS)
        variant = VARIANTS[setting]
        kind = "none" if variant == "decoder first" else variant
        cfg = compose(
            *("task=translate", "task.n_train=64", "task.n_val=20", "task.n_test=20"),
            *("task.highest=199", "model.n_features=8", "model.n_hidden=8", "steps=8"),
            *("eval_every=4", "report_every=4", "test=true", "deterministic=true", "device=cpu"),
            *("checkpoint.every_seconds=null", f"task.attention_loss={kind}", f"seed={seed}"),
            f"model.decoder_first={str(variant == 'decoder first').lower()}",
        )
        known = {"trial": trial, "seed": seed, "setting": setting * N_SEEDS}
        known |= {"params.variant": variant}
        train(read(cfg), report=lambda step, k=known, **m: rows.append(k | {"step": step} | m))
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    sweep = load(tmp_path / "runs.parquet", metric="val_loss")

    same = "Settings 0, 4, 8 and 12 are the same to the last bit with each seed"
    assert any(text.startswith(same) for text in rank(sweep).warnings)
    found = scores(sweep, SCORES)
    for name, ranking in found.rankings.items():
        tiers = ranking.table.set_index("setting")["tier"]
        assert tiers[[0, 4, 8, 12]].nunique() == 1, name
        own = sweep.curves[sweep.curves["metric"] == name].set_index("trial")["value"]
        first, last = own[:N_SEEDS].to_numpy(), own[-N_SEEDS:].to_numpy()
        error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / N_SEEDS)
        bound = t.isf(0.0005 / len(SCORES), N_SEEDS - 1) * error
        assert abs(first.mean() - last.mean()) <= bound, name

    alike, other = diff(sweep, 0, sweep, N_SEEDS), diff(sweep, 0, sweep, 4 * N_SEEDS)
    assert alike.sentences()[0].startswith("They are identical in all ")
    assert other.began_alike is False
    assert "Their first weights differ: " in " ".join(other.sentences())


def test_a_mask_after_the_logarithm_is_blamed_on_its_term(
    compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The diagnosis names the loss term and the parameter, and its fix is a mask, no rate."""
    rows: list[dict[str, object]] = []
    for trial, is_after in enumerate(("true", "false")):
        cfg = compose(
            *("task=translate", "task.n_train=64", "task.n_val=8", "task.n_test=8", "steps=6"),
            *("model.n_features=8", "model.n_hidden=8", "report_every=1", "eval_every=3"),
            *("checkpoint.every_seconds=null", "device=cpu", "task.attention_loss=heads"),
            f"task.mask_after_log={is_after}",
        )
        known = {"trial": trial, "params.mask_after_log": is_after}
        train(read(cfg), report=lambda step, k=known, **m: rows.append(k | {"step": step} | m))
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    found = diagnose(load(tmp_path / "runs.parquet")).loc[0]
    assert found["shape"] == "exploded"
    assert (
        "the gradient of the loss term attention.0.0 is not finite at step 1, first that of "
        "decoder.layers.0.source." in found["reason"]
    )
    assert found["advice"].startswith("mask what the loss term attention.0.0 must not see before")
    assert not found["fix"]
