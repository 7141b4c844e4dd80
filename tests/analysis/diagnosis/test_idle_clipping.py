from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.diagnosis.idle_clipping import clipping_sentences


def made(folder: Path, shares: dict[float, float], **params: str) -> Sweep:
    """A trial per threshold, clipped in this share of its steps at each of four reports."""
    rows = [
        {"trial": trial, "step": step, "loss": 1 / step, "clipped": share}
        | {"params.clip.threshold": threshold}
        | {f"params.{key}": value for key, value in params.items()}
        for trial, (threshold, share) in enumerate(shares.items())
        for step in range(1, 5)
    ]
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)
    return load(folder / "runs.csv")


def test_clipping_that_never_acts_is_said(tmp_path: Path) -> None:
    """With how many trials, from which threshold on, and how often it acted in the others."""
    assert clipping_sentences(made(tmp_path, {1.0: 0.9, 5.0: 0.25, 100.0: 0.0, 50.0: 0.0})) == [
        "Clipping never acted in 2 of 4 trials that have it (share of clipped steps 0): from "
        "clip.threshold=50 on; in the others it acted in 0.25 to 0.9 of them."
    ]


def test_no_threshold_is_named_that_does_not_part_them(tmp_path: Path) -> None:
    """Where clipping was idle at a threshold below one at which it acted."""
    (said,) = clipping_sentences(made(tmp_path, {1.0: 0.0, 5.0: 0.25}))
    assert "clip.threshold" not in said


@pytest.mark.parametrize("shares", [{1.0: 0.5, 5.0: 0.01}, {}])
def test_clipping_that_acts_is_not_remarked(tmp_path: Path, shares: dict[float, float]) -> None:
    """Nothing is said where every clipping acted."""
    assert clipping_sentences(made(tmp_path, shares or {1.0: 1.0})) == []


def test_trials_without_clipping_are_not_counted(tmp_path: Path) -> None:
    """clip=none clips nothing, and that is no finding, whatever type pandas has for texts."""
    sweep = made(tmp_path, {1.0: 0.0, 2.0: 0.0}, clip="none")
    assert clipping_sentences(sweep) == []
    for kind in ("object", "string"):
        trials = sweep.trials.astype({"params.clip": kind})
        assert clipping_sentences(replace(sweep, trials=trials)) == []
