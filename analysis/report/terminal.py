"""Tables of a command, in the terminal."""

from __future__ import annotations

import math
import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["as_table", "cell", "holds_numbers", "terminal"]

WRITTEN_OUT = (1e3, 1e9)  # 64000 is read faster than 6.4e+04


def terminal() -> Console:
    """Where commands print; a table for no terminal is not cut at 80 columns."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def as_table(frame: pd.DataFrame) -> Table:
    """A frame's columns as a table for the terminal.

    Numbers have four digits; NaN and absent values are empty.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in frame.columns:
        table.add_column(
            str(column),
            justify="right" if holds_numbers(frame[column]) else "left",
            overflow="fold",
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(cell(value)) for value in row))
    return table


def holds_numbers(column: pd.Series) -> bool:
    """Whether a column holds numbers, and so is to stand to the right.

    Words may stand in place of some of them.
    """
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return True
    return any(
        isinstance(value, int | float) and not isinstance(value, bool) for value in column.dropna()
    )


def cell(value: Any) -> str:
    """A value for a reader: four digits, whole thousands with all, NaN and absent values empty."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if WRITTEN_OUT[0] <= abs(value) < WRITTEN_OUT[1] else f"{value:.4g}"
