"""The part of the page that a reader can explore: curves and parameters, drawn by the browser.

An own renderer of a page of JavaScript on the numbers themselves: a plotting library inlined would
be ten times the rest of the page (plotly 4.5 MB, bokeh 1 MB) for the few things that are asked of
it here: name a line, isolate it, show or hide kinds of trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import Points, lines_of
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.next_trials import rerun_command
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.analysis.figures._style import AXIS_NAMES, limits_of, smoothed
from iolaus.analysis.ranking.rank import Ranking, best_trial
from iolaus.sweeps.signals import thin
from iolaus.sweeps.text import short_names
from iolaus.sweeps.types import OUTPUT_FILE

__all__ = ["CSS", "JS", "Explorer", "explorer"]

N_POINTS = 100  # of a drawn curve
SPREAD_LOG = 20.0
ASSETS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Explorer:
    """Curves of some metrics over one axis, and parallel coordinates of the same trials.

    caption: what to see and do. data: for the script, as JSON.
    """

    caption: str
    data: Mapping[str, Any]

    def json(self) -> str:
        """The data, so that they may stand in a page."""
        text = json.dumps(self.data, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")


def explorer(
    sweep: Sweep,
    ranking: Ranking,
    diagnosis: pd.DataFrame,
    metrics: list[str],
    axis: str,
    smooth: float | None = None,
) -> Explorer | None:
    """What there is to explore of a sweep; None if nothing was reported.

    metrics: the first is shown at first. axis: step, examples or seconds. Curves are smoothed as in
    the figures, and thinned to 100 points.
    """
    drawn = {}
    for metric in metrics:
        lines = {t: smoothed(line, smooth) for t, line in lines_of(sweep, metric, axis).items()}
        if not lines:
            continue
        low, high, is_log = limits_of(lines.values())
        drawn[metric] = {
            "limits": [_rounded(low), _rounded(high)],
            "log": is_log,
            "lines": {str(t): _points(line) for t, line in lines.items()},
        }
    if not drawn:
        return None
    params = varied(sweep.trials)
    names = short_names(list(params))
    data = {
        "axis": AXIS_NAMES[axis],
        "log": OUTPUT_FILE,
        "metrics": drawn,
        "trials": _trials(sweep, ranking, diagnosis, {names[k]: c for k, c in params.items()}),
        "axes": [_scale(names[key], sweep.trials[column]) for key, column in params.items()]
        + [_scale("objective", sweep.trials["objective"])],
    }
    caption = (
        f"Every trial's {' or '.join(drawn)}, and its parameters below. Point at a line for its "
        "trial, click to isolate it and see what is known of it; the buttons show and hide trials."
    )
    return Explorer(caption, data)


def _points(line: Points) -> list[list[float]]:
    x, y = thin(line[:, 0], line[:, 1], N_POINTS)
    return [[_rounded(v) for v in x], [_rounded(v) for v in y]]


def _rounded(value: float) -> float:
    """Four digits are more than a screen shows."""
    return float(f"{value:.4g}")


def _trials(
    sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame, params: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What a reader is told of each trial."""
    best, found = best_trial(sweep, ranking), diagnosis.to_dict("index")
    is_repeated = bool(sweep.trials["setting"].duplicated().any())
    rows = []
    for number, row in zip(sweep.trials.index, sweep.trials.to_dict("records"), strict=True):
        own = found.get(number, {})
        about = {
            "number": int(number),
            "name": _plain(row.get("name")),
            "state": str(row["state"]),
            "best": number == best,
            "setting": int(row["setting"]) if is_repeated else None,
            "seed": _plain(row["seed"]) if is_repeated else None,
            "objective": _plain(row["objective"]),
            "shape": shape_name(own["shape"]) if own else "no curve",
            "reason": own.get("reason", ""),
            "fix": " ".join(own.get("fix", ())) or own.get("advice", ""),
            "why": str(row["why"]),
            "folder": str(row.get("folder") or ""),
            "command": rerun_command(sweep, int(number)),
            "params": {name: _plain(row[column]) for name, column in params.items()},
        }
        rows.append({k: v for k, v in about.items() if v not in (None, "")})
    return rows


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return _rounded(value) if isinstance(value, float) else value


def _scale(name: str, values: pd.Series) -> dict[str, Any]:
    """One axis of the parallel coordinates: a range of numbers, or choices in order."""
    known = values.dropna()
    numbers = [v for v in known if isinstance(v, int | float | np.number)]
    if len(numbers) < len(known) or any(isinstance(v, bool) for v in known):
        return {"name": name, "choices": sorted(map(str, known.unique()))}
    finite = np.array([v for v in numbers if math.isfinite(v)], dtype=np.float64)
    if not len(finite):
        return {"name": name, "choices": []}
    low, high = float(finite.min()), float(finite.max())
    if name == "objective" and len(finite) > 2:  # one that exploded does not hide the others
        near = finite[np.abs(finite - np.median(finite)) <= 5 * _spread(finite)]
        low, high = float(near.min()), float(near.max())
    is_log = low > 0 and high > SPREAD_LOG * low
    return {"name": name, "low": _rounded(low), "high": _rounded(high), "log": is_log}


def _spread(values: np.ndarray) -> float:
    return float(np.subtract(*np.percentile(values, [75, 25]))) or float(np.ptp(values)) or 1.0


CSS = (ASSETS / "explorer.css").read_text(encoding="utf-8")
JS = (ASSETS / "explorer.js").read_text(encoding="utf-8")
