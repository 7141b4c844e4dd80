"""Curves that are known to their end, to replay pruners on.

They are read from a sweep's folder, a Parquet or a CSV file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.sweeps.pruners.verdicts import plan_of
from iolaus.sweeps.reporting import INTERVENTION_METRICS
from iolaus.sweeps.signals import Array, n_finite
from iolaus.sweeps.types import Plan

__all__ = ["Curve", "read"]

READERS: Mapping[str, Callable[..., pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".csv.gz": pd.read_csv,
    ".tsv": pd.read_table,
    ".tsv.gz": pd.read_table,
}
# A column for what a trial had announced, which no file has.
ANNOUNCED = "announced rates"


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial to its end: steps [n] rising, losses [n] (NaN or infinite from where it diverged).

    plan: what it announced. censored: it ended early because it had reached a target, or was
    pruned: its best and its compute are those up to there, and running to there counts as complete.
    """

    steps: Array
    losses: Array
    plan: Plan
    censored: bool = False

    @property
    def n_finite(self) -> int:
        """Reports before the first that is not finite."""
        return n_finite(self.losses)


def read(path: Path, metric: str = "loss") -> dict[str, list[Curve]]:
    """The curves of each task in a sweep's folder or a file (.parquet, .csv, .tsv, and .gz).

    Files have the columns trial, step, loss (or `metric`), optionally lr, task, budget (steps of a
    whole trial) and censored; other columns are ignored. lr is taken for the schedule that was
    announced; of a trial that reached its target (censored) as far as its rows go. A trial whose
    rows end early otherwise counts as one that announced nothing: nobody knew that they would. In a
    sweep's folder the watched metric is taken, negated where larger is better, and trials that were
    pruned are censored: how they would have gone on is not known. Rates are those a trial had
    planned (its `lr_plan`), none if it planned none or an intervention changed the plan under way.

    Raises
    ------
    FileNotFoundError, and ValueError if columns or cells of task, trial or step are missing, for a
    file of another kind, and if no curve is left.
    """
    task = path.stem
    if path.is_dir():
        frame = _of_sweep(path)
    elif not path.is_file():
        raise FileNotFoundError(
            f"no curves at {path}: give a sweep's folder, a Parquet or a CSV file"
        )
    else:
        kind = next((kind for kind in READERS if path.name.lower().endswith(kind)), None)
        if kind is None:
            raise ValueError(
                f"{path}: cannot tell what it holds; give a sweep's folder or a file "
                f"{', '.join(READERS)}"
            )
        frame, task = READERS[kind](path).rename(columns={metric: "loss"}), path.name[: -len(kind)]
    missing = {"trial", "step", "loss"} - set(frame.columns)
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(frame.columns)}"
        )
    if "task" not in frame:
        frame["task"] = task
    frame["step"] = pd.to_numeric(frame["step"], errors="coerce").replace([np.inf, -np.inf], np.nan)
    for column in ("task", "trial", "step"):
        if n_blank := int(frame[column].isna().sum()):
            what = "no number" if column == "step" else "blank"
            raise ValueError(
                f"{path}: the column {column} is {what} in {n_blank} of {len(frame)} rows"
            )
    tasks = {str(task): _curves(rows) for task, rows in frame.groupby("task", sort=True)}
    if not any(tasks.values()):
        raise ValueError(f"{path} holds no curves")
    return tasks


def _curves(rows: pd.DataFrame) -> list[Curve]:
    rows = rows.sort_values("step", kind="stable").drop_duplicates(["trial", "step"])
    longest = int(rows["step"].max()) + 1
    return [_curve(own, longest) for _, own in rows.groupby("trial", sort=True)]


def _curve(own: pd.DataFrame, longest: int) -> Curve:
    steps, losses = own["step"].to_numpy(np.float64), own["loss"].to_numpy(np.float64)
    censored = bool(own["censored"].any()) if "censored" in own else False
    if "budget" in own and own["budget"].notna().any():
        n_steps = int(own["budget"].max())
    else:  # that a curve will end early, by divergence or at a target, nobody knows while it runs
        ends_early = censored or n_finite(losses) < len(losses)
        n_steps = longest if ends_early else int(steps[-1]) + 1
    lr = own[ANNOUNCED].iloc[0] if ANNOUNCED in own else _schedule(own, n_steps, censored)
    return Curve(steps, losses, Plan(n_steps, lr), censored)


def _schedule(own: pd.DataFrame, n_steps: int, censored: bool) -> tuple[tuple[int, float], ...]:
    """The rates in a file's rows; empty if they end early though no target was reached."""
    steps = own["step"].to_numpy()
    whole = steps[-1] + (steps[-1] - steps[-2:][0]) >= n_steps - 1
    if "lr" not in own or not (whole or censored):
        return ()
    known = own[own["lr"].notna()]
    return tuple(zip(known["step"].astype(int), known["lr"].astype(float), strict=True))


def _of_sweep(folder: Path) -> pd.DataFrame:
    from iolaus.analysis.data.sweep import load
    from iolaus.sweeps.study.folder import read_study

    sweep = load(folder)
    rows = sweep.curves.drop_duplicates(["trial", "step", "metric"], keep="last")
    watched = rows.loc[rows["metric"] == sweep.metric, ["trial", "step", "value"]]
    frame = watched.assign(loss=sweep.metric_sign * watched["value"])
    intervened = set(rows.loc[rows["metric"].isin(INTERVENTION_METRICS), "trial"])
    states = sweep.trials["state"]
    plans = {
        trial.number: plan_of(trial) for trial in read_study(folder).get_trials(deepcopy=False)
    }
    frame["budget"] = frame["trial"].map(lambda n: plans[n].n_steps)
    frame[ANNOUNCED] = frame["trial"].map(lambda n: () if n in intervened else plans[n].lr)
    frame["censored"] = frame["trial"].map(
        lambda n: states.get(n) in ("paused", "pruned", "running")
    )
    return frame[frame["trial"].isin(states[states != "fail"].index)]
