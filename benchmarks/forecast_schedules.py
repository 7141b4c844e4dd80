"""How well the end of a trial is foreseen from a quarter, half and three quarters of its schedule.

python benchmarks/forecast_schedules.py CURVES.parquet... reads what pruning_schedules.py writes, a
file per seed. All forecasts in one run, each from finished trials of the same sweep: of other kinds
of schedule in sweeps of several ("other kinds"), of nine tenths of the others else ("same kinds").
What is foreseen is the lowest loss of the run. Per forecast the median and the 90 % quantile of the
error in log loss, over a sweep's trials that stayed finite, and `needed`: the share of trials that
have to go on, in the order of the forecast, for all of the true best tenth to be among them. Each
with its standard deviation over sweeps.

- best so far, log time (as the rule extrapolates), mean gain of the finished trials.
- nearest: mean gain of the five finished trials nearest in loss and share of the summed rate.
- sum: level + amplitude (1 + S / S0)^-a of the summed rate S; sum, drop: and the log of the rate.
- multi-power: the law of arXiv 2503.12811, L0 + A S^-a - B sum_k (rate_{k-1} - rate_k) G(rate_k^-g
  S_k), G(x) = 1 - (1 + C x)^-b, S_k the rate summed since step k.
- functional: the law of arXiv 2509.19189 for one size of model, L0 + A (1 + S)^-a + B times the
  integral over S' of rate(S') (1 + c (S - S'))^-k.
- process: sweeps/pruners/forecast.py, from one report; `below`: the share that ended below `low`.

Laws have their level, amplitude and drop per trial, drawn to those of the finished trials (a
Gaussian prior), and share their exponents, chosen by what foresees finished trials best.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.sweeps.pruners.forecast import GaussianProcess, _features, _student_z
from iolaus.sweeps.signals import Array, log_time, trend

SHARES = (0.25, 0.5, 0.75)
LAWS = ("sum", "sum, drop", "multi-power", "functional")
SKIP = 3  # reports at the start that no law is asked to fit


def bases(law: str, rates: Array) -> Iterator[Array]:
    """What a law adds up, [trials, reports, 2 or 3], for each choice of its shared numbers."""
    summed = np.cumsum(rates, axis=1)
    typical, top = float(np.median(summed[:, -1])), float(np.median(rates.max(axis=1)))
    for power, part in itertools.product((0.3, 0.7, 1.5), (0.01, 0.1)):
        unit = typical * part
        base = [np.ones_like(summed), (1 + summed / unit) ** -power]
        match law:
            case "sum":
                yield np.stack(base, axis=2)
            case "sum, drop":
                drop = np.log(np.maximum(rates / rates.max(axis=1, keepdims=True), 1e-3))
                yield np.stack([*base, drop], axis=2)
            case "multi-power":
                for c, g in itertools.product((3.0, 30.0), (0.0, 0.6)):
                    yield np.stack([*base, annealed(rates / top, summed / unit, c, 0.5, g)], axis=2)
            case "functional":
                for c, k in itertools.product((3.0, 30.0, 300.0), (1.2, 2.0)):
                    yield np.stack([*base, noise(rates / top, summed / unit, c, k)], axis=2)


def annealed(rates: Array, summed: Array, c: float, b: float, g: float) -> Array:
    """The loss that falling rates take off, per unit of B: the multi-power law's sum."""
    total, drops = np.zeros_like(rates), -np.diff(rates, axis=1, prepend=rates[:, :1])
    own = np.diff(summed, axis=1, prepend=0)
    for k in range(rates.shape[1]):
        since = summed[:, k:] - summed[:, k : k + 1] + own[:, k : k + 1]
        x = c * since * rates[:, k : k + 1] ** -g
        total[:, k:] += drops[:, k : k + 1] * (1 - (1 + x) ** -b)
    return total


def noise(rates: Array, summed: Array, c: float, k: float) -> Array:
    """The noise that rates have put in and steps since have not yet forgotten, per unit of B."""
    total, own = np.zeros_like(rates), np.diff(summed, axis=1, prepend=0)
    for i in range(rates.shape[1]):
        since = summed[:, i:] - summed[:, i : i + 1]
        total[:, i:] += own[:, i : i + 1] * rates[:, i : i + 1] * (1 + c * since) ** -k
    return total


def continued(basis: Array, losses: Array, known: Array, asked: Array, m: int) -> Array:
    """Lowest loss after report m of the asked trials, [asked], in units of their level at m."""
    basis = basis / (np.median(np.abs(basis[known]), axis=(0, 1)) + 1e-12)
    n = basis.shape[2]
    full, shown = basis[known, SKIP:], basis[asked, SKIP:m]
    gram = np.einsum("itp,itq->ipq", full, full) + 1e-3 * np.eye(n)
    right = np.einsum("itp,it->ip", full, losses[known, SKIP:])
    own = np.linalg.solve(gram, right[..., None])[..., 0]
    left = losses[known, SKIP:] - np.einsum("itp,ip->it", full, own)
    variance = float(np.median(left.var(axis=1))) + 1e-8
    middle = np.median(own, axis=0)
    width = 3 * np.quantile(np.abs(own - middle), 0.7, axis=0) + 1e-9
    apart = np.clip(own - middle, -width, width)
    prior = np.linalg.inv(apart.T @ apart / len(known) + 1e-6 * np.eye(n))
    weights = np.linspace(0.2, 1, m - SKIP) / 3 / variance  # neighbours tell much the same
    gram = np.einsum("itp,t,itq->ipq", shown, weights, shown) + prior
    right = np.einsum("itp,t,it->ip", shown, weights, losses[asked, SKIP:m]) + prior @ middle
    fitted = np.einsum("itp,ip->it", basis[asked], np.linalg.solve(gram, right[..., None])[..., 0])
    level = losses[asked, m - 3 : m].mean(axis=1)
    return level + fitted[:, m:].min(axis=1) - fitted[:, m - 3 : m].mean(axis=1)


def by_law(choices: list[Array], losses: Array, known: Array, asked: Array, m: int) -> Array:
    """Log of the lowest loss of the asked trials by the best choice of a law's numbers."""
    level = losses[:, m - 3 : m].mean(axis=1)
    scaled = losses / level[:, None]
    good = known[np.argsort(losses[known].min(axis=1))[: max(10, int(0.7 * len(known)))]]
    parts = np.random.default_rng(0).permutation(good)

    def error(basis: Array) -> float:
        missed = []
        for i in range(3):
            held, others = parts[i::3], np.setdiff1d(parts, parts[i::3])
            foreseen = continued(basis, scaled, others, held, m)
            missed.append(np.abs(foreseen - scaled[held].min(axis=1)))
        return float(np.median(np.concatenate(missed)))

    foreseen = continued(min(choices, key=error), scaled, good, asked, m)
    return np.log(np.maximum(foreseen * level[asked], 1e-2))


def forecasts(
    losses: Array, rates: Array, choices: dict[str, list[Array]], known: Array, asked: Array, m: int
) -> tuple[dict[str, Array], Array]:
    """Log of the lowest loss each way of foreseeing gives the asked trials, and the process's low.

    Known: trials that have finished. m: reports that the asked ones have made.
    """
    n = losses.shape[1]
    now = [trend(np.arange(m, dtype=np.float64), own[:m]) for own in losses]
    seen = np.array(
        [
            (t.level, t.best, np.log(rate), t.slope * log_time(t.step, n))
            for t, rate in zip(now, np.maximum(rates[:, m - 1], 1e-4 * rates.max(1)), strict=True)
        ]
    )
    features = _features(seen, as_log=True)
    level, best = features[:, 0], features[:, 1]
    gain = np.log(losses.min(axis=1)) - level
    consumed = rates[:, :m].sum(axis=1) / rates.sum(axis=1)
    place = np.column_stack([level, np.log(consumed)])
    place /= place[known].std(axis=0) + 1e-12
    apart = np.linalg.norm(place[asked][:, None] - place[known][None], axis=2)
    process = GaussianProcess.fit(features[known], gain[known])
    answers = np.array([process.predict(x) for x in features[asked]])
    foreseen = {
        "best so far": best[asked],
        "log time": np.log(np.maximum(seen[asked, 0] + np.minimum(seen[asked, 3], 0), 1e-2)),
        "mean gain": level[asked] + gain[known].mean(),
        "nearest": level[asked] + gain[known][apart.argsort(axis=1)[:, :5]].mean(axis=1),
        **{law: by_law(own, losses, known, asked, m) for law, own in choices.items()},
        "process": level[asked] + answers[:, 0],
    }
    foreseen = {name: np.minimum(own, best[asked]) for name, own in foreseen.items()}
    return foreseen, foreseen["process"] - _student_z(len(known) - 2) * answers[:, 1]


def judged(sweep: pd.DataFrame) -> list[dict[str, object]]:
    """A row per way of foreseeing, share of the run and choice of the finished trials."""
    losses = sweep.pivot(index="trial", columns="step", values="loss").to_numpy()
    rates = sweep.pivot(index="trial", columns="step", values="lr").to_numpy()
    kinds = sweep.groupby("trial")["kind"].first().to_numpy()
    whole = np.isfinite(losses).all(axis=1)
    losses, rates, kinds = losses[whole], rates[whole], kinds[whole]
    everyone, end = np.arange(len(losses)), np.log(losses.min(axis=1))
    best = np.argsort(end)[: -(-len(end) // 10)]
    choices = {law: list(bases(law, rates)) for law in LAWS}
    order = np.random.default_rng(0).permutation(len(losses))
    splits = {"same kinds": [order[i::10] for i in range(10)]}
    if len(set(kinds)) > 1:
        splits["other kinds"] = [everyone[kinds == kind] for kind in sorted(set(kinds))]
    rows: list[dict[str, object]] = []
    for (split, parts), share in itertools.product(splits.items(), SHARES):
        m = int(share * losses.shape[1])
        found: dict[str, Array] = {}
        low = np.empty(len(end))
        for asked in parts:
            known = np.setdiff1d(everyone, asked)
            foreseen, low[asked] = forecasts(losses, rates, choices, known, asked, m)
            for name, own in foreseen.items():
                found.setdefault(name, np.empty(len(end)))[asked] = own
        for name, own in found.items():
            error, place = np.abs(own - end), own.argsort().argsort()
            row = {"task": sweep["task"].iloc[0], "finished": split, "share": share}
            row |= {"forecast": name, "error": np.median(error), "q90": np.quantile(error, 0.9)}
            row |= {"needed": (place[best].max() + 1) / len(end)}
            rows.append(row | ({"below": np.mean(end < low)} if name == "process" else {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", nargs="+", type=Path)
    args = parser.parse_args()
    rows = []
    for path in args.curves:
        for _, sweep in pd.read_parquet(path).groupby("task"):
            rows += judged(sweep)
    found = pd.DataFrame(rows)
    by = ["finished", "share", "forecast"]
    for what in ("error", "q90", "needed", "below"):
        cells = found.dropna(subset=what).groupby(by, sort=False)[what].agg(["mean", "std"])
        print(f"\n{what}")
        text = cells.map("{:.3f}".format)
        print((text["mean"] + " ±" + text["std"]).unstack("forecast").to_string())
    half = found[(found["share"] == 0.5) & (found["finished"] == "same kinds")]
    print("\nerror at half of the run, by task")
    print(half.pivot_table("error", "task", "forecast", sort=False).to_string(float_format="%.3f"))


if __name__ == "__main__":
    main()
