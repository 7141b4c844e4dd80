"""Do the signals keep their word? python benchmarks/pruning_calibration.py CURVES_DIR FIGURE.png.

False stalls on curves that decline all the way, against how much of the decline the noise hides;
how often the stall step's and the forecast's intervals hold; how well "nothing more will come" is
predicted; what it all costs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import truth
from iolaus.sweeps.signals import LossCurve, log_time, signals, trend

X = np.arange(100.0)
T = X + 1
SHAPES = {
    "line": -X,
    "exponential": np.exp(-X / 60),
    "logarithm": -np.log(T),
    "power law, -0.3": T**-0.3,
    "power law, -0.7": T**-0.7,
}
N_CURVES = 400


def ar1(rng: np.random.Generator, r: float) -> np.ndarray:
    """Noise of standard deviation 1 [100] whose neighbours have the correlation r."""
    noise = rng.normal(size=len(X))
    for i in range(1, len(X)):
        noise[i] = r * noise[i - 1] + np.sqrt(1 - r * r) * noise[i]
    return noise


def false_stalls(noises: np.ndarray, r: float = 0.0) -> dict[str, list[float]]:
    """Share of declining curves called stalled, per shape and noise.

    The noise is in units of the decline of the last half.
    """
    rng = np.random.default_rng(0)
    found = {}
    for shape, y in SHAPES.items():
        fall = y[len(y) // 2] - y[-1]
        found[shape] = [
            float(
                np.mean(
                    [
                        signals(X, y + fall * s * ar1(rng, r)).stalled_since is not None
                        for _ in range(N_CURVES)
                    ]
                )
            )
            for s in noises
        ]
    return found


def corners(noises: np.ndarray) -> pd.DataFrame:
    """Fall, corner at step 60, plateau.

    Share detected, interval coverage, error of the step (median and 90 %).
    """
    rng, rows = np.random.default_rng(1), []
    for s in noises:
        found = [
            signals(X, np.maximum(1 - X / 60, 0) + s * rng.normal(size=100))
            for _ in range(N_CURVES)
        ]
        hits = [f for f in found if f.stalled_since is not None]
        errors = np.abs([f.stalled_since - 60 for f in hits]) if hits else np.array([np.nan])
        held = [f.stalled_low <= 60 <= f.stalled_high for f in hits]
        row = [len(hits) / N_CURVES, np.mean(held), np.median(errors), np.quantile(errors, 0.9)]
        rows.append(
            dict(
                zip(["detected", "interval holds", "error, steps", "error, 90 %"], row, strict=True)
            )
        )
    return pd.DataFrame(rows, index=[f"noise {s:g}" for s in noises])


def forecasts(tasks: dict[str, list[Curve]], share: float) -> dict[str, float]:
    """Share of real curves that end in the interval foreseen at a share of the run.

    The end is the mean of the last three losses. least: in the task where it was the smallest.
    """
    inside, below = {}, {}
    for task, curves in tasks.items():
        inside[task], below[task] = [], []
        for c in curves:
            n = int(len(c.steps) * share)
            if c.n_finite == len(c.steps):
                _, low, high = signals(c.steps[:n], c.losses[:n]).expected(int(c.steps[-1]))
                end = float(c.losses[-3:].mean())
                inside[task].append(low <= end <= high)
                below[task].append(end < low)
    each = [float(np.mean(own)) for own in inside.values()]
    return {
        "inside": float(np.mean(np.concatenate(list(inside.values())))),
        "below": float(np.mean(np.concatenate(list(below.values())))),
        "least": min(each),
    }


def average_precision(tasks: dict[str, list[Curve]]) -> dict[str, float]:
    """Average precision of ranking curves at a quarter of the run by their possible gain.

    What is to be found: "best improves by less than 0.1 %". Tasks in which every curve improves by
    more have no precision and are left out.
    """
    found = {}
    for task, curves in tasks.items():
        truths, gains = [], []
        for c in curves:
            n = len(c.steps) // 4
            if c.n_finite > n:
                t, rest = trend(c.steps[:n], c.losses[:n]), c.losses[n : c.n_finite]
                truths.append(t.best - min(t.best, float(rest.min())) < 1e-3 * abs(t.best))
                left = log_time(t.step, c.plan.n_steps or 1)
                gains.append(max(t.slope_se - t.slope, 0.0) * left / abs(t.best))
        hit = np.array(truths)[np.argsort(gains, kind="stable")]
        if not hit.any():
            continue
        found[task] = float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())
    return found


def microseconds_per_report(n: int) -> float:
    """Of LossCurve when asked at every one of n reports."""
    losses = np.random.default_rng(0).normal(size=n).tolist()
    curve, begin = LossCurve(), time.process_time()
    for step, loss in enumerate(losses):
        curve.add(step, loss)
        curve.signals()
    return (time.process_time() - begin) / n * 1e6


def main() -> None:
    folder, figure_path = Path(sys.argv[1]), Path(sys.argv[2])
    noises = np.geomspace(0.1, 10, 9)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, r in zip(figure.subplots(1, 2, sharex=True, sharey=True), (0.0, 0.6), strict=True):
        stalls = false_stalls(noises, r)
        for (shape, rates), style in zip(
            stalls.items(), ("o-", "s--", "^:", "D-.", "x-"), strict=True
        ):
            axes.semilogx(noises, rates, style, label=shape, markersize=4)
        axes.axhline(0.05, color="0.5", linewidth=1)
        axes.axvline(1, color="0.8", linewidth=1)
        axes.set(xlabel="noise / decline of the last half", ylim=(0, None))
        axes.set_title(f"autocorrelation of the noise {r:g}", fontsize=9)
        print(f"false stalls, autocorrelation {r:g}")
        print(
            pd.DataFrame(stalls, index=[f"{s:.2f}" for s in noises]).to_string(float_format="%.3f"),
            end="\n\n",
        )
        if r == 0:
            axes.set_ylabel("called stalled, share")
            axes.legend(fontsize=8)
    figure.suptitle(
        "Curves that decline all the way (100 reports); claimed: 5 % left of the upright line",
        fontsize=9,
    )
    figure.savefig(figure_path, dpi=90)
    print(corners(np.array([0.01, 0.03, 0.1, 0.3])).to_string(float_format="%.3f"), end="\n\n")
    for name in ("taskset_dev", "deepobs"):
        tasks = read(folder / f"{name}.parquet")
        assert all(len(truth(curves).top) for curves in tasks.values())
        print(name, "forecast:", {share: forecasts(tasks, share) for share in (0.25, 0.5)})
        print(
            name,
            "average precision:",
            pd.Series(average_precision(tasks)).describe()[["mean", "min", "max"]].to_dict(),
        )
    print({n: f"{microseconds_per_report(n):.1f} µs per report" for n in (1_000, 10_000, 100_000)})


if __name__ == "__main__":
    main()
