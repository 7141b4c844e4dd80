"""What a report and an ask cost the decision loop, beside plain Optuna in memory.

python benchmarks/hot_path.py [--trials 100 1000 10000] [--reports 10 100 1000]

A study of N finished trials of R reports each is made: for Iolaus in a SQLite file, which keeps at
most 100 values of each trial as a sweep does; for plain Optuna on in-memory storage, with the same
pruner. Then 20 trials are asked for, and four of them, from good to bad, report R losses or until a
verdict. Given is CPU time in milliseconds: the mean per report that ends no trial (of a thousand a
sweep keeps a hundred; the others cost next to nothing), the median per ask, and the mean per
verdict, which a trial has once. It is that of the thread that decides; the one that writes to the
database works beside it. The sampler is random: TPE's own time comes on top, the same for both.
Plain Optuna is `study.ask(space)`, `trial.report` and `trial.should_prune`.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Plan

__all__ = ["measure_iolaus", "measure_optuna"]

N_ASKS = 20
# What the trials that are asked for come down to; None: one that reports nothing.
FLOORS = (0.0, 0.1, 0.3, 0.8, *[None] * (N_ASKS - 4))
LINES = ("x=interval(0.0, 1.0)", "y=interval(0.0, 1.0)", "c=choice(a, b)")
SPACE = parse_space({}, LINES, OverridesParser.create().parse_overrides, lambda _: False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--reports", type=int, nargs="+", default=[10, 100, 1_000])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = ("report", "ask", "verdict", "Optuna report", "Optuna ask")
    print(f"| finished trials | reports each | {' | '.join(names)} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n_trials in asked.trials:
        for n_reports in asked.reports:
            ours = measure_iolaus(n_trials, n_reports)
            plain = measure_optuna(n_trials, n_reports)
            cells = [f"{1e3 * s:.3f}" for s in (*ours, *plain)]
            print(f"| {n_trials:,} | {n_reports:,} | {' | '.join(cells)} |", flush=True)


def measure_iolaus(n_trials: int, n_reports: int) -> tuple[float, float, float]:
    """CPU seconds (per report, per ask, per verdict) of `SweepStudy` on a SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        storage = LiveStorage(open_backend(f"sqlite:///{file}"), refresh_s=1.0)
        sampler = optuna.samplers.RandomSampler(seed=0)
        opened = open_study(storage, "s", ("minimize",), sampler, StalledLoss(), SPACE)
        _fill_file(file, _finished(n_trials, n_reports))
        study = SweepStudy(
            opened, storage, SPACE, Plans(n_trials + 10 * N_ASKS), Metric("loss"), None
        )
        asks, reports, verdicts = [], [], [math.nan]
        for floor in FLOORS:
            proposal, spent_s = _timed(study.ask)
            asks.append(spent_s)
            study.plan(proposal.trial, Plan(n_reports))
            losses = [] if floor is None else _curve(n_reports, floor)
            for step, loss in enumerate(losses):
                verdict, spent_s = _timed(partial(study.report, proposal.trial, step, loss))
                if verdict is not None:
                    verdicts.append(spent_s)
                    break
                reports.append(spent_s)
            study.tell(proposal.trial, Outcome(Ending.COMPLETED, (0.5,)), Run(), log="")
            storage.flush()
        storage.close()
    return (
        float(np.mean(reports)),
        float(np.median(asks)),
        float(np.nanmean(verdicts)),
    )


def measure_optuna(n_trials: int, n_reports: int) -> tuple[float, float]:
    """CPU seconds (per report with its question, per ask) of plain Optuna in memory."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=StalledLoss())
    study.add_trials(_finished(n_trials, n_reports))
    asks, reports = [], []

    def report(trial: optuna.Trial, step: int, loss: float) -> bool:
        trial.report(loss, step)
        return trial.should_prune()

    for floor in FLOORS:
        trial, spent_s = _timed(partial(study.ask, dict(SPACE.unconditional)))
        asks.append(spent_s)
        trial.set_user_attr(Plan.N_STEPS_ATTR, n_reports)
        for step, loss in enumerate(_curve(n_reports, floor) if floor is not None else ()):
            ends, spent_s = _timed(partial(report, trial, step, loss))
            if ends:
                break
            reports.append(spent_s)
        study.tell(trial, 0.5)
    return float(np.mean(reports)), float(np.median(asks))


def _finished(n_trials: int, n_reports: int) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    every = max(1, n_reports // 100)
    return [
        optuna.trial.create_trial(
            params={"x": float(rng.random()), "y": float(rng.random()), "c": "a"},
            distributions=dict(SPACE.unconditional),
            value=1.0,
            intermediate_values=dict(
                list(enumerate(_curve(n_reports, float(rng.random()), seed=i)))[::every]
            ),
            user_attrs={Plan.N_STEPS_ATTR: n_reports, "why": "completed"},
        )
        for i in range(n_trials)
    ]


def _fill_file(file: Path, trials: Sequence[FrozenTrial]) -> None:
    """Rows as Optuna writes them, but all at once: a million take it a quarter of an hour."""
    values, params, losses, attributes, rows = [], [], [], [], []
    for i, trial in enumerate(trials):
        number = i + 1
        rows.append((number, i, 1, "COMPLETE", "2026-01-01", "2026-01-01"))
        values.append((number, 0, trial.value, "FINITE"))
        for name, distribution in trial.distributions.items():
            stored = distribution.to_internal_repr(trial.params[name])
            kind = optuna.distributions.distribution_to_json(distribution)
            params.append((number, name, stored, kind))
        losses += [(number, s, v, "FINITE") for s, v in trial.intermediate_values.items()]
        attributes += [(number, k, json.dumps(v)) for k, v in trial.user_attrs.items()]
    with closing(sqlite3.connect(file)) as database, database:
        for table, columns, given in (
            (
                "trials",
                "trial_id, number, study_id, state, datetime_start, datetime_complete",
                rows,
            ),
            ("trial_values", "trial_id, objective, value, value_type", values),
            ("trial_params", "trial_id, param_name, param_value, distribution_json", params),
            (
                "trial_intermediate_values",
                "trial_id, step, intermediate_value, intermediate_value_type",
                losses,
            ),
            ("trial_user_attributes", "trial_id, key, value_json", attributes),
        ):
            marks = ", ".join("?" * (columns.count(",") + 1))
            database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", given)


def _curve(n: int, floor: float, seed: int = 0) -> list[float]:
    noise = 0.01 * np.random.default_rng(seed).normal(size=n)
    return (floor + np.exp(-np.arange(n) / (n / 5)) + noise).tolist()


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began_s = time.thread_time()
    answer = call()
    return answer, time.thread_time() - began_s


if __name__ == "__main__":
    main()
