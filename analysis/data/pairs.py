"""What trials end at, and how two settings differ in it over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.distributions import t_quantile

__all__ = [
    "N_SEEDS",
    "difference_text",
    "fixed_value",
    "measures_at_end",
    "paired_difference",
    "setting_text",
    "value_text",
]

N_SEEDS = 3  # of a setting, to say anything of it


def fixed_value(config: Mapping[str, Any], key: str) -> Any:
    """What the sweep's config says for a key such as task.length; None if nothing plain."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float | str) else None


def measures_at_end(sweep: Sweep) -> tuple[str, float, dict[int, float]]:
    """What trials are compared by, its sign, and its value at the end of each."""
    names = [str(name) for name in sweep.curves["metric"].unique()]
    accuracy = next((n for n in names if "accuracy" in n and n.startswith("val")), None)
    if accuracy is None:
        ends = sweep.trials["objective"].astype(float)
        return "objective", sweep.objective_sign, dict(zip(ends.index.tolist(), ends, strict=True))
    curves = curves_of(sweep.curves, accuracy)
    return accuracy, -1.0, {n: float(values[-1]) for n, (_, values) in curves.items()}


def value_text(value: Hashable) -> str:
    """A parameter's value for a reader: 20.0 is 20."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def setting_text(values: Mapping[str, Any]) -> str:
    """The parameters that a setting has, in words: `lr=0.1, clip=norm`."""
    return ", ".join(
        f"{key}={value_text(value)}"
        for key, value in values.items()
        if value is not None and value == value  # NaN is absent too
    )


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, n_tried: int) -> str:
    """The mean difference of the same seeds in words, with its interval."""
    if not (a["seed"].is_unique and b["seed"].is_unique and a["seed"].notna().all()):
        return ""
    pairs = (a.set_index("seed")["measure"] - b.set_index("seed")["measure"]).dropna()
    n, spread = len(pairs), float(pairs.std())
    if n < N_SEEDS or not math.isfinite(spread):
        return ""
    middle = float(pairs.mean())
    margin = float(t_quantile(1 - 0.025 / n_tried, n - 1)) * spread / math.sqrt(n)
    return difference_text(middle, margin, f"{n} seeds")


def difference_text(middle: float, margin: float, seeds: str) -> str:
    """A difference in words, with its 95 % interval, and whether that holds 0."""
    interval = f"95 % interval {middle - margin:.2g} to {middle + margin:.2g}, {seeds}"
    told = "" if abs(middle) > margin else "; it cannot be told from none"
    return f": a difference of {middle:.2g} ({interval}){told}"
