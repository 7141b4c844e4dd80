"""The replay of pruners: what is simulated, what is counted, what is read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay._forecast import Forecasts, arrivals, forecasts, judge
from iolaus.analysis.replay.comparison import (
    Run,
    best_after,
    draw_pareto,
    rank_agreement,
    replay,
    score,
    simulate,
    summary,
    table,
    truth,
)
from iolaus.analysis.replay.rules import (
    RULES,
    AshaPromote,
    Move,
    Nothing,
    Optuna,
    Stalled,
    SweepInfo,
)
from iolaus.sweeps.curves import CurveWriter
from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.reporting import Row
from iolaus.sweeps.types import Plan


def curves(
    n_trials: int = 30, n: int = 30, seed: int = 0, lr: bool = False, diverging: bool = True
) -> list[Curve]:
    """Falling curves with different floors, speeds and noise; every seventh diverges, some rates
    drop late.
    """
    rng = np.random.default_rng(seed)
    steps, found = np.arange(float(n)), []
    for i in range(n_trials):
        losses = rng.uniform(0, 1) + np.exp(-steps / rng.uniform(2, n)) + 0.02 * rng.normal(size=n)
        late = lr and i % 3 == 0
        if late:
            losses[n // 2 :] -= rng.uniform(0, 1)
        if diverging and i % 7 == 6:
            losses[rng.integers(0, n) :] = np.nan
        found.append(
            Curve(
                steps,
                losses,
                Plan(n, ((0, 0.1), (n // 2 - 1, 0.1), (n // 2, 0.01)) if late else ()),
            )
        )
    return found


def frame(task: str, found: list[Curve]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"task": task, "trial": i, "step": c.steps.astype(int), "loss": c.losses})
        for i, c in enumerate(found)
    ]
    return pd.concat(parts, ignore_index=True)


def test_losses_of_any_size_can_be_replayed():
    """Ten to the two hundred times the losses: no error, no warning, the same measures."""
    own = curves(12)
    huge = [Curve(c.steps, c.losses * 2.0**660, c.plan) for c in own]
    rules = ["stalled", "median"]  # those that know no absolute sizes
    pd.testing.assert_frame_equal(replay({"": own}, rules, 4, 1), replay({"": huge}, rules, 4, 1))
    assert len(replay({"": huge}, list(RULES), 4, 1)) == len(RULES)


def info(found: list[Curve], seed: int = 0) -> SweepInfo:
    return SweepInfo(max(c.plan.n_steps or 0 for c in found), len(found[0].steps), seed)


@pytest.mark.parametrize("lr", [False, True])
@pytest.mark.parametrize("caution", [1.0, 2.0])
def test_the_replayed_rule_is_the_pruner(lr, caution):
    """The rule without Optuna lets the same trials run equally long as StalledLoss in a study
    does.
    """
    for seed in range(4):
        found = curves(40, seed=seed, lr=lr)
        bare = simulate(found, Stalled(caution, pauses=False), 4, seed)
        real = simulate(found, Optuna(StalledLoss(caution=caution), seed), 4, seed)
        np.testing.assert_array_equal(bare.n_seen, real.n_seen)
        assert bare.stopped.any()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_sees_nothing_before_it_is_reported(name):
    """Changing what comes after a trial's last report, and after all others had ended, changes
    nothing.
    """
    found = curves(20, diverging=False)
    make = lambda: RULES[name](info(found))  # noqa: E731
    first = simulate(found, make(), 4, 1)
    changed = []
    for curve, n in zip(found, first.n_seen, strict=True):
        losses = curve.losses.copy()
        losses[n:] = -100.0
        changed.append(Curve(curve.steps, losses, curve.plan))
    np.testing.assert_array_equal(simulate(changed, make(), 4, 1).n_seen, first.n_seen)


def test_without_a_rule_everything_runs():
    """`none` costs all compute and keeps all; `divergence` ends trials at their first NaN."""
    found = curves()
    everything = simulate(found, Nothing(), 8, 0, stop_diverged=False)
    assert everything.n_seen.sum() == 30 * 30
    ended = simulate(found, Nothing(), 8, 0)
    expected = [min(c.n_finite + 1, 30) for c in found]
    np.testing.assert_array_equal(ended.n_seen, expected)
    assert not ended.stopped.any()


@settings(max_examples=30, deadline=None)
@given(
    n_workers=st.integers(1, 40),
    seed=st.integers(0, 99),
    name=st.sampled_from(["divergence", "stalled", "asha-promote"]),
)
def test_every_trial_starts_and_none_reports_twice(n_workers, seed, name):
    """Whatever the number of workers, each trial reports at least once and at most its curve."""
    found = curves(12, 10, seed)
    run = simulate(found, RULES[name](info(found)), n_workers, seed)
    assert np.all(run.n_seen >= 1)
    assert np.all(run.n_seen <= 10)


def test_promotion_resumes_the_best_half_of_each_rung():
    """Of n trials that paused at a rung, the best n // eta have gone on when all is done."""
    found = [Curve(np.arange(32.0), np.full(32, float(i)), Plan(32)) for i in range(32)]
    run = simulate(found, AshaPromote(32, eta=2), 4, 0)
    assert run.n_seen[:2].tolist() == [32, 32]
    assert np.all(np.isin(run.n_seen, [2, 4, 8, 16, 32]))
    assert np.sum(run.n_seen > 2) >= 16
    np.testing.assert_array_equal(run.stopped, run.n_seen < 32)  # never resumed: paused for good


def test_a_score_counts_what_it_says():
    """Compute, kept, checkpoint, regret, precision and recall of a case small enough to count by
    hand.
    """
    falls = [np.linspace(1 + i / 10, i / 10, 10) for i in range(9)]
    early = np.array([1.9, 0.05, *[0.95] * 8])  # its best is its second report
    found = [Curve(np.arange(10.0), losses, Plan(10)) for losses in [*falls, early]]
    known = truth(found)
    assert known.top.tolist() == [0]
    n_seen = np.array([9, *[10] * 8, 4])
    s = score(found, Run(n_seen, n_seen < 10), known)
    assert s.compute == pytest.approx((9 + 80 + 4) / 100)
    assert (s.kept, s.kept_checkpoint) == (0.0, 0.0)
    best_found, median_best = 0.05, float(np.median([*np.arange(9) / 10, 0.05]))
    assert s.regret == pytest.approx(best_found / median_best)
    assert s.precision == 0.5  # the early one would not have improved, the first would
    assert s.recall == 1.0
    assert s.false_prune == 0.5


def test_the_best_has_finished_when_its_worker_says_so():
    """Without a rule at a time of the whole; never where the rule stopped it."""

    class Stops(Nothing):
        def report(self, trial, steps, losses, plan):
            return Move.STOP

    found = curves(20, diverging=False)
    known = truth(found)
    whole = simulate(found, Nothing(), 2, 0)
    assert best_after(whole, whole, known) == whole.ended[known.top[0]] / whole.ended.max() <= 1
    stopped = simulate(found, Stops(), 2, 0)
    assert best_after(stopped, whole, known) == math.inf
    rows = replay({"a": found}, ["none", "plateau", "stalled"], 2, 2)
    (none, plateau, _) = summary(rows)
    assert none["best_after"] <= none["best_after_worst"] <= 1
    assert plateau["best_after_worst"] is None or plateau["best_after_worst"] <= 1
    assert "best after (worst)" in table([none])


def test_a_task_without_a_finite_loss_has_no_regret():
    """All trials diverged at once: nothing could be found, nothing was lost."""
    found = [Curve(np.arange(3.0), np.full(3, np.nan), Plan(3)) for _ in range(4)]
    assert summary(replay({"t": found}, ["stalled"], n_seeds=1))[0]["regret"] == 0


def test_files_are_read_alike(tmp_path):
    """Parquet, CSV and shuffled rows give the same curves; a schedule, a budget and censoring are
    taken over.
    """
    rows = frame("a", curves(4, 6)).assign(lr=0.1, budget=7)
    rows["censored"] = rows["trial"] == 2
    rows.to_parquet(tmp_path / "c.parquet")
    rows.sample(frac=1, random_state=0).to_csv(tmp_path / "c.csv", index=False)
    parquet, csv = read(tmp_path / "c.parquet"), read(tmp_path / "c.csv")
    assert list(parquet) == ["a"]
    for one, other in zip(parquet["a"], csv["a"], strict=True):
        np.testing.assert_allclose(one.losses, other.losses)
        assert one.plan == other.plan
    assert parquet["a"][0].plan == Plan(7, tuple((s, 0.1) for s in range(6)))
    assert [c.censored for c in parquet["a"]] == [False, False, True, False]


def test_a_horizon_is_not_betrayed_by_an_early_end(tmp_path):
    """A curve that ends in NaN, or was censored, had announced the length of the longest; another
    its own.
    """
    rows = pd.DataFrame(
        {
            "trial": [0] * 8 + [1] * 3 + [2] * 4 + [3] * 5,
            "step": [*range(8), *range(3), *range(4), *range(5)],
            "loss": [1.0] * 8 + [1.0, 1.0, math.nan] + [1.0] * 4 + [1.0] * 5,
            "censored": [False] * 15 + [True] * 5,
        }
    )
    rows.to_csv(tmp_path / "c.csv", index=False)
    found = read(tmp_path / "c.csv")["c"]
    assert [c.plan.n_steps for c in found] == [8, 8, 4, 8]


def test_a_sweeps_folder_is_read(tmp_path):
    """The watched metric, its sign, plans and censored trials come from study and curves."""
    study = optuna.create_study(
        study_name="s", storage=f"sqlite:///{tmp_path}/study.db", direction="maximize"
    )
    writer = CurveWriter(tmp_path / "curves", "x", time.monotonic)
    for number, n in ((0, 5), (1, 2)):
        trial = study.ask()
        trial.set_user_attr("n_steps", 5)
        writer.add(
            number, [Row(s, float(s), {"acc": 0.1 * s, "lr": 0.5, "other": 1.0}) for s in range(n)]
        )
        study.tell(trial, 0.5) if n == 5 else study.tell(
            trial, state=optuna.trial.TrialState.PRUNED
        )
    writer.close()
    (tmp_path / "sweep.yaml").write_text(
        "study_name: s\nmetric: acc\ndirections: [maximize]\nstorage: null\n"
    )
    (found,) = read(tmp_path).values()
    np.testing.assert_allclose(found[0].losses, [0, -0.1, -0.2, -0.3, -0.4])
    assert found[1].plan == Plan(5)
    assert [c.censored for c in found] == [False, True]


def test_a_schedule_is_known_only_as_far_as_it_was_announced(tmp_path):
    """A trial's rows that end early, diverged, tell nothing of rates; those of one that reached a
    target tell them up to there, and whole ones all.
    """
    steps = {
        "whole": range(0, 100, 2),
        "diverges": range(40),
        "cut": range(60),
        "lost": range(0, 100, 2),
    }
    rows = [
        (trial, step, 1.0, 0.1 if step < 50 else 0.01)
        for trial, own in steps.items()
        for step in own
    ]
    frame = pd.DataFrame(rows, columns=["trial", "step", "loss", "lr"])
    frame["censored"] = frame["trial"] == "cut"
    frame.loc[(frame["trial"] == "diverges") & (frame["step"] == 39), "loss"] = math.nan
    frame.loc[(frame["trial"] == "lost") & (frame["step"] > 30), "loss"] = (
        math.nan
    )  # but its rows go on
    frame.to_csv(tmp_path / "c.csv", index=False)
    cut, diverges, lost, whole = read(tmp_path / "c.csv")["c"]
    assert [c.plan.n_steps for c in (cut, diverges, lost, whole)] == [99] * 4
    assert diverges.plan.lr == ()
    assert cut.plan.lr == tuple((s, 0.1 if s < 50 else 0.01) for s in range(60))
    assert (
        whole.plan.lr
        == lost.plan.lr
        == tuple((s, 0.1 if s < 50 else 0.01) for s in range(0, 100, 2))
    )


def test_a_sweeps_schedule_is_the_one_its_trials_had_planned(tmp_path):
    """Rates that were reported are no plan, and a plan that an intervention has changed under way
    was not known before.
    """
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    writer = CurveWriter(tmp_path / "curves", "x", time.monotonic)
    for number in range(3):
        trial = study.ask()
        if number:
            trial.set_user_attr("lr_plan", [[0, 0.5], [4, 0.1]])
        writer.add(number, [Row(s, float(s), {"loss": 1.0 - s / 9, "lr": 0.5}) for s in range(5)])
        study.tell(trial, 0.5)
    writer.add(2, [Row(3, 9.0, {"intervention/decay": 0.3})])
    writer.close()
    (tmp_path / "sweep.yaml").write_text(
        "study_name: s\nmetric: loss\ndirections: [minimize]\nstorage: null\n"
    )
    (found,) = read(tmp_path).values()
    assert [c.plan.lr for c in found] == [(), ((0, 0.5), (4, 0.1)), ()]


@pytest.mark.parametrize(
    "name", ["c.csv", "c.CSV", "c.csv.gz", "C.TSV", "c.tsv.gz", "c.parquet", "c.Parquet"]
)
def test_a_files_name_tells_how_to_read_it(tmp_path, name):
    """Tables with commas or tabs, packed or not, and Parquet, in whatever case; the task is the
    name without that.
    """
    frame, path = (
        pd.DataFrame({"trial": [1, 1], "step": [0, 1], "loss": [1.0, 0.5]}),
        tmp_path / name,
    )
    if "parquet" in name.lower():
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if "tsv" in name.lower() else ",", index=False)
    ((task, (curve,)),) = read(path).items()
    assert task == name[0]
    assert curve.losses.tolist() == [1.0, 0.5]


def test_a_file_of_another_kind_is_refused(tmp_path):
    """The message names the file and what is read."""
    (tmp_path / "c.xlsx").write_bytes(b"PK\x03\x04 trial")
    with pytest.raises(ValueError, match=r"c\.xlsx .* \.csv, \.tsv, .*\.parquet"):
        read(tmp_path / "c.xlsx")


def test_runs_of_other_tools_are_replayed(tmp_path):
    """What is read elsewhere is read here: a chart of W&B is the curves it shows, an accuracy is
    negated, a run that diverged is not censored, and options say what columns are.
    """
    steps = np.arange(20)
    chart = pd.DataFrame({"Step": steps})
    for k in range(3):
        chart[f"sweep-{k} - val/acc"] = 0.9 - 0.1 * k - np.exp(-steps / 8)
    chart.to_csv(tmp_path / "chart.csv", index=False)
    found = read(tmp_path / "chart.csv")["chart"]
    np.testing.assert_allclose([c.losses[-1] for c in found], -chart.iloc[-1, 1:].astype(float))
    assert [len(c.steps) for c in found] == [20] * 3
    own = pd.DataFrame({"who": ["a"] * 20 + ["b"] * 20, "at": [*steps, *steps], "cost": 1.0})
    own.loc[30:, "cost"] = math.inf
    own.to_csv(tmp_path / "own.csv", index=False)
    one, other = read(tmp_path / "own.csv", "cost", "minimize", "at", "who")["own"]
    assert [c.n_finite for c in (one, other)] == [20, 10]
    assert not one.censored
    assert not other.censored


@pytest.mark.parametrize(
    ("column", "bad"), [("task", None), ("trial", None), ("step", None), ("step", math.inf)]
)
def test_a_missing_cell_is_counted_not_dropped(tmp_path, column, bad):
    """A row that belongs to no task, trial or step is an error that names the column and how many
    there are.
    """
    frame = pd.DataFrame(
        {"task": ["a", "b"] * 3, "trial": [1.0, 1.0] * 3, "step": np.arange(6.0), "loss": 1.0}
    )
    frame.loc[[2, 5], column] = bad
    frame.to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(ValueError, match=f"the column {column} is .* in 2 of 6 rows"):
        read(tmp_path / "c.csv")


def test_a_task_too_short_to_be_asked_is_named():
    """Short curves, steps that begin late, and curves that were never finite are told; the other
    tasks are judged.
    """
    short = [Curve(np.arange(8.0), np.linspace(1, 0, 8), Plan(8)) for _ in range(12)]
    late = [
        Curve(1e9 + np.arange(40.0), np.linspace(1, 0, 40), Plan(10**9 + 40)) for _ in range(12)
    ]
    lost = [Curve(np.arange(40.0), np.full(40, math.nan), Plan(40)) for _ in range(12)]
    hopeless = judge({"short": short, "late": late, "lost": lost}, 0.25, 4, 1)
    assert str(hopeless) == "too short to be asked at 25%: short, late, lost"
    some = judge({"long": curves(diverging=False), "short": short}, 0.25, 4, 1)
    assert some.calibration
    assert str(some).endswith("too short to be asked at 25%: short")


def test_bad_curves_are_named(tmp_path):
    """A missing file, a missing column and an unknown pruner each get one clear sentence."""
    with pytest.raises(FileNotFoundError, match="no runs at"):
        read(tmp_path / "nothing.csv")
    pd.DataFrame({"trial": [1], "step": [0]}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(ValueError, match="no column of numbers beside trial and step"):
        read(tmp_path / "c.csv")
    with pytest.raises(ValueError, match="no pruner called medium; there are none, divergence"):
        replay({"t": curves(4)}, ["medium"])


def test_the_order_of_a_sweep_is_compared_with_its_end():
    """Curves that never cross agree fully at every share, reversed ones not at all."""
    steps = np.arange(20.0)
    parallel = [Curve(steps, i + np.exp(-steps), Plan(20)) for i in range(6)]
    crossing = [Curve(steps, np.where(steps < 15, float(i), -float(i)), Plan(20)) for i in range(6)]
    found = rank_agreement({"parallel": parallel, "crossing": crossing})
    assert found.loc["parallel"].tolist() == pytest.approx([1, 1, 1])
    assert found.loc["crossing"].tolist() == pytest.approx([-1, -1, -1])


@settings(max_examples=20, deadline=None)
@given(n_workers=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_forecast_is_asked_in_the_sweep_that_is_replayed(n_workers, seed):
    """Trials start in the order, and stay as long, as in the simulation in which only divergence
    ends them.
    """
    found = curves()
    starts, pace = arrivals(found, n_workers, seed)
    reported: list[int] = []

    class Order(Nothing):
        def report(self, trial, steps, losses, plan):
            reported.append(trial)
            return Move.GO

    simulate(found, Order(), n_workers, seed)
    order = np.random.default_rng(seed).permutation(len(found))
    n = np.array([min(len(c.steps), c.n_finite) for c in found])
    times = sorted(
        (starts[i] + pace[i] * k, i) for i in range(len(found)) for k in range(1, n[i] + 1)
    )
    assert [i for _, i in times] == [int(order[trial]) for trial in reported]


def test_average_precision_is_that_of_scikit_learn():
    """The measure is the usual one."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    chance, over = rng.random(200), rng.random(200) < 0.3
    said = Forecasts(chance, over).average_precision
    assert said == pytest.approx(metrics.average_precision_score(over, chance))


def test_finished_peers_tell_what_comes_after_a_plateau():
    """Curves alike at a quarter of the run, of which one kind falls later: peers know, the claimed
    chance is met.
    """
    rng = np.random.default_rng(0)
    steps = np.arange(40.0)
    found = []
    for _ in range(300):
        drops = rng.random() < 0.5
        losses = np.full(40, 2.0 if drops else 1.0) + 1e-4 * rng.normal(size=40)
        losses[20:] -= 0.5 * drops
        found.append(Curve(steps, losses, Plan(40)))
    judged = judge({"task": found}, 0.25, 8, 1)
    assert judged.average_precision > 0.95
    late = forecasts(found, 0.25, 8, 0)
    assert len(late.chance) == 300
    # The first trials have no peers and say what a flat curve says; the rest are a coin that peers
    # turn face up.
    assert abs(late.chance.mean() - late.over.mean()) < 0.1


def test_better_rules_lie_on_the_front():
    """Saving compute on easy curves: the rule of this project keeps the top at half the cost of
    none, also where stops are final.
    """
    rows = {
        r["rule"]: r
        for r in summary(
            replay({"t": curves(60)}, ["none", "stalled", "stalled-stop", "median"], 4, 3)
        )
    }
    assert rows["stalled-stop"]["compute"] < 0.5
    assert rows["stalled"]["compute"] < 0.55
    assert min(rows["stalled"]["kept"], rows["stalled-stop"]["kept"]) >= 0.8
    assert rows["none"]["kept"] == 1.0
    assert rows["stalled"]["regret_worst"] >= rows["stalled"]["regret"]


def test_the_picture_is_drawn_for_one_rule_and_for_many(tmp_path):
    """Every rule is named in the figure, and a single one is no special case."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for rules in (["none"], ["none", "stalled", "median", "plateau"]):
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        found = summary(replay({"t": curves(12)}, rules, 4, 1))
        draw_pareto(axes, found)
        figure.savefig(tmp_path / "p.png")
        assert {t.get_text() for t in axes.texts} == set(rules)
        assert all(rule in table(found) for rule in rules)


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "iolaus.cli", "replay", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.slow
def test_the_command_prints_json_and_a_table(tmp_path):
    """--json has the agreed layout and nothing else on stdout; without it there is a table and a
    picture.
    """
    pd.concat([frame("a", curves(12)), frame("b", curves(12, seed=1))]).to_parquet(
        tmp_path / "c.parquet"
    )
    said = command(
        "c.parquet",
        "--pruner",
        "stalled",
        "median",
        "--seeds",
        2,
        "--json",
        "--rank-agreement",
        cwd=tmp_path,
    )
    document = json.loads(said.stdout)
    assert [r["rule"] for r in document["rules"]] == ["stalled", "median"]
    for rule in document["rules"]:
        keys = {"compute", "kept", "kept_checkpoint", "regret"}
        assert keys | {"rule", "regret_worst", "tasks"} <= rule.keys()
        assert rule["tasks"].keys() == {"a", "b"}
        assert all(keys <= task.keys() for task in rule["tasks"].values())
        assert rule["compute"] == pytest.approx(
            np.mean([t["compute"] for t in rule["tasks"].values()])
        )
    assert document["rank_agreement"].keys() == {"a", "b"}
    assert document["baseline"]
    assert all(p.keys() == {"stop", "continued", "compute", "kept"} for p in document["baseline"])
    assert not list(tmp_path.glob("*.png"))
    plain = command(
        "c.parquet", "--pruner", "none", "--seeds", 1, "--figure", "out/p.png", cwd=tmp_path
    )
    assert plain.stdout.splitlines()[1].startswith("rule")
    assert (tmp_path / "out" / "p.png").stat().st_size > 5000
    bad = command("nothing.csv", cwd=tmp_path)
    assert bad.returncode != 0
    assert bad.stderr.strip().startswith("iolaus: no curves at")


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_thousand_curves_take_less_than_a_minute(name):
    """1,000 curves x 50 points, five seeds, one core: under 60 s for every rule."""
    found = curves(1000, 50)
    begin = time.process_time()
    replay({"t": found}, [name])
    assert time.process_time() - begin < 60


def test_a_stopped_move_is_not_a_paused_one():
    """The three moves are told apart by the simulator: a paused trial may finish, a stopped one
    never.
    """

    class Stops(Nothing):
        def report(self, trial, steps, losses, plan):
            return Move.STOP if len(steps) == 3 else Move.GO

    run = simulate(curves(10, diverging=False), Stops(), 3, 0)
    assert run.n_seen.tolist() == [3] * 10
    assert run.stopped.all()
