"""What one loss curve says about itself.

Level, noise, trend, stall, divergence, rebound and oscillation have their only definition here: the
pruner asks while a trial runs, the analysis asks afterwards. Numpy only, no peers, no clock. Adding
a constant to a loss changes no answer; multiplying it multiplies the answers in its unit. Losses
may have any scale; only an answer that is itself beyond the largest float is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "N_LEVEL",
    "N_POINTS",
    "N_TAIL",
    "Array",
    "LossCurve",
    "Signals",
    "Trend",
    "Z",
    "despike",
    "is_above_past",
    "log_time",
    "lost_since",
    "signals",
    "thin",
    "trend",
]

Array = NDArray[np.float64]

# A longer curve is averaged in blocks to this many points or fewer: it bounds the cost.
N_POINTS = 128
N_LEVEL = 3  # points whose mean is "where the curve is now"
N_TAIL = 8  # a flat stretch shorter than this many points is not called a stall
N_NOISE = 32, 64  # the newest two thirds of the points, within these, are asked for the noise
Z = 1.645  # one-sided 95 %
# A finite loss has left its past for good after this share of the run above its start by this
# share of all it ever fell and so many of its usual moves (benchmarks/divergence.py).
LOST_SHARE, LOST_FALL, LOST_MOVES = 0.25, 0.5, 5.0
Z_FADED = 2.5  # for "progress has faded": one-sided 99.4 %, as about ten tails are tried


@dataclass(frozen=True, slots=True)
class Trend:
    """Where a curve is and where it is heading, from a line through its last half.

    level: mean of the last three points; level_se: its standard error. slope: loss per step,
    negative while it falls;
    slope_se: its standard error. Both errors are widened by sqrt((1 + r) / (1 - r)) for residuals
    of lag-1 autocorrelation r (Bayley and Hammersley 1946), r limited to [0, 0.9]. best: the lowest
    single loss, on best_step. With two points the errors are infinite, with one the slope is 0 as
    well.
    """

    step: int
    level: float
    level_se: float
    slope: float
    slope_se: float
    best: float
    best_step: int


@dataclass(frozen=True, slots=True)
class Signals:
    """What a curve said up to `step`.

    Losses in the curve's unit, slopes in loss per step, intervals one-sided 95 %.
    n_reports: finite reports before the first non-finite one; with 0 of them every loss below is
    NaN.
    level, level_low, level_high: smoothed loss at `step` and its interval.
    noise: robust standard deviation of one point around the local course; autocorrelation: of these
    residuals, lag 1.
    trend, trend_low, trend_high: slope of the last half. Its interval and the level's are 1.645
        standard errors, which on short curves hold less than 95 %: about 87 % at 6 reports, 93 % at
        20.
    best, best_step: lowest smoothed loss (mean of three) and its step: the checkpoint to keep.
    stalled_since: step since which there has been no progress beyond noise, None while there is
        progress or it is too early to tell; (stalled_low, stalled_high) is where the data allow
        that step to be.
    diverged_at: step of the first NaN or infinity, or the last step of a loss that has risen above
        its start by ten times all it ever fell and still accelerates; None otherwise.
    rebound: how far the level has climbed back from the best, 0.0 unless beyond noise;
    rebound_since: where it began.
    period_steps, amplitude: of the strongest oscillation around the course, None and 0.0 unless
    beyond chance (1 %).
    """

    step: int
    n_reports: int
    level: float
    level_low: float
    level_high: float
    noise: float
    autocorrelation: float
    trend: float
    trend_low: float
    trend_high: float
    best: float
    best_step: int
    stalled_since: int | None = None
    stalled_low: int | None = None
    stalled_high: int | None = None
    diverged_at: int | None = None
    rebound: float = 0.0
    rebound_since: int | None = None
    period_steps: float | None = None
    amplitude: float = 0.0

    def expected(self, step: int) -> tuple[float, float, float]:
        """(level, low, high) to expect at a later step if the curve goes on straight in log time.

        Loss curves at a constant rate are close to power laws, so progress per *doubling* of the
        steps persists, not progress per step. Knows nothing of a coming change of the learning
        rate. The interval reaches from no progress at all to twice what is foreseen, two one-sided
        95 % errors of level and slope beyond both: asked at a quarter or half of the run it held 97
        % of the ends of TaskSet and 87 to 90 % of those of DeepOBS (overfitting, jumps);
        benchmarks/README.md. Raises ValueError for an earlier step.
        """
        if step < self.step:
            raise ValueError(
                f"expected({step}) asks for a step before the last report, which is at {self.step}"
            )
        reach = log_time(self.step, step + 1)
        change = self.trend * reach
        margin = 2 * math.hypot(self.level - self.level_low, (self.trend - self.trend_low) * reach)
        ahead = self.level + change
        return ahead, self.level + 2 * min(change, 0.0) - margin, max(ahead, self.level) + margin


# The fields of Trend and of Signals in the curve's unit, or in it per step.
TREND_LOSSES = ("level", "level_se", "slope", "slope_se", "best")
SIGNALS_LOSSES = (
    *("level", "level_low", "level_high", "noise", "trend", "trend_low", "trend_high"),
    *("best", "rebound", "amplitude"),
)


def log_time(step: int, n_steps: int) -> float:
    """Steps at the present slope worth those left to `n_steps` if progress is straight in log time.

    With t = step + 1, loss = a - c log(t) has the slope -c * 2 log(2) / t through its last half, so
    the loss to come, -c log(n / t), is slope * t / (2 log 2) * log(n / t). Zero at the end and
    after it.
    """
    elapsed = step + 1
    return elapsed / (2 * math.log(2)) * math.log(max(n_steps, elapsed) / elapsed)


@dataclass(slots=True)
class LossCurve:
    """A growing curve in bounded memory, for one who asks at every report.

    `add` and `signals` are O(1) amortised. When 2 * N_POINTS blocks are full, neighbours are
    merged: each block is the mean of equally many reports.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    block: int = 1
    n_reports: int = 0
    last_step: int = -1
    diverged_at: int | None = None
    _pending: list[float] = field(default_factory=list, repr=False)
    _said: Signals | None = field(default=None, repr=False)
    _fresh_until: int = field(default=0, repr=False)

    def add(self, step: int, loss: float) -> None:
        """Take one report; steps must rise (ValueError).

        A non-finite loss ends the curve: what follows is ignored.
        """
        if step <= self.last_step:
            raise ValueError(
                f"reports must come in rising steps: step {step} arrived after step "
                f"{self.last_step}"
            )
        self.last_step = step
        if self.diverged_at is not None:
            return
        self.n_reports += 1
        if has_diverged(loss):
            self.diverged_at, self._fresh_until = step, 0
            return
        self._pending.append(loss)
        if len(self._pending) == self.block:
            self.steps.append(step)
            self.losses.append(sum(loss / self.block for loss in self._pending))
            self._pending.clear()
            if len(self.losses) == 2 * N_POINTS:
                self.steps = self.steps[1::2]
                self.losses = [
                    a / 2 + b / 2 for a, b in zip(self.losses[::2], self.losses[1::2], strict=True)
                ]
                self.block *= 2

    def signals(self) -> Signals:
        """The signals of the reports so far, at most 1/32 of them missing.

        A divergence is never missing. n_reports counts blocks once reports have been merged. Raises
        ValueError before the first report.
        """
        if self._said is None or self.n_reports >= self._fresh_until:
            steps, losses = list(self.steps), list(self.losses)
            if self.diverged_at is not None:
                steps, losses = [*steps, self.diverged_at], [*losses, math.nan]
            self._said = signals(steps, losses)
            self._fresh_until = self.n_reports + 1 + self.n_reports // 32
        return self._said


def has_diverged(loss: float) -> bool:
    """Whether one report says that a run has diverged: it is NaN or infinite.

    Any part that looks at a single value asks here. A whole curve may also have diverged while it
    is finite: `lost_since`, and while it still accelerates `Signals.diverged_at`.
    """
    return not math.isfinite(loss)


def lost_since(steps: Array, losses: Array, n_steps: int) -> int | None:
    """The step since which a finite loss is above all of its past for good; None if it is not.

    steps, losses: [n], the reports so far of a run of n_steps. Above is beyond the first report by
    half of all the loss had fallen and five times its usual move (the median between neighbours).
    For good is a quarter of the run, N_TAIL reports at least, every one of them above, at a level
    from which it does not come back by the end if it goes on straight in log time (95 %). A spike
    that comes back sooner, a warm-up hump and a run that exploded in its first two reports, which
    have no past, are none.
    """
    if losses[-1] <= losses[0]:
        return None
    begin = int(steps.searchsorted(steps[-1] + 1 - LOST_SHARE * n_steps))
    begin = min(begin, len(losses) - N_TAIL)
    if begin < N_LEVEL:
        return None
    limit = _past_limit(losses[:begin])
    if losses[begin:].min() <= limit:
        return None
    now = trend(steps[begin:], losses[begin:])
    change = min(now.slope - Z * now.slope_se, 0.0) * log_time(now.step, n_steps)
    if now.level + change <= limit:
        return None
    return int(steps[np.flatnonzero(losses <= limit)[-1] + 1])


def is_above_past(losses: Array) -> bool:
    """Whether the last of finite losses [n] is where `lost_since` would not have it stay."""
    before = losses[: int(losses.argmin()) + 1]
    return len(before) >= N_LEVEL and bool(losses[-1] > _past_limit(before))


def _past_limit(before: Array) -> float:
    """Above its start by half of all it fell and five usual moves a loss has left its past."""
    scale = _scale(float(before.min()), float(before.max()))
    past = before / scale
    start, usual = float(past[0]), float(np.median(np.abs(np.diff(past))))
    limit = start + LOST_FALL * (start - float(past.min())) + LOST_MOVES * usual
    return limit * scale


def n_finite(losses: ArrayLike) -> int:
    """How many reports come before the first that is NaN or infinite; the rest is ignored."""
    finite = np.isfinite(np.asarray(losses, dtype=np.float64))
    return len(finite) if finite.all() else int(finite.argmin())


def smooth(steps: Array, losses: Array) -> tuple[Array, Array]:
    """The curve as levels are read off it: thinned, without spikes, each the mean of three points.

    Each has the step of the last of its three. Up to the first loss that is not finite; empty for
    fewer than three points.
    """
    n = n_finite(losses)
    x, y = thin(steps[:n], losses[:n]) if n else (steps[:0], losses[:0])
    if len(y) < N_LEVEL:
        return np.empty(0), np.empty(0)
    return x[N_LEVEL - 1 :], _means_of_three(despike(y))


def _means_of_three(y: Array) -> Array:
    return np.convolve(y, np.full(N_LEVEL, 1 / N_LEVEL), "valid")


def thin(steps: Array, losses: Array, n_points: int = N_POINTS) -> tuple[Array, Array]:
    """The curve as at most n_points means of equally many neighbouring reports.

    Each keeps the last step of its block. The oldest reports that do not fill a block are left out:
    the newest are always in.
    """
    block = -(-len(losses) // n_points)
    if block == 1:
        return steps, losses
    whole = len(losses) // block * block
    return steps[-whole:][block - 1 :: block], losses[-whole:].reshape(-1, block).mean(axis=1)


def trend(steps: Array, losses: Array) -> Trend:
    """The trend of a finite curve of at least one report (thinned to N_POINTS).

    The cheap part of `signals`.
    """
    best_at = int(losses.argmin())
    best, best_step, step = float(losses[best_at]), int(steps[best_at]), int(steps[-1])
    scale = _scale(best, float(losses[losses.argmax()]))
    if scale != 1:
        t = trend(steps, losses / scale)
        return replace(t, **{name: getattr(t, name) * scale for name in TREND_LOSSES})
    x, y = thin(steps, losses)
    level = float(y[-N_LEVEL:].mean())
    width = min(len(y), max(4, -(-len(y) // 2)))
    if width < 3:
        slope = 0.0 if width == 1 else float((y[1] - y[0]) / (x[1] - x[0]))
        return Trend(step, level, math.inf, slope, math.inf, best, best_step)
    x, y = x[-width:] - x[-width:].sum() / width, y[-width:] - y[-width:].sum() / width
    sxx = float(x @ x)
    slope = float(x @ y) / sxx
    residual = y - slope * x
    rss = float(residual @ residual)
    if rss <= 1e-24 * float(y @ y):  # an exact line: rounding is no noise
        rss = 0.0
    r = min(max(float(residual[1:] @ residual[:-1]) / rss, 0.0), 0.9) if rss > 0 else 0.0
    widened = math.sqrt(rss / (width - 2) * (1 + r) / (1 - r))
    return Trend(
        step, level, widened / math.sqrt(N_LEVEL), slope, widened / math.sqrt(sxx), best, best_step
    )


def signals(steps: Sequence[int] | ArrayLike, losses: Sequence[float] | ArrayLike) -> Signals:
    """All signals of one curve of n >= 1 reports.

    steps: [n] strictly rising integers. losses: [n] floats of any scale and sign.
    From the first NaN or infinity on, values are ignored and `diverged_at` is set. Single spikes
    beyond four robust deviations of their seven neighbours are clipped first. Costs O(n) to thin,
    then a bounded amount (about 0.4 ms). Raises ValueError for arrays of different or no length, or
    steps that do not rise.
    """
    all_steps, all_losses = (
        np.asarray(steps, dtype=np.float64),
        np.asarray(losses, dtype=np.float64),
    )
    if all_steps.shape != all_losses.shape or all_steps.ndim != 1 or not len(all_steps):
        raise ValueError(
            f"a curve is two equally long rows; got steps {all_steps.shape}, losses "
            f"{all_losses.shape}"
        )
    if np.any(np.diff(all_steps) <= 0):
        raise ValueError(
            "the steps of a curve must rise strictly: sort the reports and keep one per step"
        )
    n = n_finite(all_losses)
    diverged = None if n == len(all_losses) else int(all_steps[n])
    if n == 0:
        first, nan = int(all_steps[0]), math.nan
        return Signals(
            first, 0, nan, nan, nan, nan, nan, nan, nan, nan, nan, first, diverged_at=diverged
        )
    scale = _scale(float(all_losses[:n].min()), float(all_losses[:n].max()))
    if scale != 1:
        with_end = n + 1  # the report that ended it is kept, if there is one
        s = signals(all_steps[:with_end], all_losses[:with_end] / scale)
        return replace(s, **{name: getattr(s, name) * scale for name in SIGNALS_LOSSES})
    x, raw = thin(all_steps[:n], all_losses[:n])
    y = despike(raw)
    t = trend(x, y)
    noise, r = _noise(y)
    widen = math.sqrt((1 + r) / (1 - r))
    means = _means_of_three(y) if len(y) >= N_LEVEL else y
    best_at = int(means.argmin()) + len(y) - len(means)
    best = float(means.min())
    # The best of many noisy means lies low by chance: five standard errors, not two.
    error = noise * widen / math.sqrt(N_LEVEL)
    climb = t.level - best
    rebounded = len(y) >= N_TAIL and climb > 5 * error and climb > 1e-9 * float(np.ptp(y))
    if diverged is None and _exploding(raw):
        diverged = int(x[-1])
    stall = None if diverged is not None else _stall(x, y, noise, noise * widen)
    if stall and rebounded and stall[0] < x[best_at]:  # the way down to a rebound was progress
        stall = (int(x[best_at]), int(x[best_at]), max(stall[2], int(x[best_at])))
    period, amplitude = _oscillation(x, y)
    half = Z * t.level_se if math.isfinite(t.level_se) else math.inf
    return Signals(
        step=int(all_steps[n - 1]),
        n_reports=n,
        level=t.level,
        level_low=t.level - half,
        level_high=t.level + half,
        noise=noise,
        autocorrelation=r,
        trend=t.slope,
        trend_low=t.slope - Z * t.slope_se,
        trend_high=t.slope + Z * t.slope_se,
        best=best,
        best_step=int(x[best_at]),
        stalled_since=None if stall is None else stall[0] if stall[0] > x[0] else int(all_steps[0]),
        stalled_low=stall[1] if stall else None,
        stalled_high=stall[2] if stall else None,
        diverged_at=diverged,
        rebound=climb if rebounded else 0.0,
        rebound_since=int(x[best_at]) if rebounded else None,
        period_steps=period,
        amplitude=amplitude,
    )


def _scale(lowest: float, highest: float) -> float:
    """1.0, or the power of two at the largest loss if its square would overflow or vanish."""
    largest = max(-lowest, highest)
    return 1.0 if 1e-100 < largest < 1e100 or not largest else 2.0 ** (math.frexp(largest)[1] - 1)


def despike(losses: Array) -> Array:
    """The losses with isolated outliers clipped.

    They are clipped to four robust deviations around the median of seven neighbours. The last point
    is judged by those before it; a level that stays is no spike. Source: Hampel 1974 (the
    identifier).
    """
    if len(losses) < 7:
        return losses
    padded = np.concatenate([losses[:3][::-1], losses, losses[-3:][::-1]])
    around = np.median(sliding_window_view(padded, 7), axis=1)
    off = losses - around
    limit = 4 * 1.4826 * float(np.median(np.abs(off)))
    return np.asarray(around + np.clip(off, -limit, limit)) if limit > 0 else losses


def _noise(y: Array) -> tuple[float, float]:
    """(robust standard deviation, lag-1 autocorrelation) of the newest points around a bend.

    The points are the newest two thirds, within N_NOISE: the noise may change along the curve, and
    its autocorrelation needs many. Where those spread twice as far as the fewest of N_NOISE do,
    there is a corner among them, which no bend follows and which is no noise: then those are asked.
    """
    n = len(y)
    if n < 6:
        return (float(np.std(np.diff(y))) / math.sqrt(2) if n > 2 else 0.0), 0.0
    few, many = N_NOISE
    found = _around_bend(y, min(max(2 * n // 3, few), many))
    newest = _around_bend(y, few)
    return newest if found[0] > 2 * newest[0] else found


def _around_bend(y: Array, n_newest: int) -> tuple[float, float]:
    """As `_noise`, of so many of the newest points; the autocorrelation is limited to [0, 0.9].

    The bend is a parabola plus a logarithm of the report's number, which follows the steep start of
    a curve.
    """
    basis = _course(len(y), n_newest)
    y = y[-basis.shape[1] :]
    residual = y - basis.T @ (basis @ y)
    if float(residual @ residual) <= 1e-20 * float(np.ptp(y)) ** 2:
        return 0.0, 0.0
    sd = 1.4826 * float(np.median(np.abs(residual))) * math.sqrt(len(y) / (len(y) - 4))
    r = float(residual[1:] @ residual[:-1]) / float(residual @ residual)
    # Each fitted term biases r by about -(1 + 3 r) / n (Kendall 1954). On few points only the
    # constant part is undone: the rest would be mostly the noise of r itself.
    r += 4 / len(y)
    if len(y) >= 4 * N_TAIL:
        r /= 1 - 12 / len(y)
    return sd, min(max(r, 0.0), 0.9)


@cache
def _course(n: int, n_newest: int) -> Array:
    """Orthonormal rows that span 1, i, i^2 and log(i + 1) over the newest of n reports i."""
    i = np.arange(n, dtype=np.float64)[-n_newest:]
    scaled = (i - i.mean()) / n
    q, _ = np.linalg.qr(np.stack([np.ones_like(i), scaled, scaled * scaled, np.log(i + 1)], axis=1))
    return np.asarray(q.T)


def _bend(time: Array) -> Array:
    """Orthonormal rows [4, n] that span 1, t, t^2 and log(1 + 8 t) at times t from 0 to 1."""
    q, _ = np.linalg.qr(
        np.stack([np.ones_like(time), time, time * time, np.log1p(8 * time)], axis=1)
    )
    return np.asarray(q.T)


def _exploding(y: Array) -> bool:
    """Whether the loss is far above the start and accelerating.

    Far is ten times all it ever fell, and thirty times what it usually moves. Accelerating is to
    rise faster in the last third than in the middle one: a warm-up hump slows down instead.
    """
    third = len(y) // 3
    if len(y) < N_TAIL:
        return False
    start, rose = float(y[0]), float(y[-2:].min() - y[0])
    usual = float(np.median(np.abs(np.diff(y))))
    middle, last = float(y[-third] - y[-2 * third]), float(y[-1] - y[-third])
    return rose > 10 * (start - float(y.min())) and rose > 30 * usual and last > 2 * middle > 0


def _line(x: Array, y: Array) -> tuple[float, float]:
    """(slope, sum of squared deviations of x)."""
    d = x - x.mean()
    sxx = float(d @ d)
    return float(d @ y) / sxx, sxx


def _stall(x: Array, y: Array, noise: float, error: float) -> tuple[int, int, int] | None:
    """(since, low, high) steps of the stall the curve ends in, or None.

    error: noise, widened by the autocorrelation. A stall is the longest tail that shows no
    significant decline (95 %) and in which half the progress per doubling of the steps of the
    stretch before it, as long in log time, is excluded (Z_FADED errors). A curve that never fell is
    stalled from its first step, if it has 2 * N_TAIL points and a fall by two noise levels is
    excluded (95 %). A steady decline hidden in noise is no stall: its tail looks flat, but not
    flatter than what came before, nor is a power law's, whose progress per doubling hardly fades.
    About 5 % at most of lines, exponentials, logarithms and power laws up to the exponent 0.7 are
    called stalled by mistake while their last half falls by a noise level or more, also at an
    autocorrelation of the noise of 0.6 (benchmarks/README.md). Least squares place the corner.
    """
    n = len(y)
    rounding = 1e-14 * float(np.abs(y).max())
    start = None
    length = N_TAIL
    while length <= n:
        slope, sxx = _line(x[-length:], y[-length:])
        se = error / math.sqrt(sxx)
        if slope < -Z * se:
            break
        # A longer stretch would reach back to the steep start of a power law, whose progress per
        # doubling has faded since, though it has not stalled.
        tail = n - length
        since = int(np.searchsorted(x, (x[tail] + 1) ** 2 / (x[-1] + 1) - 1)) if tail else 0
        before = min(tail, max(4, tail - since))
        if before >= 4:
            was, was_sxx = _line(x[-length - before : -length], y[-length - before : -length])
            half = 0.5 * (x[-length - before : -length].mean() + 1) / (x[-length:].mean() + 1)
            if was < 0 and slope - half * was > Z_FADED * math.hypot(
                se, half * error / math.sqrt(was_sxx)
            ):
                start = n - length
        elif (
            length == n
            and n >= 2 * N_TAIL
            and (Z * se - slope) * (x[-1] - x[0]) <= 2 * noise + rounding
        ):
            return int(x[0]), int(x[0]), int(x[0])
        longer = int(length * 1.2) + 1
        length = n if length < n < longer else longer
    return None if start is None else _corner(x, y, max(0, 2 * start - n), error)


def _corner(x: Array, y: Array, begin: int, error: float) -> tuple[int, int, int]:
    """Steps (best, low, high) of the corner of a line and a plateau in y[begin:], by least squares.

    The interval is the 95 % likelihood one, one point wider on both sides for the block a point
    stands for.
    """
    xs, ys = x[begin:], y[begin:] - y[begin:].mean()
    hinges = np.minimum(xs[None, :] - xs[2:-2, None], 0.0)  # [candidate, point]
    hinges -= hinges.mean(axis=1, keepdims=True)
    fit = (hinges @ ys) ** 2 / (hinges * hinges).sum(axis=1)
    allowed = np.flatnonzero(fit.max() - fit <= max(3.84 * error * error, 1e-12 * float(ys @ ys)))
    at = xs[2:-2]
    return int(at[fit.argmax()]), int(xs[allowed[0] + 1]), int(xs[allowed[-1] + 3])


def _oscillation(x: Array, y: Array) -> tuple[float | None, float]:
    """(period in steps, amplitude) of the strongest sine around a bend.

    (None, 0.0) if chance explains it.
    Fisher's g test (1929) on the periodogram at the points' own times; at least three periods must
    fit.
    """
    n = len(y)
    if n < 2 * N_TAIL:
        return None, 0.0
    time = (x - x[0]) / (x[-1] - x[0])
    basis = _bend(time)
    residual = y - basis.T @ (basis @ y)
    power = _periodogram(time, residual)
    total = float(power.sum())
    k = int(power.argmax()) + 1
    if k < 3 or total <= 1e-20 * n * n * float(np.ptp(y)) ** 2:
        return None, 0.0
    g, m = float(power[k - 1]) / total, len(power)
    if m * (1 - g) ** (m - 1) > 0.01:
        return None, 0.0
    return float(x[-1] - x[0]) / (n - 1) * n / k, 2 * math.sqrt(float(power[k - 1])) / n


def _periodogram(time: Array, values: Array) -> Array:
    """Power at 1, 2, ... n / 2 periods over times from 0 to 1.

    By Fourier's sum itself where they are not even.
    """
    n = len(values)
    if np.ptp(np.diff(time)) * n < 0.1:
        return np.asarray(np.abs(np.fft.rfft(values))[1:] ** 2)
    periods = np.arange(1, n // 2 + 1)
    return np.asarray(
        np.abs(np.exp(-2j * np.pi * (n - 1) / n * np.outer(periods, time)) @ values) ** 2
    )
