"""Curves that are known to their end, to replay pruners on: from a sweep's folder, a Parquet or a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sweeps.signals import Array
from sweeps.types import Plan


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial to its end: steps [n] rising, losses [n] (NaN or infinite from where it diverged).

    plan: what it announced. censored: it ended early because it had reached a target, or was pruned: its best and its
    compute are those up to there, and running to there counts as complete.
    """

    steps: Array
    losses: Array
    plan: Plan
    censored: bool = False

    @property
    def n_finite(self) -> int:
        """Reports before the first that is not finite."""
        finite = np.isfinite(self.losses)
        return len(finite) if finite.all() else int(finite.argmin())


def read(path: Path, metric: str = "loss") -> dict[str, list[Curve]]:
    """The curves of each task in a sweep's folder, a Parquet or a CSV file.

    Files have the columns trial, step, loss (or `metric`), optionally lr, task, budget (steps of a whole trial) and
    censored; other columns are ignored. In a sweep's folder the watched metric is taken, negated where larger is
    better, and trials that were pruned are censored: how they would have gone on is not known.
    Raises FileNotFoundError, and ValueError if columns are missing or no curve is left.
    """
    if path.is_dir():
        frame = _of_sweep(path)
    elif not path.is_file():
        raise FileNotFoundError(f"no curves at {path}: give a sweep's folder, a Parquet or a CSV file")
    else:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        frame = frame.rename(columns={metric: "loss"})
    missing = {"trial", "step", "loss"} - set(frame.columns)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(frame.columns)}")
    if "task" not in frame:
        frame["task"] = path.stem
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
        n_steps = longest if censored or not np.isfinite(losses[-1]) else int(steps[-1]) + 1
    lr: tuple[tuple[int, float], ...] = ()
    if "lr" in own and own["lr"].notna().any():
        known = own[own["lr"].notna()]
        lr = tuple(zip(known["step"].astype(int), known["lr"].astype(float), strict=True))
    return Curve(steps, losses, Plan(n_steps, lr), censored)


def _of_sweep(folder: Path) -> pd.DataFrame:
    from analysis.load import load, open_study

    sweep = load(folder)
    sign = -1.0 if sweep.directions == ("maximize",) else 1.0
    rows = sweep.curves.drop_duplicates(["trial", "step", "metric"], keep="last")
    of = {name: rows.loc[rows["metric"] == name, ["trial", "step", "value"]] for name in (sweep.metric, "lr")}
    frame = of[sweep.metric].rename(columns={"value": "loss"})
    frame = frame.assign(loss=sign * frame["loss"]).merge(of["lr"].rename(columns={"value": "lr"}), "left")
    states = sweep.trials["state"]
    trials = {trial.number: trial for trial in open_study(folder).get_trials(deepcopy=False)}
    frame["budget"] = frame["trial"].map(lambda n: trials[n].user_attrs.get(Plan.N_STEPS_ATTR))
    frame["censored"] = frame["trial"].map(lambda n: states.get(n) in ("pruned", "running"))
    return frame[frame["trial"].isin(states[states != "fail"].index)]
