"""The one form that all importers give, and the two frames that are made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "ABOUT",
    "CURVE_COLUMNS",
    "Columns",
    "Found",
    "Runs",
    "in_rows",
    "is_metric",
    "moments",
    "tidy",
]

# Columns that are about a trial, not metrics of it.
ABOUT = ("task", "seed", "setting", "code", "state", "why", "censored", "budget", "n_steps")
# Our state for the words of W&B, MLflow and others, in small letters; a run of another word has
# completed.
STATES = {
    **dict.fromkeys(("crashed", "failed", "fail", "killed", "preempted"), "fail"),
    **dict.fromkeys(("running", "scheduled"), "running"),
    "pruned": "pruned",
}
CURVE_COLUMNS = ["trial", "step", "examples", "seconds", "metric", "value"]
# Between two reports of a run lies a pause, and not work, if it is this many times as long as the
# time between nine of ten others, and no shorter than PAUSE_S.
PAUSE_FACTOR = 100
PAUSE_S = 600.0
YEAR_5138_S = 1e11


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns, where one says what they are; None: as they are called."""

    step: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What an importer has found.

    reports: one row per value; columns trial, step, metric, value, may have examples and either
    seconds or timestamp (numbers, or texts and times of any zone). about: by trial; columns of
    ABOUT and `params.KEY`. direction: of the only metric, where the source says it. notes: what was
    assumed, in sentences.
    """

    reports: pd.DataFrame
    about: pd.DataFrame
    direction: str | None = None
    notes: Sequence[str] = field(default=())


class Runs(NamedTuple):
    """Runs of other tools as a sweep has its own.

    trials: index number (as the source has it if those are whole numbers, else in order of
    appearance); columns name (unless it is the number), those of ABOUT and `params.KEY` that the
    source has. A state is one of ours (STATES), and why then is the source's own word; a setting
    that is no number is that of its first trial. curves: the columns of a `Sweep`'s. What a source
    does not say stays missing. direction, notes: see `Found`.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    direction: str | None = None
    notes: Sequence[str] = ()


def tidy(found: Found, source: Path) -> Runs:
    """The two frames. Raises ValueError if there is no report, or one that names no trial."""
    reports, about = found.reports, found.about
    if n_nameless := int(reports["trial"].isna().sum()):
        raise ValueError(
            f"{n_nameless} of {len(reports)} rows of {source} have no trial: name the run of each "
            "row, or say which column does (--run NAME)"
        )
    if reports.empty:
        raise ValueError(f"{source} holds no curves: no column of numbers beside trial and step")
    names = pd.Series(pd.unique(reports["trial"]))
    is_number = pd.api.types.is_integer_dtype(names)
    numbers = dict(zip(names, names if is_number else range(len(names)), strict=True))
    trials = about.reindex(names) if len(about.columns) else pd.DataFrame(index=pd.Index(names))
    trials = trials if is_number else trials.assign(name=trials.index.astype(str))
    trials.index = pd.Index([int(numbers[name]) for name in trials.index], name="number")
    notes = list(found.notes)
    if "seconds" not in reports and "timestamp" in reports:
        seconds, paused = _seconds(reports)
        reports = reports.assign(seconds=seconds)
        notes += paused
    reports = reports.assign(trial=reports["trial"].map(numbers).astype(int))
    curves = reports.reindex(columns=CURVE_COLUMNS)
    curves = curves.astype({"step": np.int64, "value": float, "metric": str})
    curves = curves.sort_values(["trial", "step"], kind="stable", ignore_index=True)
    return Runs(_as_ours(trials), curves, found.direction, tuple(notes))


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


def _seconds(reports: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Seconds since each trial's first report, without pauses; and what pauses there were."""
    time = moments(reports["timestamp"])
    seconds = time - time.groupby(reports["trial"]).transform("min")
    notes = []
    for trial, own in seconds.groupby(reports["trial"]):
        known = np.unique(own.dropna())
        gaps = np.diff(known)
        if len(gaps) < 3:
            continue
        usual = float(np.quantile(gaps, 0.9))
        pauses = gaps > max(PAUSE_S, PAUSE_FACTOR * usual)
        if not pauses.any():
            continue
        cut = np.where(pauses, gaps - np.median(gaps[~pauses]), 0.0)
        seconds[own.index] = (
            own - np.concatenate([[0.0], np.cumsum(cut)])[np.searchsorted(known, own)]
        )
        notes.append(f"{trial} paused for {cut.sum():,.0f} s, which are not counted as its time")
    return seconds, notes


def moments(time: pd.Series) -> pd.Series:
    """Timestamps as seconds since any origin, NaN where there is none.

    Numbers beyond the year 5138 in seconds are milliseconds, microseconds or nanoseconds; texts are
    dates and times of any zone, UTC if they name none, or hours, minutes and seconds that have
    passed. All are NaN if one cannot be read.
    """
    if pd.api.types.is_numeric_dtype(time):
        while time.max() > YEAR_5138_S:
            time = time / 1000
        return time.astype(float)
    none = pd.Series(np.nan, time.index)
    if time.astype(str).str.fullmatch(r"\d+(:\d\d){1,2}(\.\d+)?|nan|None|").all():
        parts = time.astype("string").str.split(":", expand=True).astype(float)
        return parts.mul([60.0**n for n in range(parts.shape[1] - 1, -1, -1)]).sum(
            axis=1, min_count=1
        )
    for form in ("ISO8601", "mixed"):
        with contextlib.suppress(ValueError, TypeError):
            read = pd.to_datetime(time, utc=True, format=form)
            return (read - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return none


def in_rows(frame: pd.DataFrame, source: Path) -> pd.DataFrame:
    """A table with a column per metric, or with metric and value, as reports of `Found`.

    In a column per metric an empty cell is no report, but those after the last number of a gapless
    curve are NaN (not in a row with something that never was reported together with it). The rows
    of a trial are in order.
    """
    if {"metric", "value"} <= set(frame.columns):
        return frame
    fixed = [c for c in ("trial", "step", "examples", "seconds", "timestamp") if c in frame]
    metrics = [c for c in frame.columns if c not in fixed and is_metric(frame[c])]
    if not metrics:
        seen = {str(c): frame[c].dropna() for c in frame.columns if c not in fixed}
        examples = [f"{c} (such as {v.iloc[0]!r})" for c, v in list(seen.items())[:12] if len(v)]
        raise ValueError(
            f"{source} holds no curves: no column of numbers beside trial and step; "
            f"it has {', '.join([*fixed, *examples])}"
        )
    is_alike = _goes_with(frame[metrics].notna().to_numpy(np.int64)).ravel(order="F")
    # Any table may have a column that is called value, which melt would take for its own.
    frame = frame.melt(fixed, metrics, var_name="metric ", value_name="value ")
    frame = frame.rename(columns={"metric ": "metric", "value ": "value"})
    return frame[_was_reported(frame, is_alike)]


def is_metric(column: pd.Series) -> bool:
    """Whether a column may be a metric: numbers, and no flags."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


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
