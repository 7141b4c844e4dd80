"""Paused trials in the study: what the sampler, the database and other drivers see of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.checkpoints import Watched
from iolaus.sweeps.errors import SweepError
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import AnyOf, StalledLoss
from iolaus.sweeps.pruners.curve_pruner import NO_PLAN, CurvePruner
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.reporting import Continued, Kept
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.leases import Leases
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, is_paused, record_of, state_of, that_ran
from iolaus.sweeps.study.recovery import take_over
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Plan, Verdict

SPACE = parse_space(
    {}, ["x=interval(0.0, 1.0)"], OverridesParser.create().parse_overrides, lambda key: False
)
VERDICT = Verdict("behind", 5, "too far behind")
KEPT = Kept(5, 100)
PAUSED = Outcome(Ending.PAUSED, reason=VERDICT.reason, verdict=VERDICT)


class Told(CurvePruner):
    """Keeps what it is told; thaws what `wanted` says."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.asked: list[tuple[dict[int, float], bool]] = []
        self.wanted: int | None = None
        self.on_last_call: int | None = None

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        self.told.append((f"{step}: {loss:g}", trial))
        return None

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        self.told.append((f"learnt {step}: {loss:g}", trial))

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        self.told.append((outcome.name, trial))

    def paused(self, trial: int) -> None:
        self.told.append(("PAUSED", trial))

    def resumed(self, trial: int) -> None:
        self.told.append(("RESUMED", trial))

    def thaw(self, paused: Mapping[int, float], last_call: bool = False) -> int | None:
        self.asked.append((dict(paused), last_call))
        return self.on_last_call if last_call else self.wanted


class Member:
    """A driver's study, alone or one of several."""

    def __init__(self, url: str, name: str = "", pruner: Any = None, **plans: Any) -> None:
        self.pruner, self.name = Told(), name
        self.storage = LiveStorage(open_backend(url), driver=name)
        opened = open_study(
            *(self.storage, "s", ["minimize"], optuna.samplers.RandomSampler(seed=len(name))),
            *(pruner or self.pruner, SPACE),
        )
        leases = Leases(self.storage, compat.study_id(opened), 60.0, lambda: 0.0) if name else None
        if leases is not None:
            leases.beat()
        self.study = SweepStudy(
            *(opened, self.storage, SPACE, Plans(**{"n_trials": 3, "pauses": True} | plans)),
            *(Metric("loss"), leases),
            place=name,
        )

    def run(self, steps: int = 5) -> int:
        """Ask for a trial and have it report at steps 1, 2, ..."""
        proposal = self.study.ask()
        assert proposal is not None
        self.study.plan(proposal.trial, Plan(20))
        for step in range(1, steps + 1):
            self.study.report(proposal.trial, step, proposal.trial + 1 / step)
        return proposal.trial

    def pause(self, trial: int, kept: Kept | None = KEPT, outcome: Outcome = PAUSED) -> None:
        run = Run(folder=str(trial), slot=0, seconds=2.0)
        self.study.tell(trial, outcome, run, log="", kept=kept)

    def complete(self, trial: int, value: float = 1.0) -> None:
        outcome = Outcome(Ending.COMPLETED, values=(value,))
        self.study.tell(trial, outcome, Run(folder=str(trial), slot=1, seconds=3.0), log="")

    def seen(self) -> list[FrozenTrial]:
        return self.study.study.get_trials(deepcopy=False)

    def in_database(self) -> list[FrozenTrial]:
        self.storage.flush()
        return open_backend(self.url()).get_all_trials(compat.study_id(self.study.study))

    def url(self) -> str:
        return str(self.storage._backend._backend.url)  # type: ignore[attr-defined]


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Any]:
    made: list[Member] = []

    def make(*args: Any, **options: Any) -> Member:
        made.append(Member(sqlite_url(tmp_path / "study.db"), *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.storage.close()


def test_samplers_see_a_paused_trial_pruned_and_the_database_has_it_waiting(member: Any) -> None:
    """With its reports, and the value that `tell` gives a pruned one; no ask hands it out; it
    counts as run, once.
    """
    one = member()
    one.pause(one.run())
    seen, kept = one.seen()[0], one.in_database()[0]
    assert (seen.state, kept.state) == (TrialState.PRUNED, TrialState.WAITING)
    assert seen.values == [0 + 1 / 5]
    assert seen.intermediate_values == kept.intermediate_values == {s: 1 / s for s in range(1, 6)}
    assert seen.datetime_complete is not None
    assert is_paused(seen)
    assert is_paused(kept)
    assert one.study.n_missing == 2
    assert one.pruner.told[-1] == ("PAUSED", 0)
    assert [one.run(), one.run()] == [1, 2]
    assert one.study.study.get_trials(states=(TrialState.WAITING,)) == []
    assert [state_of(trial) for trial in that_ran(one.in_database())] == [
        "paused",
        *["running"] * 2,
    ]


def test_a_thawed_trial_goes_on_under_its_number(member: Any) -> None:
    """Before any new setting, as another attempt; with the share that would be made again; its
    reports stay, the pruner is told, the verdict is history.
    """
    one = member()
    one.pause(one.run(), Kept(4, 100))
    one.pruner.wanted = 0
    proposal = one.study.ask()
    assert one.pruner.asked[-1] == ({0: (5 - 4) / 20}, False)
    assert (proposal.trial, proposal.attempt, proposal.is_anew) == (0, 1, False)
    assert proposal.values == one.seen()[0].params
    assert one.pruner.told[-1] == ("RESUMED", 0)
    one.study.goes_on(0, Continued(4, 3, Watched(1, (0.5, 2), (1.0, 1))))
    assert [*one.seen()[0].intermediate_values] == [1, 2]
    one.study.report(0, 3, 1 / 3)
    one.pruner.wanted = None
    one.complete(0)
    trial = one.in_database()[0]
    record = record_of(trial)
    (pause,) = record.pauses
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.0)
    assert (pause.step, pause.rule, pause.reason) == (5, "behind", "too far behind")
    assert (pause.why, pause.from_step, pause.checkpoint) == ("more is known", 4, 4)
    assert pause.began <= pause.thawed
    assert (record.verdict, record.ending) == (None, Ending.COMPLETED)
    assert record.run.seconds == 5.0
    assert record.went_on == ()
    assert one.pruner.told[-1] == ("COMPLETE", 0)
    assert one.study.n_missing == 2


def test_one_without_a_checkpoint_starts_anew(member: Any) -> None:
    """All of its run so far would be made again, and it is told to begin at its beginning."""
    one = member()
    one.pause(one.run(), None)
    one.pruner.wanted = 0
    proposal = one.study.ask()
    assert one.pruner.asked[-1][0] == {0: 5 / 20}
    assert (proposal.attempt, proposal.is_anew) == (1, True)
    one.study.goes_on(0, None)
    assert one.seen()[0].intermediate_values == {}
    assert record_of(one.seen()[0]).pauses[0].from_step == -1


def test_it_may_be_paused_again(member: Any) -> None:
    """Each pause is kept, and each goes on as an attempt of its own."""
    one = member()
    one.run()
    for attempt in (1, 2, 3):
        one.pause(0)
        one.pruner.wanted = 0
        assert one.study.ask().attempt == attempt
        one.pruner.wanted = None
    assert len(record_of(one.in_database()[0]).pauses) == 3


def test_a_last_call_is_made_while_others_run_that_are_waited_for(member: Any) -> None:
    """Where n_trials is reached; not for one of a last call alone, and not when nothing runs."""
    one = member()
    one.pause(one.run())
    one.pause(one.run())
    one.run()  # trial 2 runs
    one.pruner.on_last_call = 1
    proposal = one.study.ask()
    assert proposal.trial == 1
    assert record_of(one.seen()[1]).pauses[0].why == "last call"
    one.pruner.on_last_call = 0
    one.complete(2)
    assert one.study.ask() is None  # the one of the last call is not waited for by another
    one.complete(1)
    assert one.study.ask() is None
    assert one.pruner.asked[-1] == ({0: 0.0}, False)


def test_paused_trials_are_closed_by_their_verdicts(member: Any) -> None:
    """At the end of a sweep: pruned in the database, final, and told to the pruner as stopped."""
    one = member(n_trials=1)
    one.pause(one.run())
    one.study.close_paused()
    trial = one.in_database()[0]
    assert (trial.state, trial.values) == (TrialState.PRUNED, [1 / 5])
    assert not is_paused(trial)
    record = record_of(trial)
    assert (record.ending, record.why) == (Ending.PRUNED, "pruned: too far behind")
    assert record.verdict == VERDICT
    assert one.pruner.told[-1] == ("STOPPED", 0)
    assert one.study.paused == []
    assert one.study.ask() is None


def test_one_that_waited_to_the_end_says_so(member: Any) -> None:
    """Once the sweep is over nothing says any more that it goes on."""
    one = member(n_trials=1)
    waits = Verdict("waits", 5, "waits: 3rd best of 4, goes on when all have come there")
    paused = Outcome(Ending.PAUSED, reason=waits.reason, verdict=waits)
    one.pause(one.run(), outcome=paused)
    one.study.close_paused()
    record = record_of(one.in_database()[0])
    assert record.why == "pruned: waited from step 5 to the end of the sweep"
    assert record.verdict == waits


def test_those_that_wait_for_others_wait_after_a_restart_too(member: Any) -> None:
    """Of tasks without checkpoints, whose paused trials alone go on that were paused for want of
    others: the database says which.
    """
    one = member(pruner=StalledLoss(), n_trials=20)
    running = [one.run(0) for _ in range(8)]
    for step in range(5):
        for trial in [*running]:
            verdict = one.study.report(trial, step, -trial - 0.1 * step)
            if verdict is not None:
                running.remove(trial)
                assert verdict.rule == "waits"
                outcome = Outcome(Ending.PAUSED, reason=verdict.reason, verdict=verdict)
                one.study.tell(trial, outcome, Run(), log="")
    assert len(running) < 3
    one.storage.close()
    proposal = member(pruner=StalledLoss(), n_trials=20).study.ask()
    assert (proposal.trial, proposal.is_anew) == (7, True)  # the best of them


@pytest.mark.parametrize("moment", ["paused", "thawed"])
def test_a_driver_that_dies_loses_no_pause(moment: str, member: Any) -> None:
    """What is paused stays so; what was thawed is cut off, and goes on as one more attempt."""
    one = member()
    one.pause(one.run())
    if moment == "thawed":
        one.pruner.wanted = 0
        one.study.ask()
    one.storage.flush()
    other = member()
    cut_off = take_over(other.study.study, lambda _: False, 0.0)
    assert cut_off == ([] if moment == "paused" else [0])
    assert [trial.number for trial in other.study.paused] == ([0] if moment == "paused" else [])
    assert other.study.n_missing == (2 if moment == "paused" else 3)
    if moment == "thawed":
        assert other.study.ask().attempt == 2


def test_of_two_drivers_one_thaws_a_paused_trial(member: Any) -> None:
    """Both have seen it paused; the other sees it run, then paused again, and may thaw it then."""
    one, other = member("one"), member("other")
    one.pause(one.run())
    one.storage.flush()
    other.run()
    assert [trial.number for trial in other.study.paused] == [0]
    assert ("PAUSED", 0) in other.pruner.told
    one.pruner.wanted = other.pruner.wanted = 0
    assert one.study.ask().trial == 0
    assert other.study.ask().trial == 2  # it was taken; a new setting instead
    assert other.pruner.told[-1] == ("RESUMED", 0)
    one.pause(0, Kept(7, 100))
    one.storage.flush()
    proposal = other.study.ask()
    assert (proposal.trial, proposal.attempt) == (0, 2)
    assert proposal.is_anew  # its checkpoint lies in the folder of the other
    assert record_of(other.in_database()[0]).driver == "other"
    one.study.close_paused()
    assert one.in_database()[0].state is TrialState.RUNNING


def test_the_worst_lose_their_checkpoints_first(member: Any) -> None:
    """Until the rest fits; only then are they deleted, and only where the trial is still paused."""
    one, deleted = member(), []
    for _ in range(3):
        one.pause(one.run())  # the losses are those of the trials' numbers
    assert one.study.bound_checkpoints(300, deleted.append) == []
    assert one.study.bound_checkpoints(299, deleted.append) == [2]
    assert one.study.bound_checkpoints(0, deleted.append) == [1, 0]
    one.storage.flush()
    assert deleted == ["2", "1", "0"]
    assert [record_of(t).pauses[0].checkpoint for t in one.in_database()] == [None] * 3
    one.pruner.wanted = 1
    assert one.study.ask().is_anew


def test_the_setting_of_a_paused_trial_is_not_run_again(member: Any) -> None:
    """A proposal of the same values takes over that it was pruned."""
    one = member(n_trials=9)
    one.pause(one.run())
    one.study.study.enqueue_trial(one.seen()[0].params)
    assert one.study.ask().trial == 2
    assert [number for number, _ in one.study.take_not_run()] == [1]
    assert one.seen()[1].state is TrialState.PRUNED


def test_a_seed_that_is_paused_holds_up_the_others_until_it_is_thawed(member: Any) -> None:
    """A setting that one seed has ruled out for now gets no other seed for now."""
    one = member(n_trials=1, n_repeats=2)
    one.pause(one.run())
    assert one.study.ask() is None
    one.pruner.wanted = 0
    assert one.study.ask().trial == 0
    one.pruner.wanted = None
    assert one.study.ask().seed == 1


def test_a_pruner_that_thaws_nothing_pauses_nothing(member: Any) -> None:
    """Optuna's own, and none: their trials end as ever. In a combination one that may is enough."""
    assert not member(pruner=optuna.pruners.MedianPruner()).study.may_thaw
    assert not member(pauses=False).study.may_thaw
    assert member(pruner=AnyOf([optuna.pruners.MedianPruner(), Told()])).study.may_thaw


def test_a_pruner_that_thaws_what_is_not_paused_is_named(member: Any) -> None:
    """With its choice, and what there is."""
    one = member()
    one.pause(one.run())
    one.pruner.wanted = 7
    with pytest.raises(SweepError, match="Told thaws trial 7, which is not paused: 0 are"):
        one.study.ask()


def test_many_paused_trials_are_not_read_again_at_each_look(
    member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is asked for those alone that have changed."""
    one, other = member("one", n_trials=30), member("other", n_trials=30)
    for _ in range(20):
        one.pause(one.run())
    one.storage.flush()
    study_id = compat.study_id(other.study.study)
    other.storage.refresh(study_id)
    assert len(other.study.paused) == 20
    read: list[int] = []
    get_trials = optuna.storages.RDBStorage._get_trials

    def counted(self: Any, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        found: list[FrozenTrial] = get_trials(self, *args, **kwargs)
        read.extend(trial.number for trial in found)
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_trials", counted)
    other.storage.refresh(study_id)
    assert read == []
    one.pruner.wanted = 3
    one.study.ask()
    one.storage.flush()
    read.clear()
    other.storage.refresh(study_id)
    assert read == [3]
    assert other.seen()[3].state is TrialState.RUNNING
