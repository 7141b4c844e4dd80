"""What one change to a setting costs, all else equal: settings that differ in one parameter alone.

Sweeps over a grid with several seeds have such settings. For each parameter they are compared where
they end best, with the other settings that differ from that in this parameter alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

from iolaus.analysis.data.pairs import (
    N_SEEDS,
    fixed_value,
    measures_at_end,
    paired_difference,
    setting_text,
    value_text,
)
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep

__all__ = ["single_changes"]

Setting = tuple[Hashable, ...]


def single_changes(sweep: Sweep) -> list[str]:
    """One sentence per parameter and value that it can have in place of the best one.

    Each with what the trials end at (their last validation accuracy, or else the objective), the
    difference over the same seeds and its 95 % interval (Student's t), made wider for the number of
    values of which the best was taken (Bonferroni). A parameter that a setting has not got counts
    as what the config says. Empty where no setting has three completed seeds.
    """
    measured, sign, measures = measures_at_end(sweep)
    trials = sweep.trials[sweep.trials["state"].eq("complete")]
    params = {k: c for k, c in varied(trials).items() if k != "seed"}
    if trials.empty or not params:
        return []
    table = pd.DataFrame({"seed": trials["seed"]})
    table["measure"] = [measures.get(n) for n in trials.index]
    for key, column in params.items():
        given = trials[column].astype(object)
        table[key] = given.where(given.notna(), fixed_value(sweep.config, key))
    settings = {
        setting: own
        for setting, own in table.groupby(list(params), dropna=False, sort=True)
        if len(own) >= N_SEEDS and own["measure"].notna().all()
    }
    best_first = sorted(settings, key=lambda one: sign * float(settings[one]["measure"].mean()))
    sentences: list[str] = []
    for i, key in enumerate(params):
        chosen, others = _alike_but(i, best_first)
        n_tried = len(others)
        rest = {k: v for k, v in zip(params, chosen, strict=False) if k != key}
        for other in others:
            here, there = settings[chosen], settings[other]
            among = f", the best of {n_tried + 1}" if n_tried > 1 else ""
            sentences.append(
                f"{setting_text(rest)}: {measured} ends at "
                f"{there['measure'].mean():.3g} with {key}={value_text(other[i])} and at "
                f"{here['measure'].mean():.3g} with {value_text(chosen[i])}{among}"
                f"{paired_difference(there, here, n_tried)}."
            )
    return sentences


def _alike_but(i: int, best_first: Sequence[Setting]) -> tuple[Setting, list[Setting]]:
    """The best setting that has others which differ from it in value i alone, and these."""
    for chosen in best_first:
        rest = chosen[:i] + chosen[i + 1 :]
        others = [s for s in best_first if s[:i] + s[i + 1 :] == rest and s != chosen]
        if others:
            return chosen, others
    return (), []
