"""What the trials of a sweep held of the GPUs' memory, and how many would share one."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.run.placement import room_for
from iolaus.sweeps.text import counted, size

__all__ = ["card_bytes", "memory_sentences", "n_that_fit"]

# A card on which less than this share of the time anything ran may do more at a time.
BUSY = 0.7


def n_that_fit(peak_bytes: float, card_bytes: float) -> int:
    """How many trials of this peak share a card of this much free memory; at least 1.

    As `trials_per_gpu=auto` counts: 20 % of the peak and what CUDA takes in each process are set
    aside beside it.

    >>> n_that_fit(9.5 * 2**30, 80 * 2**30), n_that_fit(100 * 2**30, 80 * 2**30)
    (6, 1)
    """
    return max(1, int(card_bytes // room_for(round(peak_bytes))))


def card_bytes(sweep: Sweep) -> int | None:
    """The memory of the smallest GPU of the newest session that had one; None: not known."""
    for session in reversed(sweep.provenance):
        devices = session.get("devices")
        known = [d.get("total_bytes") for d in devices if isinstance(d, Mapping)] if devices else []
        sizes = [n for n in known if isinstance(n, int)]
        if sizes:
            return min(sizes)
    return None


def memory_sentences(sweep: Sweep) -> list[str]:
    """What the trials held, how many would share a card, and how busy the cards were.

    Empty where nothing was measured. Without a GPU it is what they held of the machine's memory.
    """
    gpu, ram = (_known(sweep.trials, name) for name in ("gpu_bytes", "ram_bytes"))
    if gpu.empty:
        return [] if ram.empty else [_largest(ram, "memory")]
    said = [_largest(gpu, "its GPU's memory")]
    card = card_bytes(sweep)
    if card is not None:
        n = n_that_fit(float(gpu.max()), card)
        fit = f"{n} of the largest fit side by side on a card of {size(card)}"
        said.append(
            f"{fit}: hydra.sweeper.trials_per_gpu=auto runs as many as raise the rate of steps."
            if n > 1
            else f"No second one fits beside the largest on a card of {size(card)}."
        )
    busy = _known(sweep.slots, "utilisation")
    if len(busy):
        share = float(busy.mean())
        idle = "; trials beside each other may fill them" if share < BUSY else ""
        said.append(f"The GPUs were busy {share:.0%} of the time{idle}.")
    return said


def _known(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame.get(column, pd.Series(dtype=float)).dropna()


def _largest(held: pd.Series, what: str) -> str:
    number, most = held.idxmax(), float(held.max())
    median = size(float(held.median()))
    middle = "" if len(held) == 1 or median == size(most) else f", the median one {median}"
    return (
        f"Of {counted(len(held), 'trial')} the largest, trial {number}, held {size(most)} of {what}"
        f"{middle}."
    )
