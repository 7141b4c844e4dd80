"""The scheduler, driven by every order of events that a world of dying workers can produce."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iolaus.sweeps.run.scheduler import (
    N_TRIALS_TO_JUDGE_FAILURES,
    Action,
    Ask,
    Died,
    Ended,
    Event,
    Exhausted,
    Freed,
    Halted,
    Interrupted,
    Judged,
    Kill,
    Lost,
    Proposed,
    Release,
    Renewed,
    Scheduler,
    Spawn,
    Start,
    Stop,
    Tell,
    TimedOut,
)
from iolaus.sweeps.types import Ending, Outcome, Verdict

AGAIN = Outcome(Ending.INTERRUPTED, reason="out of memory")
VERDICT = Verdict("Rule", 3, "it does not keep up")
COMPLETED = Outcome(Ending.COMPLETED, values=(1.0,))
FAILED = Outcome(Ending.FAILED, reason="ValueError: no")
outcomes = st.sampled_from(
    [COMPLETED, FAILED, Outcome(Ending.PRUNED, verdict=VERDICT), Outcome(Ending.DIVERGED)]
)
anything = st.integers(0, 30)


class World(RuleBasedStateMachine):
    """Workers, a study and a user who do what they like; actions are carried out and checked one by
    one.
    """

    @initialize(
        n_slots=st.integers(1, 4),
        n_to_run=st.integers(0, 8),
        rate=st.sampled_from([1.0, 0.3, 0.0]),
        n_calm=st.integers(0, 12),
    )
    def begin(self, n_slots: int, n_to_run: int, rate: float, n_calm: int) -> None:
        self.n_slots, self.n_to_run = n_slots, n_to_run
        self.n_calm = n_calm  # events before anything stops the sweep
        self.scheduler = Scheduler(n_slots, n_to_run, rate)
        self.up: dict[int, bool] = {}  # living workers, and whether they are ready
        self.asking: Counter[int] = Counter()
        self.room: dict[int, int] = {}
        self.cut_off: set[int] = set()
        self.n_rerun = 0
        self.renews = False
        self.slot_of: dict[int, int] = {}  # every proposed trial
        self.running: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.recorded: dict[int, Outcome] = {}
        self.n_exhausted = self.n_interrupts = 0
        self.do(self.scheduler.start())

    def see(self, event: Event) -> list[Action]:
        was_draining = self.scheduler.draining
        self.n_calm -= 1
        actions = self.scheduler.handle(event)
        if was_draining or isinstance(event, Interrupted | Halted):
            assert self.scheduler.draining
            assert not [a for a in actions if isinstance(a, Spawn | Ask | Start)]
        self.do(actions)
        return actions

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(slot):
                    assert slot < self.n_slots
                    assert slot not in self.up
                    self.up[slot] = False
                case Ask(slot):
                    assert self.up[slot]
                    self.asking[slot] += 1
                    assert self.load(slot) <= self.room[slot]
                    assert len(self.slot_of) + self.asking.total() <= self.n_to_run + self.n_rerun
                case Start(slot, trial):
                    assert slot in self.up
                    assert self.slot_of[trial] == slot
                    assert trial not in self.recorded
                    self.running[trial] = slot
                case Stop(slot, trial, _):
                    assert self.running[trial] == slot
                    assert trial not in self.stopped
                    self.stopped.add(trial)
                case Tell(trial, outcome):
                    assert trial in self.slot_of
                    assert trial not in self.recorded
                    self.recorded[trial] = outcome
                    self.running.pop(trial, None)
                case Release(slot):
                    assert self.load(slot) == (self.asking[slot] if self.renews else 0)
                    del self.up[slot]
                case Kill(slot):
                    del self.up[slot]

    def load(self, slot: int) -> int:
        return self.asking[slot] + list(self.running.values()).count(slot)

    @precondition(lambda self: not all(self.up.values()))
    @rule(which=anything, n_lanes=st.integers(1, 3))
    def worker_comes_up(self, which: int, n_lanes: int) -> None:
        starting = [slot for slot, up in self.up.items() if not up]
        slot = starting[which % len(starting)]
        self.up[slot], self.room[slot] = True, n_lanes
        self.see(Freed(slot, n_lanes))

    @precondition(lambda self: any(self.up.values()))
    @rule(which=anything, n_lanes=st.integers(1, 4))
    def worker_has_other_room(self, which: int, n_lanes: int) -> None:
        able = sorted(slot for slot, up in self.up.items() if up)
        slot = able[which % len(able)]
        self.room[slot] = n_lanes
        self.see(Freed(slot, n_lanes))

    @precondition(lambda self: self.asking.total())
    @rule(which=anything)
    def study_proposes(self, which: int) -> None:
        slot = sorted(self.asking.elements())[which % self.asking.total()]
        self.asking[slot] -= 1
        trial = len(self.slot_of)
        self.slot_of[trial] = slot
        was_draining = self.scheduler.draining
        self.see(Proposed(slot, trial))
        assert trial in (self.recorded if was_draining else self.running)

    @precondition(lambda self: self.asking.total() and self.n_calm <= 0)
    @rule(which=anything)
    def study_has_nothing_left(self, which: int) -> None:
        slot = sorted(self.asking.elements())[which % self.asking.total()]
        self.asking[slot] -= 1
        self.n_exhausted += 1
        self.see(Exhausted(slot))

    @precondition(lambda self: self.running)
    @rule(which=anything)
    def rule_fires(self, which: int) -> None:
        trial = sorted(self.running)[which % len(self.running)]
        expected = [] if trial in self.stopped else [Stop(self.running[trial], trial, VERDICT)]
        assert self.see(Judged(trial, VERDICT)) == expected

    @precondition(lambda self: any(self.up.get(slot) for slot in self.running.values()))
    @rule(which=anything, outcome=outcomes)
    def trial_ends(self, which: int, outcome: Outcome) -> None:
        able = sorted(trial for trial, slot in self.running.items() if self.up[slot])
        trial = able[which % len(able)]
        self.cut_off.discard(self.running[trial])
        assert self.see(Ended(trial, outcome))[0] == Tell(trial, outcome)

    @precondition(lambda self: self.up)
    @rule(which=anything)
    def worker_dies(self, which: int) -> None:
        slot = sorted(self.up)[which % len(self.up)]
        lost = [trial for trial, where in self.running.items() if where == slot]
        del self.up[slot]
        shared = len(lost) > 1 and slot not in self.cut_off
        if shared:
            self.cut_off.add(slot)
            self.n_rerun += len(lost)
        actions = self.see(Died(slot, "killed"))
        ending = Ending.INTERRUPTED if shared else Ending.FAILED
        assert [a for a in actions if isinstance(a, Tell)] == [
            Tell(trial, Outcome(ending, reason="killed")) for trial in lost
        ]

    @precondition(lambda self: any(self.up.get(slot) for slot in self.running.values()))
    @rule(which=anything)
    def trial_runs_out_of_memory(self, which: int) -> None:
        """It is run again; a trial that ends otherwise is not."""
        able = sorted(trial for trial, slot in self.running.items() if self.up[slot])
        trial = able[which % len(able)]
        self.cut_off.discard(self.running[trial])
        self.n_rerun += 1
        assert self.see(Ended(trial, AGAIN))[0] == Tell(trial, AGAIN)

    @precondition(lambda self: self.up)
    @rule(which=anything)
    def worker_runs_out_of_memory(self, which: int) -> None:
        """Whatever it had is run again, also if the one before it was cut off."""
        slot = sorted(self.up)[which % len(self.up)]
        lost = [trial for trial, where in self.running.items() if where == slot]
        if not lost:
            return
        del self.up[slot]
        self.n_rerun += len(lost)
        actions = self.see(Died(slot, "killed", AGAIN))
        assert [a for a in actions if isinstance(a, Tell)] == [Tell(t, AGAIN) for t in lost]

    @precondition(lambda self: any(self.up.values()))
    @rule(which=anything)
    def idle_worker_makes_way(self, which: int) -> None:
        """Another one is started for what its slot has asked for; a busy worker stays."""
        able = sorted(slot for slot, up in self.up.items() if up)
        slot = able[which % len(able)]
        is_busy = slot in self.running.values()
        self.renews = True
        actions = self.see(Renewed(slot))
        self.renews = False
        more = [] if self.scheduler.draining else [Spawn(slot)]
        assert actions == ([] if is_busy else [Release(slot), *more])

    @precondition(lambda self: self.running)
    @rule(which=anything)
    def trial_hangs(self, which: int) -> None:
        """It fails and its worker is ended; those that shared the worker are run again."""
        hung = sorted(self.running)[which % len(self.running)]
        slot = self.running[hung]
        others = [t for t, where in self.running.items() if where == slot and t != hung]
        self.n_rerun += len(others)
        kill, *actions = self.see(TimedOut(hung, "timed out"))
        assert kill == Kill(slot)
        tells = [a for a in actions if isinstance(a, Tell)]
        assert tells[0] == Tell(hung, Outcome(Ending.FAILED, reason="timed out"))
        assert [(t.trial, t.outcome.ending) for t in tells[1:]] == [
            (other, Ending.INTERRUPTED) for other in others
        ]
        assert all("timed out" in t.outcome.reason for t in tells)

    @precondition(lambda self: self.running)
    @rule(which=anything)
    def trial_is_lost(self, which: int) -> None:
        """Another driver has it: nothing is told of it; its worker is ended as if it hung."""
        lost = sorted(self.running)[which % len(self.running)]
        slot = self.running.pop(lost)
        others = [t for t, where in self.running.items() if where == slot]
        self.n_rerun += 1 + len(others)
        kill, *actions = self.see(Lost(lost, "lost"))
        assert kill == Kill(slot)
        tells = [a for a in actions if isinstance(a, Tell)]
        assert [(t.trial, t.outcome.ending) for t in tells] == [
            (other, Ending.INTERRUPTED) for other in others
        ]
        self.recorded[lost] = Outcome(Ending.INTERRUPTED)  # by whoever has it

    @precondition(lambda self: self.n_interrupts < 3 and self.n_calm <= 0)
    @rule()
    def user_interrupts(self) -> None:
        self.n_interrupts += 1
        starting = {slot for slot, up in self.up.items() if not up}
        actions = self.see(Interrupted())
        if self.n_interrupts == 1:
            useless = sorted(starting - set(self.running.values()))
            assert actions == [Kill(slot) for slot in useless]
        else:
            assert not self.up
            assert not self.running

    @precondition(lambda self: self.n_calm <= 0)
    @rule()
    def storage_breaks(self) -> None:
        assert self.see(Halted("the disk is full")) == []
        assert self.scheduler.failure is not None

    @rule(slot=st.integers(0, 4), outcome=outcomes)
    def old_news_arrives(self, slot: int, outcome: Outcome) -> None:
        """Events about what is over ask for nothing and change nothing."""
        before = repr(self.scheduler)
        if slot not in self.up:
            assert self.see(Freed(slot)) == []
            assert self.see(Died(slot, "killed")) == []
        if not self.asking[slot]:
            assert self.see(Exhausted(slot)) == []
        for trial in (*self.recorded, 99):
            assert self.see(Ended(trial, outcome)) == []
            assert self.see(Judged(trial, VERDICT)) == []
            assert self.see(TimedOut(trial, "timed out")) == []
            assert self.see(Lost(trial, "lost")) == []
        assert repr(self.scheduler) == before

    @invariant()
    def nobody_is_idle_and_nothing_is_lost(self) -> None:
        starting = {slot for slot, up in self.up.items() if not up}
        assert set(self.up) <= starting | set(self.asking.elements()) | set(self.running.values())
        assert set(self.slot_of) == set(self.recorded) | set(self.running)
        assert self.scheduler.running == self.running
        assert self.scheduler.done == (not self.up and not self.asking.total())

    def teardown(self) -> None:
        """Every world can be run to its end, and then every proposed trial was told."""
        for _ in range(200):
            if self.scheduler.done:
                break
            if not all(self.up.values()):
                self.worker_comes_up(0, 2)
            elif self.asking.total():
                self.study_proposes(0)
            else:
                self.trial_ends(0, COMPLETED)
        assert self.scheduler.done
        assert self.recorded.keys() == self.slot_of.keys()
        if not self.scheduler.draining and not self.n_exhausted:
            endings = [outcome.ending for outcome in self.recorded.values()]
            assert endings.count(Ending.INTERRUPTED) == self.n_rerun
            assert len(endings) == self.n_to_run + self.n_rerun


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=200, stateful_step_count=40)


@given(
    percent=st.integers(0, 100),
    failed=st.lists(st.booleans(), min_size=1, max_size=200),
)
@example(percent=29, failed=[False] * 71 + [True] * 29)  # 0.29 * 100 is below 29
def test_failures_are_counted_against_an_exact_share(percent: int, failed: list[bool]) -> None:
    """The sweep gives up at the first moment at which more than max_failure_rate of the trials have
    failed.
    """
    n = len(failed)
    scheduler = Scheduler(1, n, percent / 100)
    scheduler.start()
    scheduler.handle(Freed(0))
    for trial, fails in enumerate(failed):
        scheduler.handle(Proposed(0, trial))
        scheduler.handle(Ended(trial, FAILED if fails else COMPLETED))
        judged = max(trial + 1, min(n, N_TRIALS_TO_JUDGE_FAILURES))
        too_many = Fraction(sum(failed[: trial + 1]), judged) > Fraction(percent, 100)
        assert (scheduler.failure is not None) == scheduler.draining == too_many
        if too_many:
            return


def test_the_failure_limit_names_the_numbers_and_the_last_failure() -> None:
    """Whoever reads why the sweep gave up sees how many failed, what was allowed, and one
    reason.
    """
    scheduler = Scheduler(2, 20, 0.1)
    assert scheduler.start() == [Spawn(0), Spawn(1)]
    for slot in (0, 1):
        assert scheduler.handle(Freed(slot)) == [Ask(slot)]
        assert scheduler.handle(Proposed(slot, slot)) == [Start(slot, slot)]
    assert scheduler.handle(Ended(0, FAILED)) == [Tell(0, FAILED), Ask(0)]
    assert scheduler.handle(Proposed(0, 2)) == [Start(0, 2)]
    assert scheduler.handle(Ended(1, FAILED)) == [Tell(1, FAILED), Release(1)]
    assert scheduler.failure == (
        "2 of 2 trials failed, more than max_failure_rate=0.1 allows; "
        "the last one, trial 1: ValueError: no"
    )
    assert scheduler.handle(Ended(2, COMPLETED)) == [Tell(2, COMPLETED), Release(0)]
    assert scheduler.done


def test_the_first_interrupt_waits_and_the_second_does_not() -> None:
    """After one Ctrl-C running trials finish and are told as they are; after two they are killed
    and interrupted.
    """
    scheduler = Scheduler(2, 5)
    scheduler.start()
    for slot in (0, 1):
        scheduler.handle(Freed(slot))
        scheduler.handle(Proposed(slot, slot))
    assert scheduler.handle(Interrupted()) == []
    assert scheduler.handle(Ended(0, COMPLETED)) == [Tell(0, COMPLETED), Release(0)]
    kill, tell = scheduler.handle(Interrupted())
    assert kill == Kill(1)
    assert isinstance(tell, Tell)
    assert (tell.trial, tell.outcome.ending) == (1, Ending.INTERRUPTED)
    assert scheduler.done
    assert scheduler.failure is None


def test_a_worker_that_leaves_is_replaced_while_trials_are_left() -> None:
    """Its trial counts as any other; a fresh worker takes the next, and none comes after the
    last.
    """
    scheduler = Scheduler(1, 2)
    scheduler.start()
    scheduler.handle(Freed(0))
    scheduler.handle(Proposed(0, 0))
    told = scheduler.handle(Ended(0, COMPLETED, leaves=True))
    assert told == [Tell(0, COMPLETED), Release(0), Spawn(0)]
    assert scheduler.handle(Freed(0)) == [Ask(0)]
    scheduler.handle(Proposed(0, 1))
    assert scheduler.handle(Ended(1, FAILED, leaves=True)) == [Tell(1, FAILED), Release(0)]
    assert scheduler.done


def test_a_worker_that_does_not_stay_up_ends_the_sweep() -> None:
    """A slot whose worker dies three times without running a trial is given up, in words; a trial
    in between counts.
    """
    scheduler = Scheduler(1, 5)
    scheduler.start()
    for _ in range(2):
        assert scheduler.handle(Died(0, "exit code 1")) == [Spawn(0)]
    scheduler.handle(Freed(0))
    scheduler.handle(Proposed(0, 0))
    scheduler.handle(Ended(0, COMPLETED))
    for _ in range(2):
        assert scheduler.handle(Died(0, "exit code 1")) == [Spawn(0)]
    assert scheduler.handle(Died(0, "exit code 1")) == []
    assert scheduler.failure == "the worker of slot 0 does not stay up: exit code 1"


def test_a_sweep_of_nothing_starts_nobody() -> None:
    """With no trial to run, no worker is started and the sweep is over."""
    scheduler = Scheduler(3, 0)
    assert scheduler.start() == []
    assert scheduler.done


def test_where_drivers_share_a_study_it_asks_until_it_is_exhausted() -> None:
    """A driver that has nothing to run itself has one worker, which waits for what may come."""
    scheduler = Scheduler(2, 0, may_get_more=True)
    assert scheduler.start() == [Spawn(0)]
    assert scheduler.handle(Freed(0)) == [Ask(0)]
    assert scheduler.handle(Proposed(0, 7)) == [Start(0, 7)]
    assert scheduler.handle(Ended(7, COMPLETED)) == [Tell(7, COMPLETED), Ask(0)]
    assert scheduler.handle(Exhausted(0)) == [Release(0)]
    assert scheduler.done


def test_trials_that_are_paused_at_the_beginning_go_on_side_by_side() -> None:
    """They have a worker each, as far as there are slots, though no other trial is to be run."""
    assert Scheduler(3, 0, may_get_more=True, n_paused=2).start() == [Spawn(0), Spawn(1)]
    assert Scheduler(3, 1, may_get_more=True, n_paused=9).start() == [Spawn(0), Spawn(1), Spawn(2)]


def test_a_paused_trial_is_told_and_may_be_proposed_again() -> None:
    """It has neither ended nor failed; the slot that it leaves asks for more, beyond n_to_run."""
    paused = Outcome(Ending.PAUSED, verdict=VERDICT)
    scheduler = Scheduler(1, 2, max_failure_rate=0.4, may_get_more=True)
    assert scheduler.start() == [Spawn(0)]
    assert scheduler.handle(Freed(0)) == [Ask(0)]
    assert scheduler.handle(Proposed(0, 0)) == [Start(0, 0)]
    for _ in range(3):
        assert scheduler.handle(Judged(0, VERDICT)) == [Stop(0, 0, VERDICT)]
        assert scheduler.handle(Ended(0, paused)) == [Tell(0, paused), Ask(0)]
        assert scheduler.handle(Proposed(0, 0)) == [Start(0, 0)]
    assert scheduler.handle(Ended(0, FAILED)) == [Tell(0, FAILED), Release(0)]  # of two, not five
    assert scheduler.failure is not None


def test_trials_without_memory_are_asked_for_again() -> None:
    """One that ends interrupted, and those of a worker that dies of it, leave their places free; a
    worker without trials brings none.
    """
    scheduler = Scheduler(n_slots=1, n_to_run=2)
    scheduler.start()
    again = Outcome(Ending.INTERRUPTED, reason="out of memory")
    scheduler.handle(Freed(0, 2))
    for trial in (0, 1):
        scheduler.handle(Proposed(0, trial))
    died = scheduler.handle(Died(0, "exit code 137", again))
    assert died == [Tell(0, again), Tell(1, again), Spawn(0)]
    assert scheduler.handle(Freed(0, 1)) == [Ask(0)]
    scheduler.handle(Proposed(0, 0))
    assert scheduler.handle(Ended(0, again, leaves=True)) == [Tell(0, again), Release(0), Spawn(0)]
    assert scheduler.handle(Freed(0, 2)) == [Ask(0), Ask(0)]
    infeasible = Outcome(Ending.INFEASIBLE)
    for trial in (0, 1):
        scheduler.handle(Proposed(0, trial))
        scheduler.handle(Ended(trial, infeasible))
    assert scheduler.done
    assert scheduler.failure is None


def test_an_idle_worker_makes_way_for_a_fresh_one() -> None:
    """It is let go, another is started, and what was asked for its slot comes there; a busy one
    stays.
    """
    scheduler = Scheduler(n_slots=1, n_to_run=2)
    scheduler.start()
    scheduler.handle(Freed(0))
    assert scheduler.handle(Renewed(0)) == [Release(0), Spawn(0)]
    assert scheduler.handle(Renewed(0)) == []
    scheduler.handle(Freed(0))
    assert scheduler.handle(Proposed(0, 0)) == [Start(0, 0)]
    assert scheduler.handle(Renewed(0)) == []


def test_a_worker_that_has_been_let_go_makes_no_way() -> None:
    """It holds nothing, and there is nobody to be let go a second time."""
    scheduler = Scheduler(n_slots=2, n_to_run=2)
    scheduler.start()
    scheduler.handle(Freed(0))
    scheduler.handle(Freed(1))
    scheduler.handle(Proposed(0, 0))
    scheduler.handle(Proposed(1, 1))
    assert scheduler.handle(Ended(0, Outcome(Ending.COMPLETED))) == [
        Tell(0, Outcome(Ending.COMPLETED)),
        Release(0),
    ]
    assert scheduler.handle(Renewed(0)) == []
