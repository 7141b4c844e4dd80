from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.trainer.lengths import BatchSizes, batch_sizes, every, in_steps, steps_of

sizes = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 64)), max_size=4).map(
    lambda gaps: BatchSizes(
        (0, *(sum(gap for gap, _ in gaps[: i + 1]) for i in range(len(gaps)))),
        (7, *(size for _, size in gaps)),
    )
)


@given(sizes=sizes, step=st.integers(0, 300))
def test_examples_are_the_sum_of_the_batches_before_a_step(sizes: BatchSizes, step: int) -> None:
    """Examples seen before a step are what its batches add up to, and `steps` is the way back."""
    assert sizes.examples(step) == sum(sizes.at(i) for i in range(step))
    assert sizes.steps(sizes.examples(step)) == step


def test_case_1_batch_sizes_over_a_run() -> None:
    """4, then 32, then 48 examples per step, each from its own step on."""
    over_run = batch_sizes(64, [[0, 4], [100, 32], [200, 48]], "steps", n_train=1000)
    assert [over_run.at(step) for step in (0, 99, 100, 199, 200, 10**6)] == [4, 4, 32, 32, 48, 48]
    assert over_run.examples(201) == 400 + 3200 + 48


def test_points_in_epochs_count_what_was_seen_with_the_sizes_before() -> None:
    """The second point lies after two epochs, of which the first took more steps per epoch than the
    second.
    """
    over_run = batch_sizes(10, [["1 epochs", 20], ["2 epochs", 50]], "steps", n_train=1000)
    assert over_run == BatchSizes((0, 100, 150), (10, 20, 50))


@given(batch=st.integers(1, 256), n_train=st.integers(1, 10_000))
def test_a_length_in_each_unit_is_the_same_length(batch: int, n_train: int) -> None:
    """Three epochs, their examples, their steps and the whole run are one length at a constant
    batch size.
    """
    constant = BatchSizes((0,), (batch,))
    steps = steps_of("3 epochs", "steps", constant, n_train)
    assert steps == pytest.approx(3 * n_train / batch)
    assert steps_of(3 * n_train, "examples", constant, n_train) == steps
    assert steps_of(steps, "steps", constant, n_train) == steps
    assert steps_of("1 run", "steps", constant, n_train, n_steps=123) == 123
    assert steps_of(0.5, "rest", constant, n_train, n_steps=123, n_rest=100) == 50


def test_the_rest_is_what_warm_up_leaves() -> None:
    """Warm-up takes its share of the run first; every other length may be a share of what is
    left.
    """
    node = {
        "unit": "rest",
        "warmup_steps": "0.2 run",
        "decay_steps": 1.0,
        "min_lr": 0.5,
        "kind": "x",
    }
    resolved = in_steps(node, BatchSizes((0,), (4,)), n_train=100, n_steps=500)
    assert resolved == {"warmup_steps": 100.0, "decay_steps": 400.0, "min_lr": 0.5, "kind": "x"}


def test_lengths_are_found_in_lists_and_in_their_mappings() -> None:
    """Milestones and stages are lengths too; other numbers in a stage are left alone."""
    node = {
        "milestone_steps": ["1 epochs", 7],
        "stages": [{"lr": 0.5, "decay_steps": "0.1 run", "length_steps": 3}],
    }
    resolved = in_steps(node, BatchSizes((0,), (4,)), n_train=100, n_steps=500)
    assert resolved["milestone_steps"] == (25.0, 7.0)
    assert resolved["stages"] == ({"lr": 0.5, "decay_steps": 50.0, "length_steps": 3.0},)


@given(n_steps=st.integers(1, 5000))
def test_lengths_can_be_cut_to_whole_steps(n_steps: int) -> None:
    """As BERT's int(num_train_steps * 0.1); another rounding is refused."""
    node = {"rounding": "down", "warmup_steps": "0.1 run", "decay_steps": "1 run"}
    resolved = in_steps(node, BatchSizes((0,), (4,)), n_train=100, n_steps=n_steps)
    assert resolved == {"warmup_steps": int(n_steps * 0.1), "decay_steps": n_steps}
    with pytest.raises(ValueError, match=r"schedule\.rounding is down, or null for none; got 'up'"):
        in_steps({**node, "rounding": "up"}, BatchSizes((0,), (4,)), 100, n_steps)


@given(batch=st.integers(1, 512))
def test_a_schedule_in_shares_of_the_run_does_not_die_when_the_batch_grows(batch: int) -> None:
    """At any batch size the decay ends where the run ends."""
    constant = BatchSizes((0,), (batch,))
    n_steps = int(steps_of("3 epochs", "steps", constant, n_train=5000))
    resolved = in_steps(
        {"warmup_steps": "0.1 run", "decay_steps": "1 rest"}, constant, 5000, n_steps
    )
    assert resolved["warmup_steps"] + resolved["decay_steps"] == pytest.approx(n_steps)


@pytest.mark.parametrize(
    "length", ["3 weeks", "many", "-1", -5, float("nan"), float("inf"), "", "1 2 run"]
)
def test_what_is_no_length_is_refused_with_the_units_there_are(length: str | float) -> None:
    """The sentence says what a length looks like, and what arrived."""
    with pytest.raises(ValueError, match=r"a length is a number from 0 up.*epochs.*got"):
        steps_of(length, "steps", BatchSizes((0,), (4,)), 100, n_steps=10)


def test_the_run_cannot_be_measured_in_itself() -> None:
    """A run's own length as a share of the run is refused, since there is nothing to take a share
    of yet.
    """
    with pytest.raises(ValueError, match=r"steps, epochs, examples; got '0\.5 run'"):
        steps_of("0.5 run", "steps", BatchSizes((0,), (4,)), 100)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ([[0, 4], [0, 8]], "must rise"),
        ([[10, 4], [5, 8]], "must rise"),
        ([[0, 4], [9, 0]], "at least 1 example"),
    ],
)
def test_batch_sizes_that_cannot_be_are_refused(schedule: list[list[int]], sentence: str) -> None:
    """Points that do not rise and empty batches are refused."""
    with pytest.raises(ValueError, match=sentence):
        batch_sizes(64, schedule, "steps", n_train=100)


@given(
    length=st.integers(1, 50).map(lambda n: n / 10),
    unit=st.sampled_from(["epochs", "examples"]),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    n_train=st.integers(1, 200),
)
def test_what_recurs_in_epochs_is_due_at_the_step_that_completes_one(
    length: float, unit: str, sizes: list[int], n_train: int
) -> None:
    """Counted example by example, also where the batch size changes and does not divide an epoch;
    next and last name the same steps.
    """
    batches = BatchSizes(tuple(range(0, 7 * len(sizes), 7)), tuple(sizes))
    recurring = every(f"{length} {unit}", "eval_every", batches, n_train)
    tenths = round(10 * length) * (n_train if unit == "epochs" else 1)  # of an example
    due, seen = [], 0
    for step in range(1, 40):
        before, seen = seen, seen + batches.at(step - 1)
        if 10 * seen // tenths > 10 * before // tenths:
            due.append(step)
    assert [step for step in range(40) if recurring.is_due(step)] == due
    for step in range(due[-1] if due else 0):
        assert recurring.next(step) == next(d for d in due if d > step)
        assert recurring.last(step) == max([0, *(d for d in due if d <= step)])


@pytest.mark.parametrize(
    "length", [0, -1, True, 2.5, "0 epochs", "2.5 steps", "1 run", "x", "1/0 epochs", "nan epochs"]
)
def test_what_does_not_recur_is_refused_by_name(length: int | str) -> None:
    """The sentence names the setting, what it takes and what arrived."""
    with pytest.raises(ValueError, match=r"eval_every must be .*got"):
        every(length, "eval_every", BatchSizes((0,), (4,)), 100)


@given(n_examples=st.integers(1, 200_000), batch=st.integers(1, 2000), n_epochs=st.integers(1, 48))
def test_total_steps_are_those_of_bert(n_examples: int, batch: int, n_epochs: int) -> None:
    """`int(n_examples / batch_size * n_epochs)`.

    But where the total is whole, and rounding leaves the published line one step short of it.
    """
    steps = steps_of(f"{n_epochs} epochs", "steps", BatchSizes((0,), (batch,)), n_examples)
    is_whole = n_examples * n_epochs % batch == 0
    published = int(n_examples / batch * n_epochs)
    assert int(steps) == published or (is_whole and int(steps) == published + 1)
