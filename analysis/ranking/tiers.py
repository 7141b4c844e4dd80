"""Which settings can be told apart? Estimates with their errors, and tiers.

Pure statistics; smaller is better here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from iolaus.analysis.distributions import f_tail, t_quantile, t_tail

__all__ = [
    "ALPHA",
    "N_SEEDS_MOST",
    "Estimates",
    "Indices",
    "from_curves",
    "from_noise",
    "from_seeds",
    "seed_difference",
    "seeds_to_settle",
    "smallest_difference",
    "tiers",
]

Array = NDArray[np.float64]
Indices = NDArray[Any]  # of integers

# How often settings that are truly equal may be split: 5 %, of which estimating how much settings
# differ in noise takes about one (benchmarks/README.md).
ALPHA = 0.04
POWER = 0.9  # how often a difference of `smallest_difference` is found
# A spread from two or three seeds alone would separate nothing, not even a setting that exploded.
LEAST_PRIOR_DF = 4.0
# A setting that varies this many times as much as the typical one, by more than chance (p below
# OUTLYING), has exploded, say: it is judged by itself, and has no say in how much others vary.
OUTLYING_TIMES = 10.0
OUTLYING = 1e-3
ROUNDING = 1e-12  # relative error of a sum
N_SEEDS_MOST = (
    50  # a first place that more seeds than this would be needed for is not worth settling
)


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is known of k settings.

    mean: [k]. variance: of one run around its setting, [k], NaN if nothing is known. df: its
    degrees of freedom, [k].
    n_runs: [k]. noise: typical standard deviation of one run. df_all: degrees of freedom of all
    runs together.
    shares: [k, seeds], the share of each seed in a setting's runs; seed_covariance: [seeds, seeds],
    of the estimated effects of the seeds, in units of noise squared. Both are empty unless settings
    share seeds.
    """

    mean: Array
    variance: Array
    df: Array
    n_runs: Array
    noise: float
    df_all: float
    shares: Array
    seed_covariance: Array

    @property
    def standard_error(self) -> Array:
        """Of each mean, [k]; without effects of seeds, common to all settings that share them."""
        return np.sqrt(self.variance / self.n_runs)


def from_curves(levels: Array, standard_errors: Array, df: Array) -> Estimates:
    """One run per setting, whose error is that of the level of its own curve.

    levels, standard_errors, df: [k]. Says how well these runs are known, not how another seed would
    have done.
    """
    is_known = np.isfinite(standard_errors)
    # The fourth power of more overflows, and it is no less hopeless.
    known = np.minimum(np.where(is_known, standard_errors, 0.0), 1e70)
    own_df = np.where(is_known, df, 0.0)
    variance, df, noise, _ = _moderated(own_df * known**2, own_df)
    variance = np.where(is_known, variance, np.nan)
    nothing = np.zeros((len(levels), 0)), np.zeros((0, 0))
    return Estimates(levels, variance, df, np.ones(len(levels)), noise, math.inf, *nothing)


def from_noise(values: Array, noise: float, df: float) -> Estimates:
    """One run per setting, [k], whose noise between seeds was measured elsewhere.

    df: degrees of freedom of that measurement. NaN for noise that is not known.
    """
    k, nothing = len(values), (np.zeros((len(values), 0)), np.zeros((0, 0)))
    return Estimates(values, np.full(k, noise**2), np.full(k, df), np.ones(k), noise, df, *nothing)


def from_seeds(setting: Indices, seed: Indices, value: Array) -> Estimates:
    """What the runs [n] of settings 0..k-1 (all present) say, paired by seeds.

    seed: runs with an equal number >= 0 are paired, -1 with none. The model is value = setting +
    seed + error, by least squares, in which settings that vary more between seeds weigh less; seeds
    that fewer than two repeated settings share have no effect of their own. Settings may differ in
    noise: variances are drawn towards a common one as far as the data say that they are alike, but
    at least as if that one were known from 4 degrees of freedom (Smyth 2004, doi
    10.2202/1544-6115.1027, eq. for d0 and s0). Variances are NaN if no setting has two runs.
    """
    k = int(setting.max()) + 1
    n_runs = np.bincount(setting, minlength=k).astype(np.float64)
    members = np.zeros((len(value), k))
    members[np.arange(len(value)), setting] = 1.0
    average = (members / n_runs).T  # [k, n]
    centred = value - members @ (average @ value)
    weight = _weight(np.bincount(setting, centred**2, minlength=k).astype(np.float64), n_runs)[
        setting, None
    ]
    shared = _shared_seeds(setting, seed, n_runs)
    dummies = (seed[:, None] == shared[None, :]).astype(np.float64)  # [n, seeds]
    shares = average @ dummies
    within = dummies - members @ shares
    covariance = np.linalg.pinv(within.T @ (weight * within), hermitian=True)
    effects = covariance @ ((weight * within).T @ centred)
    mean = average @ value - shares @ (effects - effects.mean() if len(effects) else effects)
    residual = centred - within @ effects
    rounding = ROUNDING * float(np.abs(value).max())
    if (
        np.abs(residual).max() < rounding
    ):  # the same number for every seed: what is left is arithmetic, no noise
        residual, mean = np.zeros_like(residual), np.round(mean / rounding) * rounding
    leverage = 1.0 / n_runs[setting] + np.einsum("ns,st,nt->n", weight * within, covariance, within)
    df = np.maximum(n_runs - np.bincount(setting, leverage, minlength=k), 0.0)
    df[df < 1e-9] = 0.0
    squares = np.bincount(setting, residual**2, minlength=k).astype(np.float64)
    variance, df, noise, df_all = _moderated(squares, df)
    return Estimates(mean, variance, df, n_runs, noise, df_all, shares, covariance)


def _weight(squares: Array, n_runs: Array) -> Array:
    """How much each setting, [k], says of the seeds' effects.

    That is 1, less if its seeds vary more than is typical.
    """
    variance, _, noise, _ = _moderated(squares, n_runs - 1)
    return noise**2 / variance if noise > 0 else np.ones(len(n_runs))


def _shared_seeds(setting: Indices, seed: Indices, n_runs: Array) -> Indices:
    """The seeds that at least two repeated settings have run."""
    repeated = n_runs[setting] > 1
    pairs = {
        (int(g), int(s)) for g, s in zip(setting[repeated], seed[repeated], strict=True) if s >= 0
    }
    seeds, counts = (
        np.unique([s for _, s in pairs], return_counts=True)
        if pairs
        else (np.zeros(0), np.zeros(0))
    )
    return np.asarray(seeds[counts > 1], dtype=np.int64)


def _moderated(squares: Array, df: Array) -> tuple[Array, Array, float, float]:
    """(variance [k], df [k], noise, df of all) from sums of squared residuals.

    NaN where nothing is known.
    """
    outlying = _outlying(squares, df)
    variance, drawn_df, noise, df_all = _drawn_together(
        np.where(outlying, 0, squares), np.where(outlying, 0, df)
    )
    own = np.divide(squares, df, out=np.full(len(df), np.nan), where=df > 0)
    return np.where(outlying, own, variance), np.where(outlying, df, drawn_df), noise, df_all


def _outlying(squares: Array, df: Array) -> NDArray[np.bool_]:
    """Which settings, [k], vary far more than the typical one (lower median of those that vary)."""
    found = np.zeros(len(df), dtype=bool)
    known = np.flatnonzero((df > 0) & (squares > 0))
    if len(known) < 2:
        return found
    own = squares[known] / df[known]
    times = own / np.quantile(own, 0.5, method="lower")
    by_chance = f_tail(times, df[known], df[known].sum() - df[known])
    found[known] = (times > OUTLYING_TIMES**2) & (by_chance < OUTLYING)
    return found


def _drawn_together(squares: Array, df: Array) -> tuple[Array, Array, float, float]:
    """The same for settings none of which stands out, by Smyth's moderation."""
    df_all = float(df.sum())
    if df_all == 0:
        return np.full(len(df), np.nan), df, math.nan, 0.0
    pooled = float(squares.sum()) / df_all
    known = df > 0
    prior_df, prior = math.inf, pooled
    if known.sum() > 2 and pooled > 0:
        own = np.maximum(
            squares[known] / df[known], 1e-5 * pooled
        )  # a setting that never varies says little of others
        d = df[known]
        logs = np.log(own) - digamma(d / 2) + np.log(d / 2)
        excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, d / 2)))
        if excess > 0:
            prior_df = max(LEAST_PRIOR_DF, 2 * _inverse_trigamma(excess))
            prior = math.exp(
                float(np.mean(logs)) + float(digamma(prior_df / 2)) - math.log(prior_df / 2)
            )
    if math.isinf(prior_df):
        return np.full(len(df), pooled), np.full(len(df), df_all), math.sqrt(pooled), df_all
    # The quietest of many settings are quiet by luck: none is trusted to vary less than the typical
    # one.
    variance = np.maximum((prior_df * prior + squares) / (prior_df + df), prior)
    return variance, np.minimum(prior_df + df, df_all), math.sqrt(prior), df_all


def _inverse_trigamma(y: float) -> float:
    """The x with trigamma(x) = y > 0, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = float(polygamma(1, x))
        change = value * (1 - value / y) / float(polygamma(2, x))
        x += change
        if abs(change) < 1e-8 * x:
            break
    return x


def differences(known: Estimates, one: int, others: Indices) -> tuple[Array, Array, Array]:
    """(difference, standard error, degrees of freedom) of others minus one, each [len(others)]."""
    parts = known.variance / known.n_runs
    own, other = parts[one], parts[others]
    apart = known.shares[others] - known.shares[one]
    seeds = np.einsum("ks,st,kt->k", apart, known.seed_covariance, apart) * known.noise**2
    squared = own + other + (seeds if apart.shape[1] else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # Welch and Satterthwaite
        df = (own + other) ** 2 / (own**2 / known.df[one] + other**2 / known.df[others])
    df = np.where(own + other > 0, np.minimum(df, known.df_all), known.df_all)
    return known.mean[others] - known.mean[one], np.sqrt(squared), df


def tiers(known: Estimates) -> Indices:
    """The tier of each setting, [k], from 1.

    All of a tier cannot be told apart from its leader, the lowest mean. The setting that stands out
    most is compared with the leader by Tukey's studentized range of all that are left, then the
    next one with one fewer, until one cannot be told apart (Newman 1939, with the errors of Games
    and Howell 1976). So truly equal settings at the top are split in at most 5 % of sweeps. Unknown
    variances separate nothing.
    """
    found = np.zeros(len(known.mean), dtype=np.int64)
    rest = np.argsort(known.mean, kind="stable")
    tier = 0
    while len(rest):
        tier += 1
        others = rest[1:]
        apart = _apart(*differences(known, int(rest[0]), others))
        found[rest[0]] = tier
        found[others[~apart]] = tier
        rest = others[apart]
    return found


def _apart(difference: Array, error: Array, df: Array) -> NDArray[np.bool_]:
    statistic = _statistic(difference, error)
    pairwise = 2 * t_tail(statistic, df)
    out = np.zeros(len(difference), dtype=bool)
    for i in np.argsort(pairwise, kind="stable"):
        if not _is_significant(
            float(statistic[i]), float(df[i]), float(pairwise[i]), len(out) - int(out.sum()) + 1
        ):
            break
        out[i] = True
    return out


def _statistic(difference: Array, error: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(difference / error, nan=0.0, posinf=np.inf)


def _is_significant(statistic: float, df: float, pairwise: float, n_left: int) -> bool:
    """Whether the range of n_left settings exceeds chance. pairwise: p of this pair alone."""
    if pairwise > ALPHA or n_left == 2:
        return pairwise <= ALPHA
    if (
        pairwise * n_left * (n_left - 1) / 2 <= ALPHA
    ):  # Bonferroni's bound, which spares a slow integral
        return True
    from scipy.stats import studentized_range  # slow to import, and not for every sweep

    return bool(studentized_range.sf(statistic * math.sqrt(2), n_left, df) <= ALPHA)


def seed_difference(known: Estimates) -> float:
    """By how much two runs of one setting may differ (95 %), in both directions; NaN if unknown."""
    if not (math.isfinite(known.noise) and known.df_all > 0):
        return math.nan
    return float(t_quantile(0.975, known.df_all) * known.noise * math.sqrt(2))


def smallest_difference(known: Estimates) -> float:
    """The true lead of first place that is found in nine sweeps of ten; NaN if unknown.

    For the median setting's error, all pairs of settings allowed for by Bonferroni's bound.
    """
    k = len(known.mean)
    if k < 2 or not math.isfinite(known.noise):
        return math.nan
    leader = int(np.argmin(known.mean))
    _, errors, dfs = differences(known, leader, np.delete(np.arange(k), leader))
    if not np.isfinite(errors).any():
        return math.nan
    df = float(np.nanmedian(dfs))
    return float(
        (-t_quantile(ALPHA / (k * (k - 1)), df) + t_quantile(POWER, df)) * np.nanmedian(errors)
    )


def seeds_to_settle(known: Estimates, tier: Indices) -> int | None:
    """More seeds for each setting of the first tier, after which its leader would stand alone.

    It would do so if the differences seen are the true ones.

    0 if it stands alone already, None if more than `N_SEEDS_MOST` are needed or nothing is known
    about the noise. Planned on the difference seen, so it suffices in about half of the cases.
    """
    top = np.flatnonzero(tier == 1)
    if len(top) < 2:
        return 0
    means = np.sort(known.mean[top])
    difference, noise = float(means[1] - means[0]), math.sqrt(float(np.mean(known.variance[top])))
    if not (difference > 0 and math.isfinite(noise)):
        return None
    now = float(known.n_runs[top].min())
    for more in range(1, N_SEEDS_MOST + 1):
        df = len(top) * (now + more - 1)
        if difference >= t_quantile(1 - ALPHA / 2, df) * noise * math.sqrt(2 / (now + more)):
            return more
    return None
