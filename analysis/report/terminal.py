"""Tables of a command, in the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

WRITTEN_OUT = (1e3, 1e9)  # 64000 is read faster than 6.4e+04


def terminal() -> Console:
    """Where commands print; where nobody sees a terminal's edge, a table should not be cut at 80 columns."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def as_table(frame: pd.DataFrame) -> Table:
    """A frame's columns as a table for the terminal.

    Numbers with four digits, NaN and absent values empty.
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
    """Whether a column is to stand to the right.

    It has numbers, perhaps a word in place of some.
    """
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return True
    return any(
        isinstance(value, int | float) and not isinstance(value, bool) for value in column.dropna()
    )


def cell(value: Any) -> str:
    """A value for a reader: numbers with four digits, whole thousands with all, NaN and absent values empty."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if WRITTEN_OUT[0] <= abs(value) < WRITTEN_OUT[1] else f"{value:.4g}"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """`optim.lr` as `lr`: the last part of each dotted key, and as much before it as tells it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        names[key] = next(
            end for end in ends if sum(k == end or k.endswith(f".{end}") for k in keys) == 1
        )
    return names


def counted(n: int, what: str) -> str:
    """How many: "1 trial", "1,200 trials"."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
