"""What a report and an ask cost the decision loop, beside plain Optuna in memory.

python benchmarks/hot_path.py [--trials 100 1000 10000] [--reports 10 100 1000]

A study of N finished trials of R reports each is made in a SQLite file. Then trials are asked for,
report R losses each, and are told. Given is the median CPU time of the thread that decides, in
milliseconds, in 20 asks and up to 400 reports; the time of the thread that writes to the database
is not in it. The sampler is random: TPE's own time comes on top, the same for both. Plain Optuna
is `study.ask(space)` and `trial.report` with `trial.should_prune`, on in-memory storage, with the
same pruner.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser

from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.search.space import parse_space
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Plan

__all__ = ["measure_iolaus", "measure_optuna"]

N_ASKS = 20
N_REPORTS = 400
LINES = ("x=interval(0.0, 1.0)", "y=interval(0.0, 1.0)", "c=choice(a, b)")
SPACE = parse_space({}, LINES, OverridesParser.create().parse_overrides, lambda _: False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--reports", type=int, nargs="+", default=[10, 100, 1_000])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        "| finished trials | reports each | Iolaus report | ask | Optuna, StalledLoss report | ask |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for n_trials in asked.trials:
        for n_reports in asked.reports:
            ours = measure_iolaus(n_trials, n_reports)
            plain = measure_optuna(n_trials, n_reports, StalledLoss())
            cells = [f"{1e3 * s:.3f}" for s in (*ours, *plain)]
            print(f"| {n_trials:,} | {n_reports:,} | {' | '.join(cells)} |", flush=True)


def measure_iolaus(n_trials: int, n_reports: int) -> tuple[float, float]:
    """CPU seconds (per report, per ask) of `SweepStudy` on a SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        storage = LiveStorage(open_backend(f"sqlite:///{Path(folder) / 'study.db'}"), refresh_s=1.0)
        sampler = optuna.samplers.RandomSampler(seed=0)
        opened = open_study(storage, "s", ("minimize",), sampler, StalledLoss(), SPACE)
        _fill(opened, n_trials, n_reports)
        study = SweepStudy(opened, storage, SPACE, Plans(n_trials + 10 * N_ASKS), None)
        asks, reports = [], []
        while len(asks) < N_ASKS:
            proposal, spent_s = _timed(study.ask)
            asks.append(spent_s)
            study.plan(proposal.trial, Plan(n_reports))
            for step, loss in enumerate(_curve(n_reports, n_trials + len(asks))):
                verdict, spent_s = _timed(lambda: study.report(proposal.trial, step, loss))  # noqa: B023
                reports.append(spent_s)
                if verdict is not None or len(reports) >= N_REPORTS * len(asks) / N_ASKS:
                    break
            study.tell(proposal.trial, Outcome(Ending.COMPLETED, (0.5,)), {}, log="")
            storage.flush()
        storage.close()
    return float(np.median(reports)), float(np.median(asks))


def measure_optuna(
    n_trials: int, n_reports: int, pruner: optuna.pruners.BasePruner
) -> tuple[float, float]:
    """CPU seconds (per report with its question, per ask) of plain Optuna in memory."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    _fill(study, n_trials, n_reports)
    asks, reports = [], []
    while len(asks) < N_ASKS:
        trial, spent_s = _timed(lambda: study.ask(dict(SPACE.unconditional)))
        asks.append(spent_s)
        trial.set_user_attr(Plan.N_STEPS_ATTR, n_reports)
        for step, loss in enumerate(_curve(n_reports, n_trials + len(asks))):
            ends, spent_s = _timed(lambda: (trial.report(loss, step), trial.should_prune())[1])  # noqa: B023
            reports.append(spent_s)
            if ends or len(reports) >= N_REPORTS * len(asks) / N_ASKS:
                break
        study.tell(trial, 0.5)
    return float(np.median(reports)), float(np.median(asks))


def _fill(study: optuna.Study, n_trials: int, n_reports: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(n_trials):
        kept = _curve(n_reports, i)[:: max(1, n_reports // 100)]  # as many as a sweep's study keeps
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": float(rng.random()), "y": float(rng.random()), "c": "a"},
                distributions=dict(SPACE.unconditional),
                value=kept[-1],
                intermediate_values={
                    step * max(1, n_reports // 100): loss for step, loss in enumerate(kept)
                },
                user_attrs={Plan.N_STEPS_ATTR: n_reports, "why": "completed"},
            )
        )


def _curve(n: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    losses = rng.uniform(0, 1) + np.exp(-np.arange(n) / (n / 5)) + 0.01 * rng.normal(size=n)
    return [float(loss) for loss in losses]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began_s = time.thread_time()
    answer = call()
    return answer, time.thread_time() - began_s


if __name__ == "__main__":
    main()
