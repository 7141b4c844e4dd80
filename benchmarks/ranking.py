"""Does the ranking keep its promises? Simulated sweeps of known truth, and real curves cut short.

python benchmarks/ranking.py simulate            # about 12 minutes on one core
python benchmarks/ranking.py extrapolation CURVES.parquet ...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, kendalltau, rankdata, t

from iolaus.analysis.ranking import tiers
from iolaus.analysis.ranking._extrapolation import likely_end
from iolaus.analysis.ranking.level import level
from iolaus.analysis.replay._curves import Curve, read
from iolaus.sweeps.signals import signals

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Array]
Known = Callable[
    [float], tiers.Estimates
]  # what is known of settings, given how much better the first truly is
DrawKnown = Callable[[np.random.Generator, int, int], Known]

HEAD = (
    "| noise | settings | runs | A/A: false winner | A/A: any split "
    "| lead of 2 noises found | stated lead found |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)

NOISES: dict[str, Draw] = {
    "normal": lambda rng, k, n: rng.normal(size=(k, n)),
    "heavy tails (t, 3 degrees)": lambda rng, k, n: rng.standard_t(3, (k, n)) / np.sqrt(3),
    "skewed (log-normal)": lambda rng, k, n: (
        (rng.lognormal(0, 0.5, (k, n)) - np.exp(0.125)) / 0.604
    ),
    "noise of each setting 0.4 to 2.7 times": lambda rng, k, n: (
        rng.normal(size=(k, n)) * np.exp(rng.normal(0, 0.5, (k, 1)))
    ),
}


def simulate(n_sweeps: int) -> Iterator[str]:
    """The shares of sweeps with a false winner, a false split, and a true winner found."""
    yield (
        f"{n_sweeps} sweeps each; shares in %, 95 % intervals (Wilson). "
        "'lead': the true lead of the best setting.\n"
    )
    yield HEAD
    cases = [("normal", k, n) for k in (2, 4, 8) for n in (2, 3, 5, 8, 10)] + [
        ("normal", 32, n) for n in (3, 10)
    ]
    cases += [(noise, 8, n) for noise in list(NOISES)[1:] for n in (3, 5, 10)]
    for noise, k, n in cases:
        yield _row(noise, k, n, n_sweeps, _drawn_seeds(NOISES[noise]))
    yield (
        "\nWithout repeats, by the noise of each curve; runs: reports per curve; "
        "noise: of one report\n"
    )
    yield HEAD
    for name, correlation, spread in (
        ("white", 0.0, 0.0),
        ("autocorrelated 0.5", 0.5, 0.0),
        ("seeds differ too", 0.0, 1.0),
    ):
        for k, n in ((2, 100), (8, 10), (8, 30), (8, 100), (8, 1000)):
            yield _row(name, k, n, n_sweeps, _drawn_curves(correlation, spread))


def _row(name: str, k: int, n: int, n_sweeps: int, draw: DrawKnown) -> str:
    rng = np.random.default_rng([k, n])
    winner = split = found = stated = 0
    for _ in range(n_sweeps):
        make = draw(rng, k, n)
        known = make(0.0)
        tier = tiers.tiers(known)
        split += tier.max() > 1
        winner += int((tier == 1).sum()) == 1
        found += _is_alone(make(2.0))
        lead = tiers.smallest_difference(known)
        stated += np.isfinite(lead) and _is_alone(make(lead))
    counts = (winner, split, found, stated)
    return f"| {name} | {k} | {n} | " + " | ".join(_share(int(c), n_sweeps) for c in counts) + " |"


def _is_alone(known: tiers.Estimates) -> bool:
    """Whether the first setting, which is truly the best, is the only one in the first tier."""
    tier = tiers.tiers(known)
    return bool(tier[0] == 1 and (tier == 1).sum() == 1)


def _drawn_seeds(noise: Draw) -> DrawKnown:
    """Settings with several seeds each."""

    def draw(rng: np.random.Generator, k: int, n: int) -> Known:
        errors, setting, seed = (
            noise(rng, k, n),
            np.repeat(np.arange(k), n),
            np.tile(np.arange(n), k),
        )
        return lambda lead: tiers.from_seeds(
            setting, seed, (errors - lead * (np.arange(k) == 0)[:, None]).ravel()
        )

    return draw


def _drawn_curves(correlation: float, spread: float) -> DrawKnown:
    """One falling curve of n reports per setting.

    spread: standard deviation between seeds of the whole curve.
    """

    def draw(rng: np.random.Generator, k: int, n: int) -> Known:
        noise = rng.normal(size=(k, n))
        for i in range(1, n):
            noise[:, i] = correlation * noise[:, i - 1] + np.sqrt(1 - correlation**2) * noise[:, i]
        course = 20 * (1 + np.arange(n)) ** -0.5
        known = [
            level(np.arange(n), row, "final")
            for row in course + noise + spread * rng.normal(size=(k, 1))
        ]
        levels, errors, df = np.array(known).T
        return lambda lead: tiers.from_curves(levels - lead * (np.arange(k) == 0), errors, df)

    return draw


def _share(count: int, n: int) -> str:
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return f"{100 * count / n:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def extrapolation(paths: list[Path]) -> Iterator[str]:
    """Kendall's tau of the order at a share of the budget and that of the end, by three estimates.

    paths: Parquet or CSV files of whole curves, as `iolaus replay` takes them.
    """
    yield (
        "| curves | budget | order by | all trials | beyond last value "
        "| better half | beyond last value |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    every: dict[float, dict[str, list[tuple[float, float]]]] = {}
    for path in paths:
        tasks = list(read(path).values())
        for share in (0.25, 0.5):
            found: dict[str, list[tuple[float, float]]] = {}
            for curves in tasks:
                for estimate, agreement in _agreements(curves, share).items():
                    found.setdefault(estimate, []).append(agreement)
                    every.setdefault(share, {}).setdefault(estimate, []).append(agreement)
            yield from _lines(f"{path.stem}, {len(tasks)} tasks", share, found)
    for share, found in every.items() if len(paths) > 1 else ():
        yield from _lines(f"all, {len(found['last value'])} tasks", share, found)


def _lines(name: str, share: float, found: dict[str, list[tuple[float, float]]]) -> Iterator[str]:
    for estimate, agreements in found.items():
        cells = []
        for column in (0, 1):
            own = np.array(agreements)[:, column]
            gain = own - np.array(found["last value"])[:, column]
            half = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            cells += [
                f"{own.mean():.3f}",
                "" if estimate == "last value" else f"{gain.mean():+.4f} ±{half:.4f}",
            ]
        yield f"| {name} | {share:.0%} | {estimate} | " + " | ".join(cells) + " |"


def _agreements(curves: list[Curve], share: float) -> dict[str, tuple[float, float]]:
    """By estimate, tau over all trials and over the half that ends best.

    The end is the level there.
    """
    n_steps = max(c.plan.n_steps or 1 for c in curves)
    end = np.array(
        [signals(c.steps, c.losses).level if c.n_finite == len(c.steps) else np.inf for c in curves]
    )
    found: dict[str, list[float]] = {"last value": [], "level": [], "likely end": []}
    for c in curves:
        n = max(1, int(np.searchsorted(c.steps, share * n_steps)))
        if n > c.n_finite:
            values = (np.inf, np.inf, np.inf)
        else:
            said = signals(c.steps[:n], c.losses[:n])
            values = (float(c.losses[n - 1]), said.level, likely_end(said, n_steps))
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    better = np.argsort(end, kind="stable")[: int(np.isfinite(end).sum()) // 2]
    return {
        name: (_tau(np.array(values), end), _tau(np.array(values)[better], end[better]))
        for name, values in found.items()
    }


def _tau(a: Array, b: Array) -> float:
    return float(kendalltau(rankdata(a), rankdata(b)).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("simulate", "extrapolation"))
    parser.add_argument(
        "curves", type=Path, nargs="*", help="files of whole curves, for extrapolation"
    )
    parser.add_argument("--sweeps", type=int, default=1000, help="simulated, for each case")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    for line in (
        simulate(arguments.sweeps)
        if arguments.what == "simulate"
        else extrapolation(arguments.curves)
    ):
        print(line, flush=True)
    print(f"\n{time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
