"""Who exploded and died, when and where first, and below which clipping threshold nobody does.

A trial has exploded if its training loss is not finite, or ends above where training began by more
than a quarter of the room (`iolaus.analysis.diagnosis.shapes`), or if the gradient of one of its
parameters exploded and is about 0 to the end (`iolaus.analysis.diagnosis._features.explosion`):
then it has died too. How often a setting explodes is counted over its seeds, with the exact
binomial interval of Clopper and Pearson, Biometrika 26 (1934), 95 %, two-sided: of 8 seeds of which
none explodes, it reaches to 37 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from iolaus.analysis.data.pairs import (
    N_SEEDS,
    fixed_value,
    measures_at_end,
    paired_difference,
    value_text,
)
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import EXPLODED_TIMES, Features, gather
from iolaus.analysis.diagnosis.shapes import ROSE
from iolaus.analysis.distributions import binomial_interval
from iolaus.sweeps.text import counted

__all__ = ["UNCLIPPED", "Explosions", "explosions"]

UNCLIPPED = "none"  # how a choice of clipping calls its absence
N_NAMED = 3  # parameters that explode first: more is a table

Cell = tuple[Hashable, ...]


@dataclass(frozen=True)
class Explosions:
    """The explosions of a sweep.

    trials: one row per trial with a curve, index number; columns exploded, died (bool), step
        (report at which a gradient exceeds 10 times its median; NaN if none does, or the trial has
        not exploded), parameter (whose, ""), dead_since (step from which that is about 0, NaN if
        not), seed, measure (the last validation accuracy, or else the objective), and the
        parameters of the search that vary, by key.
    groups: of these keys, those that tell settings apart beside the clipping. rule: the key of the
    kind of clipping, threshold: of its threshold; None where it was not searched. measured: what
    `measure` is, measure_sign: -1 if it is maximised.
    """

    trials: pd.DataFrame
    groups: tuple[str, ...] = ()
    rule: str | None = None
    threshold: str | None = None
    measured: str = ""
    measure_sign: float = 1.0

    @cached_property
    def shares(self) -> pd.DataFrame:
        """How often each setting of several seeds explodes.

        One row per setting with at least N_SEEDS trials; the columns of the parameters, n,
        n_exploded, n_died, share, low, high (of n_exploded, Clopper-Pearson 95 %).
        """
        keys = [*self.groups, *filter(None, (self.rule, self.threshold))]
        rows = []
        for cell, own in _cells(self.trials, keys):
            if len(own) < N_SEEDS:
                continue
            n_exploded = int(own["exploded"].sum())
            low, high = binomial_interval(n_exploded, len(own))
            n_died, share = int(own["died"].sum()), n_exploded / len(own)
            rows.append((*cell, len(own), n_exploded, n_died, share, low, high))
        columns = [*keys, "n", "n_exploded", "n_died", "share", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def by_rule(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Rows of `shares` that differ in the threshold alone, from the lowest, and their name."""
        if self.threshold is None or self.shares.empty:
            return
        keys = [*self.groups, *filter(None, (self.rule,))]
        for cell, rows in _cells(self.shares[self.shares[self.threshold].notna()], keys):
            if len(rows) > 1:
                yield _named(keys, cell), rows.sort_values(self.threshold)

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What there is to say, each with the numbers that say it; nothing where none exploded."""
        if not self.trials["exploded"].any():
            return ()
        return (
            _who(self.trials),
            *_when(self.trials),
            *_unclipped(self),
            *_apart(self),
            *_thresholds(self),
            *_with_and_without(self),
        )


def explosions(sweep: Sweep, features: Mapping[int, Features] | None = None) -> Explosions:
    """Who exploded, when, and below which clipping threshold nobody does.

    features: of each trial, where they have been gathered before.

    >>> found = explosions(iolaus.load("multirun/exploding"))
    >>> found.sentences[0]
    """
    features = gather(sweep) if features is None else features
    known = {n: f for n, f in features.items() if f.signals is not None and f.state != "running"}
    trials = sweep.trials.loc[list(known)]
    params = {k: c for k, c in varied(trials).items() if k != "seed"}
    rule, threshold = _clipping(trials, params)
    measured, sign, measures = measures_at_end(sweep)
    rows = {n: _row(features) for n, features in known.items()}
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=["exploded", "died", "step", "parameter", "dead_since"]
    )
    table["seed"] = trials["seed"].to_numpy() if len(trials) else []
    table["measure"] = [measures.get(n, math.nan) for n in known]
    groups = tuple(k for k in params if k not in (rule, threshold))
    for key, column in params.items():
        # Where a parameter exists beside others only, the rest ran with what the config says.
        fixed = fixed_value(sweep.config, key) if key in groups else None
        table[key] = (
            trials[column].where(trials[column].notna() | (fixed is None), fixed).to_numpy()
        )
    return Explosions(table.rename_axis("trial"), groups, rule, threshold, measured, sign)


def _row(features: Features) -> tuple[bool, bool, float, str, float]:
    e, s = features.explosion, features.signals
    died = e is not None and e.dead_since is not None
    rise = -features.fall - 4 * features.noise
    above = rise > ROSE * features.room and not features.wanders(rise)
    exploded = died or above or (s is not None and s.diverged_at is not None)
    if e is None or not exploded:
        return exploded, died, math.nan, "", math.nan
    since = math.nan if e.dead_since is None else float(e.dead_since)
    return exploded, died, float(e.step), e.parameter, since


def _clipping(trials: pd.DataFrame, params: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The keys of (kind of clipping, its threshold) among the parameters that vary."""
    of_clipping = [k for k in params if "clip" in k.lower()]
    is_number = {k: pd.api.types.is_numeric_dtype(trials[params[k]]) for k in of_clipping}
    rule = next((k for k in of_clipping if not is_number[k]), None)
    return rule, next((k for k in of_clipping if is_number[k]), None)


def _cells(trials: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The trials of each setting; a parameter that a trial has not got counts as a value."""
    if not keys:
        yield (), trials
        return
    for cell, own in trials.groupby(list(keys), dropna=False, sort=True):
        yield (cell if isinstance(cell, tuple) else (cell,)), own


def _share(k: int, n: int) -> str:
    """Such as "3 of 8 (9 to 76 %)"."""
    low, high = binomial_interval(k, n)
    return f"{k} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"


def _named(groups: Sequence[str], cell: Cell) -> str:
    """A setting in words, such as "model=rnn, task.length=20"; "" of no parameter."""
    return ", ".join(
        f"{key}={value_text(value)}"
        for key, value in zip(groups, cell, strict=False)
        if not _no(value)
    )


def _no(value: Hashable) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _who(trials: pd.DataFrame) -> str:
    n, died = int(trials["exploded"].sum()), int(trials["died"].sum())
    said = (
        f"{n:,} of {counted(len(trials), 'trial')} exploded and did not come back: the training "
        "loss is not finite or ends far above where it began, or the gradient died"
    )
    return f"{said}. In {died:,} of them the gradient of a parameter is about 0 to the end."


def _when(trials: pd.DataFrame) -> list[str]:
    """Of those that died: at which step, which parameter first."""
    died = trials[trials["died"]]
    if died.empty:
        return []
    first = Counter(died["parameter"].replace("", "all parameters together"))
    named = ", ".join(f"{name} in {n}" for name, n in first.most_common(N_NAMED))
    more = ", others in the rest" if len(first) > N_NAMED else ""
    return [
        f"Where it died, a gradient exceeds {EXPLODED_TIMES:.0f} times the median before it at "
        f"step {_middle(died['step'])}, first that of {named}{more}; it is about 0 from step "
        f"{_middle(died['dead_since'])} on."
    ]


def _middle(steps: pd.Series) -> str:
    low, middle, high = steps.min(), steps.median(), steps.max()
    return f"{middle:.0f}" if low == high else f"{middle:.0f} (median; {low:.0f} to {high:.0f})"


def _unclipped(found: Explosions) -> list[str]:
    """How often each setting explodes without clipping."""
    shares = found.shares
    if found.rule is None or shares.empty:
        return []
    own = shares[shares[found.rule].eq(UNCLIPPED)]
    counts = [
        f"{_share(row['n_exploded'], row['n'])}{_of(found.groups, row)}"
        for row in own.to_dict("records")
    ]
    return [f"Without clipping explode, of the seeds, {'; '.join(counts)}."] if counts else []


def _of(groups: Sequence[str], row: Mapping[Hashable, Hashable]) -> str:
    named = _named(groups, tuple(row[key] for key in groups))
    return f" of {named}" if named else ""


def _apart(found: Explosions) -> list[str]:
    """Whether two choices of a parameter explode unequally often, all else equal, unclipped.

    By Fisher's exact test, with the p-values of all pairs after Holm (Scand. J. Statist. 6, 1979).
    """
    shares = found.shares
    words = [k for k in found.groups if not pd.api.types.is_numeric_dtype(found.trials[k])]
    if found.rule is None or len(words) != 1 or shares.empty:
        return []
    own = shares[shares[found.rule].eq(UNCLIPPED)]
    others = [k for k in found.groups if k not in words]
    from scipy.stats import fisher_exact  # slow to import, and not for every sweep

    pairs = []
    for cell, rows in _cells(own, others):
        records = rows.to_dict("records")
        for i, a in enumerate(records):
            for b in records[i + 1 :]:
                table = [[r["n_exploded"], r["n"] - r["n_exploded"]] for r in (a, b)]
                names = " and ".join(_named(words, (r[words[0]],)) for r in (a, b))
                at = _named(others, cell)
                pairs.append((float(fisher_exact(table)[1]), f"{names}{f' at {at}' if at else ''}"))
    return [
        f"{names} {'differ in this' if p < 0.05 else 'cannot be told apart in this'} "
        f"(Fisher's exact test, Holm, p = {p:.2g})."
        for p, names in _holm(pairs)
    ]


def _holm(pairs: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The pairs in their order, each p adjusted for their number."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
    adjusted, highest = dict[int, float](), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, pairs[i][0] * (len(pairs) - rank)))
        adjusted[i] = highest
    return [(adjusted[i], names) for i, (_, names) in enumerate(pairs)]


def _thresholds(found: Explosions) -> list[str]:
    """For each setting with several thresholds, below which of them no seed explodes."""
    sentences = []
    for name, rows in found.by_rule():
        assert found.threshold is not None
        at = [f"at {value_text(threshold)}" for threshold in rows[found.threshold]]
        counts = list(zip(rows["n_exploded"], rows["n"], strict=True))
        n_safe = next((i for i, (k, _) in enumerate(counts) if k), len(counts))
        n_unsure = next((i for i in range(len(counts)) if all(k == n for k, n in counts[i:])), None)
        last = len(counts) - 1 if n_unsure is None else n_unsure
        told = [f"{_share(*counts[i])} {at[i]}" for i in range(n_safe, last + 1)]
        if n_unsure is not None and n_unsure < len(counts) - 1:
            told[-1] += " and all above it"
        key, named = found.threshold, f"{name}: " if name else ""
        if not n_safe:
            sentences.append(
                f"{named}at the lowest {key} already seeds explode: {', '.join(told)}."
            )
            continue
        none = f"{_share(*counts[n_safe - 1])} explode {at[n_safe - 1]}"
        if n_safe == len(counts):
            sentences.append(f"{named}up to the highest {key} no seed explodes: {none}.")
            continue
        low, high = rows[key].iloc[n_safe - 1], rows[key].iloc[n_safe]
        sentences.append(
            f"{named}the {key} below which no seed explodes lies between {value_text(low)} and "
            f"{value_text(high)}: {none}, {', '.join(told)}."
        )
    return sentences


def _with_and_without(found: Explosions) -> list[str]:
    """What each kind of clipping does to the measure, at the threshold that is best for it.

    Differences are of the same seeds, with the 95 % interval of their mean (Student's t), made
    wider for the number of thresholds of which this one was chosen (Bonferroni).
    """
    if found.rule is None or found.shares.empty:
        return []
    sentences = []
    for cell, own in _cells(found.trials, found.groups):
        without = own[own[found.rule].eq(UNCLIPPED)]
        named = _named(found.groups, cell)
        for rule, clipped in own[~own[found.rule].eq(UNCLIPPED)].groupby(found.rule):
            tried = [
                (setting, trials)
                for setting, trials in _cells(clipped, [k for k in (found.threshold,) if k])
                if len(trials) >= N_SEEDS and trials["measure"].notna().all()
            ]
            if not tried or len(without) < N_SEEDS:
                continue
            sign = found.measure_sign
            setting, best = min(tried, key=lambda one: sign * float(one[1]["measure"].mean()))
            at = f" at {value_text(setting[0])}" if setting and not _no(setting[0]) else ""
            of = f", the best of {len(tried)}," if len(tried) > 1 else ""
            sentences.append(
                f"{named}{': ' if named else ''}{found.measured} ends at "
                f"{best['measure'].mean():.3g} with {found.rule}={rule}{at}{of} and at "
                f"{without['measure'].mean():.3g} without clipping"
                f"{paired_difference(best, without, len(tried))}."
            )
    return sentences
