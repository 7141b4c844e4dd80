"""The three sentences that a report begins with, a function per sentence.

They say what won and how sure that is, what went wrong most, and what to do next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.next_trials import NextTrial, next_trials
from iolaus.analysis.diagnosis.shapes import WELL, shape_name
from iolaus.analysis.ranking.pareto import pareto
from iolaus.analysis.ranking.rank import Ranking, best_trial
from iolaus.analysis.ranking.tiers import N_SEEDS_MOST
from iolaus.analysis.ranking.top_up import contenders
from iolaus.sweeps.study.fingerprint import ALIKE_ONLY
from iolaus.sweeps.text import counted

__all__ = [
    "curves_seen",
    "map_seen",
    "on_front",
    "paragraph",
    "ranking_seen",
    "searched",
    "to_do",
    "went_wrong",
]

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
RAN_DIFFERENTLY = ALIKE_ONLY.partition("{")[0]  # what no headline may hide


def paragraph(sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame) -> str:
    """A sweep in three sentences, an empty line between them, each said by numbers in its tables.

    What won and how sure that is (of several objectives also who is on the front; where the trials
    ran with different settings or code, that that may be the difference); what went wrong
    most; what to do next. What does not apply is left out. Nothing else is claimed.
    ranking: of `iolaus.analysis.ranking.rank.rank`. diagnosis: of
    `iolaus.analysis.diagnosis.diagnose.diagnose`.
    """
    if sweep.trials.empty:
        return searched(sweep)
    problems = (
        went_wrong(diagnosis, sweep.trials["setting"]) if len(sweep.curves) else []
    )  # a task that reports no curves is not broken for it
    won = [
        ranking.headline(),
        *(w for w in ranking.warnings if w.startswith(RAN_DIFFERENTLY)),
        *on_front(sweep, ranking),
    ]
    to_come = to_do(ranking, next_trials(sweep, diagnosis))
    return "\n\n".join(" ".join(part) for part in (won, problems, to_come) if part)


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


def went_wrong(diagnosis: pd.DataFrame, settings: pd.Series) -> list[str]:
    """The most frequent problems, with counts: of settings where one has several trials.

    settings: of each trial. Its trials have one shape, which not each of them shows by itself.
    """
    of_setting = settings.reindex(diagnosis.index)
    what = "setting" if of_setting.duplicated().any() else "trial"
    judged = diagnosis["shape"][~of_setting.duplicated()]
    problems = judged[~judged.isin(WELL)].value_counts()
    if not len(judged):
        return []
    if problems.empty:
        return [
            f"None of the {len(judged):,} {what}s shows a problem."
            if len(judged) > 1
            else "It shows no problem."
        ]
    counts = [f"{shape_name(str(shape))} ({n})" for shape, n in problems.head(3).items()]
    return [f"What went wrong most, of {counted(len(judged), what)}: {'; '.join(counts)}."]


def to_do(ranking: Ranking, trials: Sequence[NextTrial]) -> list[str]:
    """What to do next: the seeds that would tell who is first, and the first changes to try.

    trials: of `iolaus.analysis.diagnosis.next_trials.next_trials`; each change is named with the
    first trials it would fix.
    """
    changes: dict[str, list[str]] = {}
    for trial in trials:
        changes.setdefault(" ".join(trial.overrides), []).append(str(trial.fixes[0]))
    named = [
        f"{change} for trial{'s' if len(of) > 1 else ''} {_listed(of[:N_FIXES])}"
        for change, of in list(changes.items())[:N_FIXES]
    ]
    n_open = len(contenders(ranking))
    seeds = []
    of = "finalists" if ranking.n_others else "settings"
    if n_open and ranking.is_repeated and ranking.seeds_to_settle is None:
        seeds = [
            f"take any of the {len(ranking.first)} {of} that share first place: more than "
            f"{N_SEEDS_MOST} more seeds each would be needed to tell them apart"
        ]
    elif n_open and ranking.can_top_up:
        command = f"`iolaus top-up {ranking.folder}`"
        seeds = [f"more seeds of the {n_open} {of} that may be first ({command})"]
    tries = [f"{'try ' if seeds else ''}{'; '.join(named)}"] if named else []
    return [f"To do next: {'; and '.join([*seeds, *tries])}."] if seeds or tries else []


def curves_seen(sweep: Sweep, metric: str) -> str:
    """What a figure of a metric's curves shows, in numbers: an alternative text."""
    rows = sweep.curves[(sweep.curves["metric"] == metric) & np.isfinite(sweep.curves["value"])]
    ends = rows.sort_values("step", kind="stable").groupby("trial")["value"]
    first, last = ends.first(), ends.last()
    if last.empty:
        return f"No finite {metric} was reported."
    is_rising = metric == sweep.metric and sweep.metric_sign < 0
    best = last.idxmax() if is_rising else last.idxmin()
    return (
        f"{metric} of {counted(len(last), 'trial')} over the run: they begin around "
        f"{first.median():.4g} and end between {last.min():.4g} and {last.max():.4g}, half of them "
        f"{'above' if is_rising else 'below'} {last.median():.4g}; trial {best} ends "
        f"{'highest' if is_rising else 'lowest'}."
    )


def ranking_seen(ranking: Ranking) -> str:
    """What a figure of the ranking shows, in numbers: an alternative text."""
    done = ranking.table[ranking.table["state"].eq("complete")]
    if done.empty:
        return "No setting has completed."
    first, last = done.iloc[0], done.iloc[-1]
    return (
        f"{counted(len(done), 'setting')} by their objective, from {first['objective']:.4g} "
        f"(setting {first['setting']}) to {last['objective']:.4g} (setting {last['setting']})."
    )


def map_seen(sweep: Sweep, x: str, y: str, ranking: Ranking) -> str:
    """What a map over two parameters shows: an alternative text."""
    ranges = [f"{key} {_range(sweep.trials[f'params.{key}'])}" for key in (x, y)]
    best = best_trial(sweep, ranking)
    own = (
        [] if best is None else [f"{k}={_value(sweep.trials[f'params.{k}'][best])}" for k in (x, y)]
    )
    where = f"; the best, trial {best}, at {' '.join(own)}" if own else ""
    return f"{counted(len(sweep.trials), 'trial')} over {' and '.join(ranges)}{where}."


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
