"""Do the signals keep their word? python benchmarks/pruning_calibration.py CURVES_DIR FIGURE.png.

False stalls on curves that decline all the way, against how much of the decline the noise hides; how often the stall
step's and the forecast's intervals hold; how well "nothing more will come" is predicted; what it all costs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.replay import truth
from analysis.replay_curves import Curve, read
from sweeps.signals import LossCurve, log_time, signals, trend

X = np.arange(100.0)
SHAPES = {"line": -X / 100, "power law": (X + 1) ** -0.3 * 1.32, "exponential": np.exp(-X / 60) / 0.81}
N_CURVES = 400


def false_stalls(noises: np.ndarray) -> dict[str, list[float]]:
    """Share of declining curves called stalled, per shape and noise (in units of the whole decline)."""
    rng = np.random.default_rng(0)
    return {
        shape: [
            float(
                np.mean([signals(X, y + s * rng.normal(size=100)).stalled_since is not None for _ in range(N_CURVES)])
            )
            for s in noises
        ]
        for shape, y in SHAPES.items()
    }


def corners(noises: np.ndarray) -> pd.DataFrame:
    """Fall, corner at step 60, plateau: share detected, interval coverage, error of the step (median and 90 %)."""
    rng, rows = np.random.default_rng(1), []
    for s in noises:
        found = [signals(X, np.maximum(1 - X / 60, 0) + s * rng.normal(size=100)) for _ in range(N_CURVES)]
        hits = [f for f in found if f.stalled_since is not None]
        errors = np.abs([f.stalled_since - 60 for f in hits]) if hits else np.array([np.nan])
        held = [f.stalled_low <= 60 <= f.stalled_high for f in hits]
        row = [len(hits) / N_CURVES, np.mean(held), np.median(errors), np.quantile(errors, 0.9)]
        rows.append(dict(zip(["detected", "interval holds", "error, steps", "error, 90 %"], row, strict=True)))
    return pd.DataFrame(rows, index=[f"noise {s:g}" for s in noises])


def forecasts(tasks: dict[str, list[Curve]]) -> dict[str, float]:
    """Share of real curves whose mean of the last three losses lies in the interval foreseen half way."""
    inside, below = [], []
    for curves in tasks.values():
        for c in curves:
            n = len(c.steps) // 2
            if c.n_finite == len(c.steps):
                _, low, high = signals(c.steps[:n], c.losses[:n]).expected(int(c.steps[-1]))
                end = float(c.losses[-3:].mean())
                inside.append(low <= end <= high)
                below.append(end < low)
    return {"inside": float(np.mean(inside)), "below": float(np.mean(below))}


def average_precision(tasks: dict[str, list[Curve]]) -> dict[str, float]:
    """Of ranking curves at a quarter of the run by their possible gain, for "best improves by less than 0.1 %".

    Tasks in which every curve improves by more have no precision and are left out.
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
    noises = np.geomspace(0.003, 1, 11)
    stalls = false_stalls(noises)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (shape, rates), style in zip(stalls.items(), ("o-", "s--", "^:"), strict=True):
        axes.semilogx(noises, rates, style, label=shape)
    axes.axhline(0.05, color="0.5", linewidth=1)
    axes.set(xlabel="noise, in units of the whole decline", ylabel="called stalled, share", ylim=(0, None))
    axes.set_title("Curves that decline all the way (100 reports); the line is the claimed 5 %", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(figure_path, dpi=90)
    print(pd.DataFrame(stalls, index=[f"{s:.3f}" for s in noises]).to_string(float_format="%.3f"), end="\n\n")
    print(corners(np.array([0.01, 0.03, 0.1, 0.3])).to_string(float_format="%.3f"), end="\n\n")
    for name in ("taskset_dev", "deepobs"):
        tasks = read(folder / f"{name}.parquet")
        assert all(len(truth(curves).top) for curves in tasks.values())
        print(name, "forecast from half way:", forecasts(tasks))
        print(
            name, "average precision:", pd.Series(average_precision(tasks)).describe()[["mean", "min", "max"]].to_dict()
        )
    print({n: f"{microseconds_per_report(n):.1f} µs per report" for n in (1_000, 10_000, 100_000)})


if __name__ == "__main__":
    main()
