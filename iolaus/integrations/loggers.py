"""The trials of a sweep as runs of an experiment tracker: W&B, MLflow, TensorBoard, trackio, CSV.

`iolaus log DIR --to wandb` writes what a sweep has, now or while it runs (`--follow`); a sweep with
`hydra.sweeper.log_to=[wandb]` starts that command beside itself. So a tracker that fails, or cannot
be reached, costs a sweep nothing, and what was not written can be written later.
"""

from __future__ import annotations

import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.sweeps.run.loggers import find_loggers

__all__ = ["Logger", "TrialRun", "log_trials", "made", "runs_of"]

log = logging.getLogger("iolaus")

LOGGED_FILE = "logged.json"  # which trials each tracker has, so that none is written twice


@dataclass(frozen=True)
class TrialRun:
    """One trial that has ended, as trackers like it.

    sweep: its name. name: `SWEEP-NUMBER`. config: the values of its composed config by dotted name;
    only what was searched where its folder is gone. metrics: one row per step, indexed by it, one
    column per metric; NaN where a metric was not reported there. summary: numbers it came to.
    why: the verdict, or the reason of its failure.
    """

    sweep: str
    number: int
    config: Mapping[str, Any]
    metrics: pd.DataFrame
    summary: Mapping[str, float]
    state: str
    why: str

    @property
    def name(self) -> str:
        """What the tracker calls it."""
        return f"{self.sweep}-{self.number}"

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """Each step with what was reported there; infinity and NaN that were reported stay."""
        return [
            (step, {str(k): float(v) for k, v in row.items() if k in has})
            for step, row, has in zip(
                self.metrics.index.tolist(),
                self.metrics.to_dict("records"),
                self.metrics.attrs["reported"],
                strict=True,
            )
        ]


class Logger(ABC):
    """Writes runs to one tracker; a package offers more as entry points of `iolaus.loggers`.

    folder: of the sweep, for those that keep files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def write(self, run: TrialRun) -> str:
        """Write a run and return what the tracker calls it. What it raises is said to the user."""


class CsvLogger(Logger):
    """`runs/NAME/metrics.csv` and `params.yaml` in the sweep's folder, one column per metric."""

    def write(self, run: TrialRun) -> str:
        """See Logger."""
        own = self.folder / "runs" / run.name
        own.mkdir(parents=True, exist_ok=True)
        run.metrics.to_csv(own / "metrics.csv", index_label="step")
        about = {**run.config, "state": run.state, "why": run.why}
        (own / "params.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
        return str(own)


class TensorBoardLogger(Logger):
    """`tensorboard/NAME/` in the sweep's folder: scalars, and the settings in the HParams tab."""

    def write(self, run: TrialRun) -> str:
        """See Logger."""
        from torch.utils.tensorboard import SummaryWriter

        own = self.folder / "tensorboard" / run.name
        with SummaryWriter(str(own)) as writer:
            for step, metrics in run.rows():
                for name, value in metrics.items():
                    writer.add_scalar(name, value, step)
            plain = {
                k: v if isinstance(v, bool | int | float | str) else str(v)
                for k, v in run.config.items()
            }
            writer.add_hparams(plain, dict(run.summary), run_name=".")
            writer.add_text("state", f"{run.state}: {run.why}" if run.why else run.state)
        return str(own)


class WandbLogger(Logger):
    """A run of Weights & Biases each, grouped by the sweep.

    WANDB_PROJECT, WANDB_MODE=offline and whatever else W&B reads from the environment hold; the
    project is the sweep's name if none is named.
    """

    def write(self, run: TrialRun) -> str:
        """See Logger."""
        import wandb

        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.sweep),
            group=run.sweep,
            name=run.name,
            config=dict(run.config),
            tags=[run.state],
            notes=run.why,
            dir=self.folder,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        ) as made:
            for step, metrics in run.rows():
                made.log(metrics, step=step)
            made.summary.update({**run.summary, "state": run.state, "why": run.why})
            return str(made.id)


class TrackioLogger(Logger):
    """A run of trackio each, in the project of the sweep's name, on this machine.

    TRACKIO_DIR says where.
    """

    def write(self, run: TrialRun) -> str:
        """See Logger."""
        import trackio

        config = {**run.config, "state": run.state, "why": run.why}
        made = trackio.init(
            project=run.sweep, name=run.name, group=run.sweep, config=config, embed=False
        )
        for step, metrics in run.rows():
            made.log(metrics, step=step)
        if run.summary:
            made.log({f"summary/{name}": value for name, value in run.summary.items()})
        made.finish()
        return str(made.name)


class MlflowLogger(Logger):
    """A run of MLflow each, in the experiment of the sweep's name.

    MLFLOW_TRACKING_URI says where; `mlflow.db` in the sweep's folder if it does not.
    """

    MOST_AT_ONCE = 1000  # metrics in a request, MLflow's limit
    LONGEST = 6000  # characters of a parameter's value, MLflow's limit

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from mlflow import MlflowClient

        own = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))

    def write(self, run: TrialRun) -> str:
        """See Logger."""
        from mlflow.entities import Metric, Param

        client = self._client
        known = client.get_experiment_by_name(run.sweep)
        experiment = known.experiment_id if known else client.create_experiment(run.sweep)
        tags = {"mlflow.note.content": run.why, "sweep": run.sweep, "state": run.state}
        made = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [Param(key, str(value)[: self.LONGEST]) for key, value in run.config.items()]
        for at in range(0, len(params), 100):
            client.log_batch(made, params=params[at : at + 100])
        metrics = [Metric(k, v, 0, step) for step, row in run.rows() for k, v in row.items()]
        for at in range(0, len(metrics), self.MOST_AT_ONCE):
            client.log_batch(made, metrics=metrics[at : at + self.MOST_AT_ONCE])
        ended = {"completed": "FINISHED", "complete": "FINISHED", "pruned": "FINISHED"}
        client.set_terminated(made, ended.get(run.state, "FAILED"))
        return str(made)


def log_trials(
    folder: Path, loggers: Mapping[str, Logger], refused: set[tuple[str, int]]
) -> dict[str, int]:
    """Write each trial that has ended and that a tracker does not have yet.

    Returns how many runs each tracker was given. What it has is kept in `logged.json` of the folder
    after each run: an interrupted call writes at most one run a second time. A trial that a tracker
    raises on is left out with a line, and noted in `refused`: not tried again with the same set.
    """
    done, written = _logged(folder), dict.fromkeys(loggers, 0)

    def is_wanted(name: str, trial: int) -> bool:
        return str(trial) not in done.setdefault(name, {}) and (name, trial) not in refused

    for run in runs_of(
        load(folder), folder, lambda trial: any(is_wanted(name, trial) for name in loggers)
    ):
        for name, logger in loggers.items():
            if not is_wanted(name, run.number):
                continue
            try:
                done[name][str(run.number)] = logger.write(run)
            except Exception as error:
                log.warning("%s did not take trial %d: %s", name, run.number, error)
                refused.add((name, run.number))
                continue
            written[name] += 1
            _keep(folder, done)
    return written


def runs_of(
    sweep: Sweep, folder: Path, is_wanted: Callable[[int], bool] = lambda _: True
) -> list[TrialRun]:
    """The trials of a sweep that have ended and are wanted, by number. folder: of the sweep."""
    by_trial = dict(list(sweep.curves.groupby("trial")))
    runs = []
    for number, trial in zip(
        sweep.trials.index.tolist(), sweep.trials.to_dict("records"), strict=True
    ):
        if trial["state"] in ("running", "waiting", "paused") or not is_wanted(int(number)):
            continue
        summary = {k: float(trial[k]) for k in ("objective", "best", "final") if k in trial}
        runs.append(
            TrialRun(
                sweep.name,
                int(number),
                _config(trial, folder),
                _metrics(by_trial.get(number)),
                {k: v for k, v in summary.items() if math.isfinite(v)},
                str(trial["state"]),
                "" if pd.isna(trial["why"]) else str(trial["why"]),
            )
        )
    return runs


def _metrics(curves: pd.DataFrame | None) -> pd.DataFrame:
    if curves is None or curves.empty:
        table = pd.DataFrame()
        table.attrs["reported"] = []
        return table
    last = curves.groupby(["step", "metric"], sort=True)["value"].last()
    table = last.unstack("metric")
    reported: dict[Any, set[Any]] = {}
    for step, metric in last.index:
        reported.setdefault(step, set()).add(metric)
    table.attrs["reported"] = [reported[step] for step in table.index]
    return table


def _config(trial: Mapping[Any, Any], base: Path) -> dict[str, Any]:
    folder = trial.get("folder")
    path = base / folder / ".hydra/config.yaml" if isinstance(folder, str) else None
    if path is not None and path.is_file():
        return _flat(yaml.safe_load(path.read_text()) or {})
    prefix = "params."
    searched = {str(k).removeprefix(prefix): v for k, v in trial.items() if prefix in str(k)[:7]}
    return {name: value for name, value in searched.items() if not pd.isna(value)}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _logged(folder: Path) -> dict[str, dict[str, str]]:
    try:
        done: dict[str, dict[str, str]] = json.loads((folder / LOGGED_FILE).read_text())
    except FileNotFoundError:
        return {}
    return done


def _keep(folder: Path, done: Mapping[str, Mapping[str, str]]) -> None:
    beside = folder / f"{LOGGED_FILE}.new"
    beside.write_text(json.dumps(done, indent=1))
    beside.replace(folder / LOGGED_FILE)


def made(names: Sequence[str], folder: Path) -> dict[str, Logger]:
    """The loggers of these names, with their trackers imported.

    Raises BadInputError for a name that no package offers, ImportError where the tracker is
    missing.
    """
    found = find_loggers(names, "--to ")
    return {name: point.load()(folder) for name, point in found.items()}
