"""Which parameters mattered, on sweeps whose truth is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.importance import importance, interactions, shares


def sweep(trials: pd.DataFrame) -> Sweep:
    """A sweep with these trials; completed unless said."""
    usual: dict[str, Any] = {"state": "complete", "why": "completed", "setting": trials.index}
    frame = trials.assign(**{key: value for key, value in usual.items() if key not in trials})
    frame["final"] = frame["objective"]
    frame["objective"] = frame["objective"].where(frame["state"] == "complete")
    curves = pd.DataFrame(
        {"trial": [], "step": [], "examples": [], "seconds": [], "metric": [], "value": []}
    )
    return Sweep(
        name="made",
        metric="loss",
        directions=("minimize",),
        trials=frame.rename_axis("number"),
        curves=curves,
    )


def drawn(n: int, seed: int = 0) -> pd.DataFrame:
    """Random settings over a rate, a momentum and a clipping that is sometimes absent."""
    rng = np.random.default_rng(seed)
    clip = np.where(rng.random(n) < 0.5, "norm", "none")
    return pd.DataFrame(
        {
            "params.lr": 10 ** rng.uniform(-4, 0, n),
            "params.momentum": rng.uniform(0, 1, n),
            "params.clip": clip,
            "params.threshold": np.where(clip == "norm", rng.uniform(1, 10, n), np.nan),
        }
    )


def test_the_parameter_that_decides_is_first() -> None:
    """Only the rate decides: it is first and beyond chance, the others are not."""
    trials = drawn(100)
    found = importance(sweep(trials.assign(objective=(np.log10(trials["params.lr"]) + 2) ** 2)))
    assert found.index[0] == "lr"
    assert found["importance"].sum() == pytest.approx(1)
    assert list(found.index[found["beyond_chance"]]) == ["lr"]


def test_pruned_trials_show_where_it_is_bad() -> None:
    """A rate whose bad half was pruned throughout matters; the completed trials alone could not say
    so.
    """
    trials = drawn(120)
    bad = trials["params.lr"] > 0.01
    rng = np.random.default_rng(1)
    full = sweep(
        trials.assign(
            objective=np.where(bad, 5.0, 1.0) + rng.normal(0, 0.1, 120),
            state=np.where(bad, "pruned", "complete"),
        )
    )
    alone = replace(full, trials=full.trials[full.trials["state"] == "complete"])
    assert importance(full).index[0] == "lr"
    assert importance(full)["beyond_chance"]["lr"]
    assert not importance(alone)["beyond_chance"]["lr"]


def test_noise_alone_matters_to_nobody() -> None:
    """With an objective that no parameter influences, few parameters of many sweeps are beyond
    chance.
    """
    rng = np.random.default_rng(2)
    beyond = [
        importance(sweep(drawn(40, seed).assign(objective=rng.normal(size=40))))[
            "beyond_chance"
        ].mean()
        for seed in range(5)
    ]
    assert np.mean(beyond) <= 0.2


def test_chance_is_a_share() -> None:
    """What chance would reach is at most 1, as every importance is, also where the parameters
    explain nothing.
    """
    rng = np.random.default_rng(7)
    found = [
        importance(sweep(drawn(12, seed).assign(objective=rng.normal(size=12))))
        for seed in range(4)
    ]
    table = pd.concat(found)
    assert table["chance"].between(0, 1).all()
    assert table["chance"].max() == 1
    assert not table.loc[table["chance"] == 1, "beyond_chance"].any()


def test_seeds_are_not_settings() -> None:
    """Running each setting with three seeds makes nothing more important than running it once."""
    rng = np.random.default_rng(6)
    once = drawn(40).assign(objective=rng.normal(size=40))
    thrice = once.loc[once.index.repeat(3)].reset_index(drop=True)
    thrice = thrice.assign(setting=thrice.index // 3 * 3)
    pd.testing.assert_frame_equal(importance(sweep(once)), importance(sweep(thrice)))
    assert list(interactions(sweep(thrice))["settings"].unique()) == [40]


def test_importance_of_awkward_sweeps() -> None:
    """Too few trials, none, or all diverged: an empty table or zeros, no error."""
    trials = drawn(30)
    assert importance(sweep(trials.iloc[:5].assign(objective=1.0))).empty
    assert importance(sweep(trials.iloc[:0].assign(objective=1.0))).empty
    assert interactions(sweep(trials.iloc[:0].assign(objective=1.0))).empty
    assert not importance(sweep(trials.assign(objective=np.nan, state="pruned"))).empty


def test_interactions_are_told_from_sums() -> None:
    """Rate and momentum that only work together interact; effects that add up do not."""
    trials = drawn(200)
    lr, momentum = np.log10(trials["params.lr"]) / 4 + 1, trials["params.momentum"]
    rng = np.random.default_rng(3)
    together: Any = interactions(
        sweep(trials.assign(objective=(lr + momentum - 1) ** 2 + rng.normal(0, 0.01, 200)))
    )
    assert {together.loc[0, "first"], together.loc[0, "second"]} == {"lr", "momentum"}
    assert together.loc[0, "p"] < 0.001
    assert together.loc[0, "share"] > 0.3
    added = interactions(sweep(trials.assign(objective=lr + momentum + rng.normal(0, 0.3, 200))))
    assert (added["p"] > 0.05).all()


def test_shares_find_the_rule() -> None:
    """Runs above a rate without clipping explode, in nine of ten: the rule is found, in words and
    with its interval.
    """
    trials = drawn(200)
    rng = np.random.default_rng(4)
    hot = (trials["params.lr"] > 0.02) & (trials["params.clip"] == "none")
    explodes = np.where(hot, rng.random(200) < 0.93, rng.random(200) < 0.02)
    diagnosis = pd.DataFrame({"shape": np.where(explodes, "exploded", "converged")})
    found = shares(sweep(trials.assign(objective=1.0)), diagnosis).set_index("shape")
    row: Any = found.loc["exploded"]
    threshold = float(row["rule"].partition("lr above ")[2].split()[0])
    assert 0.01 < threshold < 0.04
    assert "clip = none" in row["rule"] or "without threshold" in row["rule"]
    assert row["low"] < 0.93 < row["high"]
    assert row["share_elsewhere"] < 0.1
    assert row["covered"] > 0.8
    assert "exploded" in row["sentence"]


def test_shares_say_nothing_without_reason() -> None:
    """Shapes that have nothing to do with the parameters get no rule, in all but a few sweeps."""
    rng = np.random.default_rng(5)
    n_rules = 0
    for seed in range(10):
        diagnosis = pd.DataFrame({"shape": np.where(rng.random(60) < 0.3, "slow", "converged")})
        n_rules += "slow" in set(
            shares(sweep(drawn(60, seed).assign(objective=1.0)), diagnosis)["shape"]
        )
    assert n_rules <= 2
