"""Settings by several criteria at once: result, speed, stability, cost.

Where a sweep has several objectives, these are the criteria.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.sweeps.signals import signals
from iolaus.sweeps.study.fingerprint import RAN_WITH
from iolaus.sweeps.study.ranking import non_dominated

__all__ = ["CRITERIA", "pareto", "shown"]

CRITERIA = ("tier", "steps_to_target", "noise", "seconds")  # without repeats objective, not tier


def pareto(sweep: Sweep, ranking: Ranking | None = None) -> pd.DataFrame:
    """The completed settings, best first, and which of them no other beats in everything.

    Columns setting, tier, objective (as in the ranking), steps_to_target (first step at which the
    watched metric is as good as the target, the median run's best; infinite if it never is), noise
    (of one report of the watched metric around its course, by `iolaus.sweeps.signals`; NaN without
    a curve), seconds (of a run), on_front; of the last three the median over the seeds. On the
    front is who is no worse than any other in tier, steps_to_target, noise and seconds, or better
    in one of them: results that cannot be told apart count as equal, and so do all that never reach
    the target, behind those that do. Without repeats, when there are no tiers, it is the objective
    itself in their place, for what one seed of each is worth. A criterion nobody has a number
    for decides nothing. The frame's `attrs` say metric and target. Where settings differ in it,
    ran_with is a column too.

    Of a sweep with several objectives these are the criteria, each in its own direction, as the
    ranking has them: columns setting, objective, objective_2 and so on, on_front; `attrs` say the
    directions.
    """
    ranking = rank(sweep) if ranking is None else ranking
    table = ranking.table[ranking.table["tier"].notna()]
    done = sweep.trials[
        (sweep.trials["state"] == "complete") & sweep.trials["setting"].isin(table["setting"])
    ]
    ran_with = ["ran_with"] if "ran_with" in table and table["ran_with"].any() else []
    if len(sweep.directions) > 1:
        objectives = [str(c) for c in table if str(c).startswith("objective")]
        found = table[["setting", *objectives, *ran_with, "on_front"]].reset_index(drop=True)
        found.attrs["directions"] = sweep.directions
        return found
    sign = sweep.metric_sign
    curves = curves_of(sweep.curves, sweep.metric)
    losses = {n: (curve[0], sign * curve[1]) for n, curve in curves.items() if n in done.index}
    lowest = [values[np.isfinite(values)].min(initial=math.inf) for _, values in losses.values()]
    target = float(np.median(lowest)) if lowest else math.nan
    numbers = pd.DataFrame(index=done.index, columns=["steps_to_target", "noise"], dtype=np.float64)
    for n, (steps, values) in losses.items():
        reached = np.flatnonzero(values <= target)
        said = signals(steps, values)
        numbers.loc[n] = [steps[reached[0]] if len(reached) else math.inf, said.noise]
    numbers["seconds"] = done["seconds"].astype(float)
    middle = numbers.groupby(done["setting"]).median()
    found = (
        table[["setting", *ran_with, "tier", "objective"]]
        .join(middle, on="setting")
        .reset_index(drop=True)
    )
    criteria = found[list(CRITERIA)].astype(float)
    if not ranking.is_repeated:
        criteria["tier"] = sweep.objective_sign * found["objective"].astype(float)
        found = found.drop(columns="tier")
    found["on_front"] = non_dominated(criteria.to_numpy())
    found.attrs |= {"metric": sweep.metric, "target": sign * target}
    return found


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `pareto` for a reader.

    The target is named, and a setting that never reaches it says so.
    """
    if "directions" in found.attrs:
        objectives = [c for c in found.columns if c.startswith("objective")]
        numbered = enumerate(zip(objectives, found.attrs["directions"], strict=True), start=1)
        names = {c: f"objective {i} ({direction}d)" for i, (c, direction) in numbered}
        return found.rename(columns={**names, "on_front": "on front", "ran_with": RAN_WITH})
    steps = (
        found["steps_to_target"]
        .astype(object)
        .mask(np.isinf(found["steps_to_target"]), "not reached")
    )
    names = {c: c.replace("_", " ") for c in found.columns}
    target = found.attrs["target"]
    if math.isfinite(target):
        names["steps_to_target"] = f"steps to {found.attrs['metric']} {target:.4g}"
    return found.assign(steps_to_target=steps).rename(columns=names)
