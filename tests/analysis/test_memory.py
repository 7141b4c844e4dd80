"""What is said of the memory of a sweep's trials, and drawn of its GPUs."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures.devices import draw_devices
from iolaus.analysis.memory import card_bytes, memory_sentences, n_that_fit

GIB = 2**30
CARD = ({"devices": [{"name": "0", "total_bytes": 80 * GIB}]},)


def made(
    gpu: list[float | None], ram: list[float | None], busy: float | None = None, **known: object
) -> Sweep:
    n = len(gpu)
    columns = {"state": ["complete"] * n, "gpu_bytes": gpu, "ram_bytes": ram, "setting": range(n)}
    slots = pd.DataFrame()
    if busy is not None:
        rows = {"at_s": [2.0, 4.0], "device": "0", "device_used_bytes": 20.0 * GIB}
        slots = pd.DataFrame({**rows, "utilisation": busy, "trial": 0, "slot": 0})
    trials = pd.DataFrame(columns).astype({"gpu_bytes": float, "ram_bytes": float})
    return Sweep("s", "loss", ("minimize",), trials, pd.DataFrame(), slots=slots, **known)  # type: ignore[arg-type]


@given(peak=st.integers(0, 2**38), card=st.integers(0, 2**38))
def test_so_many_fit_that_one_more_would_not(peak: int, card: int) -> None:
    """All of them with a fifth of their peaks aside fit on the card; at least one is said to."""
    n = n_that_fit(peak, card)
    assert n >= 1
    assert n == 1 or n * 1.2 * peak <= card
    assert (n + 1) * (1.2 * peak + 957 * 2**20) > card  # 700 MiB of CUDA, 256 aside at least


def test_the_largest_trial_and_the_card_are_compared() -> None:
    """The conclusion of each sentence stands first; idle cards are said to be idle."""
    sweep = made([4.0 * GIB, 9.5 * GIB, None], [GIB, GIB, GIB], 0.25, provenance=CARD)
    assert card_bytes(sweep) == 80 * GIB
    assert memory_sentences(sweep) == [
        "Of 2 trials the largest, trial 1, held 9.5 GiB of its GPU's memory, the median one 6.75 "
        "GiB.",
        "6 of the largest fit side by side on a card of 80 GiB: hydra.sweeper.trials_per_gpu=auto "
        "runs as many as raise the rate of steps.",
        "The GPUs were busy 25% of the time; trials beside each other may fill them.",
    ]
    full = made([70.0 * GIB], [GIB], 0.95, provenance=CARD)
    assert memory_sentences(full)[1:] == [
        "No second one fits beside the largest on a card of 80 GiB.",
        "The GPUs were busy 95% of the time.",
    ]


def test_without_a_gpu_it_is_the_machines_memory() -> None:
    """Where nothing was measured nothing is said."""
    assert memory_sentences(made([None], [3.0 * GIB])) == [
        "Of 1 trial the largest, trial 0, held 3 GiB of memory."
    ]
    assert memory_sentences(made([None], [None])) == []
    assert memory_sentences(made([], [])) == []


@pytest.mark.parametrize("busy", [0.25, None])
def test_the_use_of_a_card_is_drawn(busy: float | None) -> None:
    """Its memory and how busy it was, as shares; without rows a sentence."""
    ax = Figure().subplots()
    draw_devices(ax, made([GIB], [GIB], busy, provenance=CARD))
    if busy is None:
        assert not ax.lines
        return
    assert [list(map(float, line.get_ydata())) for line in ax.lines] == [  # type: ignore[arg-type]
        [0.25, 0.25],
        [0.25, 0.25],
    ]
    assert ax.get_xlabel() == "time since the sweep began (s)"
