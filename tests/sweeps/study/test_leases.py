"""Whose a trial is, when several drivers share a study."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from optuna.trial import TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.leases import KEY, Leases, Silence, is_alive_here, this_process
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, record_of
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome

GRACE_S = 60.0
SPACE = parse_space(
    {}, ["x=interval(0.0, 1.0)"], OverridesParser.create().parse_overrides, lambda key: False
)


class Member:
    """One driver of a study that several share, with a clock of its own."""

    def __init__(self, url: str, name: str, clock: Callable[[], float], plans: Plans) -> None:
        self.name = name
        self.storage = LiveStorage(open_backend(url), driver=name)
        sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
        opened = open_study(self.storage, "s", ["minimize"], sampler, pruner, SPACE)
        self.leases = Leases(self.storage, compat.study_id(opened), GRACE_S, clock)
        self.leases.beat()
        self.study = SweepStudy(opened, self.storage, SPACE, plans, Metric("loss"), self.leases)
        self.running: list[int] = []

    def ask(self) -> int | None:
        proposal = self.study.ask()
        if proposal is None:
            return None
        self.running.append(proposal.trial)
        return proposal.trial

    def tell(self, trial: int, value: float) -> None:
        self.running.remove(trial)
        self.study.tell(trial, Outcome(Ending.COMPLETED, values=(value,)), Run(), log="")

    def look(self) -> None:
        """What the driver's loop does now and then."""
        self.leases.beat()
        self.study.take_over()
        self.storage.flush()
        for trial in self.study.take_lost():
            if trial in self.running:
                self.running.remove(trial)

    def in_database(self) -> list[optuna.trial.FrozenTrial]:
        self.storage.flush()
        return self.storage._backend.get_all_trials(compat.study_id(self.study.study))


@pytest.fixture
def member(tmp_path: Path) -> Any:
    """Makes drivers of one study in one SQLite file; time stands at `member.now`."""
    made: list[Member] = []
    now = [0.0]

    def make(name: str, n_trials: int = 4, **plans: Any) -> Member:
        url = sqlite_url(tmp_path / "study.db")
        made.append(Member(url, name, lambda: now[0], Plans(n_trials, **plans)))
        return made[-1]

    make.now = now  # type: ignore[attr-defined]
    yield make
    for each in made:
        each.storage.close()


def silence(make: Any, listener: Member) -> None:
    """Let the listener hear nothing of the others for longer than the grace period."""
    for _ in range(20):
        make.now[0] += 5.0
        listener.leases.beat()


def test_a_trial_has_its_driver_from_its_first_moment(member: Any) -> None:
    """A trial that was created or taken names its driver in the same transaction."""
    one, other = member("one"), member("other")
    created = one.ask()
    other.storage.refresh(compat.study_id(other.study.study))
    other.study.study.enqueue_trial({"x": 0.5})
    taken = other.ask()
    owners = [record_of(trial).driver for trial in one.in_database()]
    assert (created, taken, owners) == (0, 1, ["one", "other"])


def test_of_two_that_find_an_orphan_one_takes_it_over(
    member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen it running before either puts it back; it waits once, and runs once."""
    dead, first, second = member("dead"), member("first"), member("second")
    assert dead.ask() == 0
    dead.storage.flush()
    silence(member, first)
    silence(member, second)
    over: list[list[int]] = []
    give_back = compat.give_back

    def after_the_other(*arguments: Any) -> bool:
        monkeypatch.setattr(compat, "give_back", give_back)
        over.append(second.study.take_over())
        return give_back(*arguments)

    monkeypatch.setattr(compat, "give_back", after_the_other)
    over.append(first.study.take_over())
    assert over == [[0], []]
    assert len(record_of(first.in_database()[0]).interruptions) == 1
    assert sorted([first.ask(), second.ask()]) == [0, 1]  # type: ignore[type-var]


def test_what_a_suspended_driver_brings_too_late_is_not_kept(member: Any) -> None:
    """Its trial is another's: reports and result stay out of the database, and it learns of it."""
    late, other = member("late"), member("other")
    assert late.ask() == 0
    late.storage.flush()
    silence(member, other)
    assert other.study.take_over() == [0]
    assert other.ask() == 0
    late.study.report(0, 7, 3.0)
    late.tell(0, 1.0)
    [trial] = late.in_database()
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.RUNNING, None, {})
    assert late.study.take_lost() == [0]
    assert late.study.of_others() == [0]
    other.tell(0, 2.0)
    [trial] = other.in_database()
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [2.0])


def test_a_trial_that_says_nothing_is_found_lost_at_the_next_look(member: Any) -> None:
    """Whether its trials are still its own a driver asks, not only when it has to write."""
    late, other = member("late"), member("other")
    assert late.ask() == 0
    late.storage.flush()
    silence(member, other)
    assert other.study.take_over() == [0]
    late.look()
    assert late.running == []


def test_a_trial_is_created_against_the_count(member: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that was about to create the last trial when another did finds none is missing."""
    one, other = member("one", n_trials=1), member("other", n_trials=1)
    create, got = compat.create_trial, []

    def after_the_other(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(compat, "create_trial", create)
        got.append(other.ask())
        return create(*arguments, **options)

    monkeypatch.setattr(compat, "create_trial", after_the_other)
    got.append(one.ask())
    assert got == [0, None]
    assert len(one.in_database()) == 1


def test_a_queued_setting_that_another_takes_first_makes_no_trial(
    member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the queue is all there is, whoever comes too late for its last gets nothing."""
    grid = [{"x": 0.25}]
    one, other = member("one", 1, queue=grid), member("other", 1, queue=grid)
    change, got = compat.change_waiting, []

    def after_the_other(*arguments: Any) -> bool:
        monkeypatch.setattr(compat, "change_waiting", change)
        got.append(other.ask())
        return change(*arguments)

    monkeypatch.setattr(compat, "change_waiting", after_the_other)
    got.append(one.ask())
    assert got == [0, None]
    assert [trial.params["x"] for trial in other.in_database()] == [0.25]


@given(
    beats=st.lists(st.booleans(), min_size=1, max_size=30),
    gaps=st.lists(st.floats(0, 1e4), min_size=30, max_size=30),
)
def test_silence_is_what_was_listened_to_since_the_last_beat(
    beats: list[bool], gaps: list[float]
) -> None:
    """It is the sum of the gaps since then, of each no more than the most that counts."""
    silence, now_s, beat, expected = Silence(most_gap_s=10.0), 0.0, 0, 0.0
    silence.hear({"d": 0}, now_s)
    for has_beaten, gap in zip(beats, gaps, strict=False):
        now_s, beat = now_s + gap, beat + has_beaten
        silence.hear({"d": beat}, now_s)
        expected = 0.0 if has_beaten else expected + min(gap, 10.0)
        assert silence.of("d") == pytest.approx(expected, abs=1e-6)


def test_a_process_of_this_machine_is_seen_to_be_dead() -> None:
    """One that is there lives, one that is gone or whose number another has is dead; of another
    boot or namespace, or of a driver that never beat, nothing is known.
    """
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = this_process()
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    its = {**here, "pid": child.pid, "started": int(stat[19])}
    attrs = {
        KEY + "its": its,
        KEY + "earlier": {**its, "started": its["started"] - 1},
        KEY + "container": {**its, "pid_namespace": "pid:[1]"},
        KEY + "rebooted": {**its, "boot": "another"},
    }
    names = ("its", "earlier", "container", "rebooted", "unknown")
    assert [is_alive_here(attrs, name) for name in names] == [True, False, None, None, None]
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_alive_here(attrs, "its") is False
    child.communicate()
    assert is_alive_here(attrs, "its") is False


class Drivers(RuleBasedStateMachine):
    """Drivers of one study that ask, beat, end trials, look, are suspended and die, in any order.

    A suspended one is one that is not chosen for a while. Their clocks run at different offsets.
    """

    N_TRIALS = 5

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now_s = 0.0
        self.all: list[Member] = []
        self.alive: list[Member] = []
        self.accepted: dict[int, float] = {}
        self.n_told = 0

    def join(self) -> Member:
        offset = 1e6 * len(self.all)
        name, url = f"d{len(self.all)}", sqlite_url(self.folder / "study.db")
        member = Member(url, name, lambda: self.now_s + offset, Plans(self.N_TRIALS))
        self.all.append(member)
        self.alive.append(member)
        return member

    @initialize()
    def begin(self) -> None:
        self.join()
        self.join()

    @rule()
    @precondition(lambda self: len(self.all) < 3)
    def another(self) -> None:
        self.join()

    @rule(data=st.data())
    @precondition(lambda self: len(self.alive) > 1)
    def dies(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.alive), "dies")
        member.storage.flush()
        self.alive.remove(member)

    @rule(data=st.data())
    def asks(self, data: st.DataObject) -> None:
        member = self.draw(data)
        if len(member.running) < 2:
            member.ask()

    @rule(data=st.data())
    def ends_a_trial(self, data: st.DataObject) -> None:
        member = self.draw(data)
        if member.running:
            self.tell(member, data.draw(st.sampled_from(member.running), "trial"))

    @rule(data=st.data())
    def looks(self, data: st.DataObject) -> None:
        self.draw(data).look()

    @rule(seconds=st.sampled_from([5.0, 15.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(data=st.data())
    def all_but_one_are_suspended(self, data: st.DataObject) -> None:
        member = self.draw(data)
        for _ in range(8):
            self.now_s += 10.0
            member.look()

    def draw(self, data: st.DataObject) -> Member:
        return data.draw(st.sampled_from(self.alive), "driver")

    def tell(self, member: Member, trial: int) -> None:
        self.n_told += 1
        now = member.in_database()[trial]
        if record_of(now).driver == member.name:
            assert now.state is TrialState.RUNNING
            assert trial not in self.accepted
            self.accepted[trial] = self.n_told
        member.tell(trial, self.n_told)
        member.storage.flush()  # a result not yet written after minutes of the clock is another's

    def teardown(self) -> None:
        """When all end as they should, the total is exact, and each has its owner's result."""
        try:
            if self.alive:
                self.end()
        finally:
            for member in self.all:
                member.storage.close()
            shutil.rmtree(self.folder)

    def end(self) -> None:
        for member in self.alive:
            member.look()
            for trial in list(member.running):
                self.tell(member, trial)
            member.look()
        last = self.alive[0]
        for _ in range(8):
            self.now_s += 10.0
            last.look()
        while (trial := last.ask()) is not None:
            self.tell(last, trial)
        trials = last.in_database()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * self.N_TRIALS
        assert {trial.number: trial.values[0] for trial in trials} == self.accepted


TestDrivers = Drivers.TestCase
TestDrivers.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
