from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from iolaus.trainer.data import Batches, Examples, epoch_order, longest_run


def numbered(n: int) -> Examples:
    """Examples whose input and target are their own number: no two neighbours are alike."""
    return Examples(torch.arange(n), torch.arange(n))


@given(
    n=st.integers(1, 50),
    seed=st.integers(0, 1000),
    size=st.integers(1, 60),
    n_batches=st.integers(1, 12),
)
def test_every_epoch_sees_every_example_once(n: int, seed: int, size: int, n_batches: int) -> None:
    """Cut at any batch size, the sequence is one full permutation after the other."""
    batches = Batches(numbered(n), seed)
    seen = torch.cat([batches.at(i * size, size).targets for i in range(n_batches)]).tolist()
    assert all(len(batches.at(i * size, size)) == size for i in range(n_batches))
    for begin in range(0, len(seen) - n + 1, n):
        assert sorted(seen[begin : begin + n]) == list(range(n))


@given(
    n=st.integers(1, 50),
    first=st.integers(0, 200),
    size=st.integers(1, 60),
    buffer=st.none() | st.integers(1, 60),
)
def test_a_place_in_the_sequence_needs_no_history(
    n: int, first: int, size: int, buffer: int | None
) -> None:
    """A batch drawn at once from the middle is the one that a run from the start gets there: what
    resuming needs.
    """
    walked = Batches(numbered(n), 1, buffer)
    for i in range(first):
        walked.at(i, 1)
    assert torch.equal(
        walked.at(first, size).targets, Batches(numbered(n), 1, buffer).at(first, size).targets
    )


def test_seed_and_epoch_each_change_the_order() -> None:
    """Orders of different seeds and of different epochs differ; the same seed and epoch give the
    same order.
    """
    orders = [tuple(epoch_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(orders)) == 25
    assert orders[0] == tuple(epoch_order(100, 0, 0))


@given(n=st.integers(1, 60), buffer=st.integers(1, 80), seed=st.integers(0, 100))
def test_a_shuffle_buffer_moves_examples_forward_by_less_than_its_size(
    n: int, buffer: int, seed: int
) -> None:
    """The order is a permutation in which no example comes `buffer` places early: it had not been
    read yet.
    """
    order = epoch_order(n, seed, 0, buffer)
    assert sorted(order) == list(range(n))
    if buffer < n:
        assert all(example < place + buffer for place, example in enumerate(order))


@given(st.lists(st.integers(0, 2), max_size=30))
def test_longest_run_counts_equal_neighbours(labels: list[int]) -> None:
    """The longest run agrees with counting by hand."""
    longest = current = 0
    for i, label in enumerate(labels):
        current = current + 1 if i and label == labels[i - 1] else 1
        longest = max(longest, current)
    assert longest_run(torch.tensor(labels, dtype=torch.int64)) == longest


def test_targets_that_are_no_classes_have_no_runs() -> None:
    """Sequences and numbers are no labels."""
    assert longest_run(torch.zeros(5, 3, dtype=torch.int64)) == 0
    assert longest_run(torch.zeros(5)) == 0
