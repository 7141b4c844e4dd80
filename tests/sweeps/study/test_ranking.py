"""The ranking in a terminal."""

import io
import math

import pytest
from rich.console import Console

from iolaus.sweeps.study.summary import Result, table


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ranking_fits_its_terminal(width: int) -> None:
    """One line per trial at any width: parameters that do not fit are named below, and reasons are
    cut short.
    """
    params = {f"optim.parameter_{i}": 0.123456 for i in range(6)}
    why = "RuntimeError: a long story of what went wrong, with all its details and numbers, told in one line"
    results = [Result(i, "failed", (), 1.0, math.nan, 1000, why, params) for i in range(3)]
    out = io.StringIO()
    Console(file=out, width=width).print(table(results, "loss"))
    header, *rows = out.getvalue().splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["0", "1", "2"]
    assert all("RuntimeErro" in row and row.rstrip().endswith(("…", "line")) for row in rows[:3])
    assert max(map(len, [header, *rows])) <= width
    below = " ".join(rows[3:])
    for name in (f"parameter_{i}" for i in range(6)):
        assert (name in header) != (name in below)
    assert ("parameter_5" in header) == (width == 200)
