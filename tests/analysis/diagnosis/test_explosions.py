"""Who exploded, and below which threshold nobody does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import beta

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.diagnosis.explosions import Explosions, explosions
from iolaus.analysis.figures.explosions import draw_explosions, twins

N_SEEDS = 8


def table(counts: Sequence[int], n: int = N_SEEDS) -> Explosions:
    """Explosions of so many of n seeds at each of rising thresholds, and of all unclipped."""
    rows = [
        {"clip": "norm", "clip.threshold": float(10**i), "exploded": seed < count, "seed": seed}
        for i, count in enumerate(counts)
        for seed in range(n)
    ]
    rows += [
        {"clip": "none", "clip.threshold": np.nan, "exploded": True, "seed": seed}
        for seed in range(n)
    ]
    trials = pd.DataFrame(rows).assign(
        died=False, step=np.nan, parameter="", dead_since=np.nan, measure=0.5
    )
    return Explosions(trials, (), "clip", "clip.threshold", "val_accuracy", -1.0)


@settings(deadline=None, max_examples=25)
@given(n_safe=st.integers(0, 3), others=st.lists(st.integers(0, N_SEEDS), min_size=2, max_size=4))
def test_below_the_threshold_that_is_named_no_seed_explodes(n_safe: int, others: list[int]) -> None:
    """It lies between the highest threshold up to which none does and the next; where there is
    none, or no other, the sentence says that.
    """
    counts = [0] * n_safe + others
    (said,) = [s for s in table(counts).sentences if s.startswith("clip=norm: ")]
    first = next((i for i, count in enumerate(counts) if count), None)
    if first is None:
        assert "up to the highest clip.threshold no seed explodes: 0 of 8 (0 to 37 %)" in said
    elif first == 0:
        assert "at the lowest clip.threshold already seeds explode" in said
    else:
        low, high = (f"{10.0**i:g}" for i in (first - 1, first))
        assert f"lies between {low} and {high}: 0 of 8 (0 to 37 %) explode at {low}," in said
        assert f"{counts[first]} of 8 (" in said


@settings(deadline=None, max_examples=25)
@given(n=st.integers(3, 40), share=st.floats(0, 1))
def test_intervals_are_clopper_and_pearsons(n: int, share: float) -> None:
    """Their limits are quantiles of beta distributions, and 0 or 1 where none or all do."""
    k = round(share * n)
    row = table([0, k], n).shares.set_index("clip.threshold").loc[10.0]
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["share"] == k / n


def test_the_published_interval_of_none_of_eight() -> None:
    """0 of 8: at most 0.3694 (Clopper and Pearson's tables), which the sentences round to 37 %."""
    lowest = table([0, 8]).shares.set_index("clip.threshold").loc[1.0]
    assert lowest["high"] == pytest.approx(0.3694, abs=5e-5)


def test_settings_with_fewer_seeds_are_not_counted() -> None:
    """A threshold that two seeds tried says nothing of others; nobody's explosion is hidden."""
    few = table([0, 2], n=2)
    assert few.shares.empty
    assert len(few.sentences) == 1
    assert few.sentences[0].startswith("4 of 6 trials exploded")


def made(norms: Mapping[str, Callable[[np.ndarray], Any]], losses: Any, folder: Path) -> Sweep:
    """Trials of 40 reports with these norms of W and U, by clip; the loss begins at 3."""
    steps = np.arange(1, 41)
    rows = []
    for number, (clip, norm) in enumerate(norms.items()):
        of_w, of_u = norm(steps), norm(np.maximum(steps - 2, 1))
        loss = losses[clip](steps)
        rows += [
            {"trial": number, "params.clip": clip, "step": step, "loss": loss[i]}
            | {"grad_norm/W": of_w[i], "grad_norm/U": of_u[i]}
            for i, step in enumerate(steps)
        ]
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)
    return load(folder / "runs.csv")


def test_who_when_and_which_parameter_first(tmp_path: Path) -> None:
    """A gradient of 1 that is 50 at step 11 and 0 from step 13 on has died; U follows two steps
    later, so W is first. One that is alive, at a loss that falls, has not exploded.
    """
    sweep = made(
        {
            "none": lambda s: np.where(s < 11, 1.0, np.where(s < 13, 50.0, 0.0)),
            "norm": lambda s: np.ones(len(s)),
        },
        {"none": lambda s: np.where(s < 12, 3.0, 9.0), "norm": lambda s: 3.0 * 0.95**s},
        tmp_path,
    )
    found = explosions(sweep)
    assert found.trials["exploded"].tolist() == found.trials["died"].tolist() == [True, False]
    first = found.trials.loc[0]
    assert (first["step"], first["parameter"], first["dead_since"]) == (11, "W", 13)
    assert "at step 11, first that of W in 1; it is about 0 from step 13 on." in found.sentences[1]


def test_a_loss_that_ends_above_its_start_has_exploded(tmp_path: Path) -> None:
    """Whether or not a gradient says so; it has not died while its gradient lives."""
    alive = dict.fromkeys(("none", "norm"), lambda s: np.ones(len(s)))
    losses = {"none": lambda s: np.minimum(3.0 + s, 9.0), "norm": lambda s: 3.0 * 0.95**s}
    found = explosions(made(alive, losses, tmp_path))
    assert found.trials["exploded"].tolist() == [True, False]
    assert not found.trials["died"].any()


def test_the_figure_has_both_twins_on_one_axis(tmp_path: Path) -> None:
    """W and U of the trial that died and of the one that differs in clipping alone, told apart in
    grey by width and style; norms of 0 lie at the bottom of a logarithmic axis.
    """
    sweep = made(
        {
            "none": lambda s: np.where(s < 11, 1.0, np.where(s < 13, 50.0, 0.0)),
            "norm": lambda s: np.ones(len(s)),
        },
        {"none": lambda s: np.where(s < 12, 3.0, 9.0), "norm": lambda s: 3.0 * 0.95**s},
        tmp_path,
    )
    found = explosions(sweep)
    found.trials["measure"] = 0.5
    figure = Figure()
    draw_explosions(figure, sweep, found)
    ax = figure.axes[0]
    assert ax.get_yscale() == "log"
    assert [line.get_label() for line in ax.lines] == [
        f"{name}, {what} clipping" for what in ("without", "with") for name in ("W", "U")
    ]
    assert len({(line.get_linestyle(), line.get_linewidth()) for line in ax.lines}) == 4
    assert all(len(line.get_xdata()) == 40 for line in ax.lines)
    assert min(np.min(line.get_ydata()) for line in ax.lines) == 1.0 > ax.get_ylim()[0]


def test_where_nothing_explodes_nothing_is_said(tmp_path: Path) -> None:
    """No sentence, and no twins to draw."""
    alive = dict.fromkeys(("none", "norm"), lambda s: np.ones(len(s)))
    falling = dict.fromkeys(("none", "norm"), lambda s: 3.0 * 0.95**s)
    found = explosions(made(alive, falling, tmp_path))
    assert found.sentences == ()
    assert twins(found) is None
