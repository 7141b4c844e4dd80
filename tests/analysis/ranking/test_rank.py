"""The ranking of a sweep's settings: seeds, curves, what it warns of."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.earlier import EarlierRepeats
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.ranking import tiers
from iolaus.analysis.ranking.level import level
from iolaus.analysis.ranking.rank import Ranking, compare, rank
from iolaus.sweeps.study.fingerprint import Fingerprint


def sweep(
    trials: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    direction: str = "minimize",
    name: str = "made",
) -> Sweep:
    """A sweep with these trials (setting, objective, ...); all completed and of one code version if
    not said.
    """
    usual: dict[str, Any] = {
        "state": "complete",
        "why": "completed",
        "seed": np.nan,
        "code": "abc",
        "examples": 100.0,
        "steps": 10,
    }
    frame = trials.assign(**{key: value for key, value in usual.items() if key not in trials})
    for column in ("best", "final"):
        frame[column] = frame["objective"]
    frame["objective"] = frame["objective"].where(frame["state"] == "complete")
    empty = pd.DataFrame(
        {"trial": [], "step": [], "examples": [], "seconds": [], "metric": [], "value": []}
    )
    return Sweep(
        name=name,
        metric="loss",
        directions=(direction,),
        metric_goal=direction,
        trials=frame.rename_axis("number"),
        curves=empty if curves is None else curves,
    )


def repeated(values: dict[str, list[float]]) -> pd.DataFrame:
    """Trials of settings with several seeds: the first of each leads."""
    rows: list[dict[str, object]] = []
    for variant, own in values.items():
        leader = len(rows)
        rows += [
            {"setting": leader, "seed": seed, "objective": value, "params.variant": variant}
            for seed, value in enumerate(own)
        ]
    return pd.DataFrame(rows)


def test_four_variants_of_one_model_are_one_tier() -> None:
    """Four variants that are the same model share first place once repeated, and the noise
    floor is stated.
    """
    rng = np.random.default_rng(1)
    measured = {
        "cross-entropy only": 35.7,
        "per layer and head": 35.5,
        "per layer": 35.4,
        "simplified": 35.1,
    }
    bleu = {
        variant: [first, *(35.4 + rng.normal(0, 0.3, 2))] for variant, first in measured.items()
    }
    found = rank(sweep(repeated(bleu), direction="maximize"))
    assert list(found.table["tier"]) == [1, 1, 1, 1]
    assert found.noise_source == "seeds"
    assert 0.1 < found.noise < 0.6
    assert found.smallest_difference > 0.6
    assert "4 of 4 settings share first place" in found.headline()


def test_a_clear_winner_stands_alone_in_either_direction() -> None:
    """The setting that is far better is first, alone, by lowest or by highest as the study asks."""
    values = {"a": [1.0, 1.1, 0.9], "b": [3.0, 3.1, 2.95], "c": [3.05, 2.9, 3.0]}
    low = rank(sweep(repeated(values)))
    high = rank(
        sweep(repeated({k: [-x for x in v] for k, v in values.items()}), direction="maximize")
    )
    assert low.first == high.first == [0]
    assert list(low.table["tier"]) == list(high.table["tier"]) == [1, 2, 2]
    assert np.allclose(low.table["level"], -high.table["level"])
    assert np.allclose(low.table["low"], -high.table["high"])
    assert low.seeds_to_settle == 0


def test_pruned_failed_and_duplicates_are_not_seeds() -> None:
    """Only own completed runs are ranked; settings that did not complete come last, without tier,
    by their best.
    """
    trials = repeated({"a": [1.0, 1.2], "b": [2.0, 2.2]})
    more = pd.DataFrame(
        {
            "setting": [4, 5, 6, 0],
            "objective": [5.0, 0.1, np.nan, 1.0],
            "state": ["pruned", "pruned", "fail", "complete"],
            "why": [
                "pruned: stalled",
                "pruned: slow",
                "failed: no memory",
                "duplicate: the setting of trial 0",
            ],
            "params.variant": ["c", "d", "e", "a"],
        }
    )
    found = rank(
        sweep(
            pd.concat([trials, more], ignore_index=True).fillna(
                {"state": "complete", "why": "completed"}
            )
        )
    )
    assert list(found.table["setting"]) == [0, 2, 5, 4, 6]
    assert list(found.table["n_seeds"]) == [2, 2, 0, 0, 0]
    assert found.table["tier"].isna().tolist() == [False, False, True, True, True]
    assert found.table["why"].iloc[-1] == "failed: no memory"


def test_an_incomplete_setting_is_called_out() -> None:
    """A setting of which one seed diverged is ranked by the others, and the reader is told."""
    trials = repeated({"a": [1.0, 1.2, 9.0], "b": [2.0, 2.2, 2.1]}).assign(
        state=["complete", "complete", "pruned", *["complete"] * 3],
        why=["", "", "diverged", "", "", ""],
    )
    found = rank(sweep(trials))
    assert any("Not every seed of 0" in warning for warning in found.warnings)
    assert found.table.set_index("setting").loc[0, "n_seeds"] == 2


def alike(n_pairs: int, sd: float, seed: int = 0) -> pd.DataFrame:
    """Settings run once, far apart in pairs of near-identical ones that differ by seeds alone."""
    rng = np.random.default_rng(seed)
    rates = np.repeat(np.geomspace(1e-4, 1, n_pairs), 2) * np.tile([1, 1.05], n_pairs)
    values = np.log10(rates) ** 2 + rng.normal(0, sd, 2 * n_pairs)
    return pd.DataFrame(
        {"setting": range(2 * n_pairs), "objective": values, "params.lr": rates, "params.n": 3}
    )


def test_near_identical_settings_tell_the_noise_between_seeds() -> None:
    """Runs whose parameters nearly agree differ by what seeds differ by, within a factor of two;
    it is said, and no tier is drawn from it. Fewer than three such pairs say nothing.
    """
    for seed in range(5):
        found = rank(sweep(alike(12, 0.5, seed)))
        assert found.noise_source == "alike"
        assert 0.25 < found.noise < 1.0
        assert found.seed_difference > 2 * found.noise
        assert "24 runs of near-identical settings" in found.headline()
        assert set(found.table["tier"]) == {1}
    few = rank(sweep(alike(2, 0.5)))
    assert few.noise_source == "none"
    searched_seed = pd.DataFrame(
        {"setting": range(8), "objective": [1.0, 2.0] * 4, "params.seed": range(8)}
    )
    assert rank(sweep(searched_seed)).noise_source == "alike"
    nobody_knows = pd.DataFrame(
        {"setting": range(8), "objective": range(8), "params.lr": [0.1, 0.9, *[float("nan")] * 6]}
    )
    assert rank(sweep(nobody_knows)).noise_source == "none"


def test_earlier_sweeps_tell_the_noise_between_seeds() -> None:
    """Repeats in an earlier sweep of the task are believed before near-identical settings."""
    rng = np.random.default_rng(0)
    settings = tuple(tuple(rng.normal(m, 0.1, 4)) for m in range(8))
    earlier = (EarlierRepeats("monday", settings),)
    found = rank(replace(sweep(alike(12, 0.5)), earlier=earlier))
    assert found.noise_source == "earlier"
    assert found.noise == pytest.approx(0.1, rel=0.3)
    assert "8 repeated settings of the earlier sweep monday" in found.headline()


def test_a_lone_seed_beside_repeated_settings_is_not_better() -> None:
    """A setting with one seed that beats repeated ones beyond their noise ended lowest; whether it
    is better is left open.
    """
    trials = repeated({"a": [1.0, 1.1, 0.9], "b": [3.0, 3.1, 2.95], "c": [-3.0]})
    found = rank(sweep(trials))
    assert found.first == [6]
    assert "is better than" not in " ".join(found.sentences())
    assert "one seed cannot tell" in found.headline()


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_identical_settings_have_no_false_winner(n_seeds: int) -> None:
    """Of 30 sweeps of eight identical settings, whose seeds differ a hundred times as much as a
    curve is noisy, at most one calls a setting better; of one seed each none does.
    """
    rng = np.random.default_rng(7)
    claims = 0
    for _ in range(30):
        ends = 1.5 + rng.normal(0, 0.5, 8 * n_seeds)
        curves = curves_of(list(ends), noise=0.005, n_points=20)
        last = curves.groupby("trial")["value"].last()
        numbers = np.arange(8 * n_seeds)
        frame = pd.DataFrame(
            {
                "setting": numbers // n_seeds * n_seeds,
                "seed": numbers % n_seeds if n_seeds > 1 else np.nan,
                "objective": last,
                "params.x": numbers // n_seeds,
            }
        )
        claims += "better than" in " ".join(rank(sweep(frame, curves)).sentences())
    assert claims <= (n_seeds > 1)


def with_finalists(rng: np.random.Generator, lead: float = 0.0, n: int = 3) -> pd.DataFrame:
    """Of 32 settings, the first better by `lead`, the n best by one seed have three more each."""
    better = np.where(np.arange(32) == 0, -lead, 0.0)
    first = better + rng.normal(0, 1, 32)
    best = np.argsort(first)[:n]
    more = [(b, seed, better[b] + rng.normal()) for b in best for seed in (1, 2, 3)]
    rows = [*((k, 0, value) for k, value in enumerate(first)), *more]
    frame = pd.DataFrame(rows, columns=["setting", "seed", "objective"])
    return frame.assign(finalist=frame["seed"] > 0, **{"params.x": frame["setting"]})


def test_finalists_are_compared_with_each_other() -> None:
    """Of 30 sweeps of identical settings at most one has a winner though its finalists were chosen
    by luck; one that is better by four times the noise is found in nine of ten; finalists come
    first, and of the others nothing is claimed.
    """
    rng = np.random.default_rng(3)
    equal = [rank(sweep(with_finalists(rng))) for _ in range(30)]
    assert sum("better than" in found.headline() for found in equal) <= 1
    for found in equal:
        assert list(found.table["n_seeds"])[:4] == [4, 4, 4, 1]
        assert found.table["tier"].notna().sum() == 3
        assert found.n_others == 29
        assert "3 finalists" in found.headline()
        assert (
            "of the other 29 settings, with fewer seeds, nothing more is known" in found.headline()
        )
    apart = [rank(sweep(with_finalists(rng, lead=4.0))) for _ in range(30)]
    assert sum(f.headline().startswith("Setting 0 is better than the other 2") for f in apart) >= 27
    alone = rank(sweep(with_finalists(rng, lead=9.0, n=1)))
    assert alone.headline().startswith("Setting 0 is the finalist: objective")


def test_who_came_out_ahead_of_the_finalists_by_fewer_seeds_is_named() -> None:
    """The first of the finalists is not said to lead those that its own mean lies behind."""
    frame = repeated({"a": [1.0, 2.0, 1.5], "b": [1.6, 1.8, 1.7], "c": [1.2], "d": [3.0]})
    marked = frame["setting"].isin([0, 3])
    found = rank(sweep(frame.assign(finalist=marked)))
    assert found.headline().endswith(
        "of the other 2 settings, with fewer seeds, nothing more is known; 1 of them came out "
        "lower: 6."
    )
    turned = rank(sweep(frame.assign(finalist=marked), direction="maximize"))
    assert "; 1 of them came out higher: 7." in turned.headline()


def test_sentences_name_the_folder_of_the_sweep() -> None:
    """A command can be typed as it is said; of several sweeps there is no one folder."""
    one = replace(
        sweep(pd.DataFrame({"setting": [0, 1], "objective": [1.0, 2.0]})),
        folder=Path("multirun/a b"),
        provenance=({"command": ["python", "app.py"]},),
    )
    assert rank(one).sentences()[-1].endswith("(`iolaus top-up 'multirun/a b'`).")
    assert "`iolaus top-up DIR`" in compare([one]).sentences()[-1]


def test_settings_of_another_sweep_with_as_many_seeds_are_finalists_too() -> None:
    """A setting without the mark that has as many completed seeds takes part."""
    more = pd.DataFrame({"setting": 41, "seed": range(4), "objective": [5.0, 5.1, 4.9, 5.0]})
    frame = pd.concat([with_finalists(np.random.default_rng(0)), more], ignore_index=True)
    found = rank(sweep(frame.assign(finalist=frame["finalist"].fillna(False).astype(bool))))
    assert found.table["tier"].notna().sum() == 4
    assert found.n_others == 29


def test_what_is_not_comparable_is_said() -> None:
    """Different code versions and different numbers of examples among the ranked trials are warned
    of, with numbers.
    """
    trials = repeated({"a": [1.0, 1.2], "b": [2.0, 2.2]})
    mixed = rank(
        sweep(trials.assign(code=["abc", "abc", "def", "def"], examples=[100, 100, 800, 800]))
    )
    assert any("different code versions" in w and "2 of abc" in w for w in mixed.warnings)
    assert any("100 to 800" in w for w in mixed.warnings)
    assert not [w for w in rank(sweep(trials)).warnings if "code" in w or "examples" in w]


def curves_of(
    ends: list[float], noise: float, metric: str = "loss", n_points: int = 60
) -> pd.DataFrame:
    """One falling noisy curve per trial that flattens at a level."""
    rng = np.random.default_rng(1)
    steps = np.arange(n_points) * 10
    return pd.concat(
        pd.DataFrame(
            {
                "trial": trial,
                "step": steps,
                "metric": metric,
                "value": end + 2.0 * np.exp(-steps / 60) + rng.normal(0, noise, n_points),
            }
        )
        for trial, end in enumerate(ends)
    ).assign(examples=np.nan, seconds=0.0)


def test_without_repeats_no_setting_is_better() -> None:
    """Settings run once share one tier, however far apart; the curves tell each run's own end."""
    curves = curves_of([1.0, 1.0, 1.0, 2.0], noise=0.05)
    last = curves.groupby("trial")["value"].last()
    found = rank(sweep(pd.DataFrame({"setting": range(4), "objective": last}), curves))
    assert found.noise_source == "none"
    assert math.isnan(found.noise)
    assert found.of == "level of loss"
    assert list(found.table["tier"]) == [1, 1, 1, 1]
    assert list(found.table["setting"])[-1] == 3
    assert found.headline().startswith(f"Run {found.winner} ended lowest, objective")
    assert "which setting is better is not known" in found.headline()
    assert "this run's end, low" in found.shown()
    assert "tier" not in found.shown()
    assert (
        (found.table["low"] < found.table["level"]) & (found.table["level"] < found.table["high"])
    ).all()


def test_an_explosion_that_calmed_down_is_not_as_low_as_the_leader() -> None:
    """What a curve did long before its end is no reason to think that its end might be as low as
    the leader's.

    The values are the validation losses of two trials of the quickstart sweep.
    """
    calm = [
        2.8,
        2.5,
        2.2,
        2.1,
        2.0,
        1.9,
        1.7,
        1.6,
        1.4,
        1.4,
        1.3,
        1.3,
        1.2,
        1.1,
        1.1,
        1.0,
        0.98,
        0.94,
        0.93,
        0.89,
    ]
    exploded = [
        178,
        166,
        224,
        142,
        166,
        120,
        85,
        61,
        54,
        48,
        39,
        32,
        29,
        14,
        14,
        7.6,
        4.1,
        6.0,
        4.9,
        4.5,
    ]
    rows = [
        (n, step, value)
        for n, losses in enumerate([calm, exploded])
        for step, value in enumerate(losses)
    ]
    curves = pd.DataFrame(rows, columns=["trial", "step", "value"]).assign(
        metric="loss", examples=1.0, seconds=1.0
    )
    trials = pd.DataFrame({"setting": [0, 1], "objective": [0.89, 4.5]})
    table = rank(sweep(trials, curves)).table
    assert table["high"][0] < table["low"][1]


def of_curves(curves: list[np.ndarray]) -> Ranking:
    """The ranking of settings run once, whose objectives are the last values of these curves."""
    rows = [
        (n, 10 * step, value)
        for n, losses in enumerate(curves)
        for step, value in enumerate(losses)
    ]
    frame = pd.DataFrame(rows, columns=["trial", "step", "value"]).assign(
        metric="loss", examples=1.0, seconds=1.0
    )
    return rank(
        sweep(
            pd.DataFrame({"setting": range(len(curves)), "objective": [c[-1] for c in curves]}),
            frame,
        )
    )


def test_a_loss_that_still_falls_is_not_behind_itself() -> None:
    """The end of a straight fall is its last value, not the mean of the last few: beating a flat
    one above.
    """
    u = np.linspace(0, 1, 20)
    table = of_curves([3 - 2 * u, 1.08 + 0.005 * (-1) ** np.arange(20)]).table
    assert list(table["setting"]) == [0, 1]
    assert table["level"][0] == pytest.approx(1.0)
    assert table["low"][1] < 1.08 < table["high"][1]


def test_a_drop_at_the_end_is_no_spike() -> None:
    """A loss that drops in its last reports may lead; its interval says that it is badly known."""
    rng = np.random.default_rng(0)
    late = np.r_[np.full(6, 2.8), 2.7, 2.3]
    table = of_curves([late, *(2.5 + rng.normal(0, 0.01, 8) for _ in range(5))]).table.set_index(
        "setting"
    )
    assert table["low"][0] < 2.3 < table["high"][0]
    assert table["high"][0] > table["low"][1:].max()


def test_identical_settings_are_one_tier_whatever_the_noise_remembers() -> None:
    """Equal curves under white or autocorrelated noise are split in few sweeps (claimed: 5 %; 12 of
    100: p < .005).
    """
    rng = np.random.default_rng(1)
    course = 1 + np.exp(-np.linspace(0, 6, 30))
    for memory in (0.0, 0.5):
        split = 0
        for _ in range(100):
            noise = rng.normal(0, 0.05, (4, 50))
            for i in range(1, 50):
                noise[:, i] = memory * noise[:, i - 1] + math.sqrt(1 - memory**2) * noise[:, i]
            known = [level(np.arange(30) * 10, course + e[20:], "final") for e in noise]
            split += tiers.tiers(tiers.from_curves(*np.array(known).T)).max() > 1
        assert split < 12


def test_the_curve_is_that_of_the_objective() -> None:
    """An objective that is another metric's last value takes its noise from that metric, not from
    the watched one.
    """
    curves = pd.concat([curves_of([1.0, 2.0], 0.3), curves_of([5.0, 6.0], 0.01, "val_loss")])
    last = curves[curves["metric"] == "val_loss"].groupby("trial")["value"].last()
    found = rank(sweep(pd.DataFrame({"setting": [0, 1], "objective": last}), curves))
    assert found.of == "level of val_loss"
    assert (found.table["high"] - found.table["low"] < 0.1).all()


@pytest.mark.parametrize("n_there", [0, 20])
def test_a_result_may_come_before_its_curve(n_there: int) -> None:
    """Of a running sweep one curve may end before its trial did: the others' noise is known, and
    its own is not.
    """
    curves = curves_of([0.2 * n for n in range(8)], 0.01)
    last = curves.groupby("trial")["value"].last()
    trials = pd.DataFrame({"setting": range(8), "objective": last, "steps": curves["step"].max()})
    found = rank(
        sweep(
            trials, curves[(curves["trial"] != 3) | (curves["step"] < curves["step"].iloc[n_there])]
        )
    )
    assert found.of == "level of loss"
    table = found.table.set_index("setting")
    assert table["low"].isna().to_dict() == {n: n == 3 for n in range(8)}
    assert table["level"][3] == pytest.approx(last[3])


def test_nothing_known_is_one_tier() -> None:
    """An objective without curve or repeats gives an order but no claim: one tier and a warning."""
    found = rank(sweep(pd.DataFrame({"setting": range(3), "objective": [3.0, 1.0, 2.0]})))
    assert list(found.table["setting"]) == [1, 2, 0]
    assert list(found.table["tier"]) == [1, 1, 1]
    assert found.noise_source == "none"
    assert "how much seeds differ in such sweeps has not been measured" in found.headline()


@pytest.mark.parametrize("state", ["fail", "pruned", "running"])
def test_awkward_sweeps_are_ranked_too(state: str) -> None:
    """Sweeps with no trial, one trial, or none that completed give a table, words, and HTML."""
    one = pd.DataFrame({"setting": [0], "objective": [1.0], "state": [state]})
    for trials in (one, one.iloc[:0], one.assign(state="complete")):
        found = rank(sweep(trials))
        assert len(found.table) == len(trials)
        assert found.sentences()
        assert "<table" in found._repr_html_()
    assert rank(sweep(one.assign(objective=np.inf))).first == []


def test_running_trials_are_ordered_by_their_likely_end() -> None:
    """Of two running trials the one that still falls is first, though the other is lower by now;
    both have no tier.
    """
    steps = np.arange(0, 100, 2)
    falling, flat = 6.0 * (steps + 1.0) ** -0.4, np.full(50, 0.95)
    curves = pd.DataFrame(
        {
            "trial": np.repeat([1, 2], 50),
            "step": np.tile(steps, 2),
            "metric": "loss",
            "value": [*flat, *falling],
        }
    )
    trials = pd.DataFrame(
        {"setting": [1, 2], "objective": [0.95, falling[-1]], "state": "running", "n_steps": 1000}
    )
    found = rank(
        sweep(trials.set_index(pd.Index([1, 2])), curves.assign(examples=np.nan, seconds=0.0))
    )
    assert falling[-1] > 0.95
    assert list(found.table["setting"]) == [2, 1]
    assert found.table["tier"].isna().all()


def test_no_setting_is_called_better_for_what_it_ran_with() -> None:
    """A claim across sessions that differ says so; where those ranked ran alike, nothing is said.

    The code's version decides only where nothing better is known.
    """
    trials = repeated({"a": [1.0, 1.01], "b": [2.0, 2.01], "c": [2.0, 2.01]})
    plain = trials.assign(fingerprint="f", ran_with="")
    (said,) = (s for s in rank(sweep(plain)).sentences() if "is better than" in s)
    assert "the other 2, beyond the noise of seeds: objective 1.005" in said
    differ = rank(sweep(plain.assign(ran_with=[*["epochs=5"] * 2, *["epochs=40"] * 4])))
    (said,) = (s for s in differ.sentences() if "is better than" in s)
    assert "but not all ran with the same settings" in said
    assert any("2 with epochs=5" in w and "4 with epochs=40" in w for w in differ.warnings)
    assert list(differ.shown()["ran with"]) == ["epochs=5", "epochs=40", "epochs=40"]
    mixed = rank(sweep(plain.assign(ran_with=["epochs=5", "epochs=40"] * 3)))
    assert list(mixed.table["ran_with"]) == ["epochs=5 / epochs=40"] * 3
    commits = plain.assign(code=["a", "b"] * 3)
    assert not [w for w in rank(sweep(commits)).warnings if "code" in w]
    assert any("code" in w for w in rank(sweep(commits.assign(fingerprint=""))).warnings)


def test_compared_sweeps_are_told_apart_by_what_they_ran_with() -> None:
    """Across sweeps too, but for keys that one of them searches."""
    five, forty = (Fingerprint({"epochs": epochs, "lr": "0.1"}) for epochs in ("5", "40"))
    searching = Fingerprint({"epochs": "5"})
    runs = repeated({"a": [1.0, 1.2], "b": [2.0, 2.2]})

    def ran(known: Fingerprint) -> Sweep:
        trials = runs.assign(fingerprint=known.id, ran_with="")
        return replace(sweep(trials), fingerprints={known.id: known})

    both = compare([ran(five), ran(forty)])
    assert sorted(both.table["ran_with"]) == ["epochs=40"] * 2 + ["epochs=5"] * 2
    alike = compare([ran(five), replace(ran(searching), space={"lr": {}})])
    assert not alike.table["ran_with"].any()


def test_a_setting_and_its_copy_are_one() -> None:
    """What two sweeps ran alike is one setting with the seeds of both; a run that is in both counts
    once, one that is fixed there and searched here is the same, other code is not.
    """
    known = Fingerprint({"epochs": "5", "variant": "a"})

    def ran(runs: pd.DataFrame, known: Fingerprint = known) -> Sweep:
        trials = runs.assign(fingerprint=known.id, ran_with="")
        space = {"variant": {}} if "params.variant" in runs else {}
        return replace(sweep(trials), fingerprints={known.id: known}, space=space)

    four = repeated({"a": [1.0, 1.1, 0.9, 1.2], "b": [3.0, 3.1, 2.9, 3.2]})
    eight = repeated({"a": [1.0, 1.1, 0.9, 1.2, 1.3, 0.8, 1.0, 1.1]})
    both = compare([ran(four), ran(eight)])
    assert list(both.table["n_seeds"]) == [8, 4]
    assert list(both.table["sweep"]) == ["made 1 and made 2", "made 1"]
    fixed = compare([ran(four), ran(eight.drop(columns="params.variant"))])
    assert list(fixed.table["n_seeds"]) == [8, 4]
    other = compare([ran(four), ran(eight, Fingerprint({"epochs": "40", "variant": "a"}))])
    assert sorted(other.table["n_seeds"]) == [4, 4, 8]
    unknown = compare([sweep(four), sweep(eight)])
    assert sorted(unknown.table["n_seeds"]) == [4, 4, 8]


def test_sweeps_are_compared_in_one_ranking() -> None:
    """Two sweeps share one ranking; each row names its sweep and its trials there, and other code
    is warned of.
    """
    old = sweep(repeated({"a": [1.0, 1.2], "b": [2.0, 2.2]}), name="old")
    new = sweep(repeated({"a": [0.1, 0.2]}).assign(code="def"), name="new")
    found = compare([old, new])
    assert list(found.table["sweep"]) == ["new", "old", "old"]
    assert list(found.table["trials"]) == [(0, 1), (0, 1), (2, 3)]
    assert found.table["setting"].is_unique
    assert list(found.shown()["sweep"]) == ["new", "old", "old"]
    assert list(found.shown()["setting"]) == [0, 0, 2]
    assert any("different code versions" in w for w in found.warnings)
    command = ["python", "-m", "app", "task=digits", "variant=a", "hydra.sweeper.n_trials=3"]
    digits = replace(new, provenance=({"command": command},))
    (said,) = (w for w in compare([old, digits]).warnings if "different options" in w)
    assert "new: task=digits" in said
    assert "variant" not in said
    with pytest.raises(ValueError, match="different directions"):
        compare([old, sweep(repeated({"a": [1.0]}), direction="maximize")])


def test_the_table_is_fit_for_json() -> None:
    """The document for machines is strict JSON: no NaN, settings in order."""
    from iolaus.analysis.ranking.rank import as_document

    trials = repeated({"a": [1.0, 1.2], "b": [2.0, 2.2]})
    text = json.dumps(as_document(rank(sweep(trials))), allow_nan=False)
    assert [row["setting"] for row in json.loads(text)["settings"]] == [0, 2]


def test_infeasible_settings_come_after_feasible_ones() -> None:
    """A completed setting that breaks a constraint has no tier, stands below those that keep it,
    and is named.
    """
    trials = repeated({"a": [0.1, 0.1], "b": [2.0, 2.2], "c": [3.0, 3.2], "d": [0.05]})
    trials = trials.assign(
        infeasible=["", "memory", "", "", "", "", ""], state=["complete"] * 6 + ["pruned"]
    )
    found = rank(sweep(trials))
    assert list(found.table["setting"]) == [2, 4, 0, 6]
    assert list(found.table["state"]) == ["complete", "complete", "infeasible", "pruned"]
    assert found.table["tier"].isna().tolist() == [False, False, True, True]
    assert found.table["why"].iloc[2] == "infeasible: breaks memory"
    assert found.first[0] == 2
    assert (
        found.warnings[0]
        == "Infeasible, so ranked after all that keep the constraints: 0 (breaks memory)."
    )
    none = rank(sweep(trials.iloc[:2]))
    assert none.first == []
    assert none.headline() == "No feasible setting has completed, so none has won."
