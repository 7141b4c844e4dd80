"""Which parameters mattered: for the objective, in pairs, and for each shape of curve."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.analysis.distributions import f_tail, wilson_interval
from iolaus.analysis.ranking.level import objective_source

__all__ = ["CHANCE", "importance", "in_words", "interactions", "shares"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

N_SHUFFLES = 100  # of the objective, for what chance alone would give
N_BEST = 5  # trials at least, that the best are taken to be
N_LEVELS = 3  # groups of equal size that a numeric parameter is cut into for interactions
N_CUTS = 24  # thresholds tried per numeric parameter
FEWEST = 5  # trials that a rule must hold for
CHANCE = 0.05  # p below which an effect is told


def importance(sweep: Sweep, seed: int = 0) -> pd.DataFrame:
    """How much each parameter separates the best trials from all (PED-ANOVA, Watanabe 2023).

    The best are a tenth of the trials, but at least five.

    Index parameter, most important first; columns importance (shares, sum 1 unless all are 0),
    chance (what the parameter would reach by chance, from shuffled objectives, in the same unit;
    any one of them exceeds it in 5 % of sweeps; 1, the most there can be, where chance alone
    reaches more than all parameters did), beyond_chance. Pruned trials count: the method only asks
    which trials are among the best, and what a pruned trial had reached bounds what it would have
    been ranked by; one that diverged is worse than all. Left out, the region that was pruned would
    look unexplored rather than bad. Failed trials and duplicates do not count, the seeds of a
    setting count once. Empty with fewer than 10 settings.

    >>> iolaus.importance(iolaus.load("runs.csv")).index.tolist()
    ['lr']
    """
    trials, values = _judged(sweep)
    columns = ["importance", "chance", "beyond_chance"]
    params = list(varied(trials).values())
    if len(trials) < 10 or not params:
        return pd.DataFrame(columns=columns).rename_axis("parameter")
    rng = np.random.default_rng(seed)
    study = _study(trials[params])
    found = _ped_anova(study, values)
    shuffled = pd.DataFrame([_ped_anova(study, rng.permutation(values)) for _ in range(N_SHUFFLES)])
    total = found.sum() or 1.0
    chance = (shuffled.quantile(1 - CHANCE / len(params)) / total).clip(
        upper=1
    )  # no share exceeds 1
    table = pd.DataFrame({"importance": found / total, "chance": chance})
    table["beyond_chance"] = table["importance"] > table["chance"]
    table.index = pd.Index([name.removeprefix("params.") for name in table.index], name="parameter")
    return table.sort_values("importance", ascending=False)


def in_words(importances: pd.DataFrame) -> str:
    """What a table of `importance` says, in a sentence."""
    if importances.empty:
        return (
            "Which parameters matter cannot be told: fewer than 10 settings completed or were "
            "pruned, or none varies."
        )
    beyond = importances.index[importances["beyond_chance"].astype(bool)]
    if not len(beyond):
        return "No parameter separates the best from the rest beyond what chance would do."
    return f"Beyond chance: {', '.join(map(str, beyond))}."


def interactions(sweep: Sweep) -> pd.DataFrame:
    """Pairs of parameters whose effects on the rank of a trial do not just add up, strongest first.

    Columns first, second, share (of the variance of the ranks that the pair explains beyond both
    alone, in a two-way table of thirds of the numeric parameters), p (F test, Holm over the pairs),
    settings. Pruned trials count as in `importance`. Pairs with an empty table, or no trials to
    spare, are left out.
    """
    trials, values = _judged(sweep)
    names = list(varied(trials).values())
    ranks = np.asarray(pd.Series(values).rank(), dtype=np.float64)
    rows = []
    for one, two in itertools.combinations(names, 2):
        tested = _two_way(_levels(trials[one]), _levels(trials[two]), ranks)
        if tested is not None:
            names_short = (one.removeprefix("params."), two.removeprefix("params."))
            rows.append((*names_short, *tested, len(trials)))
    table = pd.DataFrame(rows, columns=["first", "second", "share", "p", "settings"])
    table["p"] = _holm(table["p"].to_numpy())
    return table.sort_values("p", kind="stable").reset_index(drop=True)


@dataclass(frozen=True, slots=True)
class _Literal:
    """One side of a threshold, or one value, of one parameter.

    It is given in words, and with the trials for which it holds.
    """

    parameter: str
    words: str
    holds: Flags


def shares(sweep: Sweep, diagnosis: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Where in the search space each shape of curve lives.

    For example "optim.lr above 0.2 and clip = none: 93 % exploded".
    diagnosis: of `diagnose`, index trial, column shape. One row per shape that at least two trials
    have and that one or two parameters predict; columns shape, rule (words), n (trials in the
    rule), n_shape (of these, with the shape), share, low, high (Wilson 95 %), share_elsewhere,
    covered (share of the trials with the shape that are in the rule), sentence. The rule is the one
    of highest weighted relative accuracy (Lavrač 1999) with at least 5 trials, a second parameter
    only if it adds beyond chance; reported only if shuffled shapes do as well in fewer than 1 of 20
    cases. As the rule was chosen on these trials, its share is a little flattering. Of a setting
    with several seeds the first counts.
    """
    trials = sweep.trials.loc[sweep.trials.index.intersection(diagnosis.index)]
    trials = trials.drop_duplicates("setting") if len(trials) else trials
    literals = list(_literals(trials))
    rules, held = (
        _rules(literals) if literals else ([], np.zeros((0, len(trials)), dtype=np.float32))
    )
    columns = [
        "shape",
        "rule",
        "n",
        "n_shape",
        "share",
        "low",
        "high",
        "share_elsewhere",
        "covered",
        "sentence",
    ]
    rng, rows = np.random.default_rng(seed), []
    shapes = diagnosis.loc[trials.index, "shape"]
    for shape, count in shapes.value_counts().items():
        if 2 <= count < len(shapes):
            row = _rule(str(shape), shapes.eq(shape).to_numpy(), literals, rules, held, rng)
            rows += [row] if row is not None else []
    return pd.DataFrame(rows, columns=columns)


def _judged(sweep: Sweep) -> tuple[pd.DataFrame, Array]:
    """The settings that say something of their parameters (first trials), a value for each.

    The value is the mean over a setting's runs: counted singly, seeds would pass for independent
    settings. Smaller is better.
    """
    trials = sweep.trials
    if not len(trials):
        return trials, np.zeros(0)
    own = ~trials["why"].astype(str).str.startswith("duplicate")
    trials = trials[own & trials["state"].isin(["complete", "paused", "pruned"])]
    sign = sweep.objective_sign
    pruned = trials["state"].isin(["paused", "pruned"])
    values = sign * trials["objective"].astype(float).where(~pruned, _reached(sweep, trials))
    values = values.replace([np.inf, -np.inf], np.nan)
    worst = values.max() if values.notna().any() else 0.0
    means = values.fillna(worst + 1.0 + abs(worst)).groupby(trials["setting"], sort=False).mean()
    return trials.drop_duplicates("setting"), np.asarray(means, dtype=np.float64)


def _reached(sweep: Sweep, trials: pd.DataFrame) -> pd.Series:
    """Each trial's last value of the metric the objective was taken from, else of the watched one.

    NaN if there is none, or where the watched one goes another way than the objective: a loss says
    nothing of how an accuracy ranks.
    """
    source = objective_source(sweep, trials[trials["state"] == "complete"])
    if source is None and sweep.metric_sign != sweep.objective_sign:
        return pd.Series(np.nan, trials.index)
    if source is None or source[0] == sweep.metric:
        return trials["final"].astype(float)
    curve = sweep.curves[sweep.curves["metric"] == source[0]].sort_values("step", kind="stable")
    return curve.groupby("trial")["value"].last().reindex(trials.index)


def _study(params: pd.DataFrame) -> optuna.Study:
    """A study in memory with a trial per row, numbered in order, each with the value 0.

    Absent values are left out.
    """
    study = _silent_study()
    names = [str(name) for name in params.columns]
    spaces = {name: _distribution(params[name]) for name in names}
    plain = {
        name: params[name].astype(str)
        if isinstance(spaces[name], CategoricalDistribution)
        else params[name]
        for name in names
    }
    for i in range(len(params)):
        there = [name for name in names if not pd.isna(params[name].iloc[i])]
        study.add_trial(
            create_trial(
                value=0.0,
                params={name: plain[name].iloc[i] for name in there},
                distributions={name: spaces[name] for name in there},
            )
        )
    return study


def _silent_study() -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(
        optuna.logging.WARNING
    )  # a reader need not hear of a study in memory
    try:
        return optuna.create_study()
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(values: pd.Series) -> BaseDistribution:
    """A distribution that holds all values.

    It is one of choices if they are few, logarithmic if they span a factor of 20.
    """
    values = values.dropna()
    if not _is_numeric(values) or values.nunique() <= N_LEVELS:
        return CategoricalDistribution(sorted({str(v) for v in values}))
    low, high = float(values.min()), float(values.max())
    return FloatDistribution(low, high, log=low > 0 and high > 20 * low)


def _ped_anova(study: optuna.Study, values: Array) -> pd.Series:
    with warnings.catch_warnings():  # of a value that few trials have
        warnings.simplefilter("ignore", UserWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, N_BEST / len(values)))
        found = evaluator.evaluate(study, target=lambda trial: float(values[trial.number]))
    return pd.Series(found).sort_index()


def _is_numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _levels(values: pd.Series) -> pd.Series:
    """Each value as a level: its text, or the third of a numeric parameter it is in.

    An absent one is a level too.
    """
    if _is_numeric(values) and values.nunique() > N_LEVELS:
        thirds = pd.qcut(values.rank(), N_LEVELS, labels=False, duplicates="drop")
        return thirds.astype(str)
    return values.astype(str).where(values.notna(), "absent")


def _two_way(one: pd.Series, two: pd.Series, ranks: Array) -> tuple[float, float] | None:
    """(share of the variance explained by the interaction, p of its F test).

    None if it cannot be estimated.
    """
    cells = pd.crosstab(one, two)
    if (cells == 0).any(axis=None) or min(cells.shape) < 2:
        return None
    mains = np.column_stack([np.ones(len(ranks)), *(_dummies(levels) for levels in (one, two))])
    full = _dummies(one + "|" + two, drop_first=False)
    total = float(((ranks - ranks.mean()) ** 2).sum())
    additive, saturated = _squares_left(mains, ranks), _squares_left(full, ranks)
    df, df_left = (cells.shape[0] - 1) * (cells.shape[1] - 1), len(ranks) - cells.size
    if df_left < 1 or total == 0:
        return None
    gained = max(additive - saturated, 0.0)
    p = float(f_tail(gained / df / (saturated / df_left), df, df_left)) if saturated > 0 else 0.0
    return gained / total, p


def _dummies(levels: pd.Series, drop_first: bool = True) -> Array:
    return pd.get_dummies(levels, drop_first=drop_first).to_numpy(np.float64)


def _squares_left(basis: Array, y: Array) -> float:
    residual = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
    return float(residual @ residual)


def _holm(p: Array) -> Array:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def _literals(trials: pd.DataFrame) -> Iterator[_Literal]:
    """Everything a rule may say of one parameter."""
    for column in list(varied(trials).values()):
        name, values = column.removeprefix("params."), trials[column]
        if values.isna().any():
            yield _Literal(name, f"without {name}", values.isna().to_numpy())
        if _is_numeric(values) and values.nunique() > 2:
            known = np.sort(values.dropna().unique().astype(np.float64))
            at = np.unique(np.linspace(1, len(known) - 1, N_CUTS + 1).round().astype(int))
            for below, above in zip(known[at - 1], known[at], strict=True):
                cut = _between(below, above)
                yield _Literal(
                    name, f"{name} above {cut:g}", (values > cut).to_numpy(bool, na_value=False)
                )
                yield _Literal(
                    name, f"{name} below {cut:g}", (values < cut).to_numpy(bool, na_value=False)
                )
        else:
            for value in values.dropna().unique():
                yield _Literal(
                    name, f"{name} = {value}", values.eq(value).fillna(False).to_numpy(bool)
                )


def _between(low: float, high: float) -> float:
    """The number of fewest digits strictly between two others.

    Their middle if none of six digits is.
    """
    for digits in range(1, 7):
        cut = float(f"{(low + high) / 2:.{digits}g}")
        if low < cut < high:
            return cut
    return (low + high) / 2


def _rules(literals: list[_Literal]) -> tuple[list[tuple[int, ...]], NDArray[np.float32]]:
    """Literals, and pairs of two parameters, that enough trials fit.

    Returned are their places in `literals`, and the trials that fit, [rules, trials].
    """
    one = [(i,) for i in range(len(literals))]
    two = [(i, j) for i, j in itertools.combinations(range(len(literals)), 2)]
    two = [(i, j) for i, j in two if literals[i].parameter != literals[j].parameter]
    holds = np.array([literal.holds for literal in literals], dtype=np.float32)
    both = holds[[i for i, _ in two]] * holds[[j for _, j in two]] if two else holds[:0]
    held = np.concatenate([holds, both])
    enough = held.sum(axis=1) >= FEWEST
    return [rule for rule, is_enough in zip([*one, *two], enough, strict=True) if is_enough], held[
        enough
    ]


def _rule(
    shape: str,
    has_shape: Flags,
    literals: list[_Literal],
    rules: list[tuple[int, ...]],
    held: NDArray[np.float32],
    rng: np.random.Generator,
) -> dict[str, object] | None:
    if not rules:
        return None
    shuffled = [rng.permutation(has_shape) for _ in range(2 * N_SHUFFLES)]
    by_chance = _accuracy(held, np.array(shuffled))
    accuracy = _accuracy(held, has_shape[None])[0]
    n_single = sum(len(rule) == 1 for rule in rules)  # they come first
    best = int(accuracy.argmax())
    if best >= n_single > 0:
        gain = accuracy[best] - accuracy[:n_single].max()
        if gain <= np.quantile(
            by_chance.max(axis=1) - by_chance[:, :n_single].max(axis=1), 1 - CHANCE
        ):
            best = int(accuracy[:n_single].argmax())
    if accuracy[best] <= np.quantile(by_chance.max(axis=1), 1 - CHANCE):
        return None
    rule = rules[best]
    inside = held[best] > 0
    n, hits, count = int(inside.sum()), int((inside & has_shape).sum()), int(has_shape.sum())
    low, high = wilson_interval(hits, n)
    words = " and ".join(dict.fromkeys(literals[i].words for i in rule))
    n_else = len(inside) - n
    elsewhere = (count - hits) / n_else if n_else else math.nan
    return {
        "shape": shape,
        "rule": words,
        "n": n,
        "n_shape": hits,
        "share": hits / n,
        "low": low,
        "high": high,
        "share_elsewhere": elsewhere,
        "covered": hits / count,
        "sentence": f"{words}: {hits / n:.0%} {shape_name(shape)} ({hits} of {n}; "
        f"95 % interval {low:.0%} to {high:.0%}), elsewhere {elsewhere:.0%}",
    }


def _accuracy(held: NDArray[np.float32], shapes: Flags) -> NDArray[np.float32]:
    """Weighted relative accuracy, [shapes, rules].

    It counts the trials in the rule that have the shape, beyond the usual share.
    shapes: [shapes, trials].
    """
    usual = shapes.mean(axis=1, dtype=np.float32)
    hits = shapes.astype(np.float32) @ held.T
    return np.asarray(
        (hits - usual[:, None] * held.sum(axis=1)) / shapes.shape[1], dtype=np.float32
    )
