from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from iolaus.analysis.data.sweep import load
from iolaus.analysis.single_changes import single_changes

N_SEEDS = 6


def sweep_of(
    path: Path, accuracy: dict[tuple[int, str], float], n_seeds: int = N_SEEDS
) -> list[str]:
    """The sentences on settings (batch, shuffle) that end at these accuracies, with seed noise."""
    rng = np.random.default_rng(0)
    rows = []
    for i, ((batch, shuffle), mean) in enumerate(accuracy.items()):
        for seed in range(n_seeds):
            known = {"trial": n_seeds * i + seed, "seed": seed}
            known |= {"params.batch": batch, "params.shuffle": shuffle}
            value = mean + rng.normal(0, 0.01)
            rows += [known | {"step": s, "loss": 1 / s, "val_accuracy": value} for s in (1, 2)]
    pd.DataFrame(rows).to_parquet(path)
    return single_changes(load(path))


def test_settings_that_differ_in_one_parameter_are_compared_over_their_seeds(
    tmp_path: Path,
) -> None:
    """At the best setting that has such others, for each parameter, with the interval of a paired
    t-test.
    """
    path = tmp_path / "runs.parquet"
    found = sweep_of(path, {(8, "full"): 0.8, (16, "full"): 0.7, (16, "short"): 0.3})
    of_batch, of_shuffle = found
    ends = load(path).curves.query("metric == 'val_accuracy' and step == 2")["value"].to_numpy()
    small, full, short = (f"{ends[i : i + 6].mean():.3g}" for i in (0, 6, 12))
    said = f"shuffle=full: val_accuracy ends at {full} with batch=16 and at {small} with 8: "
    assert of_batch.startswith(said)
    said = f"batch=16: val_accuracy ends at {short} with shuffle=short and at {full} with full: "
    assert of_shuffle.startswith(said)
    assert "cannot be told" not in of_batch + of_shuffle
    interval = ttest_rel(ends[12:], ends[6:12]).confidence_interval(0.95)
    assert f"95 % interval {interval.low:.2g} to {interval.high:.2g}, 6 seeds" in of_shuffle


def test_equal_settings_are_not_called_different(tmp_path: Path) -> None:
    """Where the interval holds 0 the sentence says so."""
    (found,) = sweep_of(tmp_path / "runs.parquet", {(8, "full"): 0.7, (8, "short"): 0.7})
    assert found.endswith("it cannot be told from none.")


def test_without_seeds_or_pairs_nothing_is_said(tmp_path: Path) -> None:
    """Two seeds are too few, and settings that differ in both parameters are no single change."""
    one = {(8, "full"): 0.7, (8, "short"): 0.3}
    assert sweep_of(tmp_path / "a.parquet", one, n_seeds=2) == []
    both = {(8, "full"): 0.7, (16, "short"): 0.3}
    assert sweep_of(tmp_path / "b.parquet", both) == []
