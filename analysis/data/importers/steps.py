"""What the rows of a run say of their order: newest first, begun again, gone on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["in_order", "whole_steps"]

# Rows that go back in more than this share of places are in no order at all.
SHUFFLED_SHARE = 0.2


def whole_steps(frame: pd.DataFrame, source: Path) -> pd.Series:
    """The steps as whole numbers.

    Fractions are refused: cut to whole steps, only the last report of each would count.
    """
    steps = pd.to_numeric(frame["step"], errors="coerce").astype(float)
    bad = ~(np.isfinite(steps) & (steps == np.floor(steps)))
    if bad.any():
        raise ValueError(
            f"the steps of {source} must be whole numbers, such as optimizer updates; "
            f"{int(bad.sum())} of {len(frame)} are not, the first is {frame['step'][bad].iloc[0]} "
            f"of {frame['trial'][bad].iloc[0]}: number the reports, multiply a share of an "
            "epoch by its updates, or take another column (--step NAME)"
        )
    return pd.to_numeric(frame["step"]).astype(np.int64)


def in_order(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of each run by step, and what was done about those that go back.

    frame: as it stands in the file, or by its timestamp where it has one; step is whole. Where a
    run's steps begin again, with each epoch, they are counted on. Where it went on from an earlier
    step, after a crash, what it reported before from there on is left out. Rows in the reverse
    order, or in none, are sorted.
    """
    if "timestamp" in frame and frame["timestamp"].notna().all():
        frame = frame.sort_values("timestamp", kind="stable")
    parts, notes = [], []
    keys = [name for name in ("trial", "metric") if name in frame]
    first_notes: dict[str, Any] = {}
    for key, own in frame.groupby(keys, sort=False):
        steps, kept, what = _joined(own)
        parts.append(own.assign(step=steps)[kept].sort_values("step", kind="stable"))
        if what:
            first_notes.setdefault(what, key[0])
    for what, trial in first_notes.items():
        notes.append(f"{trial}: {what}")
    return pd.concat(parts, ignore_index=True) if parts else frame, notes


def _joined(own: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_], str]:
    """The steps of a run's rows, which of these count, and a word where that is not plain."""
    steps = own["step"].to_numpy()
    kept = np.ones(len(steps), dtype=bool)
    back = np.flatnonzero(np.diff(steps) < 0) + 1
    has_repetition = len(np.unique(steps)) < len(steps)
    if not len(back) or not has_repetition or len(back) > max(1, SHUFFLED_SHARE * len(steps)):
        return steps, kept, ""
    begins = np.concatenate([[0], back])
    ends = np.concatenate([back, [len(steps)]])
    if _are_epochs(own, steps, begins, ends):
        offset, counted = 0, steps.copy()
        for begin, end in zip(begins[1:], ends[1:], strict=True):
            offset = int(counted[begin - 1]) + 1 - int(steps[begin])
            counted[begin:end] = steps[begin:end] + offset
        times = "once" if len(back) == 1 else f"{len(back)} times"
        return counted, kept, f"steps begin again {times}, so they are counted on"
    for begin in begins[1:]:
        kept[:begin] &= steps[:begin] < steps[begin]
    what = (
        f"went on from step {steps[begins[-1]]} after step {steps[begins[-1] - 1]}; "
        "what it had reported beyond is left out"
    )
    return steps, kept, what


def _are_epochs(
    own: pd.DataFrame,
    steps: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> bool:
    """Whether each part of a run is an epoch, and not what was run again.

    It is if an epoch is counted beside it; else if each part begins where the first one does and
    all are equally long, but the last, which may be shorter.
    """
    if "epoch" in own:
        epochs = own["epoch"].to_numpy(dtype=float)
        return bool((epochs[begins[1:]] > epochs[begins[1:] - 1]).all())
    starts, lengths = steps[begins], ends - begins
    are_equal = (starts == starts[0]).all() and (lengths[:-1] == lengths[0]).all()
    return bool(are_equal and lengths[-1] <= lengths[0])
