"""The diagnosis of a sweep: the shape of each trial's loss, why, and what to change.

`features` gathers what is known of each trial, `shapes` judges its curve, `fixes` suggests a
change; here they meet.
"""

from __future__ import annotations

import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import gather
from iolaus.analysis.diagnosis.fixes import all_config_keys, suggested_fix
from iolaus.analysis.diagnosis.shapes import diagnose_curve

__all__ = ["diagnose"]

COLUMNS = ("shape", "since", "reason", "parameter", "fix", "advice")


def diagnose(sweep: Sweep) -> pd.DataFrame:
    """The diagnosis of each trial whose curve can be judged.

    One row per trial, index trial (number); columns shape (of
    `iolaus.analysis.diagnosis.shapes.SHAPES`), since (step; NaN if from the start or unknown),
    reason (a sentence with the numbers that decided), parameter (whose gradient exploded first, or
    ""), fix (a tuple of overrides, empty if there is none to give), advice (the fix in words, ""
    for a trial that is well). A trial with too few reports for a curve is left out unless it
    failed: it still runs, was pruned at once, never ran (a duplicate, ruled out by a lint), or only
    returns its result.

    >>> diagnosis = iolaus.diagnose(iolaus.load("runs.csv"))
    >>> diagnosis["shape"][[0, 9]].tolist()
    ['converged', 'slow']
    """
    gathered = gather(sweep)
    config_keys = all_config_keys(sweep, gathered)
    rows = {}
    for number, features in gathered.items():
        found = diagnose_curve(features)
        was_run = features.state == "fail" and not features.ended.startswith("duplicate")
        if found.shape == "broken" and not was_run:
            continue
        fix = suggested_fix(found, features, config_keys[number])
        rows[number] = (
            found.shape,
            found.since,
            found.reason,
            found.parameter,
            fix.overrides,
            fix.advice,
        )
    table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS))
    return table.set_index(pd.Index(list(rows), name="trial", dtype="int64"))
