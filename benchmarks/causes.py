"""Are causes seen that we put there ourselves? Small real trainings, each with one thing wrong.

    python benchmarks/causes.py [--seed 2026] [--keep CURVES.parquet]     # about three minutes

Digits (MLP, plain PyTorch), twelve sound runs, and beside them in turn one run with one cause: a
rate 100 times too low or high, a warm-up longer than the run, a batch that changes in the middle,
a cosine spent early, few examples, noisy labels, weight decay too high, a start that is dead, a
collapse after it had learned. Each is diagnosed among the sound ones and alone, with what anyone
records: loss, val_loss, lr, grad_norm and the settings.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.trainer.tasks.digits import Digits

N_STEPS = 800
REPORT_EVERY = 10
SOUND: dict[str, dict[str, Any]] = {
    "sgd": {"optim": "sgd", "lr": 0.1, "warmup_steps": 40, "weight_decay": 1e-4, "batch_size": 32},
    "adam": {
        "optim": "adam",
        "lr": 3e-3,
        "warmup_steps": 40,
        "weight_decay": 0.0,
        "batch_size": 32,
    },
}
# Cause to (what is changed, shapes that are right, a word of the fix that is right; "" for none).
Cause = tuple[dict[str, Any], tuple[str, ...], str]
HIGH = ("exploded", "died", "underfitting", "rebound", "oscillating", "stalled", "fast_then_flat")
CAUSES: Mapping[str, Cause] = {
    "rate 100 times too low": ({"lr": 0.01}, ("slow", "underfitting"), "raise the learning rate"),
    "rate 100 times too high": ({"lr": 100.0}, HIGH, "lower the learning rate"),
    "warm-up longer than the run": (
        {"warmup_steps": 40 * N_STEPS},
        ("slow", "underfitting"),
        "warm-up",
    ),
    "batch 4 to 128 in the middle": (
        {"batch_size": 4, "late_batch_size": 128},
        ("converged", "improving"),
        "",
    ),
    "batch 128 to 4 in the middle": (
        {"batch_size": 128, "late_batch_size": 4},
        ("converged", "improving"),
        "",
    ),
    "cosine spent early": (
        {"decay_steps": N_STEPS // 20},
        ("fast_then_flat", "underfitting", "stalled"),
        "decay more slowly",
    ),
    "few examples": ({"n_train": 60}, ("overfitting",), "regularise"),
    "40 % of the labels wrong": (
        {"label_noise": 0.4},
        ("converged", "fast_then_flat", "stalled", "improving", "overfitting"),
        "labels",
    ),
    "weight decay too high": (
        {"weight_decay": 0.1},
        ("fast_then_flat", "stalled", "underfitting", "converged"),
        "weight decay",
    ),
    "dead at the start": ({"bias": -30.0}, ("died", "underfitting"), "initial"),
    "collapse after it had learned": (
        {"collapse_at": 500},
        ("exploded", "rebound", "died"),
        "lower",
    ),
}


def trained(setting: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """One run: rows step, metric, value."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    splits = Digits().data()
    n_train = setting.get("n_train", len(splits.train.inputs))
    inputs, targets = (
        splits.train.inputs[:n_train].flatten(1),
        splits.train.targets[:n_train].clone(),
    )
    wrong = torch.from_numpy(rng.random(n_train) < setting.get("label_noise", 0.0))
    targets[wrong] = torch.from_numpy(rng.integers(0, 10, n_train))[wrong]
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    with torch.no_grad():
        if "bias" in setting:
            model[0].bias.fill_(setting["bias"])
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = kinds[setting["optim"]](
        model.parameters(), lr=setting["lr"], weight_decay=setting["weight_decay"]
    )
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    for step in range(1, N_STEPS + 1):
        share = min(step / setting["warmup_steps"], 1.0)
        decay_steps = setting.get("decay_steps", math.inf)
        if math.isfinite(decay_steps):
            share *= 0.5 * (1 + math.cos(math.pi * min(step / decay_steps, 1.0)))
        rate = setting["lr"] * share * (1000.0 if step == setting.get("collapse_at") else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        size = setting["batch_size"]
        if step > N_STEPS // 2:
            size = setting.get("late_batch_size", size)
        at = torch.from_numpy(rng.integers(0, n_train, size))
        loss = nn.functional.cross_entropy(model(inputs[at]), targets[at])
        optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        optimizer.step()
        losses.append(loss.item())
        if step % REPORT_EVERY == 0:
            found = {"loss": float(np.mean(losses)), "lr": setting["lr"] * share, "grad_norm": norm}
            losses = []
            if step % (5 * REPORT_EVERY) == 0:
                with torch.no_grad():
                    out = model(splits.val.inputs.flatten(1))
                    found["val_loss"] = float(nn.functional.cross_entropy(out, splits.val.targets))
            rows += [{"step": step, "metric": name, "value": v} for name, v in found.items()]
    return rows


def as_sweep(curves: pd.DataFrame, settings: Mapping[int, Mapping[str, Any]]) -> Sweep:
    """Some of the runs as a sweep: what its settings say, but not what was done to it."""
    hidden = ("bias", "collapse_at", "label_noise", "n_train", "late_batch_size")
    rows = []
    own = curves[curves["trial"].isin(settings)]
    finals = own[own["metric"] == "loss"].groupby("trial")["value"].last()
    for number, setting in settings.items():
        params = {f"params.{k}": v for k, v in setting.items() if k not in hidden}
        final = float(finals[number])
        rows.append(
            {
                "number": number,
                "setting": number,
                "state": "complete",
                "why": "completed",
                "n_steps": N_STEPS,
                "best": final,
                "final": final,
                "objective": final,
                **params,
            }
        )
    trials = pd.DataFrame(rows).set_index("number")
    return Sweep("causes", "loss", ("minimize",), trials, own.assign(examples=np.nan, seconds=0.0))


def planned(seed: int) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[str, str]]]:
    """(settings, cause and optimizer of those that have one) by number."""
    rng = np.random.default_rng(seed)
    settings: dict[int, dict[str, Any]] = {}
    causes: dict[int, tuple[str, str]] = {}
    for kind, sound in SOUND.items():
        for _ in range(12):
            lr = float(sound["lr"] * np.exp(rng.uniform(-0.8, 0.8)))
            settings[len(settings)] = {**sound, "lr": float(f"{lr:.3g}")}
        for name, (change, _, _) in CAUSES.items():
            own = {**sound, **change}
            if "lr" in change:
                own["lr"] = sound["lr"] * change["lr"]
            causes[len(settings)] = (name, kind)
            settings[len(settings)] = own
    return settings, causes


def main() -> None:
    """Print each cause with what was found, among others and alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings, causes = planned(options.seed)
    if options.keep and options.keep.exists():
        curves = pd.read_parquet(options.keep)
    else:
        curves = pd.concat(
            pd.DataFrame(trained(setting, options.seed + n)).assign(trial=n)
            for n, setting in settings.items()
        ).reset_index(drop=True)
        if options.keep:
            curves.to_parquet(options.keep)
    n_right = n_all = 0
    for number, (name, kind) in causes.items():
        peers = {
            n: s
            for n, s in settings.items()
            if s["optim"] == kind and (n == number or n not in causes)
        }
        for what, members in (("among", peers), ("alone", {number: settings[number]})):
            found = diagnose(as_sweep(curves, members)).loc[number]
            _, shapes, word = CAUSES[name]
            is_right = found["shape"] in shapes and (
                word in found["advice"] if word else not found["fix"]
            )
            n_right, n_all = n_right + is_right, n_all + 1
            print(
                f"{'ok   ' if is_right else 'WRONG'} {name}, {kind}, {what}: {found['shape']} | "
                f"{found['reason']} | {found['advice']} | {' '.join(found['fix'])}"
            )
    print(f"{n_right} of {n_all} right")


if __name__ == "__main__":
    main()
