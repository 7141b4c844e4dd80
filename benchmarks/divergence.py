"""How often a finite loss that has left its own past comes back, on real curves.

python benchmarks/divergence.py CURVES.parquet... Prints the table of README.md: per file how many
trials `lost_since` ends, asked at every report, and what they would still have become.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from iolaus.analysis.replay._curves import Curve, read
from iolaus.analysis.replay.comparison import truth
from iolaus.sweeps.signals import N_TAIL, lost_since

COLUMNS = (
    *("trials", "ended", "below start again", "a new best"),
    *("top tenth", "top tenth, best to come"),
)


def lost_after(curve: Curve) -> int | None:
    """The number of reports at which the trial is ended, before its last one; None if never."""
    steps, losses = curve.steps[: curve.n_finite], curve.losses[: curve.n_finite]
    n_steps = curve.plan.n_steps or int(curve.steps[-1]) + 1
    for n in range(N_TAIL + 1, len(losses)):
        if losses[n - 1] > losses[0] and lost_since(steps[:n], losses[:n], n_steps) is not None:
            return n
    return None


def counts(path: Path) -> dict[str, object]:
    """One row of the table."""
    row = dict.fromkeys(COLUMNS, 0)
    saved = made = 0
    for curves in read(path).values():
        tenth = set(truth(curves).tenth.tolist())
        for i, curve in enumerate(curves):
            row["trials"] += 1
            made += len(curve.steps)
            n = lost_after(curve)
            if n is None:
                continue
            losses = curve.losses[: curve.n_finite]
            row["ended"] += 1
            row["below start again"] += bool(losses[n:].min() <= losses[0])
            is_best_to_come = bool(losses[n:].min() < losses[:n].min())
            row["a new best"] += is_best_to_come
            row["top tenth"] += i in tenth
            row["top tenth, best to come"] += i in tenth and is_best_to_come
            saved += len(losses) - n
    return {"curves": path.stem, **row, "reports saved": np.round(saved / made, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path, nargs="+")
    args = parser.parse_args()
    print(pd.DataFrame([counts(path) for path in args.curves]).to_string(index=False))


if __name__ == "__main__":
    main()
