"""What other tools leave on disk is read as it is: names, parameters, curves, order, time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from iolaus.analysis.data.importers import Columns, read_runs
from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.ranking.rank import rank

STEPS = np.arange(40)
ENDS = (0.1, 0.4)


def course(end: float) -> np.ndarray:
    return end + 2 * np.exp(-STEPS / 8)


def lightning(folder: Path) -> Path:
    """version_0/metrics.csv: validation in rows of its own; hparams.yaml beside."""
    for number, end in enumerate(ENDS):
        place = folder / f"version_{number}"
        place.mkdir(parents=True)
        train = pd.DataFrame({"epoch": STEPS // 10, "step": STEPS, "train_loss": course(end)})
        val = pd.DataFrame(
            {"epoch": range(4), "step": range(9, 40, 10), "val_loss": [3, 2, 1, end]}
        )
        pd.concat([train, val]).sort_values("step", kind="stable").to_csv(
            place / "metrics.csv", index=False
        )
        (place / "hparams.yaml").write_text(f"lr: {0.1 * (number + 1)}\nmodel: {{width: 8}}\n")
    return folder


def hugging_face(folder: Path) -> Path:
    """checkpoint-N/trainer_state.json, each of which repeats those before."""
    for number, end in enumerate(ENDS):
        for until in (200, 400):
            place = folder / f"run{number}" / f"checkpoint-{until}"
            place.mkdir(parents=True)
            history: list[dict[str, Any]] = [
                {"epoch": i / 20, "learning_rate": 1e-5, "loss": v, "step": 10 * i}
                for i, v in enumerate(course(end))
                if 10 * i <= until
            ]
            history.append({"eval_loss": end, "eval_runtime": 3.0, "step": until, "epoch": 2.0})
            history.append({"train_runtime": 60.0, "total_flos": 1e9, "step": until})
            state = {"global_step": until, "log_history": history}
            (place / "trainer_state.json").write_text(json.dumps(state))
    return folder


def ray_tune(folder: Path) -> Path:
    """NAME/progress.csv and result.json with the same reports; params.json beside."""
    for number, end in enumerate(ENDS):
        place = folder / f"train_{number}"
        place.mkdir(parents=True)
        rows = pd.DataFrame(
            {
                "loss": course(end),
                "training_iteration": STEPS + 1,
                "time_total_s": 2.0 * STEPS,
                "timestamp": 1_700_000_000 + STEPS,
                "trial_id": f"3df11_{number}",
                "pid": 12,
                "config/lr": 0.1 * (number + 1),
            }
        )
        rows.to_csv(place / "progress.csv", index=False)
        rows.to_json(place / "result.json", orient="records", lines=True)
        (place / "params.json").write_text(json.dumps({"lr": 0.1 * (number + 1)}))
    return folder


def keras(folder: Path) -> Path:
    """One CSV per run, counted in epochs."""
    folder.mkdir()
    for number, end in enumerate(ENDS):
        rows = {"epoch": STEPS, "loss": course(end), "val_loss": course(end) + 0.1}
        pd.DataFrame(rows).to_csv(folder / f"run{number}.csv", index=False)
    return folder


def json_lines(folder: Path) -> Path:
    """A line per report, nested, the last one cut short by a crash."""
    folder.mkdir()
    for number, end in enumerate(ENDS):
        lines = [
            json.dumps({"step": int(i), "train": {"loss": v}, "config": {"lr": 0.1 * (number + 1)}})
            for i, v in zip(STEPS, course(end), strict=True)
        ]
        (folder / f"run{number}.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "tra')
    return folder


def mlruns(folder: Path) -> Path:
    """mlruns/EXPERIMENT/RUN with files; two runs of one name, and a deleted one."""
    for number, end in enumerate((*ENDS, 0.0)):
        place = folder / "0" / f"abcdef{number}0123456789"
        (place / "metrics" / "train").mkdir(parents=True)
        (place / "params").mkdir()
        stage = "deleted" if number == 2 else "active"
        (place / "meta.yaml").write_text(
            f"run_id: {place.name}\nrun_name: mighty-ant\nstatus: 3\nlifecycle_stage: {stage}\n"
        )
        (place / "params" / "lr").write_text(str(0.1 * (number + 1)))
        (place / "metrics" / "train" / "loss").write_text(
            "\n".join(
                f"{1_700_000_000_000 + 500 * i} {v} {i}"
                for i, v in zip(STEPS, course(end), strict=True)
            )
        )
    return folder


def mlflow_database(folder: Path) -> Path:
    """The tables of mlflow.db that hold runs."""
    folder.mkdir()
    with sqlite3.connect(folder / "mlflow.db") as db:
        db.execute("create table runs (run_uuid, name, status, lifecycle_stage)")
        db.execute("create table params (key, value, run_uuid)")
        db.execute("create table metrics (key, value, timestamp, run_uuid, step, is_nan)")
        for number, end in enumerate(ENDS):
            db.execute(
                "insert into runs values (?, ?, 'FINISHED', 'active')",
                (f"id{number}", f"r{number}"),
            )
            db.execute(
                "insert into params values ('lr', ?, ?)", (str(0.1 * (number + 1)), f"id{number}")
            )
            db.executemany(
                "insert into metrics values ('loss', ?, ?, ?, ?, 0)",
                [
                    (v, 1_700_000_000_000 + 500 * int(i), f"id{number}", int(i))
                    for i, v in zip(STEPS, course(end), strict=True)
                ],
            )
    return folder / "mlflow.db"


def neptune(folder: Path) -> Path:
    """neptune-exporter's Parquet: an attribute of a run per row."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number, end in enumerate(ENDS):
        about = {"project_id": "a/b", "run_id": f"RUN-{number}"}
        rows += [
            about
            | {"attribute_path": "train/loss", "attribute_type": "float_series", "step": float(i)}
            | {"float_value": v, "timestamp": pd.Timestamp(1.7e9 + 0.5 * i, unit="s", tz="UTC")}
            for i, v in zip(STEPS, course(end), strict=True)
        ]
        lr = {
            "attribute_path": "parameters/lr",
            "attribute_type": "float",
            "float_value": 0.1 * (number + 1),
        }
        rows.append(about | lr)
        rows.append(
            about
            | {"attribute_path": "sys/owner", "attribute_type": "string", "string_value": "me"}
        )
    pd.DataFrame(rows).to_parquet(folder / "part_0.parquet")
    return folder / "part_0.parquet"


TOOLS = [lightning, hugging_face, ray_tune, keras, json_lines, mlruns, mlflow_database, neptune]
METRICS = {"lightning": "train_loss", "hugging_face": "loss", "ray_tune": "loss", "keras": "loss"}


@pytest.mark.parametrize("write", TOOLS, ids=lambda write: write.__name__)
def test_each_tools_runs_are_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Two runs, under their names, with all reports of the loss in order and their parameters."""
    sweep = load(write(tmp_path / "runs"))
    assert sweep.metric == METRICS.get(write.__name__, sweep.metric)
    assert len(sweep.trials) == 2
    assert sweep.trials["name"].nunique() == 2
    assert not sweep.trials["name"].str.contains("metrics|progress|trainer_state|checkpoint").any()
    for number, end in zip(sweep.trials.index, ENDS, strict=True):
        values = sweep.curve(number)["value"].to_numpy()
        assert values == pytest.approx(course(end))
        assert (np.diff(sweep.curve(number)["step"]) > 0).all()
    lr = [key for key in sweep.trials if key.startswith("params.") and key.endswith("lr")]
    if write not in (keras, hugging_face):
        assert sweep.trials[lr[0]].astype(float).tolist() == pytest.approx([0.1, 0.2])
    assert not [
        name for name in sweep.curves["metric"].unique() if "runtime" in name or "pid" in name
    ]


def test_a_study_of_optuna(tmp_path: Path) -> None:
    """Its direction is known; pruned and failed trials keep their states."""
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", direction="maximize", study_name="s"
    )
    for number in range(4):
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        for step in range(5):
            trial.report(0.1 * step, step)
        if number == 2:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, 0.5 + 0.1 * number)
    sweep = load(tmp_path / "study.db")
    assert (sweep.metric, sweep.directions) == ("value", ("maximize",))
    assert sweep.trials["state"].tolist() == ["complete", "complete", "pruned", "complete"]
    assert sweep.trials["params.lr"].tolist() == [t.params["lr"] for t in study.trials]
    assert sweep.trials["final"].tolist() == pytest.approx([0.5, 0.6, 0.4, 0.8])


def table(path: Path, frame: pd.DataFrame) -> Sweep:
    frame.to_csv(path, index=False)
    return load(path)


def test_steps_that_begin_again_with_each_epoch_are_counted_on(tmp_path: Path) -> None:
    """With an epoch beside them or without: one curve of all reports, and a note."""
    rows = pd.DataFrame({"step": np.tile(STEPS[:10], 4), "loss": course(0.1)})
    for name, frame in (("a", rows), ("b", rows.assign(epoch=np.repeat(range(4), 10)))):
        sweep = table(tmp_path / f"{name}.csv", frame)
        assert sweep.curve(0)["step"].tolist() == [*range(40)]
        assert sweep.curve(0)["value"].to_numpy() == pytest.approx(course(0.1))
        assert "begin again 3 times" in sweep.notes[0]


@pytest.mark.parametrize("again_from", [0, 20])
def test_a_run_that_went_on_from_an_earlier_step_is_one_curve(
    again_from: int, tmp_path: Path
) -> None:
    """What it had reported beyond, before it crashed at step 25, is left out."""
    before = pd.DataFrame({"step": STEPS[:25], "loss": 9.0})
    after = pd.DataFrame({"step": STEPS[again_from:], "loss": course(0.1)[again_from:]})
    sweep = table(tmp_path / "r.csv", pd.concat([before, after]))
    curve = sweep.curve(0)
    assert curve["step"].tolist() == STEPS.tolist()
    expected = np.where(again_from > STEPS, 9.0, course(0.1))
    assert curve["value"].to_numpy() == pytest.approx(expected)
    assert f"went on from step {again_from} after step 24" in sweep.notes[0]


def test_times_of_any_zone_and_pauses(tmp_path: Path) -> None:
    """Seconds since the first report; a night between two reports is no work."""
    times = pd.to_datetime(1.7e9 + 3 * STEPS + np.where(STEPS >= 20, 36_000, 0), unit="s", utc=True)
    frame = pd.DataFrame({"step": STEPS, "loss": course(0.1)})
    frame["timestamp"] = [t.tz_convert("Asia/Tokyo").isoformat() for t in times]
    sweep = table(tmp_path / "r.csv", frame)
    assert sweep.trials["seconds"].tolist() == [117.0]
    assert "paused for 35,997 s" not in sweep.notes[0]
    assert "paused for 36,000 s" in sweep.notes[0]


def test_a_table_with_one_row_per_run(tmp_path: Path) -> None:
    """W&B's runs table: ends without curves, states, and settings told from results."""
    frame = pd.DataFrame(
        {
            "Name": ["a", "b", "c"],
            "State": ["finished", "crashed", "finished"],
            "Created": "2026-01-01",
            "Runtime": [60, 70, 80],
            "lr": [0.1, 0.2, 0.3],
            "optimizer": ["sgd", "adam", "sgd"],
            "val_loss": [0.5, 0.9, 0.4],
        }
    )
    sweep = table(tmp_path / "runs.csv", frame)
    assert sweep.metric == "val_loss"
    assert sweep.trials["name"].tolist() == ["a", "b", "c"]
    assert sweep.trials["state"].tolist() == ["complete", "fail", "complete"]
    assert sweep.trials["params.lr"].tolist() == [0.1, 0.2, 0.3]
    assert sweep.trials["params.optimizer"].tolist() == ["sgd", "adam", "sgd"]
    assert "no curve" in sweep.notes[0]
    assert not [column for column in sweep.trials if column.endswith(("Created", "Runtime"))]


def test_two_runs_of_one_name_in_a_chart_are_two(tmp_path: Path) -> None:
    """W&B's chart has two columns of one name."""
    (tmp_path / "chart.csv").write_text(
        "Step,a - loss,a - loss\n"
        + "".join(f"{i},{v},{v + 1}\n" for i, v in zip(STEPS, course(0.1), strict=True))
    )
    sweep = load(tmp_path / "chart.csv")
    assert sweep.trials["name"].tolist() == ["a", "a (2)"]
    assert sweep.curve(1)["value"].to_numpy() == pytest.approx(course(1.1))


def test_columns_can_be_said(tmp_path: Path) -> None:
    """--step and --run name the columns; one that is not there is refused with those that are."""
    frame = pd.DataFrame({"tick": STEPS, "who": "x", "epoch": STEPS // 10, "loss": course(0.1)})
    frame.to_csv(tmp_path / "r.csv", index=False)
    sweep = load(tmp_path / "r.csv", step="tick", run="who")
    assert sweep.curve(0)["step"].tolist() == STEPS.tolist()
    assert sweep.trials["name"].tolist() == ["x"]
    with pytest.raises(
        ValueError, match=r"no column tack \(--step\); it has tick, who, epoch, loss"
    ):
        read_runs(tmp_path / "r.csv", Columns(step="tack"))


def test_writers_of_one_tensorboard_run_are_one(tmp_path: Path) -> None:
    """Keras has a writer for each split, add_scalars one for each part."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for number, end in enumerate(ENDS):
        for split, above in (("train", 0.0), ("validation", 0.1)):
            with SummaryWriter(str(tmp_path / f"run{number}" / split)) as writer:
                for step, value in enumerate(course(end)):
                    writer.add_scalar("epoch_loss", value + above, step)
    sweep = load(tmp_path)
    assert sweep.trials["name"].tolist() == ["run0", "run1"]
    assert set(sweep.curves["metric"]) == {"train/epoch_loss", "validation/epoch_loss"}
    assert sweep.curve(1)["value"].to_numpy() == pytest.approx(course(0.4))

    with SummaryWriter(str(tmp_path / "parts" / "one")) as writer:
        for step, value in enumerate(course(0.2)):
            writer.add_scalar("lr", 0.1, step)
            writer.add_scalars("loss/all", {"train": value, "val": value + 1}, step)
    sweep = load(tmp_path / "parts", metric="loss/all/train")
    assert sweep.trials["name"].tolist() == ["one"]
    assert set(sweep.curves["metric"]) == {"lr", "loss/all/train", "loss/all/val"}


def test_a_table_that_holds_no_runs_beside_runs_of_tensorboard(tmp_path: Path) -> None:
    """It is not looked at: the runs are there."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "a")) as writer:
        for step, value in enumerate(course(0.2)):
            writer.add_scalar("loss", value, step)
    (tmp_path / "labels.csv").write_text("image,label\nx.png,cat\n")
    assert load(tmp_path).trials["name"].tolist() == ["a"]


def test_of_ends_alone_no_noise_is_claimed(tmp_path: Path) -> None:
    """Neither that of curves, nor how many seeds would settle it."""
    frame = pd.DataFrame({"run": ["a", "b", "c"], "val_loss": [0.3, 0.4, 0.5]})
    found = rank(table(tmp_path / "runs.csv", frame))
    assert found.noise_source == "none"
    assert "noise of their curves" not in str(found)
    assert "more seeds" not in str(found)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a": 1}', "no list of rows"),
        ("a.jsonl", '{"step": 1}\nno\n{"step": 2}\n', "line 2 is no JSON"),
        ("a.csv", "x,y\n1,2\n", "it has x, y: say which is which, --step NAME --metric NAME"),
        ("a.db", "SQLite format 3\x00", "cannot be read as a database"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    """The file and what it has are named."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)
