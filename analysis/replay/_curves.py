"""Curves that are known to their end, to replay pruners on.

They are read from a sweep's folder, a table of curves, or whatever other tools have recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.data.sweep import Sweep, is_sweep, load
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


def read(
    path: Path,
    metric: str | None = None,
    direction: str | None = None,
    step: str | None = None,
    run: str | None = None,
) -> dict[str, list[Curve]]:
    """The curves of each task in a sweep's folder, a file, or the runs of other tools.

    A table of curves (.parquet, .csv, .tsv, and .gz) has the columns trial, step, loss, optionally
    lr, task, budget (steps of a whole trial) and censored; other columns are ignored. lr is taken
    for the schedule that was announced; of a trial that reached its target (censored) as far as its
    rows go. A trial whose rows end early otherwise counts as one that announced nothing: nobody
    knew that they would.

    Anything else, and any file of which it is said what is what, is read as
    `iolaus.analysis.data.sweep.load` reads it, with the same options: the watched metric is taken,
    negated where larger is better, and trials that were pruned are censored: how they would have
    gone on is not known. Of a sweep's folder, rates are those a trial had planned (its `lr_plan`),
    none if it planned none or an intervention changed the plan under way.

    Raises
    ------
    FileNotFoundError, and ValueError if columns or cells of task, trial or step are missing, for a
    file of another kind, and if no curve is left.
    """
    frame, task = None, path.stem
    kind = next((kind for kind in READERS if path.name.lower().endswith(kind)), None)
    is_as_it_is = not any((metric, direction, step, run))
    if kind is not None and path.is_file() and is_as_it_is:
        frame, task = READERS[kind](path), path.name[: -len(kind)]
    if frame is None or not {"trial", "step", "loss"} <= set(frame.columns):
        frame = _of_sweep(load(path, metric, direction, step, run), is_sweep(path))
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


def _of_sweep(sweep: Sweep, has_plans: bool) -> pd.DataFrame:
    """The watched metric's rows. has_plans: whether its trials had announced steps and rates."""
    rows = sweep.curves.drop_duplicates(["trial", "step", "metric"], keep="last")
    watched = rows.loc[rows["metric"] == sweep.metric, ["trial", "step", "value"]]
    frame = watched.assign(loss=sweep.metric_sign * watched["value"])
    trials = sweep.trials
    is_cut = trials["state"].isin(("paused", "pruned", "running"))
    if has_plans:
        intervened = set(rows.loc[rows["metric"].isin(INTERVENTION_METRICS), "trial"])
        plans = {
            number: () if plan is None or number in intervened else tuple(map(tuple, plan))
            for number, plan in trials["lr_plan"].items()
        }
        frame[ANNOUNCED] = frame["trial"].map(lambda number: plans.get(number, ()))
        frame["budget"] = frame["trial"].map(trials["n_steps"])
    else:  # what has diverged had no other end
        is_cut &= ~trials["why"].str.startswith("diverged")
    if "task" in trials:
        frame["task"] = frame["trial"].map(trials["task"])
    frame["censored"] = frame["trial"].map(is_cut).fillna(value=True)
    return frame[frame["trial"].isin(trials.index[trials["state"] != "fail"])]
