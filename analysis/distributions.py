"""Quantiles, tails and intervals, of `scipy.special` alone.

`scipy.stats` has them all, and takes two thirds of a second to import, which each `iolaus rank`
would pay.
"""

from __future__ import annotations

import math
from typing import Any

from scipy.special import betaincinv, fdtrc, ndtri, stdtr, stdtrit

__all__ = ["binomial_interval", "f_tail", "t_quantile", "t_tail", "wilson_interval"]


def t_quantile(p: float, df: Any) -> Any:
    """The value that Student's t stays below with probability p; NaN where df is not above 0.

    df: a number or an array, infinity for the normal distribution.
    """
    return stdtrit(df, p)


def t_tail(x: Any, df: Any) -> Any:
    """The probability that Student's t exceeds x; numbers or arrays, as `t_quantile`."""
    return stdtr(df, -x)


def f_tail(x: Any, df: Any, df_below: Any) -> Any:
    """The probability that F exceeds x; df, df_below: of its numerator and its denominator."""
    return fdtrc(df, df_below, x)


def binomial_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval of the share of which k of n were seen (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The same where n is not small: shorter, and right in the mean only (Wilson 1927)."""
    z = float(ndtri((1 + confidence) / 2))
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)
