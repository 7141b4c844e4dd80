"""Runs that other tools recorded, as the rows of a sweep.

Parquet, CSV, TensorBoard, exports of W&B and MLflow. `read_runs` gives the two frames that
`iolaus.analysis.data.sweep` makes a `Sweep` of. What a source does not say stays missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["read_runs"]

# Our names of the columns of a file: theirs, in small letters.
ALIASES = {
    "trial": ("trial", "run_id", "run_uuid", "run", "run name", "run_name", "name", "_run"),
    "step": ("step", "_step", "global_step", "iteration"),
    "seconds": ("seconds", "_runtime", "relative time (process)"),
    "metric": ("metric", "key", "tag"),
    "value": ("value",),
    "timestamp": ("timestamp", "_timestamp", "wall_time", "wall time"),
}
# Columns that are about a trial, not metrics of it.
ABOUT = ("task", "seed", "setting", "code", "state", "why", "censored", "budget", "n_steps")
# Our state for the words of W&B, MLflow and others, in small letters; a run of another word has
# completed.
STATES = {
    **dict.fromkeys(("crashed", "failed", "fail", "killed", "preempted"), "fail"),
    **dict.fromkeys(("running", "scheduled"), "running"),
    "pruned": "pruned",
}
# What is no metric in a chart: W&B adds the columns of steps and times.
NO_METRICS = frozenset(name for ours in ("step", "seconds", "timestamp") for name in ALIASES[ours])
CURVE_COLUMNS = ["trial", "step", "examples", "seconds", "metric", "value"]
WANDB_CHART = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?$")


def read_runs(source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(trials, curves) of a file or a folder of TensorBoard event files.

    trials: index number (as the file has it if those are whole numbers, else in order of
    appearance); columns name (unless it is the number), those of ABOUT and `params.KEY` that the
    source has. A state is one of ours (STATES), and why then is the source's own word; a setting
    that is no number is that of its first trial. curves: the columns of a `Sweep`'s.

    A Parquet or CSV file has one row per report, with columns `trial` and `step` (aliases: ALIASES)
    and either a column per metric, or `metric` and `value`, as MLflow's download of metrics has
    (run_id, key, value, step, timestamp).
    Optional: `examples`, `seconds` (or a `timestamp`, in seconds or milliseconds since any origin),
    those of ABOUT, and `params.KEY`; of these the first of a trial counts, and None and null are
    values. Without `trial` the file is one run. The order of rows says nothing but where steps are
    equal; a header within a CSV file is skipped. The CSV of a W&B chart has its axis (`Step`,
    `trainer/global_step`, `epoch`) and a column `RUN - METRIC` per run; its __MIN and __MAX are
    left out, and so is its `_step`. In a TensorBoard folder each folder with event files is a run;
    scalars and hyperparameters are read, with `tensorboard` installed; a folder of hyperparameters
    and at most one value of each scalar, as `SummaryWriter.add_hparams` makes it within a run's,
    belongs to that run. In a column per metric an empty cell is no report, but those after the last
    number of a gapless curve are NaN (not in a row with something that never was reported together
    with it).

    Raises FileNotFoundError if there is nothing, ValueError if what is there are no curves, rows
    lack their trial, or steps are not whole.
    """
    if source.is_dir():
        return _tidy(_tensorboard(source), source)
    if not source.is_file():
        raise FileNotFoundError(
            f"no runs at {source}: give a sweep's folder, a Parquet or CSV file, or a TensorBoard "
            "folder"
        )
    try:
        is_parquet = source.suffix in (".parquet", ".pq")
        frame = pd.read_parquet(source) if is_parquet else _read_csv(source)
    except ValueError as error:  # of pandas and pyarrow, who do not name the file
        raise ValueError(f"{source} cannot be read as a table: {error}") from error
    charts = {str(c): m for c in frame.columns if (m := WANDB_CHART.match(str(c)))}
    if charts:
        return _tidy(_wandb_chart(frame, charts), source)
    return _tidy(_renamed(frame), source)


def _read_csv(source: Path) -> pd.DataFrame:
    """A CSV file without the headers within it, and with None and null as values of parameters."""
    frame = pd.read_csv(source, low_memory=False)
    is_header = np.zeros(len(frame), dtype=bool)
    if not any(map(pd.api.types.is_numeric_dtype, frame.dtypes)):
        # A logger that appends after a restart may write its header again.
        is_header = (frame.astype(str) == list(map(str, frame.columns))).all(axis=1).to_numpy()
        frame = frame[~is_header].apply(_numbers_if_all_are)
    if params := [str(column) for column in frame.columns if str(column).startswith("params.")]:
        texts = pd.read_csv(source, usecols=params, dtype=str, keep_default_na=False)[~is_header]
        for column in params:
            is_null = texts[column].str.lower().isin(("none", "null"))
            if is_null.any():
                frame[column] = frame[column].astype(object).mask(is_null, texts[column])
    return frame


def _numbers_if_all_are(column: pd.Series) -> pd.Series:
    """A column of text as numbers, if each of its cells that is not empty is one."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().equals(column.notna()) else column


def _renamed(frame: pd.DataFrame) -> pd.DataFrame:
    known = {str(column).lower(): column for column in frame.columns}
    found = {}
    for ours, theirs in ALIASES.items():
        name = next((known[alias] for alias in theirs if alias in known), None)
        if name is not None:
            found[name] = ours
    return frame.rename(columns=found)


def _wandb_chart(frame: pd.DataFrame, charts: dict[str, re.Match[str]]) -> pd.DataFrame:
    others = _renamed(frame[[c for c in frame.columns if c not in charts]])
    axes = [c for c in others.columns if c not in ("seconds", "timestamp")]
    if "step" not in axes and len(axes) != 1:
        raise ValueError(
            "a W&B chart needs one column of steps, such as Step, trainer/global_step or epoch; "
            f"this has {', '.join(map(str, frame.columns[:6]))}: export by step"
        )
    steps = others["step" if "step" in axes else axes[0]]
    parts = [
        pd.DataFrame(
            {
                "trial": m["run"],
                "step": steps,
                "metric": m["metric"],
                "value": frame[column],
            }
        )
        for column, m in charts.items()
        if m["bound"] is None and m["metric"].lower() not in NO_METRICS
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


def _tensorboard(folder: Path) -> pd.DataFrame:
    runs = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if not runs:
        raise FileNotFoundError(
            f"{folder} is no sweep (it has no sweep.yaml) and holds no TensorBoard event files"
        )
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ValueError("to read TensorBoard's event files: pip install tensorboard") from error
    rows = []
    params: dict[str, dict[str, Any]] = {}
    with_scalars: set[Path] = set()  # a folder comes before those in it
    for run in runs:
        events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        found = _hyperparameters(events)
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        scalars |= {tag: _scalars_of(events.Tensors(tag)) for tag in events.Tags()["tensors"]}
        is_curve = any(len(reports) > 1 for reports in scalars.values())
        owner = run.parent if found and not is_curve and run.parent in with_scalars else run
        name = str(owner.relative_to(folder)) if owner != folder else folder.name
        params.setdefault(name, {}).update(found)
        if owner != run:
            continue  # its scalars only repeat the results
        rows += [
            (name, e.step, tag, e.value, e.wall_time)
            for tag, reports in scalars.items()
            for e in reports
        ]
        if any(scalars.values()):
            with_scalars.add(run)
    frame = pd.DataFrame(rows, columns=["trial", "step", "metric", "value", "timestamp"])
    return frame.join(
        pd.DataFrame.from_dict(params, orient="index").add_prefix("params."), on="trial"
    )


def _hyperparameters(events: Any) -> dict[str, Any]:
    """What a run's events say of its hyperparameters, by name."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    known = events.summary_metadata.get("_hparams_/session_start_info")
    if known is None:
        return {}
    hparams = HParamsPluginData.FromString(known.plugin_data.content).session_start_info.hparams
    return {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in hparams.items()
        if value.WhichOneof("kind")
    }


class _Report(NamedTuple):
    """A scalar event."""

    wall_time: float
    step: int
    value: float


def _scalars_of(tensors: Iterable[Any]) -> list[_Report]:
    """The scalars of TensorFlow 2, which are tensors."""
    from tensorboard.util.tensor_util import make_ndarray

    known = [(e, make_ndarray(e.tensor_proto)) for e in tensors]
    return [
        _Report(e.wall_time, e.step, float(value))
        for e, value in known
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number)
    ]


def _tidy(frame: pd.DataFrame, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if "step" not in frame:
        raise ValueError(
            f"{source} has no column step; it has {', '.join(map(str, frame.columns[:12]))}"
        )
    frame = frame.assign(trial=frame.get("trial", source.stem)).dropna(subset="step")
    if n_nameless := int(frame["trial"].isna().sum()):
        raise ValueError(
            f"{n_nameless} of {len(frame)} rows of {source} have no trial: name the run of each row"
        )
    if "task" in frame and frame["task"].nunique() > 1:
        frame["trial"] = frame["task"].astype(str) + "/" + frame["trial"].astype(str)
    about = [c for c in frame.columns if c in ABOUT or str(c).startswith("params.")]
    names = frame["trial"].drop_duplicates()
    is_number = pd.api.types.is_integer_dtype(names)
    numbers = dict(zip(names, names if is_number else range(len(names)), strict=True))
    trials = (
        frame.groupby("trial", sort=False)[about].first() if about else pd.DataFrame(index=names)
    )
    trials = trials if is_number else trials.assign(name=trials.index.astype(str))
    trials = _as_ours(
        trials.set_axis(pd.Index([int(numbers[n]) for n in trials.index], name="number"))
    )
    if "seconds" not in frame and "timestamp" in frame:
        frame["seconds"] = _seconds(frame)
    frame = frame.assign(
        trial=frame["trial"].map(numbers).astype(int), step=_whole_steps(frame, source)
    )
    # Tables and databases may export the newest row first.
    frame = frame.sort_values(["trial", "step"], kind="stable", ignore_index=True)
    if not {"metric", "value"} <= set(frame.columns):
        fixed = [c for c in ("trial", "step", "examples", "seconds") if c in frame]
        metrics = [
            c
            for c in frame.columns
            if c not in (*fixed, *about, "timestamp") and _is_metric(frame[c])
        ]
        is_alike = _goes_with(frame[metrics].notna().to_numpy(np.int64)).ravel(order="F")
        frame = frame.melt(fixed, metrics, var_name="metric", value_name="value")
        frame = frame[_was_reported(frame, is_alike)]
    if frame.empty:
        raise ValueError(f"{source} holds no curves: no column of numbers beside trial and step")
    curves = frame.reindex(columns=CURVE_COLUMNS).astype({"value": float, "metric": str})
    return trials, curves.sort_values(["trial", "step"], kind="stable", ignore_index=True)


def _whole_steps(frame: pd.DataFrame, source: Path) -> pd.Series:
    """The steps as whole numbers.

    Fractions are refused: cut to whole steps, only the last report of each would count.
    """
    steps = pd.to_numeric(frame["step"], errors="coerce").astype(float)
    bad = ~(np.isfinite(steps) & (steps == np.floor(steps)))
    if bad.any():
        raise ValueError(
            f"the steps of {source} must be whole numbers, such as optimizer updates; "
            f"{int(bad.sum())} of {len(frame)} are not, the first is {frame['step'][bad].iloc[0]} "
            f"of {frame['trial'][bad].iloc[0]}: number the reports, or multiply a share of an "
            "epoch by its updates"
        )
    return pd.to_numeric(frame["step"]).astype(np.int64)


def _as_ours(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with states and settings as a sweep has them."""
    if "state" in trials:
        words = trials["state"].astype("string").str.lower()
        state = words.map(STATES).fillna("complete").astype(object)
        trials = trials.assign(
            state=state, why=trials.get("why", words.fillna("completed").astype(object))
        )
    if "setting" in trials and not pd.api.types.is_integer_dtype(trials["setting"]):
        own = trials.index.to_series()
        trials = trials.assign(
            setting=own.groupby(trials["setting"]).transform("first").fillna(own).astype(int)
        )
    return trials


def _goes_with(number: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row [rows, metrics] of 1 and 0 holds only what is reported together with a metric.

    If not it is a report of another kind, such as the test accuracy at the end: that the loss has
    no number there says nothing of the loss.
    """
    never_together = (number.T @ number == 0).astype(np.int64)
    return np.asarray(number @ never_together == 0)


def _was_reported(frame: pd.DataFrame, is_alike: NDArray[np.bool_]) -> pd.Series:
    """Which values of a column per metric were reports.

    All numbers, and NaN at the end of a curve without gaps. An empty cell and NaN look alike in a
    table. A metric reported now and then has gaps; one that diverged has none before. A trial
    without any number reported its NaN. is_alike: of `_goes_with`.
    """
    number = frame["value"].notna()
    curve = [frame["trial"], frame["metric"]]
    n_before = number.groupby(curve).cumsum()
    at = frame.groupby(["trial", "metric"]).cumcount() + 1
    last = at.where(number, 0).groupby(curve).transform("max")
    has_gaps = (n_before < at).where(at <= last, other=False).groupby(curve).transform("any")
    some = number.groupby(curve).transform("any")
    is_empty = ~number.groupby(frame["trial"]).transform("any")
    return number | (some & ~has_gaps & (at > last) & is_alike) | is_empty


def _is_metric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _seconds(frame: pd.DataFrame) -> pd.Series:
    """Seconds since a trial's first report.

    Numbers beyond the year 5138 in seconds are milliseconds.
    """
    time = frame["timestamp"]
    if not pd.api.types.is_numeric_dtype(time):
        time = (pd.to_datetime(time) - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    elif time.max() > 1e11:
        time = time / 1000
    return time - time.groupby(frame["trial"]).transform("min")
