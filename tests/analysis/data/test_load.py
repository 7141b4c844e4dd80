from __future__ import annotations

import math
import sqlite3
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState, create_trial

from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.convergence import convergence
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.ranking.rank import rank
from iolaus.sweeps.study.folder import read_study

STEPS = np.arange(1, 41)


def course(end: float) -> np.ndarray:
    return end + (1 - end) * np.exp(-STEPS / 8)


@pytest.fixture
def runs() -> pd.DataFrame:
    """Three runs, one row per report."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "trial": n,
                    "step": STEPS,
                    "loss": course(end),
                    "lr": 0.1,
                    "params.lr": 0.1 * (n + 1),
                }
            )
            for n, end in ((3, 0.1), (5, 0.3), (8, 0.9))
        ],
        ignore_index=True,
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_with_a_column_per_metric(runs, tmp_path, ending):
    """Numbers of trials stay, columns `params.` are parameters, other columns of numbers
    metrics.
    """
    path = tmp_path / f"runs.{ending}"
    runs.to_csv(path, index=False) if ending == "csv" else runs.to_parquet(path)
    sweep = load(path)
    assert list(sweep.trials.index) == [3, 5, 8]
    assert sweep.trials["params.lr"].tolist() == pytest.approx([0.1 * 4, 0.1 * 6, 0.1 * 9])
    assert set(sweep.curves["metric"]) == {"loss", "lr"}
    assert sweep.curve(5)["value"].to_numpy() == pytest.approx(course(0.3))
    assert (sweep.metric, sweep.name, set(sweep.trials["state"])) == ("loss", "runs", {"complete"})
    assert (
        sweep.trials.loc[3, "final"]
        == sweep.trials.loc[3, "best"]
        == pytest.approx(course(0.1)[-1])
    )
    assert len(diagnose(sweep)) == len(convergence(sweep)) == 3


def test_mlflows_download_of_metrics(runs, tmp_path):
    """run_id, key, value, step, timestamp in milliseconds: seconds count from each run's first
    report.
    """
    rows = pd.DataFrame(
        {
            "run_id": "r" + runs["trial"].astype(str),
            "key": "train_loss",
            "value": runs["loss"],
            "step": runs["step"],
            "timestamp": 1_700_000_000_000 + 500 * runs["step"],
        }
    )
    rows.to_csv(tmp_path / "metrics.csv", index=False)
    sweep = load(str(tmp_path / "metrics.csv"))  # a notebook gives text
    assert sweep.metric == "train_loss"
    assert sweep.trials["name"].tolist() == ["r3", "r5", "r8"]
    assert sweep.trials["seconds"].tolist() == [19.5] * 3
    assert sweep.curve(2)["value"].to_numpy() == pytest.approx(course(0.9))


def test_the_csv_of_a_wandb_chart(runs, tmp_path):
    """A column `RUN - METRIC` for each run; bounds are left out, and so are cells of runs that
    ended earlier.
    """
    chart = pd.DataFrame({"Step": STEPS})
    for n, own in runs.groupby("trial"):
        for bound in ("", "__MIN", "__MAX"):
            chart[f"run-{n} - loss{bound}"] = own["loss"].to_numpy()
    chart.loc[30:, "run-5 - loss"] = np.nan
    chart.to_csv(tmp_path / "chart.csv", index=False)
    sweep = load(tmp_path / "chart.csv")
    assert sweep.trials["name"].tolist() == ["run-3", "run-5", "run-8"]
    assert sweep.trials["steps"].tolist() == [40, 30, 40]


def test_the_history_of_a_wandb_run(runs, tmp_path):
    """`_step`, `_runtime` and columns of metrics; without a column for the run it is one."""
    own = runs[runs["trial"] == 3]
    history = pd.DataFrame(
        {
            "_step": own["step"],
            "_runtime": own["step"] * 2.0,
            "_timestamp": 1.7e9,
            "loss": own["loss"],
        }
    )
    history.to_csv(tmp_path / "history.csv", index=False)
    sweep = load(tmp_path / "history.csv")
    assert (len(sweep.trials), sweep.trials["seconds"].item()) == (1, 80.0)


def test_tensorboards_event_files(tmp_path):
    """Each folder with event files is a run, its scalars are metrics."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for name, end in (("a/x", 0.1), ("b", 0.3)):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for step, loss in zip(STEPS, course(end), strict=True):
                writer.add_scalar("train/loss", loss, int(step))
    sweep = load(tmp_path)
    assert sweep.trials["name"].tolist() == ["a/x", "b"]
    assert sweep.metric == "train/loss"
    assert sweep.curve(1)["value"].to_numpy() == pytest.approx(course(0.3), rel=1e-6)
    assert sweep.curves["seconds"].min() == 0


def test_nan_at_the_end_of_a_curve_is_a_divergence_and_a_gap_is_none(tmp_path):
    """An empty cell and NaN look alike: a metric reported now and then has gaps, one that diverged
    has none before.
    """
    frame = pd.DataFrame({"trial": 0, "step": STEPS, "loss": course(0.1), "val_loss": course(0.2)})
    frame.loc[frame["step"] % 5 > 0, "val_loss"] = np.nan
    frame.loc[30:, "loss"] = np.nan
    frame.to_csv(tmp_path / "r.csv", index=False)
    sweep = load(tmp_path / "r.csv")
    assert diagnose(sweep).loc[0, ["shape", "since"]].tolist() == ["exploded", 31.0]
    assert len(sweep.curve(0, "val_loss")) == 8
    pd.DataFrame({"trial": 0, "step": STEPS, "loss": np.nan}).to_csv(
        tmp_path / "n.csv", index=False
    )
    assert diagnose(load(tmp_path / "n.csv"))["shape"].tolist() == ["exploded"]


def test_tasks_seeds_and_what_was_censored_are_taken_over(runs, tmp_path):
    """Trials of several tasks are kept apart; `setting` and `seed` group repeats; a censored trial
    has no objective.
    """
    both = pd.concat([runs.assign(task="a"), runs.assign(task="b")]).assign(seed=7, setting=3)
    both["censored"] = both["trial"] == 5
    both.to_parquet(tmp_path / "r.parquet")
    trials = load(tmp_path / "r.parquet").trials
    assert trials["name"].tolist() == ["a/3", "a/5", "a/8", "b/3", "b/5", "b/8"]
    assert trials["state"].tolist() == ["complete", "pruned", "complete"] * 2
    assert trials["objective"].isna().tolist() == [False, True, False] * 2
    assert set(trials["seed"]) == {7}
    assert set(trials["setting"]) == {3}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"trial": [0], "width": [1.0]}, "no column step.* --step NAME"),
        ({"trial": [0], "step": [0]}, "no column of numbers"),
        ({"trial": [0], "step": [0], "a": [1.0], "b": [1.0]}, "--metric NAME .*metric=NAME"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path, frame, message):
    """Errors say what is missing, or what to choose from."""
    pd.DataFrame(frame).to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "r.csv")


def test_a_file_that_is_no_table_is_named(tmp_path):
    """The error of an empty file says which."""
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(ValueError, match=r"e\.csv cannot be read as a table"):
        load(tmp_path / "e.csv")


def test_nothing_there_is_said(tmp_path):
    """A folder that is no sweep and a path that is not there are told apart."""
    with pytest.raises(FileNotFoundError, match="no TensorBoard event files"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no runs at"):
        load(tmp_path / "x.csv")
    frame = pd.DataFrame({"trial": 0, "step": STEPS, "loss": 1.0})
    frame.to_csv(tmp_path / "r.csv", index=False)
    with pytest.raises(ValueError, match="no metric acc"):
        load(tmp_path / "r.csv", metric="acc")


def file_of(
    path: Path, courses: dict[object, np.ndarray], metric: str = "loss", **columns: list
) -> Path:
    """A CSV file of these runs; columns: a value for each."""
    frames = [
        pd.DataFrame(
            {"run": name, "step": np.arange(len(course)), metric: course}
            | {c: v[i] for c, v in columns.items()}
        )
        for i, (name, course) in enumerate(courses.items())
    ]
    pd.concat(frames).to_csv(path, index=False)
    return path


def test_a_run_that_diverged_is_not_ranked(tmp_path):
    """A run whose last value is not finite has no objective, however low it was before; so has one
    that never was.
    """
    low = np.where(STEPS < 36, course(0.0), np.nan)
    courses = {
        "good": course(0.3),
        "diverged": low,
        "never": np.full(40, np.nan),
        "endless": np.append(course(0), np.inf),
    }
    sweep = load(file_of(tmp_path / "r.csv", courses))
    assert sweep.trials["state"].tolist() == ["complete", "pruned", "pruned", "pruned"]
    assert sweep.trials["why"].tolist()[1:] == [f"diverged at step {n}" for n in (35, 0, 40)]
    assert (
        sweep.trials["objective"].isna().tolist()
        == sweep.trials["final"].map(np.isfinite).map(np.invert).tolist()
    )
    assert rank(sweep).first == [0]


def test_a_row_of_another_kind_is_no_divergence(tmp_path):
    """A last row with the test accuracy only, as W&B exports it, says nothing of the loss; NaN
    before it does.
    """
    frame = pd.DataFrame(
        {"trial": 0, "step": STEPS, "loss": course(0.1), "epoch": 1.0, "test_acc": np.nan}
    )
    frame.loc[39, ["loss", "test_acc"]] = [np.nan, 0.9]
    frame.to_csv(tmp_path / "r.csv", index=False)
    assert load(tmp_path / "r.csv").trials.loc[0, ["state", "objective"]].tolist() == [
        "complete",
        course(0.1)[38],
    ]
    frame.loc[35:, "loss"] = np.nan
    frame.to_csv(tmp_path / "r.csv", index=False)
    assert load(tmp_path / "r.csv").trials.loc[0, "why"] == "diverged at step 36"


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        *dict.fromkeys(("accuracy", "val_acc", "ROC_AUC", "macro/f1"), "maximize").items(),
        *dict.fromkeys(("R2", "mIoU", "episode_reward", "acc@1"), "maximize").items(),
        *dict.fromkeys(("val_nll", "Perplexity", "rmse", "test_err"), "minimize").items(),
        *dict.fromkeys(("f1_loss", "brier_score"), "minimize").items(),
    ],
)  # fmt: skip
def test_the_name_of_a_metric_says_its_direction(tmp_path, metric, direction):
    """Losses and errors are minimised, accuracies and scores maximised, unless the caller says
    otherwise.
    """
    path = file_of(tmp_path / "r.csv", {"a": course(0.1)}, metric)
    assert (load(path).metric, load(path).directions) == (metric, (direction,))
    assert load(path, direction="minimize").directions == ("minimize",)


@pytest.mark.parametrize("metric", ["speed", "pace", "f10", "macro"])
def test_a_metric_of_no_known_direction_is_refused(tmp_path, metric):
    """A guess would rank the worst run first: the error says what to give."""
    path = file_of(tmp_path / "r.csv", {"a": course(0.1)}, metric)
    with pytest.raises(
        ValueError,
        match=rf"is {metric} of .*r\.csv better .* --direction minimize or --direction maxi",
    ):
        load(path)
    assert load(path, direction="maximize").trials["best"].item() == pytest.approx(course(0.1)[0])


def test_a_sweep_keeps_its_own_direction_and_metric(tmp_path):
    """Asked for another, it refuses and says what it has; asked for its own, it gives that."""
    make_sweep(tmp_path / "s", 1, 10)
    assert load(tmp_path / "s", "loss", "minimize").directions == ("minimize",)
    for asked in ({"direction": "maximize"}, {"metric": "val_loss"}):
        with pytest.raises(ValueError, match="minimizes loss; asked was"):
            load(tmp_path / "s", **asked)


def test_states_of_other_tools_are_taken_as_ours(tmp_path):
    """W&B's and MLflow's words become states, and stay as the reason; an unknown one has
    completed.
    """
    words = ["finished", "crashed", "FAILED", "killed", "running", "archived", None]
    sweep = load(file_of(tmp_path / "r.csv", {f"r{i}": course(0.1) for i in range(7)}, state=words))
    states = ["complete", "fail", "fail", "fail", "running", "complete", "complete"]
    assert sweep.trials["state"].tolist() == states
    assert sweep.trials["why"].tolist() == [*(w.lower() for w in words[:-1]), "completed"]
    assert sweep.trials["objective"].notna().tolist() == [state == "complete" for state in states]
    assert len(rank(sweep).table) == 7


def test_a_setting_in_words_is_that_of_its_first_trial(tmp_path):
    """Runs of one word repeat each other; a run without is its own setting."""
    courses = {f"r{i}": course(0.1) for i in range(5)}
    trials = load(file_of(tmp_path / "r.csv", courses, setting=["a", "b", "a", None, "b"])).trials
    assert trials["setting"].tolist() == [0, 1, 0, 3, 1]


def test_rows_without_a_run_are_refused(tmp_path):
    """Which run they are of is not known, and dropping them would hide one: the error counts
    them.
    """
    path = file_of(tmp_path / "r.csv", {"a": course(0.1), "": course(0.2)})
    with pytest.raises(ValueError, match=r"40 of 80 rows of .*r\.csv have no trial"):
        load(path)


def test_runs_that_never_reported_what_is_watched_are_left_out(tmp_path):
    """They have nothing to be judged by, neither a row nor a curve."""
    frame = pd.DataFrame(
        {"trial": [0, 0, 1], "step": [0, 1, 0], "loss": [1.0, 0.5, np.nan], "acc": [0.1, 0.2, 0.3]}
    )
    frame.to_csv(tmp_path / "r.csv", index=False)
    sweep = load(tmp_path / "r.csv")
    assert sweep.trials.index.tolist() == sweep.curves["trial"].unique().tolist() == [0]


def test_hyperparameters_of_tensorboard_belong_to_their_run(tmp_path):
    """`add_hparams` writes a folder within the run's: it is no run of its own but has the run's
    parameters.
    """
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for n in range(3):
        with SummaryWriter(str(tmp_path / f"run {n}")) as writer:
            for step, value in zip(STEPS, course(0.1 * n), strict=True):
                writer.add_scalar("nll", value, int(step))
            writer.add_hparams(
                {"lr": 0.1 * n, "optimizer": "adam", "nesterov": n > 0}, {"hparam/nll": 0.1}
            )
    trials = load(tmp_path).trials
    assert trials["name"].tolist() == ["run 0", "run 1", "run 2"]
    assert trials["params.lr"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert trials["params.optimizer"].tolist() == ["adam"] * 3
    assert trials["params.nesterov"].tolist() == [False, True, True]


def copy_first_trial(database: Path, n_copies: int) -> None:
    """As `n_copies` times `add_trial`, in seconds instead of minutes."""
    tables = ("trial_params", "trial_user_attributes", "trial_values", "trial_intermediate_values")
    with sqlite3.connect(database) as db:
        for table in ("trials", *tables):
            _, *columns = (row[1] for row in db.execute(f"PRAGMA table_info({table})"))
            numbered = {"number": "n", "trial_id": "n + 1"}
            chosen = ", ".join(numbered.get(name, name) for name in columns)
            db.execute(
                f"WITH RECURSIVE copies(n) AS "
                f"(SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {n_copies}) "
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM copies, {table} "
                f"WHERE trial_id = 1"
            )


def make_sweep(folder: Path, n_trials: int, n_steps: int) -> None:
    """A sweep's folder as a driver leaves it, with 50 of the reports in the study."""
    (folder / "curves").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(
        "study_name: s\nstorage: null\ndirections: [minimize]\nmetric: loss\nobjective: best\n"
    )
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{folder / 'study.db'}")
    study.add_trial(
        create_trial(
            value=0.1,
            state=TrialState.COMPLETE,
            params={"lr": 0.1},
            distributions={"lr": optuna.distributions.FloatDistribution(0, 1)},
            user_attrs={
                "why": "completed",
                "steps": n_steps,
                "n_steps": n_steps,
                "run": {"seconds": 2.0, "final": 0.2},
            },
            intermediate_values=dict.fromkeys(range(0, n_steps, max(1, n_steps // 50)), 0.5),
        )
    )
    copy_first_trial(folder / "study.db", n_trials - 1)
    step = np.tile(np.arange(1, n_steps + 1), n_trials)
    rows = {
        "trial": np.repeat(np.arange(n_trials), n_steps), "step": step, "seconds": step * 0.001,
        "metric": ["loss"] * len(step), "value": np.exp(-step / n_steps),
    }  # fmt: skip
    pq.write_table(pa.table(rows), folder / "curves" / "a-000000.parquet")


def test_a_sweeps_folder_with_its_config_and_examples(tmp_path):
    """Examples stand beside every metric of their report; a sweep without a config has an empty
    one.
    """
    make_sweep(tmp_path / "s", 2, 10)
    path = tmp_path / "s" / "curves" / "b-000000.parquet"
    more = {"trial": [1], "step": [4], "seconds": [0.004], "metric": ["examples"], "value": [128.0]}
    pq.write_table(pa.table(more), path)
    sweep = load(tmp_path / "s")
    known = sweep.curves[(sweep.curves["trial"] == 1) & (sweep.curves["step"] == 4)]
    assert known["examples"].tolist() == [128.0, 128.0]
    assert sweep.curves["examples"].notna().sum() == 2
    assert (sweep.config, sweep.space) == ({}, {})
    assert sweep.trials["examples"].tolist() == pytest.approx([math.nan, 128.0], nan_ok=True)


def test_a_sweep_that_lost_its_study_says_so(tmp_path):
    """A study that was kept in memory is gone with its sweep: the error names study and storage."""
    (tmp_path / "sweep.yaml").write_text("study_name: s\nstorage: null\n")
    with pytest.raises(FileNotFoundError, match=r"study\.db has no study s: was it kept in memory"):
        load(tmp_path)


def test_constraints_are_carried(tmp_path):
    """The names of the constraints that a trial breaks are in its row; one that keeps them has
    none.
    """
    make_sweep(tmp_path / "s", 1, 10)
    study = read_study(tmp_path / "s")
    for amounts in ({"memory": 3.0, "time": 1.0}, {"memory": -1.0, "time": 0.0}):
        study.add_trial(create_trial(value=0.0, constraints=amounts))
    assert load(tmp_path / "s").trials["infeasible"].tolist()[-2:] == ["memory, time", ""]


@pytest.mark.slow
def test_a_thousand_trials_of_two_thousand_points_load_in_three_seconds(tmp_path):
    """The processor's time, as other programs may be running; the study is part of it."""
    make_sweep(tmp_path / "s", 1000, 2000)
    began = time.process_time()
    sweep = load(tmp_path / "s")
    took_s = time.process_time() - began
    assert len(sweep.curves) == 2_000_000
    assert took_s < 3, f"{took_s:.1f} s"
