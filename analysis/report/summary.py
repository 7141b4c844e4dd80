"""The report's first paragraph, a function per sentence.

It says what was searched, what came first and how certain that is, what went wrong most, and what
is next.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.next_trials import NextTrial, next_trials
from iolaus.analysis.diagnosis.shapes import WELL, shape_name
from iolaus.analysis.ranking.pareto import pareto
from iolaus.analysis.ranking.rank import Ranking
from iolaus.sweeps.text import counted

__all__ = ["on_front", "paragraph", "searched", "to_try", "went_wrong", "won"]

STATE_WORDS = {
    "complete": "completed",
    "paused": "paused",
    "pruned": "ended early",
    "fail": "failed",
    "running": "still running",
}
N_NAMED = 6  # parameters: more is a table
N_FIXES = 3
N_FRONT = 8  # settings


def paragraph(sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame) -> str:
    """The sweep in a few sentences, each said by numbers in `sweep`, `ranking` or `diagnosis`.

    Nothing else is claimed.
    ranking: of `iolaus.analysis.ranking.rank.rank`. diagnosis: of
    `iolaus.analysis.diagnosis.diagnose.diagnose`.
    """
    problems = (
        went_wrong(diagnosis) if len(sweep.curves) else []
    )  # a task that reports no curves is not broken for it
    return " ".join(
        [
            searched(sweep),
            *won(ranking),
            *on_front(sweep, ranking),
            *problems,
            *to_try(next_trials(sweep, diagnosis)),
        ]
    )


def searched(sweep: Sweep) -> str:
    """How many trials over which parameters, in which tried ranges, and how they ended."""
    trials = sweep.trials
    if trials.empty:
        return f"No trial of {sweep.name} has begun."
    params = varied(trials)
    named = [
        f"{name} ({_range(trials[column])})" for name, column in list(params.items())[:N_NAMED]
    ]
    more = len(params) - len(named)
    what = f"{counted(len(trials), 'trial')} of {sweep.name}"
    over = (
        f" tried {_listed(named + ([f'{more} more parameters'] if more else []))}"
        if named
        else " ran"
    )
    counts = Counter(trials["state"])
    return (
        f"{what}{over}: "
        f"{_listed([f'{n} {STATE_WORDS.get(state, state)}' for state, n in counts.most_common()])}."
    )


def won(ranking: Ranking) -> list[str]:
    """Who came first, whether that is certain, and what to know before believing it.

    Where nothing can be said, it says so.
    """
    winner = ranking.winner
    if winner is None:
        feasible = "feasible " if ranking.table["state"].eq("infeasible").any() else ""
        return [f"No {feasible}setting has completed, so none has won."]
    lead = ranking.table.astype(object).iloc[0]  # each value of its own type
    params = varied(ranking.table)
    values = [
        f"{name}={_value(lead[column])}"
        for name, column in params.items()
        if not pd.isna(lead[column])
    ]
    where = f", with {_listed(values)}" if 0 < len(values) <= N_NAMED else ""
    is_alone = ranking.table["state"].eq("complete").sum() == 1
    if is_alone:
        leads = "is the only one that completed"
    else:
        leads = "came first" if ranking.first == [winner] else "leads"
    measured = f"objective {_value(lead['objective'])}{_certainty(ranking, lead)}"
    said = f"Setting {winner} {leads}: {measured}{where}."
    return [said, *(ranking.warnings if is_alone else ranking.sentences())]


def _certainty(ranking: Ranking, lead: pd.Series) -> str:
    """The level of the first setting and its interval, as far as they are known."""
    known = []
    if ranking.of != "objective":
        known.append(f"{ranking.of} {lead['level']:.4g}")
    elif not math.isclose(lead["level"], lead["objective"], rel_tol=1e-6):
        known.append(f"with the same seeds for all {lead['level']:.4g}")
    if np.isfinite(lead["low"]):
        known.append(f"95 % interval {lead['low']:.4g} to {lead['high']:.4g}")
    return f" ({', '.join(known)})" if known and not pd.isna(lead["level"]) else ""


def on_front(sweep: Sweep, ranking: Ranking) -> list[str]:
    """Of several objectives, who no other beats in all of them; nothing of one."""
    if len(sweep.directions) < 2 or ranking.winner is None:
        return []
    found = pareto(sweep, ranking)
    front = found.loc[found["on_front"], "setting"]
    named = _listed(
        [
            *map(str, front[:N_FRONT]),
            *([f"{len(front) - N_FRONT} more"] if len(front) > N_FRONT else []),
        ]
    )
    return [f"By all {len(sweep.directions)} objectives at once, no other setting beats {named}."]


def went_wrong(diagnosis: pd.DataFrame) -> list[str]:
    """The most frequent problems, with counts."""
    judged = diagnosis["shape"]
    problems = judged[~judged.isin(WELL)].value_counts()
    if not len(judged):
        return []
    if problems.empty:
        return [
            f"None of the {len(judged):,} trials shows a problem."
            if len(judged) > 1
            else "It shows no problem."
        ]
    counts = [f"{shape_name(str(shape))} ({n})" for shape, n in problems.head(3).items()]
    return [f"What went wrong most, of {counted(len(judged), 'trial')}: {'; '.join(counts)}."]


def to_try(trials: Sequence[NextTrial]) -> list[str]:
    """The first changes to try, each with the first trials it would fix."""
    changes: dict[str, list[str]] = {}
    for trial in trials:
        changes.setdefault(" ".join(trial.overrides), []).append(str(trial.fixes[0]))
    named = [
        f"{change} for trial{'s' if len(of) > 1 else ''} {_listed(of[:N_FIXES])}"
        for change, of in list(changes.items())[:N_FIXES]
    ]
    return [f"To try next: {'; '.join(named)}."] if named else []


def _listed(texts: Sequence[str]) -> str:
    return (
        texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""
    )


def _range(values: pd.Series) -> str:
    known = values.dropna()
    choices = known.unique()
    n_shown = 2 if pd.api.types.is_float_dtype(known) else 4
    if len(choices) <= n_shown or not pd.api.types.is_numeric_dtype(known):
        shown = (
            sorted(map(_value, choices))
            if known.dtype == object
            else [_value(v) for v in sorted(choices)]
        )
        return ", ".join(shown[:4]) + (" …" if len(shown) > 4 else "")
    return f"{known.min():.3g} to {known.max():.3g}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
