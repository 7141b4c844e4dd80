"""Settings by several criteria at once: result, speed, stability, cost.

Or the objectives, where there are several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.ranking.rank import Ranking, rank, reported
from iolaus.sweeps.signals import signals

CRITERIA = ("tier", "steps_to_target", "noise", "seconds")


def pareto(sweep: Sweep, ranking: Ranking | None = None) -> pd.DataFrame:
    """The completed settings, one row each, best first, and which of them no other beats in everything.

    Columns setting, tier, estimate (as in the ranking), steps_to_target (first step at which the
    watched metric is as good as the target, the median run's best; infinite if it never is), noise
    (of one report of the watched metric around its course, by `iolaus.sweeps.signals`; NaN without
    a curve), seconds (of a run), on_front; the median over the seeds of each. On the front is who
    is no worse than any other in tier, steps_to_target, noise and seconds, or better in one of
    them: results that cannot be told apart count as equal, and so do all that never reach the
    target, behind those that do. A criterion nobody has a number for decides nothing. The frame's
    `attrs` say what the estimate is `of`, metric and target.

    Of a sweep with several objectives these are the criteria, each in its own direction: columns
    setting, objective, objective_2 and so on (medians over the seeds), on_front; `attrs` say the
    directions.
    """
    ranking = rank(sweep) if ranking is None else ranking
    table = ranking.table[ranking.table["tier"].notna()]
    done = sweep.trials[
        (sweep.trials["state"] == "complete") & sweep.trials["setting"].isin(table["setting"])
    ]
    if len(sweep.directions) > 1:
        return _by_objectives(sweep.directions, table[["setting"]], done)
    sign = sweep.metric_sign
    of_trial = {n: own for n, own in reported(sweep, sweep.metric).items() if n in done.index}
    lowest = {n: sign * own["value"].to_numpy(np.float64) for n, own in of_trial.items()}
    target = (
        float(np.median([v[np.isfinite(v)].min(initial=math.inf) for v in lowest.values()]))
        if lowest
        else math.nan
    )
    numbers = pd.DataFrame(index=done.index, columns=["steps_to_target", "noise"], dtype=np.float64)
    for n, own in of_trial.items():
        steps = own["step"].to_numpy(np.float64)
        reached = np.flatnonzero(lowest[n] <= target)
        said = signals(steps, lowest[n])
        numbers.loc[n] = [steps[reached[0]] if len(reached) else math.inf, said.noise]
    numbers["seconds"] = done["seconds"].astype(float)
    middle = numbers.groupby(done["setting"]).median()
    found = table[["setting", "tier", "estimate"]].join(middle, on="setting").reset_index(drop=True)
    found["on_front"] = front(found[list(CRITERIA)].astype(float).to_numpy())
    found.attrs |= {"of": ranking.of, "metric": sweep.metric, "target": sign * target}
    return found


def _by_objectives(
    directions: Sequence[str], settings: pd.DataFrame, done: pd.DataFrame
) -> pd.DataFrame:
    names = ["objective", *(f"objective_{i}" for i in range(2, len(directions) + 1))]
    middle = done.reindex(columns=names).astype(float).groupby(done["setting"]).median()
    found = settings.join(middle, on="setting").reset_index(drop=True)
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    found["on_front"] = front(found[names].to_numpy(np.float64) * signs)
    found.attrs["directions"] = directions
    return found


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `pareto` for a reader.

    The target is named, and a setting that never reaches it says so.
    """
    if "directions" in found.attrs:
        objectives = [c for c in found.columns if c.startswith("objective")]
        numbered = enumerate(zip(objectives, found.attrs["directions"], strict=True), start=1)
        names = {c: f"objective {i} ({direction}d)" for i, (c, direction) in numbered}
        return found.rename(columns={**names, "on_front": "on front"})
    steps = (
        found["steps_to_target"]
        .astype(object)
        .mask(np.isinf(found["steps_to_target"]), "not reached")
    )
    names = {c: c.replace("_", " ") for c in found.columns} | {"estimate": found.attrs["of"]}
    target = found.attrs["target"]
    if math.isfinite(target):
        names["steps_to_target"] = f"steps to {found.attrs['metric']} {target:.4g}"
    return found.assign(steps_to_target=steps).rename(columns=names)


def front(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row dominates.

    Values [rows, criteria], smaller is better, NaN counts as infinitely bad.
    """
    values = np.nan_to_num(values, nan=math.inf, posinf=math.inf)
    no_worse = (values[:, None, :] <= values[None, :, :]).all(axis=2)
    better = (values[:, None, :] < values[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))
