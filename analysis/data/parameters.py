"""The parameters of a table of trials or settings: its columns `params.KEY`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PREFIX", "parameters", "varied"]

PREFIX = "params."


def parameters(frame: pd.DataFrame) -> dict[str, str]:
    """All parameters' columns, by key."""
    columns = [c for c in map(str, frame.columns) if c.startswith(PREFIX)]
    return {c.removeprefix(PREFIX): c for c in columns}


def varied(frame: pd.DataFrame) -> dict[str, str]:
    """The columns of the parameters with more than one value, absence included, by key."""
    return {k: c for k, c in parameters(frame).items() if frame[c].nunique(dropna=False) > 1}
