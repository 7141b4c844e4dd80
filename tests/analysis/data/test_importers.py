"""Files of other tools as they really are: in any order, with headers within, with other axes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from iolaus.analysis.data.importers import read_runs
from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.importance import importance
from iolaus.analysis.ranking.rank import rank

STEPS = np.arange(40)


def course(end: float) -> np.ndarray:
    return end + 2 * np.exp(-STEPS / 8)


def written(path: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(path, index=False, na_rep="nan")
    return path


@pytest.mark.parametrize("order", ["oldest first", "newest first", "mixed"])
def test_the_order_of_rows_says_nothing(tmp_path: Path, order: str) -> None:
    """A run that ends in NaN has diverged, in whatever order its rows were exported."""
    loss = np.where(STEPS < 30, course(0.05), math.nan)
    rows = pd.concat(
        [
            pd.DataFrame({"run": "diverged", "step": STEPS, "loss": loss}),
            pd.DataFrame({"run": "good", "step": STEPS, "loss": course(0.2)}),
        ]
    )
    rows = {"oldest first": rows, "newest first": rows[::-1]}.get(
        order, rows.sample(frac=1, random_state=0)
    )
    sweep = load(written(tmp_path / "runs.csv", rows))
    names = sweep.trials["name"]
    shapes = dict(zip(names, diagnose(sweep)["shape"].reindex(names.index), strict=True))
    assert shapes["diverged"] == "exploded"
    assert shapes["good"] != "exploded"
    good = names.index[names == "good"][0]
    assert sweep.curve(good)["value"].to_numpy() == pytest.approx(course(0.2))


def test_a_header_within_a_file_is_skipped(tmp_path: Path) -> None:
    """A logger that was restarted has written its header again; the rows after it count."""
    rows = pd.DataFrame({"run": "a", "step": STEPS, "loss": course(0.1)})
    whole, appended = tmp_path / "whole.csv", tmp_path / "appended.csv"
    rows.to_csv(whole, index=False)
    appended.write_text(rows[:20].to_csv(index=False) + rows[20:].to_csv(index=False))
    for one, other in zip(read_runs(whole)[:2], read_runs(appended)[:2], strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("step", [0.05, math.inf, "ten"])
def test_steps_that_are_not_whole_are_refused(tmp_path: Path, step: float | str) -> None:
    """They are not cut to whole ones; the message names file, run and step, and what to do."""
    rows = pd.DataFrame({"run": "a", "step": [0, 1, step], "loss": [3.0, 2.0, 1.0]})
    path = written(tmp_path / "runs.csv", rows)
    with pytest.raises(ValueError, match=rf"runs\.csv must be whole.* {step} of a: number"):
        read_runs(path)


def test_whole_steps_may_be_written_as_fractions(tmp_path: Path) -> None:
    """20.0 is a whole step."""
    rows = pd.DataFrame({"run": "a", "step": [10.0, 20.0], "loss": [3.0, 2.0]})
    assert read_runs(written(tmp_path / "runs.csv", rows))[1]["step"].tolist() == [10, 20]


@pytest.mark.parametrize("axis", ["Step", "trainer/global_step", "epoch"])
def test_a_wandb_chart_of_any_axis(tmp_path: Path, axis: str) -> None:
    """The one column that is of no run is the axis; `_step` beside the metric is none."""
    chart = pd.DataFrame({axis: STEPS * 50})
    for name, end in (("a", 0.1), ("b", 0.3)):
        for bound in ("", "__MIN", "__MAX"):
            chart[f"{name} - _step{bound}"] = STEPS * 50
            chart[f"{name} - val/loss{bound}"] = course(end)
    sweep = load(written(tmp_path / "chart.csv", chart))
    assert sweep.metric == "val/loss"
    assert set(sweep.curves["metric"]) == {"val/loss"}
    assert sweep.curve(1)["step"].tolist() == (STEPS * 50).tolist()
    assert sweep.curve(1)["value"].to_numpy() == pytest.approx(course(0.3))


def test_a_wandb_chart_over_time_is_refused(tmp_path: Path) -> None:
    """Seconds are no steps."""
    chart = pd.DataFrame({"Relative Time (Process)": STEPS * 0.5, "a - loss": course(0.1)})
    with pytest.raises(ValueError, match="export by step"):
        read_runs(written(tmp_path / "chart.csv", chart))


@pytest.mark.parametrize("has_own_curve", [False, True])
def test_runs_of_tensorboard_below_a_folder_with_events(
    tmp_path: Path, has_own_curve: bool
) -> None:
    """Runs that log hyperparameters and curves are runs of their own, also where the folder above
    has a note or a curve.
    """
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("about", "a search", 0)
        for step in range(40 if has_own_curve else 0):
            writer.add_scalar("val_loss", 9.0, step)
    for n in range(3):
        with SummaryWriter(str(tmp_path / f"trial_{n}")) as writer:
            for part in hparams({"lr": 0.5 * (n + 1)}, {"val_loss": 0}):
                writer.file_writer.add_summary(part)
            for step, loss in enumerate(course(0.1 * n)):
                writer.add_scalar("val_loss", loss, step)
    trials, curves = read_runs(tmp_path)[:2]
    lrs = dict(zip(trials["name"], trials["params.lr"], strict=True))
    assert {f"trial_{n}": 0.5 * (n + 1) for n in range(3)}.items() <= lrs.items()
    assert len(lrs) == 3 + has_own_curve
    assert len(curves) == 40 * len(lrs)


@pytest.mark.parametrize("none", ["None", "null"])
def test_none_is_a_value_of_a_parameter(tmp_path: Path, none: str) -> None:
    """A category written None is one of the settings, and found to be what mattered."""
    ends = {none: 0.1, "norm": 0.4, "value": 0.7}
    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    "run": f"r{k}",
                    "step": STEPS,
                    "loss": course(ends[clip]) + 0.001 * (k % 5),
                    "params.clip": clip,
                    "params.k": k % 5,
                }
            )
            for k, clip in enumerate([*ends] * 5)
        ]
    )
    sweep = load(written(tmp_path / "runs.csv", rows))
    assert set(sweep.trials["params.clip"]) == set(ends)
    assert importance(sweep)["importance"].idxmax() == "clip"
    assert rank(sweep).table["params.clip"].iloc[0] == none


def test_an_empty_parameter_is_absent(tmp_path: Path) -> None:
    """Beside None, an empty cell stays what it was: the parameter does not exist."""
    path = tmp_path / "runs.csv"
    path.write_text("run,step,loss,params.clip\na,0,1,None\nb,0,1,\nc,0,1,0.5\n")
    clip = read_runs(path)[0]["params.clip"]
    assert clip.iloc[0] == "None"
    assert pd.isna(clip.iloc[1])
    assert clip.iloc[2] == 0.5


def test_a_choice_of_null_is_a_value_in_a_sweep() -> None:
    """A null is told from a parameter that does not exist."""
    from iolaus.analysis.data.sweep import _row

    choices = {"clip": CategoricalDistribution([None, "norm"])}
    trial = create_trial(value=1.0, params={"clip": None}, distributions=choices)
    assert _row(trial, [])["params.clip"] == "null"


def test_what_never_changes_within_a_run_is_its_parameter(tmp_path: Path) -> None:
    """And no metric, unless it has a metric's name, or is alike in all runs; it is said. A rate
    stays a curve too.
    """
    rows = [
        {"run": run, "step": step, "reward": 0.1 * step + run, "lr": 0.1 * run, "kind": f"k{run}"}
        | {"width": 8 * run, "best_loss": float(run), "version": 2, "rising": run + step}
        for run in (1, 2)
        for step in range(4)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    sweep = load(tmp_path / "runs.csv", metric="reward")
    assert {c for c in sweep.trials if str(c).startswith("params.")} == {
        "params.lr",
        "params.kind",
        "params.width",
    }
    assert list(sweep.trials["params.width"]) == [8, 16]
    metrics = set(sweep.curves["metric"].unique())
    assert metrics == {"reward", "lr", "best_loss", "version", "rising"}
    assert "each run has one value of lr, kind, width: taken for its parameters" in sweep.notes
    one_each = pd.DataFrame(rows).drop_duplicates("run")
    one_each.to_csv(tmp_path / "ends.csv", index=False)
    ends = load(tmp_path / "ends.csv", metric="reward")
    assert not [c for c in ends.trials if str(c).startswith("params.w")]


def test_a_rate_is_never_what_is_watched(tmp_path: Path) -> None:
    """The only metric beside it is."""
    rows = [{"run": 1, "step": step, "reward": step, "lr": 0.1 / (step + 1)} for step in range(4)]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    assert load(tmp_path / "runs.csv").metric == "reward"
