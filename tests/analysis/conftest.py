"""Sweeps made up for the tests of figures and report."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep

METRICS = ("loss", "lr", "examples", "clipped", "grad_norm", "grad_norm/W", "grad_norm/U")


@cache
def make_sweep(
    n_trials: int = 12,
    n_reports: int = 40,
    state: str | None = None,
    *,
    finite: bool = True,
    direction: str = "minimize",
    n_seeds: int = 1,
    holdout: bool = False,
) -> Sweep:
    """A sweep over lr, decay rate, batch size and clip with noisy power laws, some cut short and
    some exploding.

    state: of all trials; else mixed. finite: whether any value is. holdout: whether some completed
    trials were held out.
    """
    rng = np.random.default_rng(0)
    trials, curves = [], []
    sign = -1.0 if direction == "maximize" else 1.0
    for number in range(n_trials):
        own = state or ("complete", "complete", "pruned", "complete", "fail", "pruned")[number % 6]
        setting = number // n_seeds * n_seeds
        of_setting = np.random.default_rng(setting)
        lr, batch_size = 10 ** of_setting.uniform(-3, 0), int(of_setting.choice([32, 64]))
        n = n_reports if own == "complete" else max(1, n_reports // (2 + number % 3))
        steps = 20 * np.arange(1, n + 1)
        loss = (
            0.3 + np.abs(np.log10(lr) + 1.5) + 2.5 * (steps / 20.0) ** -0.5 + rng.normal(0, 0.02, n)
        )
        if number % 6 == 5:
            loss = loss * 1.5 ** np.arange(n)
        if not finite:
            loss = np.full(n, np.nan)
        loss = sign * loss
        rates = lr * 0.9 ** (steps / 100)
        norms = np.exp(rng.normal(0, 1, n)) * (np.arange(n) < 25 if number % 5 == 4 else 1.0)
        values = (
            loss,
            rates,
            steps * batch_size,
            np.full(n, number % 3 / 2),
            norms,
            norms * 0.9,
            norms * 0.1,
        )
        curves += [
            pd.DataFrame(
                {
                    "trial": number,
                    "step": steps,
                    "examples": steps * float(batch_size),
                    "seconds": steps / 100.0,
                    "metric": metric,
                    "value": value,
                }
            )
            for metric, value in zip(METRICS, values, strict=True)
        ]
        done = own == "complete"
        trials.append(
            {
                "number": number,
                "state": own,
                "why": own,
                "steps": int(steps[-1]),
                "examples": float(steps[-1] * batch_size),
                "seconds": steps[-1] / 100.0,
                "device_seconds": steps[-1] / 100.0,
                "best": loss.min() * 1.0,
                "final": loss[-1],
                "objective": loss[-1] if done else np.nan,
                "seed": float(number - setting) if n_seeds > 1 else np.nan,
                "setting": setting,
                "code": "abc1234567",
                "n_steps": 20 * n_reports,
                "lr_plan": [[0, lr], [20 * n_reports, lr * 0.9 ** (n_reports / 5)]],
                "verdict": "stalled since step 20" if own == "pruned" else "",
                "verdict_rule": "stalled" if own == "pruned" else "",
                "verdict_step": float(steps[-1]) if own == "pruned" else np.nan,
                "held_out_step": 100.0 if holdout and done and number % 4 == 0 else np.nan,
                "folder": f"trials/{number}",
                "slot": number % 2,
                "started_s": 4.0 * (number // 2),
                "params.optim.lr": lr,
                "params.schedule.decay_rate": float(of_setting.uniform(0.3, 0.98)),
                "params.batch_size": batch_size,
                "params.clip": str(of_setting.choice(["none", "norm"])),
            }
        )
    session = {
        "started": "2026-01-01T00:00:00+00:00",
        "command": ["python", "-m", "app"],
        "code": {"commit": "abc1234567", "dirty": False},
    }
    return Sweep(
        name="made",
        metric="loss",
        directions=(direction,),
        metric_goal=direction,
        trials=pd.DataFrame(trials).set_index("number"),
        curves=pd.concat(curves, ignore_index=True),
        provenance=(session,),
    )


@pytest.fixture(scope="session")
def made_sweep() -> Callable[..., Sweep]:
    """How to make one."""
    return make_sweep
