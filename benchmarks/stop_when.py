"""When a sweep may stop: regret against saved trials, rule by rule, on trials known to their ends.

python benchmarks/stop_when.py CURVES_FOLDER [--orders 20]. Sweeps of 100 trials (DeepOBS: 45) in
random orders, and in the order in which TPE would have asked for them among TaskSet's 1,000
settings (the nearest that is left stands for what TPE suggests). A rule sees the best losses of the
trials so far, in order, and the noise of the best one's curve. Prints the tables of README.md.

share: of trials that run. missed: sweeps whose best trial, which came later, is better by more than
its noise. regret: best found above the sweep's best, in units of the median trial's distance from
it. against fixed: the same regret less that of stopping after as many trials in every sweep, with a
95 % interval over sweeps; below 0 is better than the trivial rule.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.replay._curves import Curve, read
from iolaus.sweeps.signals import signals
from iolaus.sweeps.study.no_gain import chance_of_gain, since_gain

Array = NDArray[np.float64]
N_TRIALS, LEAST = 100, 8
CHANCES = (0.5, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Sweep:
    """Trials in their order: losses [n], lower is better, and the noise of their curves [n]."""

    losses: Array
    noise: Array


Rule = Callable[[Array, float], bool]  # of the losses so far and the noise of the best: stop?


def since(losses: Array, noise: float) -> int:
    return since_gain(losses.tolist(), noise)


def chance_by_ties(losses: Array, noise: float, n: int = 10) -> float:
    """That all trials within the noise of the best come last, of all n + len(losses) in any order.

    Less than that of records alone, n / (n + len), where trials tie with the best.
    """
    best = float(losses.min())
    if not math.isfinite(best):
        return 1.0
    n_tied = int((losses <= best + noise).sum())
    n_all = len(losses) + n
    return math.prod(max(n - i, 0) / (n_all - i) for i in range(n_tied))


def chance_by_tail(losses: Array, noise: float, n: int = 10) -> float:
    """By a generalised Pareto tail of the best quarter.

    Source: Hosking and Wallis, Technometrics 29, 1987, probability-weighted moments.
    """
    finite = np.sort(losses[np.isfinite(losses)])
    k = max(6, len(losses) // 4)
    if len(finite) <= k:
        return 1.0
    below = finite[k] - finite[:k][::-1]  # rising
    b0 = float(below.mean())
    b1 = float((below * (1 - (np.arange(1, k + 1) - 0.35) / k)).mean())
    if b0 <= 0 or b0 <= 2 * b1:
        return 0.0 if b0 <= 0 else 1.0
    shape, scale = b0 / (b0 - 2 * b1) - 2, 2 * b0 * b1 / (b0 - 2 * b1)
    needed = float(finite[k] - finite[0]) + noise
    left = 1 - shape * needed / scale
    beyond = math.exp(-needed / scale) if abs(shape) < 1e-9 else max(left, 0.0) ** (1 / shape)
    return 1 - (1 - k / len(losses) * beyond) ** n


def rules() -> dict[str, Rule]:
    found: dict[str, Rule] = {"never": lambda _, __: False}
    for n in (16, 32, 48, 64):
        found[f"fixed: after {n} trials"] = lambda x, _, n=n: len(x) >= n
    for k in (10, 20, 40, 60):
        found[f"no improvement at all for {k}"] = lambda x, _, k=k: since(x, 0.0) >= k
    for k in (10, 20, 40, 60):
        found[f"no_gain: none beyond noise for {k}"] = lambda x, noise, k=k: since(x, noise) >= k
    for p in CHANCES:
        found[f"ties, p {p}"] = lambda x, noise, p=p: chance_by_ties(x, noise) < p
    for p in CHANCES:
        found[f"tail, p {p}"] = lambda x, noise, p=p: chance_by_tail(x, noise) < p
    return found


def stopped_after(sweep: Sweep, rule: Rule) -> int:
    for n in range(LEAST, len(sweep.losses)):
        if rule(sweep.losses[:n], float(sweep.noise[sweep.losses[:n].argmin()])):
            return n
    return len(sweep.losses)


def regret(sweep: Sweep, n: int) -> float:
    finite = sweep.losses[np.isfinite(sweep.losses)]
    found = min(float(sweep.losses[:n].min()), float(finite.max()))
    return (found - float(finite.min())) / (float(np.median(finite)) - float(finite.min()))


def has_missed(sweep: Sweep, n: int) -> bool:
    best = int(sweep.losses.argmin())
    return bool(sweep.losses[:n].min() - sweep.losses[best] > sweep.noise[best])


def scores(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    rows = {}
    for name, rule in rules().items():
        ends = [stopped_after(sweep, rule) for sweep in sweeps]
        lengths = [len(sweep.losses) for sweep in sweeps]
        share = float(np.mean(np.divide(ends, lengths)))
        own = np.array([regret(s, n) for s, n in zip(sweeps, ends, strict=True)])
        fixed = np.array([regret(s, max(1, round(share * len(s.losses)))) for s in sweeps])
        error = 1.96 * float((own - fixed).std(ddof=1)) / math.sqrt(len(sweeps))
        rows[name] = {
            "share": share,
            "missed": np.mean([has_missed(s, n) for s, n in zip(sweeps, ends, strict=True)]),
            "regret": own.mean(),
            "against fixed": f"{(own - fixed).mean():+.3f} ± {error:.3f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def calibration(sweeps: Sequence[Sweep], n_next: int = 10) -> pd.DataFrame:
    """The chance of a gain in the next trials, as claimed and as it came, by claim."""
    claims: Mapping[str, Callable[[Array, float], float]] = {
        "no_gain": lambda x, noise: chance_of_gain(since(x, noise), n_next),
        "records": lambda x, _: n_next / (n_next + len(x)),
        "ties": chance_by_ties,
        "tail": chance_by_tail,
    }
    rows = []
    for sweep in sweeps:
        for n in range(10, len(sweep.losses) - n_next + 1, 5):
            x, later = sweep.losses[:n], sweep.losses[n : n + n_next]
            noise = float(sweep.noise[x.argmin()])
            came = bool(x.min() - later.min() > noise)
            rows += [(name, claim(x, noise), came) for name, claim in claims.items()]
    frame = pd.DataFrame(rows, columns=["rule", "claimed", "came"])
    frame["bin"] = pd.cut(frame["claimed"], [-0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1])
    found = frame.groupby(["rule", "bin"], observed=True).agg(
        claimed=("claimed", "mean"), came=("came", "mean"), n=("came", "size")
    )
    return found[found["n"] >= 20]


def ends(curves: Sequence[Curve]) -> Sweep:
    """What the trials of a task came to, in the order of its file."""
    losses, noise = [], []
    for curve in curves:
        n = curve.n_finite
        losses.append(float(curve.losses[:n].min(initial=math.inf)))
        noise.append(signals(curve.steps[:n], curve.losses[:n]).noise if n > 2 else 0.0)
    return Sweep(np.array(losses), np.array(noise))


def in_random_orders(tasks: Mapping[str, Sweep], n_orders: int) -> list[Sweep]:
    found = []
    for i, task in enumerate(tasks.values()):
        for seed in range(n_orders):
            order = np.random.default_rng([seed, i]).permutation(len(task.losses))[:N_TRIALS]
            found.append(Sweep(task.losses[order], task.noise[order]))
    return found


def in_tpe_order(task: Sweep, settings: Array, seed: int) -> Sweep:
    """The trials TPE asks for; settings [n, n_parameters], each in [0, 1]."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    space = {str(i): optuna.distributions.FloatDistribution(0, 1) for i in range(settings.shape[1])}
    worst, left, order = task.losses[np.isfinite(task.losses)].max(), settings.copy(), []
    for _ in range(N_TRIALS):
        asked = study.ask(space)
        wanted = np.array([asked.params[name] for name in space])
        nearest = int(((left - wanted) ** 2).sum(axis=1).argmin())
        left[nearest] = math.inf
        order.append(nearest)
        study.tell(
            asked, state=optuna.trial.TrialState.FAIL
        )  # it is told as the setting it stands for
        study.add_trial(
            optuna.trial.create_trial(
                params={str(i): float(v) for i, v in enumerate(settings[nearest])},
                distributions=space,
                value=min(float(task.losses[nearest]), float(worst)),
            )
        )
    return Sweep(task.losses[order], task.noise[order])


def settings_of(folder: Path, task: str) -> Array:
    """Searched values of a task's trials, on a log scale, by rising name as their curves are."""
    trials = pd.read_parquet(folder / "trials.parquet").query("task == @task")
    curves = pd.read_parquet(folder / "taskset_dev.parquet", columns=["task", "trial"])
    names = sorted(curves.loc[curves["task"] == task, "trial"].unique())
    texts = trials.set_index("trial").loc[names, "hyperparameters"]
    values = pd.DataFrame([json.loads(text) for text in texts]).select_dtypes("number")
    values = np.log(values.loc[:, values.nunique() > 10].clip(lower=1e-12)).to_numpy()
    low, high = values.min(axis=0), values.max(axis=0)
    scaled: Array = (values - low) / (high - low)
    return scaled


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, metavar="CURVES_FOLDER")
    parser.add_argument("--orders", type=int, default=20)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def task_ends(name: str) -> dict[str, Sweep]:
        return {t: ends(curves) for t, curves in read(args.curves / f"{name}.parquet").items()}

    taskset, digits, deepobs = map(task_ends, ("taskset_dev", "digit_sum_dev", "deepobs"))
    pooled = Sweep(
        np.concatenate([s.losses for s in digits.values()]),
        np.concatenate([s.noise for s in digits.values()]),
    )
    sets = {
        "TaskSet, random": in_random_orders(taskset, args.orders),
        "TaskSet, TPE": [
            in_tpe_order(task, settings_of(args.curves, name), seed)
            for name, task in taskset.items()
            for seed in range(max(1, args.orders // 3))
        ],
        "digit sums, random": in_random_orders({"all": pooled}, 6 * args.orders),
        "DeepOBS, random": in_random_orders(deepobs, max(1, args.orders // 4)),
    }
    for name, sweeps in sets.items():
        print(f"\n{name}: {len(sweeps)} sweeps\n")
        print(scores(sweeps).to_string(float_format="{:.3f}".format))
        print(calibration(sweeps).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
