"""Whether a trial's order is foreseen better by an annealed probe than by its loss.

python benchmarks/annealed_probe.py [--trials 60 --seed 4]. A probe is a copy of a trial that is
trained for 5 % of the run with its rate falling in a straight line to its last one; probes are
compared instead of losses. The sweeps are those of pruning_schedules.py. Prints the table of
README.md: per sweep the rank correlation (Spearman) with the last loss of the run, and the share
of the true best tenth in the first quarter, by the loss at a share of the run, by the probe from
there, and by the loss when as many steps have been made as trial and probe took together.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from pruning_schedules import KINDS, N_EPOCHS, PROBLEMS, STEPS_PER_EPOCH, Stack, drawn

N_STEPS = N_EPOCHS * STEPS_PER_EPOCH
PROBE = 0.05
SHARES = (0.25, 0.5)


def probed(stack: Stack, now: np.ndarray, last: np.ndarray, seed: int) -> np.ndarray:
    """Losses [trials] of copies whose rates fall from `now` to `last` in PROBE of the run."""
    copy, n = stack.copy(), round(PROBE * N_STEPS)
    generator = torch.Generator().manual_seed(seed)
    for step in range(n):
        copy.step(now + (last - now) * (step + 1) / n, generator)
    return copy.validate()


def sweep(name: str, kinds: tuple[str, ...], n_trials: int, seed: int) -> list[dict[str, object]]:
    """Rows of one sweep."""
    stack, rates, _, generator = drawn(name, kinds, n_trials, seed)
    said: dict[str, np.ndarray] = {}
    for step in range(N_STEPS):
        share = step / N_STEPS
        if share in SHARES:
            said[f"loss at {share:.0%}"] = stack.validate()
            said[f"probe from {share:.0%}"] = probed(stack, rates[:, step], rates[:, -1], seed)
        if any(abs(share - PROBE - other) < 0.5 / N_STEPS for other in SHARES):
            said[f"loss at {share:.0%}"] = stack.validate()
        stack.step(rates[:, step], generator)
    end = stack.validate()
    label = kinds[0] if len(kinds) == 1 else "mixed"
    return [
        {"sweep": f"{name}_{label}", "by": by, **agreement(losses, end)}
        for by, losses in said.items()
    ]


def agreement(said: np.ndarray, end: np.ndarray) -> dict[str, float]:
    """Rank correlation, and the share of the best tenth in the first quarter; NaN is worst."""
    said, end = (np.nan_to_num(x, nan=np.inf, posinf=np.inf) for x in (said, end))
    ranks = pd.DataFrame({"said": said, "end": end}).rank()
    best = np.argsort(end, kind="stable")[: len(end) // 10]
    first = np.argsort(said, kind="stable")[: len(end) // 4]
    rho = ranks["said"].corr(ranks["end"])
    return {"correlation": float(rho), "found": float(np.isin(best, first).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in PROBLEMS:
        for kinds in (("cosine",), ("multistep",), KINDS):
            rows += sweep(name, kinds, args.trials, args.seed)
            print(pd.DataFrame(rows[-6:]).to_string(index=False, header=len(rows) == 6), flush=True)
    table = pd.DataFrame(rows).groupby("by")[["correlation", "found"]]
    print("\n", table.agg(["mean", "std", "min"]).round(3).to_string())


if __name__ == "__main__":
    main()
