"""How often the interval foreseen for a run's end holds, and how far off its middle is.

python benchmarks/run_end.py CURVES.parquet... asks each curve that stays finite at a quarter and at
half of its run (`iolaus.sweeps.run_end`), and compares with what it came to. The error is a share
of the way from the first report to the end; least: the share in the task where it is the smallest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.sweeps.run_end import ASKED_AT, came_to, foresee


def main() -> None:
    """Print a table per file."""
    for name in sys.argv[1:]:
        curves = pd.read_parquet(name)
        keys = [k for k in ("task", "sampler_seed", "trial") if k in curves]
        for share in ASKED_AT:
            rows = []
            for _, own in curves.groupby(keys, sort=False):
                steps, losses = own["step"].to_numpy(float), own["loss"].to_numpy(float)
                n = int(len(steps) * share)
                if n < 3 or not np.isfinite(losses).all():
                    continue
                found, end = foresee(steps[:n], losses[:n], None, int(steps[-1])), came_to(losses)
                if found is None:
                    continue
                way = max(abs(losses[0] - end), 1e-12)
                rows.append(
                    {
                        "task": own["task"].iloc[0] if "task" in own else "",
                        "holds": found.low <= end <= found.high,
                        "below": end < found.low,
                        "error": abs(found.level - end) / way,
                        "width": (found.high - found.low) / way,
                    }
                )
            table = pd.DataFrame(rows)
            least = table.groupby("task")["holds"].mean().min()
            print(
                f"{Path(name).stem:18} at {share:.0%}: {len(table):5,} curves, holds "
                f"{table['holds'].mean():.1%} (least {least:.1%}), "
                f"ends below {table['below'].mean():.1%}, "
                f"error {table['error'].median():.2g} (90 %: {table['error'].quantile(0.9):.2g}), "
                f"width {table['width'].median():.2g}"
            )


if __name__ == "__main__":
    main()
