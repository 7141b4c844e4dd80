"""What was made wrong is seen from the curve, and the suggested fix helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig

from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]
SOUND = (
    *("task=digits", "optim=sgd", "optim.momentum=0.9", "optim.lr=0.05", "batch_size=32"),
    *("steps=200", "report_every=5", "eval_every=25"),
)
# What is made wrong, the shapes that are right, and what the fix must change to help; None: dropout
# does not help so short a run.
CAUSES = {
    "rate too low": (("optim.lr=1e-4",), ("slow", "underfitting"), "optim.lr"),
    "rate too high": (("optim.lr=3",), ("exploded", "died"), "optim.lr"),
    "few examples": (("task.n_train=60",), ("overfitting",), None),
    "too much weight decay": (
        ("optim.weight_decay=0.1",),
        ("fast_then_flat", "stalled", "underfitting"),
        "optim.weight_decay",
    ),
}


def run(compose: Compose, *overrides: str) -> tuple[float, list[dict[str, float]]]:
    """(the final validation loss, the reports) of a run."""
    rows: list[dict[str, float]] = []
    summary = train(
        read(compose(*SOUND, *overrides)), report=lambda step, **m: rows.append({"step": step} | m)
    )
    return summary.result, rows


def wrong_ones(compose: Compose, folder: Path, seed: int) -> list[str]:
    """The causes that are not seen from the curve with this seed, or whose fix does not help."""
    ends, rows = {}, []
    settings: dict[str, tuple[str, ...]] = {
        "nothing": (),
        "a higher rate": ("optim.lr=0.1",),
        **{cause: overrides for cause, (overrides, _, _) in CAUSES.items()},
    }
    for trial, (cause, overrides) in enumerate(settings.items()):
        named = dict(text.split("=") for text in (*SOUND[2:4], "optim.weight_decay=0", *overrides))
        known = {f"params.{key}": float(value) for key, value in named.items()}
        known["params.model.dropout"] = 0.0
        ends[cause], own = run(compose, *overrides, f"seed={seed}")
        rows += [{"trial": trial, **known, **row} for row in own]
    pd.DataFrame(rows).to_parquet(folder / "runs.parquet")
    diagnosis = diagnose(load(folder / "runs.parquet"))
    wrong = []
    for trial, cause in enumerate(settings):
        if cause not in CAUSES:
            continue
        overrides, shapes, key = CAUSES[cause]
        fix = diagnosis["fix"][trial]
        helps = key is None or (
            any(text.startswith(f"{key}=") for text in fix)
            and run(compose, *overrides, *fix, f"seed={seed}")[0] < ends[cause]
        )
        if diagnosis["shape"][trial] not in shapes or not helps:
            wrong.append(f"{cause}: {diagnosis['shape'][trial]} {diagnosis['fix'][trial]}")
    return wrong


@pytest.mark.slow
def test_what_is_wrong_is_seen_and_the_fix_helps(compose: Compose, tmp_path: Path) -> None:
    """Of four causes, two seeds each, at most two are not seen or have a fix that does not help.

    Of 31 seeds of each none was: a share of 2.4 % or less at 95 %, with which three or more of
    eight fail once in 1,400 times.
    """
    wrong = [found for seed in (0, 1) for found in wrong_ones(compose, tmp_path, seed)]
    assert len(wrong) <= 2, wrong
