"""A sweep's trials in experiment trackers, each read back with the tracker's own library."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from iolaus.cli import running
from iolaus.integrations.loggers import (
    CsvLogger,
    Logger,
    MlflowLogger,
    TensorBoardLogger,
    TrackioLogger,
    TrialRun,
    WandbLogger,
    log_trials,
    runs_of,
)

load = pytest.importorskip("iolaus.analysis.data.sweep").load
RATES = (0.01, 0.1, 3.0)  # the last diverges


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _warm_python: Any) -> Path:
    """A sweep of three trials, one of which diverges."""
    root = tmp_path_factory.mktemp("logged")
    argv = [str(Path(__file__).parents[1] / "apps/parabola.py"), "--multirun"]
    argv += ["hydra/sweeper=iolaus", "hydra/sweeper/sampler=grid", f"hydra.sweep.dir={root}/study"]
    argv += [f"lr=choice({', '.join(map(str, RATES))})", "steps=400", "hydra.sweeper.report=null"]
    _warm_python(argv, root / "run", root, {}).ok()
    return root / "study"


@pytest.fixture
def runs(folder: Path) -> list[TrialRun]:
    return runs_of(load(folder), folder)


def test_a_run_has_all_that_is_known(runs: list[TrialRun]) -> None:
    """Every setting of its config, each report at its step, the reason of its end."""
    assert [run.config for run in runs] == [{"lr": lr, "steps": 400} for lr in RATES]
    assert [run.state for run in runs][:2] == ["complete", "complete"]
    assert "inf" in runs[2].why
    assert len(runs[0].rows()) == 400
    assert runs[0].rows()[0] == (0, {"loss": pytest.approx((1 - 0.02) ** 2)})
    assert math.isinf(runs[2].rows()[-1][1]["loss"])


def test_csv(runs: list[TrialRun], tmp_path: Path) -> None:
    """Pandas reads the same numbers."""
    for run in runs:
        own = Path(CsvLogger(tmp_path).write(run))
        table = pd.read_csv(own / "metrics.csv", index_col="step")
        pd.testing.assert_frame_equal(table, run.metrics, check_names=False)


def test_tensorboard(runs: list[TrialRun], tmp_path: Path) -> None:
    """Our own reader of its files gets the same curves, but for their precision."""
    for run in runs[:2]:
        TensorBoardLogger(tmp_path).write(run)
    back = load(tmp_path / "tensorboard", metric="loss").curves.query("metric == 'loss'")
    for run, (_, curve) in zip(runs, back.groupby("trial"), strict=False):
        assert curve["value"].tolist() == pytest.approx(run.metrics["loss"].tolist(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
def test_mlflow(runs: list[TrialRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client gives back settings, histories and whether the trial was a failure."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = MlflowLogger(tmp_path)
    for run in runs:
        made = logger._client.get_run(logger.write(run))
        assert made.data.params == {key: str(value) for key, value in run.config.items()}
        assert made.info.status == "FINISHED"
        history = logger._client.get_metric_history(made.info.run_id, "loss")
        finite = [m.value for m in sorted(history, key=lambda m: m.step) if math.isfinite(m.value)]
        expected = [row["loss"] for _, row in run.rows() if math.isfinite(row["loss"])]
        assert finite[: len(expected)] == expected


def test_wandb(runs: list[TrialRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline there is a run each, to be synchronised later."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = [WandbLogger(tmp_path).write(run) for run in runs]
    found = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert sorted(name.rpartition("-")[2] for name in found) == sorted(names)


@pytest.mark.slow  # trackio does not install beside the rest: where it is, it is tested
def test_trackio(runs: list[TrialRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own reader gives back the runs and their settings."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # which it reads when it is imported
    trackio = pytest.importorskip("trackio")
    names = [TrackioLogger(tmp_path).write(run) for run in runs]
    found = {run.name: run for run in trackio.Api().runs(runs[0].sweep)}
    assert {*found} == {*names}
    assert found[names[0]].config["lr"] == runs[0].config["lr"]


class Refuses(Logger):
    """Takes the first trial only."""

    def write(self, run: TrialRun) -> str:
        if run.number:
            raise ConnectionError("no network")
        return "first"


def test_none_is_written_twice_and_one_that_fails_harms_nobody(folder: Path) -> None:
    """What a tracker has is kept in the folder; what it refused is tried by the next command."""
    refused: set[tuple[str, int]] = set()
    loggers = {"refuses": Refuses(folder), "csv": CsvLogger(folder)}
    assert log_trials(folder, loggers, refused) == {"refuses": 1, "csv": 3}
    assert refused == {("refuses", 1), ("refuses", 2)}
    assert log_trials(folder, loggers, refused) == {"refuses": 0, "csv": 0}
    assert log_trials(folder, {"refuses": CsvLogger(folder)}, set()) == {"refuses": 2}
    assert {*json.loads((folder / "logged.json").read_text())} == {"refuses", "csv"}


def test_a_sweep_writes_its_trials_while_it_runs(sweep: Any, tmp_path: Path) -> None:
    """hydra.sweeper.log_to has all of them written by its end; a tracker that is not there is
    refused before anything runs.
    """
    given = ("parabola.py", "lr=choice(0.1, 0.2)", "hydra/sweeper/sampler=grid")
    sweep(*given, "hydra.sweeper.log_to=[csv]").ok()
    assert len(list((tmp_path / "study/runs").iterdir())) == 2
    run = sweep(*given, "hydra.sweeper.log_to=[paper]", folder=tmp_path / "other").wait()
    assert run.code == 1
    assert "log_to=paper: choose from csv, mlflow, tensorboard, " in run.err
    assert not (tmp_path / "other/study.db").exists()


def test_a_tracker_that_cannot_be_started_ends_no_sweep(sweep: Any, tmp_path: Path) -> None:
    """Where its output cannot be opened, the sweep says so and goes on to its table."""
    (tmp_path / "study/logged.log").mkdir(parents=True)
    given = ("parabola.py", "lr=choice(0.1, 0.2)", "hydra/sweeper/sampler=grid")
    run = sweep(*given, "hydra.sweeper.log_to=[csv]").ok()
    assert "nothing is written to csv" in run.out + run.err
    assert "2 trials in study" in run.out


def test_a_folder_that_is_removed_ends_its_follower_with_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the folder is gone, and not that it never was a sweep."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("logged.json"))
    monkeypatch.setattr("iolaus.sweeps.study.stopping.is_driven", lambda *_: True)
    monkeypatch.setattr("iolaus.cli.running.FOLLOW_S", 0.0)
    monkeypatch.setattr(CsvLogger, "write", lambda self, _: (shutil.rmtree(self.folder), "")[1])
    with pytest.raises(FileNotFoundError, match=r"copy was removed while .* written to csv"):
        running.log(copy, ["csv"], follow=True)
