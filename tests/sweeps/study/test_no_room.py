"""Which settings have no room, from what others held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.study.no_room import Held, rising, smaller_without_room

GIB = 2**30


def held(batch: int, n_bytes: float, **others: object) -> Held:
    return Held(0, {"batch": batch, "lr": 0.1 * batch, **others}, int(n_bytes))


def test_a_parameter_that_raises_memory_is_found() -> None:
    """Three values in order of their peaks, the other whole numbers alike, are enough."""
    peaks = [held(1, GIB), held(2, 1.4 * GIB), held(4, 2.4 * GIB), held(2, 5 * GIB, model="wide")]
    assert rising(peaks) == {"batch"}
    assert rising(peaks, ["batch"]) == set()
    assert rising(peaks[:2]) == set()  # two may be so by chance


def test_one_that_once_lowered_memory_is_not() -> None:
    """A single pair the other way round, by more than noise, is enough against it."""
    peaks = [held(1, GIB), held(2, 1.4 * GIB), held(4, 2.4 * GIB), held(8, 2.0 * GIB)]
    assert rising(peaks) == set()
    assert rising([held(n, GIB) for n in range(1, 9)]) == set()  # nor one that does nothing


@given(st.integers(1, 100), st.integers(1, 100), st.booleans(), st.floats(0, 1))
def test_what_is_as_large_has_no_room(batch: int, other: int, same: bool, lr: float) -> None:
    """At least the size in what raises memory, the same in other whole numbers and names; rates
    and seeds may be anything.
    """
    full = Held(3, {"batch": other, "model": "rnn", "lr": 0.1, "seed": 0}, 80 * GIB, False)
    values = {"batch": batch, "model": "rnn" if same else "lstm", "lr": lr, "seed": 7}
    found = smaller_without_room(values, [held(1, GIB), full], {"batch"}, ["seed"])
    assert (found == full) == (same and batch >= other)
    assert smaller_without_room(values, [full], set(), ["seed"]) is None
