"""Which trial may start where: a table of devices, a card made of numbers, and a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.sweeps.run.devices import Device
from iolaus.sweeps.run.placement import CONTEXT_BYTES, Placement, Rates, shape_of

GIB = 2**30
CARD = Device("0", 0, "GPU-a", "A card", 80 * GIB, 0)
TICK_S = 0.25


@dataclass
class Job:
    """A trial as it would run: what it holds, how many steps it makes, whether it runs alone."""

    shape: int
    n_bytes: int
    n_steps: int = 200
    alone: str = ""
    done: float = 0.0


@dataclass
class World:
    """What has happened on a card. most, held: of trials and bytes at one time."""

    seconds: float = 0.0
    most: int = 0
    held: int = 0
    order: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    neighbours: dict[int, int] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    shares: list[float | None] = field(default_factory=list)


def run(
    jobs: Sequence[Job],
    together: Callable[[int], float],
    trials_per_gpu: int | str = "auto",
    n_slots: int = 16,
    card: Device = CARD,
) -> World:
    """Run jobs in their order in slots of one card, on which n make together(n) steps a tick."""
    placement = Placement(dict.fromkeys(range(n_slots), "0"), [card], trials_per_gpu)
    world, now_s, waiting = World(), 0.0, list(range(len(jobs)))
    slots: dict[int, int] = {}  # trial -> slot
    caps: dict[int, float] = {}  # trial -> bytes
    asked: set[int] = set()

    def admit() -> None:
        for admitted in placement.admit(now_s):
            asked.remove(admitted.slot)
            slots[admitted.trial] = admitted.slot
            share = admitted.gpu_share
            caps[admitted.trial] = 80 * GIB * (1.0 if share is None else share)
            world.order.append(admitted.trial)
            world.shares.append(share)

    while waiting or slots or asked:
        assert now_s < 10_000, "nothing goes on"
        admit()
        for slot in range(n_slots):
            if slot not in slots.values() and slot not in asked and waiting:
                if not placement.may_ask(slot):
                    continue
                trial = waiting.pop(0)
                asked.add(slot)
                shape = shape_of({"batch_size": jobs[trial].shape, "lr": 0.1 * trial})
                placement.wait(trial, slot, shape, jobs[trial].alone)
                admit()
        now_s += TICK_S
        world.most = max(world.most, len(slots))
        full = [trial for trial in slots if jobs[trial].n_bytes > caps[trial]]
        held = [min(jobs[trial].n_bytes, caps[trial]) + CONTEXT_BYTES for trial in slots]
        world.held = max(world.held, sum(held))
        for trial in slots:
            world.neighbours[trial] = len(slots) - 1 + world.neighbours.get(trial, 0)
        for trial in full:  # torch refuses it more than its cap
            del slots[trial]
            placement.ended(trial, int(caps[trial]), True, now_s)
            jobs[trial].alone, world.neighbours[trial] = "gpu", 0
            waiting.insert(0, trial)
        n = len(slots)
        for trial in list(slots):
            job = jobs[trial]
            job.done += together(n) / n
            placement.reported(trial, int(job.done), now_s)
            placement.measured(trial, job.n_bytes)
            for capped, share in placement.take_caps().items():
                caps |= {t: 80 * GIB * share for t, s in slots.items() if s == capped}
        for trial in [t for t in slots if jobs[t].done >= jobs[t].n_steps]:
            del slots[trial]
            placement.ended(trial, jobs[trial].n_bytes, False, now_s)
            world.ended.append(trial)
        world.news += placement.take_news()
        world.seconds = now_s
    return world


def saturating(limit: float) -> Callable[[int], float]:
    """A card that n trials fill up to so many times what one does."""
    return lambda n: 5.0 * min(n, limit)


def test_a_shape_is_what_sizes_a_trial() -> None:
    """Whole numbers and names are, fractions and seeds are not."""
    values = {"batch_size": 8, "model": "rnn", "lr": 0.1, "bias": True, "seed": 3}
    assert shape_of(values, ["seed"]) == (("batch_size", 8), ("bias", True), ("model", "rnn"))


def test_small_trials_fill_a_card_as_far_as_it_pays() -> None:
    """What 4 fill is run 4 at a time, or up to twice as many; what one fills, one at a time."""
    small = [Job(8, GIB) for _ in range(24)]
    world = run(small, saturating(4))
    alone_s = 24 * 200 / 5.0 * TICK_S
    assert 4 <= world.most <= 8
    assert world.seconds < 0.5 * alone_s
    assert any("batch_size=8 holds" in line for line in world.news)
    full = run([Job(8, GIB) for _ in range(24)], saturating(1))
    assert full.most <= 2
    assert full.seconds < 1.05 * alone_s


def test_the_log_says_what_was_learned() -> None:
    """One line for each: what a shape holds, how many are tried, and where it stays."""
    world = run([Job(8, GIB) for _ in range(40)], saturating(4))
    assert world.news[0] == "batch_size=8 holds 1.68 GiB of a GPU; 41 fit on a card"
    assert world.news[1] == "GPU 0: it has run one alone: up to 2 are tried"
    assert world.news[2].startswith("GPU 0: 2 together make 2.00 times the steps of one: up to 4")
    assert world.news[-1].endswith("4 make 4.00 times: 4 run side by side from now on")


jobs = st.lists(
    st.builds(
        Job,
        st.integers(1, 4),
        st.just(0),
        st.integers(20, 120),
        st.sampled_from(["", "", "", "", "gpu", "ram"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(jobs=jobs, limit=st.floats(1, 8), sizes=st.lists(st.integers(1, 70), min_size=4, max_size=4))
def test_nothing_is_admitted_that_does_not_fit(
    jobs: list[Job], limit: float, sizes: list[int]
) -> None:
    """Together trials never hold more than the card has: one of unknown size that does not fit
    beside others is refused it by its own cap, and run again alone. All end, in no other's way.
    """
    for job in jobs:
        job.n_bytes = sizes[job.shape - 1] * GIB
    world = run(jobs, saturating(limit))
    assert world.held <= 80 * GIB
    assert sorted(world.ended) == list(range(len(jobs)))
    first = list(dict.fromkeys(world.order))
    assert first == sorted(first)
    assert len(world.order) - len(first) <= sum(size > 40 for size in sizes)
    assert all(world.neighbours[i] == 0 for i, job in enumerate(jobs) if job.alone)


@pytest.mark.parametrize(("n", "share"), [(1, None), (2, 0.4912), (4, 0.2412)])
def test_each_of_several_gets_its_share(n: int, share: float | None) -> None:
    """The card less CUDA's own part in each process, shared out evenly; one has all of it."""
    world = run([Job(8, GIB) for _ in range(8)], saturating(8), trials_per_gpu=n, n_slots=n)
    assert world.most == n
    assert all(s == (share if share is None else pytest.approx(share, abs=1e-3))
               for s in world.shares)  # fmt: skip


def test_what_others_hold_is_nobodys() -> None:
    """Of a card that other programs have in use, what is left is shared out."""
    taken = Device("0", 0, "GPU-a", "A card", 80 * GIB, 60 * GIB)
    assert run([Job(8, 7 * GIB) for _ in range(12)], saturating(8), card=taken).most == 2


def test_machine_wide_memory_is_waited_for_on_all_cards() -> None:
    """A trial that ran out of the machine's memory starts when nothing runs on any card."""
    placement = Placement({0: "0", 1: "1"}, [], 1)
    placement.wait(0, 0, ())
    placement.wait(1, 1, (), "ram")
    assert [one.trial for one in placement.admit(0.0)] == [0]
    assert not placement.may_ask(0)
    placement.ended(0, None, False, 1.0)
    assert [one.trial for one in placement.admit(1.0)] == [1]
    placement.wait(2, 0, ())
    assert placement.admit(2.0) == []
    placement.ended(1, None, False, 3.0)
    assert [one.trial for one in placement.admit(3.0)] == [2]


def test_a_trial_that_grows_is_known_by_its_largest_size() -> None:
    """A peak that comes late, as of a validation, counts from then on; its own cap has a margin."""
    placement = Placement({0: "0", 1: "0"}, [CARD], "auto")
    placement.wait(0, 0, (("b", 1),))
    (first,) = placement.admit(0.0)
    assert first.gpu_share is not None
    assert first.gpu_share > 0.98
    for step in range(4):
        placement.reported(0, step, float(step))
    placement.measured(0, 10 * GIB)
    assert placement.take_caps()[0] == pytest.approx(12 / 80)
    placement.measured(0, 11 * GIB)
    assert placement.take_caps()[0] == pytest.approx(11 * 1.2 / 80)


@given(n=st.integers(1, 16), slow=st.floats(0.2, 1.0))
def test_rates_are_of_steps_and_not_of_shapes(n: int, slow: float) -> None:
    """A shape whose steps take ten times as long counts as much: in units of its own speed."""
    rates = Rates()
    for shape, speed in (("fast", 100.0), ("slow", 10.0)):
        rates.add(((shape, 1),), 1, 10 * speed, 10.0)
        rates.add(((shape, 1),), n, slow * 30 * speed, 30.0)
    if n > 1:
        assert rates.total(n) == pytest.approx(n * slow)


def test_a_shape_that_ran_out_is_unknown_again() -> None:
    """Where more was needed than was known of a shape, the next trial gets all that is free."""
    placement = Placement({0: "0", 1: "0"}, [CARD], "auto")
    placement.wait(0, 0, (("b", 1),))
    placement.admit(0.0)
    placement.ended(0, 10 * GIB, False, 1.0)
    placement.wait(1, 0, (("b", 1),))
    (second,) = placement.admit(2.0)
    assert second.gpu_share == pytest.approx(12 / 80)
    placement.ended(1, 12 * GIB, True, 3.0)
    placement.wait(1, 0, (("b", 1),), "gpu")
    (again,) = placement.admit(4.0)
    assert again.gpu_share == 1.0
    placement.ended(1, 30 * GIB, False, 5.0)
    placement.wait(2, 0, (("b", 1),))
    (third,) = placement.admit(6.0)
    assert third.gpu_share == pytest.approx(36 / 80)


def test_a_task_without_torch_is_measured_by_its_card() -> None:
    """What the card's use has grown by while one ran by itself, less CUDA's own part."""
    placement = Placement({0: "0", 1: "0"}, [CARD], "auto")
    placement.wait(0, 0, (("b", 1),))
    placement.admit(0.0)
    for step in range(4):
        placement.reported(0, step, float(step))
    placement.device_used("0", 20 * GIB, 1.0)
    assert placement.take_caps() == {}
    placement.device_used("0", 10 * GIB + CONTEXT_BYTES, 8.0)
    assert placement.take_news()[-1] == "b=1 holds 10.7 GiB of a GPU; 6 fit on a card"


def test_one_that_runs_alone_has_what_idle_workers_hold() -> None:
    """Workers that have had a trial keep CUDA's context on the card until they make way."""
    placement = Placement({0: "0", 1: "0", 2: "1"}, [CARD], 2)
    for trial in range(3):
        placement.wait(trial, trial, ())
    placement.admit(0.0)
    for trial in range(3):
        placement.ended(trial, GIB, trial == 0, 1.0)
    placement.wait(0, 0, (), "gpu")
    (alone,) = placement.admit(2.0)
    assert alone.renew == (1,)
    placement.ended(0, GIB, False, 3.0)
    placement.wait(0, 0, (), "gpu")
    (again,) = placement.admit(4.0)
    assert again.renew == ()


def test_a_worker_that_is_gone_holds_nothing() -> None:
    """One that was let go, or died, need not make way, and what it held is free."""
    placement = Placement({0: "0", 1: "0"}, [CARD], 2)
    for trial in range(2):
        placement.wait(trial, trial, ())
    placement.admit(0.0)
    for trial in range(2):
        placement.ended(trial, GIB, trial == 0, 1.0)
    placement.let_go(1)
    placement.wait(0, 0, (), "gpu")
    (alone,) = placement.admit(2.0)
    assert alone.renew == ()


def test_the_next_trial_of_a_slot_is_not_capped_by_the_one_before() -> None:
    """What was learned of a trial that has ended is its shape's, and no news for its slot."""
    placement = Placement({0: "0"}, [CARD], "auto")
    placement.wait(0, 0, (("b", 1),))
    placement.admit(0.0)
    for step in range(4):
        placement.reported(0, step, float(step))
    placement.measured(0, GIB)
    placement.ended(0, 2 * GIB, False, 5.0)
    placement.wait(1, 0, (("b", 2),))
    placement.admit(6.0)
    assert placement.take_caps() == {}
