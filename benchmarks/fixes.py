"""Do suggested fixes work? Trials are trained again with the fix, and with a random change.

The trials are of the shipped tasks, and diagnosed first.

    python benchmarks/fixes.py [--set reported|development] [--n 16] [--json FILE]

Four searches at random, none pruned: digits (MLP) over five decades of a constant rate, over
exponential decays, and with Adam and dropout; the digit sum (RNN) over rate, decay, batch size and
clipping. Each trial that has a problem with a fix is trained again with it, on the same seed, and
with a random change of the same settings: numbers by the same factor, up or down by the toss of a
coin; of a config group any other option. A win is a lower final validation loss; a trial that
diverged has an infinite one. Suggested fixes were developed on the set `development`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from scipy.stats import binomtest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import gather
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.fixes import all_config_keys, as_text
from iolaus.analysis.diagnosis.shapes import WELL
from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.loop import train
from iolaus.trainer.settings import read

CONF = Path(__file__).parents[1] / "conf"
SETS = {"development": 1, "reported": 2026}
OPTIONS = {"clip": ["none", "norm", "value"], "schedule": ["constant", "exponential", "cosine"]}
# Ranges of the random search: (low, high) in the logarithm, or a list of choices.
Space = Mapping[str, tuple[float, float] | Sequence[Any]]


@dataclass(frozen=True)
class Search:
    """What is fixed and what is searched."""

    name: str
    fixed: tuple[str, ...]
    space: Space


SEARCHES = (
    Search(
        "digits, constant rate",
        (
            "task=digits",
            "optim=sgd",
            "steps=300",
            "batch_size=32",
            "report_every=5",
            "eval_every=50",
        ),
        {"optim.lr": (1e-4, 10.0)},
    ),
    Search(
        "digits, decays",
        (
            "task=digits",
            "optim=sgd",
            "schedule=exponential",
            "steps=400",
            "report_every=5",
            "eval_every=50",
        ),
        {
            "optim.lr": (0.02, 3.0),
            "schedule.decay_rate": [0.3, 0.5, 0.7, 0.9],
            "schedule.decay_steps": (3, 1000),
        },
    ),
    Search(
        "digits, Adam",
        ("task=digits", "optim=adam", "steps=600", "report_every=10", "eval_every=50"),
        {"optim.lr": (3e-5, 0.3), "batch_size": [8, 32, 128], "model.dropout": [0.0, 0.1]},
    ),
    Search(
        "digit sum, RNN",
        (
            "task=digit_sum",
            "optim=sgd",
            "schedule=exponential",
            "clip=norm",
            "steps=1200",
            "report_every=20",
        ),
        {
            "optim.lr": (2e-3, 1.0),
            "schedule.decay_rate": [0.4, 0.6, 0.8, 0.95],
            "schedule.decay_steps": (50, 1000),
            "batch_size": [32, 64, 128],
            "clip.threshold": (0.5, 200),
        },
    ),
)


def drawn(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """One setting at random."""
    values: dict[str, Any] = {}
    for key, what in space.items():
        if isinstance(what, tuple):
            value = float(np.exp(rng.uniform(*np.log(what))))
            values[key] = round(value) if key.endswith("_steps") else float(f"{value:.3g}")
        else:
            values[key] = what[int(rng.integers(len(what)))]
    return values


def trained(overrides: Sequence[str], seed: int) -> tuple[list[dict[str, Any]], float, int]:
    """One run: its curves (rows step, metric, value), final validation loss and planned steps."""
    run = read(composed((*overrides, f"seed={seed}")))
    rows: list[dict[str, Any]] = []

    def report(step: int, **metrics: float) -> None:
        rows.extend(
            {"step": step, "metric": name, "value": float(value)} for name, value in metrics.items()
        )

    summary = train(
        run,
        report=report,
        should_stop=lambda: False,
        plan=lambda *_, **__: None,
        ask_intervention=lambda: None,
    )
    final = summary.final["val_loss"] if summary.ended == "done" else math.inf
    return rows, final if math.isfinite(final) else math.inf, run.n_steps


def composed(overrides: Sequence[str]) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose("config", list(overrides))


def swept(search: Search, n: int, rng: np.random.Generator) -> Sweep:
    """The search as a sweep in memory."""
    trials, curves = [], []
    for number in range(n):
        values = drawn(search.space, rng)
        rows, final, n_steps = trained([*search.fixed, *as_overrides(values)], number)
        curves.append(pd.DataFrame(rows).assign(trial=number))
        losses = [row["value"] for row in rows if row["metric"] == "loss"]
        trials.append(
            {
                "number": number,
                "state": "complete",
                "why": "completed",
                "n_steps": n_steps,
                "objective": final,
                "final": losses[-1],
                **{f"params.{key}": value for key, value in values.items()},
            }
        )
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        cfg = hydra.compose("config", list(search.fixed), return_hydra_config=True)
        choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
        config = OmegaConf.to_container(hydra.compose("config", list(search.fixed)), resolve=False)
    return Sweep(
        name=search.name,
        metric="loss",
        directions=("minimize",),
        trials=pd.DataFrame(trials).set_index("number"),
        curves=pd.concat(curves, ignore_index=True),
        config={**config, "hydra": {"runtime": {"choices": choices}}},
    )


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={as_text(value)}" for key, value in values.items()]


def changed_at_random(
    fix: Mapping[str, Any], before: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """The suggested fix's settings changed by its own factors, each up or down.

    Of a group any other option.
    """
    changed: dict[str, Any] = {}
    for key, value in fix.items():
        if key in OPTIONS:
            changed[key] = rng.choice(
                [option for option in OPTIONS[key] if option != before.get(key)]
            ).item()
        elif (
            isinstance(value, int | float)
            and isinstance(before.get(key), int | float)
            and before[key] > 0
        ):
            factor = value / before[key] if rng.random() < 0.5 else before[key] / value
            changed[key] = type(value)(
                max(before[key] * factor, 1 if isinstance(value, int) else 0)
            )
        else:  # from nothing: as large, or a tenth
            changed[key] = value * (1.0 if rng.random() < 0.5 else 0.1)
    if changed.get("clip") == "none":
        changed.pop("clip.threshold", None)
    return changed


def setting_before(sweep: Sweep, number: int) -> dict[str, Any]:
    """The values that a trial had, as far as its sweep says."""
    config_keys = all_config_keys(sweep, gather(sweep))[number]
    return {
        "clip.threshold": 5.0,
        **config_keys.values,
        **{key: config_keys.choices[key] for key in OPTIONS},
    }


def attempts(search: Search, n: int, seed: int) -> list[dict[str, Any]]:
    """Each trial of a search that has a problem, and its end by the suggested fix and by chance."""
    rng = np.random.default_rng(seed)
    sweep = swept(search, n, rng)
    table = diagnose(sweep)
    found: list[dict[str, Any]] = []
    for number, row in table.iterrows():
        known = sweep.trials.loc[[number]].filter(like="params.").iloc[0].to_dict()
        values = {key.removeprefix("params."): value for key, value in known.items()}
        before = float(sweep.trials.loc[number, "objective"])
        about = {
            "search": search.name,
            "trial": number,
            "shape": row["shape"],
            "before": before,
            "values": values,
        }
        if row["shape"] in WELL or row["shape"] == "broken" or not row["fix"]:
            found.append({**about, "fix": None})
            continue
        fix = dict(_parsed(text) for text in row["fix"])
        chance = changed_at_random(fix, setting_before(sweep, int(number)), rng)
        sides = {"fixed": fix, "by_chance": chance}
        ends = {
            side: end({**values, **change}, search, int(number)) for side, change in sides.items()
        }
        found.append(
            {
                **about,
                "fix": list(row["fix"]),
                "chance": as_overrides(chance),
                "reason": row["reason"],
                **ends,
            }
        )
    return found


def _parsed(override: str) -> tuple[str, Any]:
    key, _, text = override.partition("=")
    return key, OmegaConf.create(f"value: {text}").value


def end(values: Mapping[str, Any], search: Search, seed: int) -> float:
    """The final validation loss of a setting; infinite if it is refused or diverges."""
    groups = {k: v for k, v in values.items() if k in OPTIONS}
    known = {k: v for k, v in values.items() if k not in OPTIONS}
    if groups.get("schedule") in ("cosine", "constant"):
        known = {
            k: v
            for k, v in known.items()
            if k not in ("schedule.decay_rate", "schedule.decay_steps")
        }
    try:
        return trained([*search.fixed, *as_overrides(groups), *as_overrides(known)], seed)[1]
    except BadInputError:
        return math.inf


def said(found: Sequence[Mapping[str, Any]]) -> str:
    """The table: by search and shape, how often the fix and how often chance improved the end."""
    rows = [row for row in found if row["fix"]]
    lines = [f"{Counter(row['shape'] for row in found)}", ""]
    for what in ("search", "shape"):
        names = dict.fromkeys(str(row[what]) for row in rows)
        lines += [_line(name, [row for row in rows if row[what] == name]) for name in names]
        lines.append("")
    return "\n".join([*lines, _line("all", rows)])


def _line(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"{name:24} {len(rows):4d} trials"]
    for side in ("fixed", "by_chance"):
        n_better = sum(row[side] < row["before"] for row in rows)
        interval = binomtest(n_better, len(rows)).proportion_ci(method="wilson")
        parts.append(
            f"{side} {n_better / len(rows):4.0%} ({interval.low:.0%} to {interval.high:.0%})"
        )
    return "   ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="reported", help="which settings (reported)")
    parser.add_argument("--n", type=int, default=32, help="trials of each search (32)")
    parser.add_argument("--json", type=Path, help="where to write each attempt")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        row
        for i, s in enumerate(SEARCHES)
        for row in attempts(s, arguments.n, SETS[arguments.set] + i)
    ]
    print(said(found))
    if arguments.json:
        arguments.json.write_text("\n".join(json.dumps(row, default=str) for row in found))


if __name__ == "__main__":
    main()
