"""How rates went, and what became of the losses."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import ttest_ind

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.diagnosis.decays import decays
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.figures.batches import draw_batches
from iolaus.analysis.figures.decays import draw_decays
from iolaus.analysis.report.trial import described

STEPS = np.arange(20, 2001, 20)
SIZES = {"grows": 4, "small": 4, "large": 32}


def runs(tmp_path: Path, kinds: dict[str, tuple[float, float, float]]) -> Sweep:
    """A sweep of three seeds per kind: rate at the start, its decay per step, end of the loss.

    Losses fall by an exponential to that end; the floor of the rate is 0.01.
    """
    rows = []
    for setting, (kind, (lr, decay, end)) in enumerate(kinds.items()):
        for seed in range(3):
            rng = np.random.default_rng([setting, seed])
            noise = 0.02 * rng.normal(size=len(STEPS))
            losses = end + (6 - end) * np.exp(-STEPS / 150) + noise
            rates = np.maximum(0.01, lr * decay**STEPS)
            known = {"trial": 3 * setting + seed, "seed": seed, "params.kind": kind}
            rows += [
                {**known, "step": step, "loss": loss, "lr": rate, "examples": 4 * step}
                for step, loss, rate in zip(STEPS, losses, rates, strict=True)
            ]
    return seeds_of_settings(rows, tmp_path)


def seeds_of_settings(rows: list[dict[str, object]], tmp_path: Path) -> Sweep:
    """The rows as a sweep of three seeds per setting."""
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    sweep = load(tmp_path / "runs.parquet")
    leading = [number // 3 * 3 for number in sweep.trials.index]
    return dataclasses.replace(sweep, trials=sweep.trials.assign(setting=leading))


KINDS = {"flat": (0.15, 0.99999, 4.0), "spent": (0.15, 0.99, 5.0), "falls": (0.15, 0.9987, 3.0)}


def test_each_kind_of_rate_is_said_with_its_numbers(tmp_path: Path) -> None:
    """Flat and spent with the stall's step, level and noise; first the one that fell with the run,
    with the difference to the others.
    """
    found = decays(runs(tmp_path, KINDS))
    kinds = found.trials.groupby("setting")["kind"].first().tolist()
    assert kinds == ["flat", "spent", "falls"]
    flat, spent, first, *apart = found.sentences
    assert flat.startswith("The rate is flat over the run in 1 setting (0): from 0.15 to 0.147.")
    assert re.search(r"Of 3 such runs [23] stall, from step \d+ \(median; ", flat)
    assert re.search(r"at a loss of (3\.9|4\.0)", flat)
    rows = found.trials[found.trials["kind"] == "flat"]
    assert rows["level"].to_numpy() == pytest.approx(4.0, abs=0.05)
    assert rows["noise"].to_numpy() == pytest.approx(0.02, rel=0.5)
    # The highest rate that was reported is that of step 20, 0.123; 0.15 * 0.99 ** t is below
    # 0.01 + 5 % of 0.113 from t = 225 on: the report of step 240.
    assert spent.startswith("The rate is spent before half of the run in 1 setting (3): ")
    assert "spent from step 240 on, when the loss had fallen" in spent
    assert first == (
        "Settings whose rate falls over the run rank first: they are 1st of 3 by the mean "
        "objective."
    )
    ends = found.trials.groupby("kind")["objective"].apply(list)
    interval = ttest_ind(ends["falls"], ends["flat"], equal_var=False).confidence_interval()
    low, high = (f"{end:.2g}" for end in (interval.low, interval.high))
    assert f"(95 % interval {low} to {high}, 3 and 3 seeds)" in apart[0]
    assert len(apart) == 2


def test_a_rate_is_not_flat_because_its_run_was_cut_short(tmp_path: Path) -> None:
    """What was planned says how it would have gone on."""
    sweep = runs(tmp_path, {"flat": KINDS["flat"], "falls": KINDS["falls"]})
    early = dataclasses.replace(sweep, curves=sweep.curves[sweep.curves["step"] <= 200])
    plans = [[[0, lr], [2000, lr * d**2000]] for lr, d, _ in 3 * [KINDS["flat"]]]
    plans += [[[0, lr], [2000, lr * d**2000]] for lr, d, _ in 3 * [KINDS["falls"]]]
    assert (decays(early).trials["kind"] == "flat").all()
    planned = dataclasses.replace(early, trials=early.trials.assign(lr_plan=plans))
    assert decays(planned).trials["kind"].tolist() == 3 * ["flat"] + 3 * ["falls"]


def test_a_kind_of_rate_ranks_first_only_before_all_others(tmp_path: Path) -> None:
    """One setting in front is not its whole kind; where there are finalists they alone count."""
    behind = {**KINDS, "last": (0.2, 0.9987, 6.0)}
    sweep = runs(tmp_path, behind)
    said = decays(sweep).sentences
    assert "Settings whose rate falls over the run are 1st, 4th of 4 by the mean objective." in said
    assert not any("rank first" in s for s in said)
    flat, spent, first, last = sweep.trials["setting"].unique()
    trials = sweep.trials[sweep.trials["setting"].ne(first) | sweep.trials["seed"].eq(0)]
    marked = trials["setting"].isin([flat, spent, last])
    finals = dataclasses.replace(sweep, trials=trials.assign(finalist=marked))
    said = decays(finals).sentences
    assert (
        "Finalists whose rate is flat over the run rank first: they are 1st of 3 by the mean "
        "objective."
    ) in said


def test_rates_between_two_and_rates_of_two_are_said_apart(tmp_path: Path) -> None:
    """Of three rates the lowest and highest are ends of a range."""
    three = {str(lr): (lr, 0.99999, 3.0) for lr in (0.1, 0.2, 0.3)}
    said = decays(runs(tmp_path, {**three, "falls": KINDS["falls"]})).sentences[0]
    assert "from between 0.1 and 0.3 to between" in said
    two = {name: three[name] for name in ("0.1", "0.3")}
    said = decays(runs(tmp_path, {**two, "falls": KINDS["falls"]})).sentences[0]
    assert "from 0.1 or 0.3 to" in said


def test_one_kind_of_rate_needs_no_sentence(tmp_path: Path) -> None:
    """Where all rates went alike, nothing is said of them."""
    assert decays(runs(tmp_path, {"a": KINDS["falls"], "b": KINDS["falls"]})).sentences == ()


def test_runs_that_report_no_rate_need_no_sentence(tmp_path: Path) -> None:
    """Nothing is known of their rates, so nothing is said, and the figure says why it is empty."""
    rows = [{"trial": n, "step": step, "loss": 1.0 / step} for n in (0, 1) for step in STEPS]
    found = decays(seeds_of_settings(rows, tmp_path))
    assert found.trials.empty
    assert found.sentences == ()


def test_the_winner_is_named_whatever_its_kind(tmp_path: Path) -> None:
    """If the flat rate ends lowest, it ranks first."""
    found = decays(runs(tmp_path, {**KINDS, "flat": (0.15, 0.99999, 2.0)}))
    assert any(
        s.startswith("Settings whose rate is flat over the run rank") for s in found.sentences
    )


def test_batches_that_grow_are_compared_with_those_that_do_not(tmp_path: Path) -> None:
    """Settings equal but for keys of the batch: sizes in order, the step of the change, who ends
    lower.
    """
    rows = []
    for setting, (kind, first) in enumerate(SIZES.items()):
        for seed in range(3):
            examples, step, rng = 0, 0, np.random.default_rng([setting, seed])
            while examples < 6400:
                size = 32 if kind == "grows" and examples >= 3200 else first
                step, examples = step + 10, examples + 10 * size
                loss = 3 + setting + 3 * np.exp(-examples / 600) + 0.01 * rng.normal()
                rows.append(
                    {"trial": 3 * setting + seed, "seed": seed, "params.batch.kind": kind}
                    | {"step": step, "loss": loss, "lr": 0.1, "examples": examples}
                )
    sweep = seeds_of_settings(rows, tmp_path)
    (said,) = decays(sweep).sentences
    assert said.startswith("All else equal: runs of equally many examples end at 3.")
    # 3 + 3 exp(-examples / 600) at 3,040, 3,080, ... 3,200 examples, and at 3,520, 3,840, ...
    assert re.search(
        r"with a batch of 4, then 32 \(from step 800; the loss is 3\.01\d* in the 5 reports "
        r"before and 3\.00\d* in those after\), at 4\.",
        said,
    )
    assert "with a batch of 4, at 5." in said
    assert "between the first two a difference of -1" in said
    figure = Figure()
    draw_batches(figure, sweep)
    (ax,) = figure.axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["batch of 4, then 32", "batch of 4", "batch of 32"]
    (ring,) = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert float(ring.get_xdata()[0]) == 3200


def test_each_stage_of_a_rate_that_jumps_is_said_with_the_loss_at_its_end(tmp_path: Path) -> None:
    """Three stages of 400 steps, each with a loss of its own; a single jump needs no sentence."""
    rows = [
        {"trial": seed, "seed": seed, "step": step, "lr": 0.1, "loss": 4.0 - (step - 1) // 400}
        for seed in range(3)
        for step in range(20, 1201, 20)
    ]
    sweep = seeds_of_settings(rows, tmp_path)
    corners = [[0, 0.5], [399, 0.3], [400, 0.2], [799, 0.1], [800, 0.05], [1199, 0.02]]

    def said(plan: list[list[float]]) -> str:
        trials = sweep.trials.assign(lr_plan=[plan] * 3)
        return " ".join(decays(dataclasses.replace(sweep, trials=trials)).sentences)

    assert said(corners) == (
        "The rate of setting 0 jumps after steps 400, 800: at the ends of these 3 stages the loss "
        "is 4, 3, 2 (mean of 3 seeds)."
    )
    assert said([*corners[:3], [1199, 0.02]]) == ""


def test_one_seed_each_ranks_runs(tmp_path: Path) -> None:
    """Of one seed per setting no setting is said to rank first."""
    sweep = runs(tmp_path, KINDS)
    one = dataclasses.replace(sweep, trials=sweep.trials[sweep.trials["seed"] == 0])
    said = " ".join(decays(one).sentences)
    assert "Runs whose rate falls over the run rank first" in said
    assert "of one seed each" in said
    assert "Settings whose rate" not in said
    assert "interval" not in said


def test_runs_of_equally_many_steps_are_not_said_to_have_seen_as_many_examples(
    tmp_path: Path,
) -> None:
    """Where batches differ and lengths do not, the sentence says how many examples each has had."""
    rows = [
        {"trial": 3 * i + seed, "seed": seed, "params.batch_size": size}
        | {"step": step, "loss": 3 + i + 3 * np.exp(-step / 300), "lr": 0.1}
        | {"examples": step * size}
        for i, size in enumerate((4, 32))
        for seed in range(3)
        for step in STEPS
    ]
    (said,) = decays(seeds_of_settings(rows, tmp_path)).sentences
    assert said.startswith("All else equal: runs of 8,000 to 64,000 examples end at 3.")


def test_a_rebound_is_named_with_its_step(tmp_path: Path) -> None:
    """A loss that fell and climbed back for good: which run, from where, by how much."""
    losses = np.where(
        STEPS < 1000, 6 - 3 * STEPS / 1000, 3 + 1.5 * (1 - np.exp(-(STEPS - 1000) / 200))
    )
    noise = 0.01 * np.random.default_rng(0).normal(size=len(STEPS))
    rows = [
        {"trial": 0, "step": step, "loss": loss, "lr": 0.1}
        for step, loss in zip(STEPS, losses + noise, strict=True)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "runs.parquet")
    (said,) = decays(load(tmp_path / "runs.parquet")).sentences
    assert re.match(r"1 run rebounded: trial 0 from step (9\d\d|10\d\d), by 1\.[45]\.", said)


def test_weights_from_before_rebounds_are_named_with_their_step_and_file(tmp_path: Path) -> None:
    """The last ones of a run that rebounded and of one that came down again; never a file that is
    not there.
    """
    sweep = runs(tmp_path, KINDS)
    folders = [str(tmp_path / f"trials/{n}") for n in sweep.trials.index]
    sweep = dataclasses.replace(sweep, trials=sweep.trials.assign(folder=folders), folder=tmp_path)
    for trial, steps in {1: (400,), 2: (60, 1200)}.items():
        Path(folders[trial]).mkdir(parents=True)
        for step in steps:
            Path(folders[trial], f"best_before_rebound_{step}.pt").touch()
    found = decays(sweep)
    assert found.sentences[-1] == (
        "2 runs rebounded and came down: trial 1 (the weights of step 400, before the rebound, are "
        f"kept in {tmp_path}/trials/1/best_before_rebound_400.pt); trial 2 (the weights of step "
        f"1200, before the rebound, are kept in {tmp_path}/trials/2/best_before_rebound_1200.pt, "
        "and 1 earlier beside it)."
    )
    rises = sweep.curves["trial"].eq(1) & sweep.curves["metric"].eq("loss")
    values = sweep.curves["value"].where(~rises, sweep.curves["value"] + sweep.curves["step"] / 100)
    up = dataclasses.replace(sweep, curves=sweep.curves.assign(value=values))
    down, not_down = decays(up, diagnose(up).assign(shape="exploded")).sentences[-2:]
    assert down.startswith("1 run rebounded and came down: trial 2 ")
    assert not_down.startswith("1 run rebounded and did not come down: trial 1 ")
    assert "1200" in str(described(sweep, 2)["kept before a rebound"])
    assert "kept before a rebound" not in described(sweep, 0)


def test_rates_and_losses_are_drawn_side_by_side(tmp_path: Path) -> None:
    """One line per setting on each side, and a mark where it stalls; one legend above both."""
    figure = Figure(layout="constrained")
    draw_decays(figure, runs(tmp_path, KINDS))
    left, right = figure.axes
    drawn = [line for line in right.lines if len(line.get_xdata()) > 1]
    assert len([line for line in left.lines if len(line.get_xdata()) > 1]) == len(drawn) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "rate is flat over the run",
        "rate is spent before half of the run",
        "rate falls over the run",
        "stalls from here on",
    ]
