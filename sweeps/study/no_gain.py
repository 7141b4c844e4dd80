"""Whether more trials would still find something better: the chance that they do, by ranks alone.

Where trials come in no particular order, as a random search draws them, each of the n + m trials is
the best of all equally often. So the chance that the next m hold a new best is m / (n + m)
(records in exchangeable sequences: Glick, American Mathematical Monthly 85, 1978). An improvement
within the noise is none: where c trials tie with the best, all of these must be among the next m
for the others to have missed them,

    m (m - 1) ... (m - c + 1) / ((n + m) (n + m - 1) ... (n + m - c + 1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["chance_of_gain"]


def chance_of_gain(losses: Sequence[float], noise: float, n_next: int) -> float:
    """The chance that the next trials improve on the best so far by more than the noise.

    losses: of the settings that have ended, lower is better, in any order; infinity for one that
    was given up on the way, which counts as no better. noise: >= 0, in their unit. n_next: trials,
    1 or more. Returns a number in [0, 1]: 1 while no loss is finite, and where the noise is not
    known (NaN) that of a noise of 0.
    """
    best = min(losses, default=math.inf)
    if best == math.inf:
        return 1.0
    within = best + (noise if noise > 0 else 0.0)
    n_tied = sum(loss <= within for loss in losses)
    n = len(losses)
    if n_tied > n_next:
        return 0.0
    return math.prod((n_next - i) / (n + n_next - i) for i in range(n_tied))
