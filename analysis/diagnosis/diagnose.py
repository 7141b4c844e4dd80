"""The diagnosis of a sweep: the shape of each trial's loss, why, and what to change.

`features` gathers what is known of each trial, `shapes` judges its curve, `fixes` suggests a
change; here they meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import Features, gather
from iolaus.analysis.diagnosis.fixes import all_config_keys, suggested_fix
from iolaus.analysis.diagnosis.shapes import SHAPES, Diagnosis, diagnose_curve, shape_name

__all__ = ["diagnose", "of_one_setting"]

# Shapes that one seed of a setting shows for all: another may be spared by luck.
RISKS = ("exploded", "died")

COLUMNS = ("shape", "since", "reason", "parameter", "fix", "advice")


def diagnose(sweep: Sweep, features: Mapping[int, Features] | None = None) -> pd.DataFrame:
    """The diagnosis of each trial whose curve can be judged.

    Seeds of one setting have one shape and one fix (`of_one_setting`).

    One row per trial, index trial (number); columns shape (of
    `iolaus.analysis.diagnosis.shapes.SHAPES`), since (step; NaN if from the start or unknown),
    reason (a sentence with the numbers that decided), parameter (whose gradient exploded first, or
    ""), fix (a tuple of overrides, empty if there is none to give), advice (the fix in words, ""
    for a trial that is well). A trial with too few reports for a curve is left out unless it
    failed: it still runs, was pruned at once, never ran (a duplicate, ruled out by a lint), or only
    returns its result.

    features: of each trial, where they have been gathered before.

    >>> diagnosis = iolaus.diagnose(iolaus.load("runs.csv"))
    >>> diagnosis["shape"][[0, 9]].tolist()
    ['converged', 'slow']
    """
    features = gather(sweep) if features is None else features
    config_keys = all_config_keys(sweep, features)
    alone = {}
    for number, of_trial in features.items():
        found = diagnose_curve(of_trial)
        was_run = of_trial.state == "fail" and not of_trial.ended.startswith("duplicate")
        if found.shape != "broken" or was_run:
            alone[number] = found
    settings = sweep.trials["setting"]
    rows = {}
    for _, numbers in settings[settings.index.isin(list(alone))].groupby(settings, sort=False):
        own = {int(n): alone[int(n)] for n in numbers.index}
        typical, found_of = of_one_setting(own)
        fix = suggested_fix(own[typical], features[typical], config_keys[typical])
        for number, found in found_of.items():
            rows[number] = (
                *(found.shape, found.since, found.reason, found.parameter),
                *(fix.overrides, fix.advice),
            )
    rows = dict(sorted(rows.items()))
    table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS))
    return table.set_index(pd.Index(list(rows), name="trial", dtype="int64"))


def of_one_setting(own: Mapping[int, Diagnosis]) -> tuple[int, dict[int, Diagnosis]]:
    """(a typical run, the diagnosis of each) of the seeds of one setting, by number.

    All get one shape: exploded or died if any seed did, since that is the setting's risk, else the
    most frequent one, of equals the one whose rule is asked first. A run that alone would have
    another says so in its reason.
    """
    counts = Counter(found.shape for found in own.values())
    at_risk = [shape for shape in RISKS if shape in counts]
    shape = (at_risk or sorted(counts, key=lambda s: (-counts[s], SHAPES.index(s))))[0]
    typical = next(number for number, found in own.items() if found.shape == shape)
    if len(own) == 1:
        return typical, dict(own)
    how_many = f"{counts[shape]} of {len(own)} seeds"
    found_of = {
        number: replace(found, reason=f"{found.reason} ({how_many})")
        if found.shape == shape
        else Diagnosis(
            shape,
            f"{how_many}: {shape_name(shape)}; this one "
            f"alone: {shape_name(found.shape)}, {found.reason}",
        )
        for number, found in own.items()
    }
    return typical, found_of
