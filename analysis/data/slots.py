"""What the slots of a sweep held and did while it ran: `slots.csv` of its folder as a frame."""

from __future__ import annotations

import warnings
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import pandas as pd

from iolaus.sweeps.run.slots_log import SlotRow
from iolaus.sweeps.study.folder import SLOTS_FILE

__all__ = ["COLUMNS", "read_slots"]

COLUMNS = [field.name for field in fields(SlotRow)]
WORDS = ("device",)


def read_slots(folder: Path, began: datetime | None) -> pd.DataFrame:
    """The rows of `iolaus.sweeps.run.slots_log.SlotRow`, numbers as floats, by time.

    at_s: seconds since `began`, local time, or since the first row. Empty where there is no file,
    or one that is no table, of which a warning tells; a line that was cut off is left out.
    """
    empty = pd.DataFrame(columns=[*COLUMNS, "at_s"])
    path = folder / SLOTS_FILE
    if not path.is_file() or path.stat().st_size == 0:
        return empty
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="skip")
        rows = rows[COLUMNS]
    except (ValueError, KeyError, OSError) as error:
        warnings.warn(f"{path} is damaged, and left out: {error}", stacklevel=2)
        return empty
    for name in COLUMNS:
        if name not in WORDS:
            rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    rows = rows.dropna(subset=["time_s", "slot", "trial"]).sort_values("time_s", kind="stable")
    first = rows["time_s"].min() if began is None else began.timestamp()
    return rows.assign(at_s=rows["time_s"] - first).reset_index(drop=True)
