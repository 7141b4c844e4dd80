"""The Optuna study of a sweep.

Which trials there are, what is proposed next, what is recorded of each
(`iolaus.sweeps.study.record.TrialRecord`).
"""

from __future__ import annotations

import functools
import logging
import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import BadInputError, SweepError, one_line
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners.compose import parts
from iolaus.sweeps.pruners.curve_pruner import CurvePruner, StudyFeed, StudyView, curve_pruner
from iolaus.sweeps.reporting import Continued, Kept
from iolaus.sweeps.search.space import Space, Value
from iolaus.sweeps.study._repeats import Field, pooled_spread, units_of
from iolaus.sweeps.study._settings_run import SettingsRun
from iolaus.sweeps.study._watched import WatchedCurve
from iolaus.sweeps.study.budget import Cost, cost_of_others, session_key
from iolaus.sweeps.study.finalists import Finalists, seeds_missing
from iolaus.sweeps.study.leases import Leases
from iolaus.sweeps.study.live_storage import LiveStorage, OutdatedError
from iolaus.sweeps.study.no_gain import NoGain, found_by, noise_of
from iolaus.sweeps.study.no_room import Held, Room
from iolaus.sweeps.study.opening import judged_by
from iolaus.sweeps.study.record import (
    Pause,
    Run,
    TrialRecord,
    counts_as_run,
    leader_of,
    outside_of,
    record_of,
    repeat_number,
    why,
)
from iolaus.sweeps.study.recovery import put_back, take_over
from iolaus.sweeps.study.stopping import StopRequest, request_of
from iolaus.sweeps.types import WAITS_RULE, Ending, Intervention, Memory, Outcome, Plan, Verdict

__all__ = ["GRACE_SHARE", "OnStall", "Plans", "Proposal", "SweepStudy"]

log = logging.getLogger("sweeps")

# Rules whose verdict a lower learning rate may answer, also where others agree with them.
ANSWERED_BY_INTERVENTION = frozenset({"stalled", "rebound"})
# An intervention is given this share of the run to show itself (without a plan, of twice the run so
# far): a chosen value, long enough for a rate that was too high to settle, short enough that two
# interventions cost less than a third of a run.
GRACE_SHARE = 0.15
# A trial of a shared study that no driver has signed for this long is another tool's, which died.
ORPHAN_AGE_S = 60.0
# So many proposals without room in a row say that there are no others.
MOST_WITHOUT_ROOM = 100
# Why a paused trial goes on.
MORE_IS_KNOWN, LAST_CALL = "more is known", "last call"
# What a trial that goes on after a pause does not have any more.
NO_END = {compat.PAUSED_ATTR: 0, "ending": "", "why": "", "verdict": "", "verdict_rule": ""}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial the study wants run.

    Its number, the values of its parameters, its seed if repeats give it one, how often it was cut
    off or paused before, whether it begins anew all the same, another trial's checkpoint from
    which it goes on ("": none), whether it runs alone (see `TrialRecord.alone`), and values outside
    the search space, which beat the others.
    """

    trial: int
    values: Mapping[str, Value]
    seed: int | None = None
    attempt: int = 0
    is_anew: bool = False
    from_checkpoint: str = ""
    alone: str = ""
    outside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnStall:
    """What becomes of a trial that has stalled.

    "prune", or up to n_times the intervention of this name, then "prune".
    factor: for its learning rate, each time.
    """

    action: str = "prune"
    factor: float = 0.3
    n_times: int = 2


@dataclass(frozen=True, slots=True)
class Plans:
    """What is to be run. n_trials: settings to reach in all.

    queue: settings known in advance, which go first.
    n_repeats: runs of each setting, with seeds first_seed, first_seed + 1, ...
    repeat_hopeless: also of a setting whose first seeds are clearly behind.
    finalists: settings that get more seeds at the end, None for none.
    extend: suggests further parameters for a trial, or None. on_stall: what becomes of a trial that
    has stalled. pauses: whether trials that the pruner ends may go on later, if the pruner thaws
    any. stop_when: nothing is to be gained any more, so that no new setting is proposed. monotonic:
    keys of parameters of which a larger value never takes less memory. seed_key: of a parameter
    that sizes nothing.
    """

    n_trials: int
    queue: Sequence[Mapping[str, Value]] = ()
    n_repeats: int = 1
    repeat_hopeless: bool = False
    finalists: Finalists | None = None
    first_seed: int = 0
    extend: Callable[[optuna.Trial], None] | None = None
    on_stall: OnStall = OnStall()
    pauses: bool = False
    stop_when: NoGain | None = None
    monotonic: Sequence[str] = ()
    seed_key: str = ""

    @property
    def gives_seeds(self) -> bool:
        """Whether some settings run with several seeds, so that each trial is given its own."""
        return self.n_repeats > 1 or self.finalists is not None

    @property
    def n_judged(self) -> int:
        """Settings with their repeats, which the pruner judges."""
        return self.n_trials * self.n_repeats

    @property
    def n_runs(self) -> int:
        """Trials in all: the judged ones, and the finalists' further seeds."""
        more = 0 if self.finalists is None else self.finalists.n_runs(self.n_trials)
        return self.n_judged + more


class SweepStudy:
    """One driver's view of the study.

    study: made with `open_study`. metric: what trials report, which pruners judge by its own goal,
    whatever the study's objectives are. leases: of the drivers that share the study, None if no
    other can have it. not_comparable: sessions that ran with other settings or code, of which no
    result is taken over. place: the sweep's folder, where drivers of the study have others.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: LiveStorage,
        space: Space,
        plans: Plans,
        metric: Metric,
        leases: Leases | None,
        not_comparable: frozenset[int] = frozenset(),
        place: str = "",
    ) -> None:
        self.study = study
        self._place = place
        self.metric = metric
        self._storage = storage
        self._space = space
        self._plans = plans
        self._queue = iter(plans.queue)
        self.leases = leases
        self._trials: dict[int, optuna.Trial] = {}
        self._curves: dict[int, WatchedCurve] = {}
        self._said_back = False
        attrs = storage.get_study_system_attrs(compat.study_id(study))
        self._seen_request = request_of(attrs)
        self._session = secrets.token_hex(4)
        self._cost_before = cost_of_others(attrs, self._session)
        self._not_run: list[tuple[int, Outcome]] = []
        self._room = Room(plans.monotonic, plans.seed_key)
        # Those that wait for the result of a running trial of their setting.
        self._parked: dict[int, list[optuna.Trial]] = {}
        self.objective_sign = -1 if study.directions[0] is StudyDirection.MAXIMIZE else 1
        self.directions = [direction.name.lower() for direction in study.directions]
        self._not_comparable = not_comparable
        self._settings = SettingsRun(self._all_trials, not_comparable)
        self._own_plans: dict[int, Plan] = {}
        self.may_thaw = plans.pauses and _thaws(study.pruner)
        self._paused_records: dict[int, tuple[FrozenTrial, TrialRecord]] = {}
        self._unjudged: set[int] = set()  # further seeds of finalists, which the pruner never sees
        self._states_then: list[TrialState] = []  # for which finalists lacked these seeds
        self._seeds_then: list[tuple[int, int]] = []
        self._n_looked = 0  # trials that were looked at for those
        self._thawed: set[int] = set()  # trials that have not said yet from where they go on
        judged = judged_by(metric, study, storage)
        self._feed = StudyFeed(curve_pruner(study.pruner))
        self._feed.start(StudyView(judged, self._trial, metric.sign, self.may_thaw))
        self._feed.learn(self._all_trials(), but=self._not_for_pruner())
        self.cost = Cost()  # of this session so far
        # Why no new setting is proposed, though n_trials is not reached; "" while some are.
        self.enough = self._why_enough()

    @property
    def ends_bring_more(self) -> bool:
        """Whether the end of a trial may bring another: a paused one, or the seed of a finalist."""
        return self.may_thaw or self._plans.finalists is not None

    @property
    def n_missing(self) -> int:
        """How many settings are still to be run, to reach n_trials or until it is enough.

        Interrupted ones do not count as run.
        """
        return 0 if self.enough else max(0, self._plans.n_trials - self._settings.n_run())

    def _why_enough(self) -> str:
        rule, n_trials = self._plans.stop_when, self._plans.n_trials
        if rule is None or self._settings.n_run() >= n_trials:  # that is reached
            return ""
        trials = self._all_trials()
        found = found_by(trials, self.objective_sign)
        if not found:
            return ""
        spread = (
            pooled_spread(list(units_of(self._all_trials()).values()))
            if self._plans.n_repeats > 1
            else None
        )
        best = min(found, key=lambda one: one.loss)
        noise = noise_of(trials[best.trial]) if spread is None else spread
        return rule.verdict(found, noise)

    def note_cost(self, cost: Cost) -> None:
        """Have the database keep what this session has cost so far."""
        self.cost = cost
        key = session_key(self._session)
        self._storage.note(compat.study_id(self.study), key, cost.to_attr())

    def cost_before(self) -> Cost:
        """What the other sessions of the study have cost, as far as was seen last."""
        attrs = self._storage.last_system_attrs(compat.study_id(self.study))
        if attrs is not None:
            self._cost_before = cost_of_others(attrs, self._session)
        return self._cost_before

    @property
    def n_to_ask(self) -> int:
        """How many trials may still have to be run.

        Repeats, finalists' seeds and settings to be run again are included.
        """
        plans, waiting = self._plans, self._settings.n_waiting()
        units = units_of(self._all_trials()).values()
        repeats = sum(len(unit.missing(plans.n_repeats)) for unit in units)
        seeds = len(self._finalist_seeds())
        if plans.finalists is not None and (self.n_missing or self._settings.n_waiting(leads=True)):
            seeds = max(seeds, plans.finalists.n_runs(plans.n_trials))
        return max(self.n_missing * plans.n_repeats, waiting) + repeats + seeds

    def ask(self) -> Proposal | None:
        """The next trial to run, or None: n_trials is reached, or the sampler has nothing left.

        A paused one that the pruner thaws comes first; and where nothing is left, but others still
        run, the last call.

        A setting that has been run is not run again: it is told its known result, and the next one
        is asked for. Nor is one that is no smaller than one without room (see `no_room`): it is
        infeasible.
        """
        n_without_room = 0
        while True:
            self._storage.refresh(compat.study_id(self.study))
            self._feed.learn(
                self._all_trials(), but=self._not_for_pruner()
            )  # what other drivers reported
            if (thawed := self._thaw(MORE_IS_KNOWN)) is not None:
                return thawed
            try:
                self.enough = self.enough or self._why_enough()
                if not self._settings.n_waiting() and not self._enqueue_repeat():
                    if self.n_missing and not getattr(self.study, "exhausted", False):
                        self._enqueue_next()
                    else:
                        thawed = self._thaw(LAST_CALL) if self._is_waited_for() else None
                        if thawed is not None or not self._enqueue_finalist():
                            return thawed
                self._storage.may_create = not self._settings.n_waiting()
                trial = self._suggested()
            except OutdatedError:  # another driver was quicker
                continue
            except Exception as error:
                self._fail_unbegun(error)
                raise
            if (found := self._without_room(trial)) is not None:
                self._rule_out(trial, *found)
                n_without_room += 1
                if n_without_room == MOST_WITHOUT_ROOM:
                    self.enough = f"{n_without_room} settings in a row had no room in memory"
                continue
            before = self._run_before(trial)
            if before is None:
                return self._begun(trial)
            if before.state is TrialState.RUNNING:
                self._parked.setdefault(before.number, []).append(trial)
            else:
                self._take_over_result(trial, before)

    @property
    def paused(self) -> list[FrozenTrial]:
        """The trials that were stopped and may go on, of all drivers, by number."""
        paused = self._storage.paused(compat.study_id(self.study))
        return [trial for trial in paused if self._paused_record(trial).pauses]

    def _paused_record(self, trial: FrozenTrial) -> TrialRecord:
        """What is known of a paused trial, read once: most trials of a sweep may be paused."""
        known, record = self._paused_records.get(trial.number, (None, None))
        if known is not trial or record is None:
            record = record_of(trial)
            self._paused_records[trial.number] = trial, record
        return record

    def _thaw(self, why: str) -> Proposal | None:
        """A paused trial that the pruner wants to go on, which is this driver's now."""
        paused = {trial.number: trial for trial in self.paused} if self.may_thaw else {}
        while paused:
            shares = {number: self._share_again(trial) for number, trial in paused.items()}
            number = self._feed.thaw(shares, last_call=why == LAST_CALL)
            if number is None:
                return None
            if number not in paused:
                name, choices = type(self.study.pruner).__name__, ", ".join(map(str, paused))
                raise SweepError(
                    f"the pruner {name} thaws trial {number}, which is not paused: {choices} are"
                )
            known = paused.pop(number)
            *earlier, pause = record_of(known).pauses
            pause = replace(
                pause, thawed=datetime.now().isoformat(timespec="milliseconds"), why=why
            )
            attrs = {**NO_END, "pauses": [asdict(one) for one in (*earlier, pause)]}
            if self._storage.thaw(compat.trial_id(known), attrs):
                self._feed.resumed(number)
                self._thawed.add(number)
                trial = optuna.Trial(self.study, compat.trial_id(known))
                is_anew = not pause.has_checkpoint(self._place)
                return replace(self._begun(trial), is_anew=is_anew)
        return None

    def _share_again(self, trial: FrozenTrial) -> float:
        """The share of a paused trial's run that would have to be made again if it went on here."""
        record = self._paused_record(trial)
        return record.pauses[-1].share_again(record.plan.n_steps, self._place)

    def _is_waited_for(self) -> bool:
        """Whether a trial runs, here or elsewhere, for whose end the sweep has to wait anyway.

        Those of a last call are not waited for by another one, which would never come to an end,
        nor are the seeds of finalists, which would make of each sweep's end another round.
        """
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return not all(
            record.repeat >= self._plans.n_repeats
            or (record.pauses and record.pauses[-1].why == LAST_CALL)
            for record in map(record_of, running)
        )

    def bound_checkpoints(self, most_bytes: float, forget: Callable[[str], None]) -> list[int]:
        """Have paused trials lose their checkpoints until the others' take no more than this.

        The worst go first, of equals the oldest; they can be started anew. Returns their numbers.
        forget: given a trial's folder, as recorded, deletes its checkpoints; called in a thread,
        once no driver relies on them.
        """
        kept = [t for t in self.paused if _pauses(t)[-1].has_checkpoint(self._place)]
        n_bytes = sum(_pauses(trial)[-1].n_bytes for trial in kept)
        lost = []
        for trial in sorted(kept, key=self._standing, reverse=True):
            if n_bytes <= most_bytes:
                break
            *earlier, pause = _pauses(trial)
            n_bytes -= pause.n_bytes
            pauses = (*earlier, replace(pause, checkpoint=None, n_bytes=0))
            attrs = TrialRecord(pauses=pauses).to_attrs()
            then = functools.partial(forget, record_of(trial).run.folder)
            self._storage.change_paused(compat.trial_id(trial), attrs, then)
            lost.append(trial.number)
        return lost

    def _standing(self, trial: FrozenTrial) -> tuple[float, int]:
        best = record_of(trial).run.best
        return math.inf if best is None else self.metric.sign * best, -trial.number

    def close_paused(self) -> None:
        """Tell the trials that are still paused pruned, by their verdicts.

        Not those that another driver has thawed meanwhile.
        """
        self._storage.flush()
        self._storage.refresh(compat.study_id(self.study))
        for trial in self.paused:
            outcome = Outcome(Ending.PRUNED, reason=_why_not_thawed(record_of(trial)))
            attrs = TrialRecord(ending=outcome.ending, why=why(outcome)).to_attrs()
            attrs[compat.PAUSED_ATTR] = 0
            self._storage.close_paused(compat.trial_id(trial), attrs)
        self._feed.learn(self._all_trials(), but=self._not_for_pruner())

    def _take_over_result(self, trial: optuna.Trial, before: FrozenTrial) -> None:
        """End a trial whose setting has been run, with the result of then.

        The sampler learns, nothing is computed.
        """
        reason = f"the setting of trial {before.number}, not run again"
        outcome = Outcome(Ending.DUPLICATE, reason=reason)
        _note(
            trial,
            TrialRecord(ending=outcome.ending, why=why(outcome), duplicate_of=before.number),
        )
        for name, amount in before.constraints.items():
            trial.set_constraint(name, amount)
        if before.state is TrialState.COMPLETE and before.values:
            self.study.tell(trial, before.values)
        else:
            self.study.tell(trial, state=before.state)
        self._not_run.append((trial.number, outcome))

    def _rule_out(self, trial: optuna.Trial, smaller: Held, keys: Sequence[str]) -> None:
        """End a trial that has no room, before any compute."""
        what = ", ".join(f"{key}={smaller.values[key]}" for key in keys)
        reason = f"not run: trial {smaller.trial}, no larger, ran out of memory ({what})"
        outcome = Outcome(Ending.INFEASIBLE, reason=reason)
        record = TrialRecord(ending=outcome.ending, why=why(outcome), ruled_out_by=smaller.trial)
        _note(trial, record)
        trial.set_constraint("out_of_memory", smaller.amount)
        self.study.tell(trial, state=TrialState.PRUNED)
        if counts_as_run(self._all_trials()[trial.number]):
            self._not_run.append((trial.number, outcome))
        else:
            log.info("trial %d infeasible: %s", trial.number, reason)

    def _without_room(self, trial: optuna.Trial) -> tuple[Held, list[str]] | None:
        """The trial that says that this one has no room, and by which keys; None for a repeat."""
        if TrialRecord.from_attrs(trial.user_attrs).repeat_of is not None:
            return None
        return self._room.smaller_without(trial.params, self._all_trials())

    def of_others(self) -> list[int]:
        """The trials that other drivers run; each may come to this one, if its driver dies."""
        if self.leases is None:
            return []
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [t.number for t in running if record_of(t).driver != self.leases.driver]

    def take_over(self) -> list[int]:
        """Put back the trials of drivers that have died; returns their numbers."""
        if self.leases is None:
            return []
        self._storage.refresh(compat.study_id(self.study))
        self._storage.check_leases()
        return take_over(self.study, self.leases.is_alive, ORPHAN_AGE_S)

    def stop_request(self) -> StopRequest | None:
        """What somebody has asked since this driver began, given once; see `stopping`."""
        attrs = self._storage.last_system_attrs(compat.study_id(self.study))
        request = None if attrs is None else request_of(attrs)
        if request is None or request == self._seen_request:
            return None
        self._seen_request = request
        return request

    def take_lost(self) -> list[int]:
        """The trials that other drivers have taken over from this one since the last call.

        This driver was silent for longer than the grace period. What it had not written of them
        never will be.
        """
        lost = [trial.number for trial in self._storage.take_lost()]
        for number in lost:
            self._settings.reopen(number)
            self._trials.pop(number, None)
            self._own_plans.pop(number, None)
            self._thawed.discard(number)
            for waiting in self._parked.pop(number, []):
                put_back(self.study, self._known(waiting), f"trial {number} was lost")
        for parked in self._parked.values():
            parked[:] = [trial for trial in parked if trial.number not in lost]
        return lost

    def take_not_run(self) -> list[tuple[int, Outcome]]:
        """The trials that have ended since the last call without being run, and how."""
        not_run, self._not_run = self._not_run, []
        return not_run

    def _suggested(self) -> optuna.Trial:
        with _as_sampler(self.study):
            return self._suggested_by_sampler()

    def _suggested_by_sampler(self) -> optuna.Trial:
        trial = self.study.ask(self._space.unconditional)
        for parameter in self._space.conditional:
            if parameter.is_active(trial.params):
                compat.suggest(trial, parameter.key, parameter.distribution)  # as `ask` does
        if self._plans.extend is not None:
            self._add_dimensions(trial, self._plans.extend)
        return trial

    def _fail_unbegun(self, error: Exception) -> None:
        """End the trial amid whose suggestions a sampler or a search space has raised.

        Optuna has begun it, and it would run for ever.
        """
        said = one_line(error) if isinstance(error, SweepError) else repr(error)
        reason = f"no setting could be proposed: {said}"
        outcome = Outcome(Ending.FAILED, reason=reason)
        end = TrialRecord(ending=outcome.ending, why=why(outcome))
        ours = {*self._trials, *(trial.number for t in self._parked.values() for trial in t)}
        for trial in self._storage.running_here(compat.study_id(self.study)):
            if trial.number in ours:
                continue
            for name, value in end.to_attrs().items():
                compat.set_user_attr(self.study, trial, name, value)
            # Not `tell`, which would ask the sampler.
            self._storage.set_trial_state_values(compat.trial_id(trial), TrialState.FAIL)

    def _begun(self, trial: optuna.Trial) -> Proposal:
        record = TrialRecord.from_attrs(trial.user_attrs)
        seed = record.seed
        if self._plans.gives_seeds and seed is None:
            seed = self._plans.first_seed
            _note(trial, TrialRecord(seed=seed))
        self._trials[trial.number] = trial
        self._look_for_unjudged()
        earlier = self._curves.get(trial.number, WatchedCurve(self.metric))
        curve = self._curves[trial.number] = WatchedCurve(self.metric)
        curve.n_interventions = earlier.n_interventions  # until it is known whether it begins anew
        other = record.from_checkpoint
        attempt = record.attempt + bool(other)  # what another trial did comes before
        return Proposal(
            *(trial.number, trial.params, seed, attempt),
            from_checkpoint=other,
            alone=record.alone,
            outside=record.outside,
        )

    def goes_on(self, number: int, continued: Continued | None) -> bool:
        """A trial that was cut off or paused runs again: from its checkpoint, or (None) anew.

        What it had reported beyond is forgotten, in memory and database, and by the pruner, but of
        a paused trial, whose curve is a peer's. Returns whether all before is on disk for certain:
        a pause is recorded after its curve.
        """
        trial, trial_id = self._trials[number], compat.trial_id(self._trials[number])
        before = self._known(trial)
        record, reported = record_of(before), max(before.intermediate_values, default=-1)
        from_step, first = (-1, 0) if continued is None else (continued.step, continued.first_step)
        self._storage.forget_reports(trial_id, first)
        after, earlier = self._known(trial), self._curves[number]
        curve = self._curves[number] = WatchedCurve(self.metric, n_steps=record.plan.n_steps)
        if continued is not None:
            curve.go_on(after.intermediate_values, continued.watched)
            curve.went_on_from = continued.step
            curve.n_interventions = earlier.n_interventions
        if number in self._thawed:
            self._thawed.discard(number)
            *before_it, pause = record.pauses
            _note(trial, TrialRecord(pauses=(*before_it, replace(pause, from_step=from_step))))
            if continued is None and pause.has_checkpoint(self._place):
                log.warning(
                    "trial %d begins anew: its checkpoint of step %d is gone, damaged or of other "
                    "settings",
                    number,
                    pause.checkpoint,
                )
            return True
        if number not in self._unjudged:
            self._feed.goes_on(after)
        if record.from_checkpoint and not record.interruptions:
            # It begins, with what another trial has come to.
            _note(trial, TrialRecord(extended_from=max(from_step, 0)))
            return False
        last = max(reported, -1 if record.steps is None else record.steps)
        _note(trial, TrialRecord(went_on=(*record.went_on, (from_step, last))))
        return False

    def _run_before(self, trial: optuna.Trial) -> FrozenTrial | None:
        """The first trial of this setting that has a result, or runs here.

        None for a repeat, which is meant to run, and outside the search space.
        """
        record = TrialRecord.from_attrs(trial.user_attrs)
        if record.repeat_of is not None or record.outside:
            return None
        return self._settings.before(trial.params, self._trials)

    def _enqueue_repeat(self) -> bool:
        """Queue the next repeat of a setting that is worth it; returns whether there was one."""
        if self._plans.n_repeats == 1:
            return False
        units = units_of(self._all_trials())
        field = Field.of(list(units.values()), self.objective_sign)
        for leader, unit in units.items():
            missing = unit.missing(self._plans.n_repeats)
            if missing and (self._plans.repeat_hopeless or not field.is_hopeless(unit)):
                self._enqueue_seed(leader, missing[0])
                return True
        return False

    def _enqueue_finalist(self) -> bool:
        """Queue the next seed that a finalist lacks; returns whether there was one."""
        missing = self._finalist_seeds()
        if missing:
            self._enqueue_seed(*missing[0], finalist=True)
        return bool(missing)

    def _enqueue_seed(self, leader: int, number: int, finalist: bool = False) -> None:
        seed = self._plans.first_seed + number
        first = self._trial(leader)
        outside = outside_of(first.user_attrs)
        repeat = TrialRecord(
            repeat_of=leader, repeat=number, seed=seed, finalist=finalist, outside=outside
        )
        self.study.enqueue_trial(first.params, user_attrs=repeat.to_attrs())

    def _finalist_seeds(self) -> list[tuple[int, int]]:
        """See `seeds_missing`; of the settings that are the finalists now.

        Slots that wait ask each second, so what was found is kept until a trial begins or ends.
        """
        plans, trials = self._plans, self._all_trials()
        if plans.finalists is None:
            return []
        states = [trial.state for trial in trials]
        if states != self._states_then:
            self._states_then, self._seeds_then = (
                states,
                seeds_missing(
                    *(trials, self.directions, plans.finalists, plans.n_repeats),
                    *(plans.repeat_hopeless, self._not_comparable),
                ),
            )
        return self._seeds_then

    def _not_for_pruner(self) -> set[int]:
        """Trials that the pruner is not told of by the study.

        Those that run here report to it themselves. The further seeds of finalists show nothing of
        other settings, and one that was ended would leave a mean of the lucky ones.
        """
        self._look_for_unjudged()
        return self._unjudged | self._trials.keys()

    def _look_for_unjudged(self) -> None:
        trials = self._all_trials()
        new = trials[self._n_looked :]
        self._unjudged |= {t.number for t in new if repeat_number(t) >= self._plans.n_repeats}
        self._n_looked = len(trials)

    def plan(self, number: int, plan: Plan) -> None:
        """Record a trial's own plan, where pruners and readers find it."""
        self._curves[number].n_steps = plan.n_steps
        before = self._own_plans.get(number, Plan())
        self._own_plans[number] = Plan(plan.n_steps or before.n_steps, plan.lr or before.lr)
        _note(self._trials[number], TrialRecord(plan=plan))

    def report(self, number: int, step: int, value: float) -> Verdict | Intervention | None:
        """Take one value of the watched metric, in its own sign, in which it is kept.

        Here alone the metric's goal meets the pruner, which sees a study of that direction. Returns
        a verdict if the pruner wants the trial to end. A stall is answered with an
        intervention first, if the plans say so, which is given time to work.
        """
        curve = self._curves[number]
        was_anew, is_kept = curve.began_anew, curve.add(step, value)
        if curve.began_anew and not was_anew:
            self._note_that_it_begins_anew(number)
        self._say_once_that_steps_go_back(number)
        if not is_kept or not math.isfinite(value):
            return None
        step = curve.final_step  # which counts on where the task's steps go back
        # Not Trial.report: it refuses studies with several objectives.
        trial_id = compat.trial_id(self._trials[number])
        self._storage.set_trial_intermediate_value(trial_id, step, value)
        plan = self._own_plans.get(number, Plan()).from_step(curve.first_step or 0)
        if number in self._unjudged:
            return None
        verdict = self._feed.observe(number, step, self.metric.sign * value, plan)
        if verdict is None or step < curve.grace_until:
            return None
        rule = self._plans.on_stall
        if (
            ANSWERED_BY_INTERVENTION.isdisjoint(verdict.rules)
            or rule.action == "prune"
            or curve.n_interventions >= rule.n_times
            or curve.is_stopped
        ):
            curve.is_stopped = True
            return verdict
        curve.n_interventions += 1
        # Until the trial has taken it; one that never asks for it ends itself.
        curve.grace_until = math.inf
        return Intervention(rule.action, rule.factor, verdict)

    def intervened(self, number: int, step: int) -> None:
        """Note that a trial has taken its intervention, which is given time to work."""
        curve = self._curves[number]
        step = max(step, curve.final_step)  # which counts on where the task's steps go back
        curve.grace_until = step + GRACE_SHARE * (curve.n_steps or 2 * step)

    def _note_that_it_begins_anew(self, number: int) -> None:
        """For a trial that was given a checkpoint and does not load it."""
        record = record_of(self._known(self._trials[number]))
        if record.went_on:
            *before, (_, last) = record.went_on
            _note(self._trials[number], TrialRecord(went_on=(*before, (-1, last))))
        log.warning(
            "trial %d begins anew, though it has a checkpoint of step %d: the task does not load "
            "what iolaus.get_checkpoint() names (Lightning, Hugging Face: pass on "
            "checkpoint_path() of iolaus.integrations)",
            number,
            self._curves[number].went_on_from,
        )

    def _say_once_that_steps_go_back(self, number: int) -> None:
        """Of the first trial of which it is true; a trial that was to go back may."""
        curve = self._curves[number]
        if self._said_back or curve.went_back is None or curve.n_interventions or curve.began_anew:
            return
        self._said_back = True
        last, step = curve.went_back
        log.warning(
            "trial %d: steps go back from %d to %d in reports of %s, so the pruner counts on from "
            "%d: report steps that rise, such as epoch * n_batches + batch",
            number,
            last,
            step,
            self.metric.name,
            last,
        )

    def check_storage(self) -> None:
        """Raise StorageError if something that was recorded could not be written."""
        self._storage.check()

    def can_prune(self, number: int) -> bool:
        """Whether this trial gave the pruner anything to judge, or no pruner needs it."""
        return self._curves[number].final_step >= 0 or isinstance(
            self.study.pruner, optuna.pruners.NopPruner
        )

    def watched(self, number: int) -> WatchedCurve:
        """The watched metric of a trial this driver runs or ran."""
        return self._curves[number]

    def tell(
        self,
        number: int,
        outcome: Outcome,
        run: Run,
        log: str,
        after: threading.Event | None = None,
        then: Callable[[], None] | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Record how a trial ended; one that was interrupted is put back, to go on later.

        One that is paused looks pruned to the sampler. kept: the checkpoint that it has.

        Everything a reviewer should see is set before; afterwards Optuna refuses it. after: the
        database gets the result when this is set, so that no crash leaves a finished trial without
        its curve; memory, and so the sampler, at once. then: called, in a thread, when it has it.
        """
        if number not in self._trials:  # lost to another driver
            return
        trial, curve = self._trials.pop(number), self._curves[number]
        if after is not None:
            self._storage.write_after(after)
        if curve.final_step >= 0:
            is_known = math.isfinite(curve.best)
            run = replace(
                run,
                best=curve.best if is_known else None,
                best_step=curve.best_step if is_known else None,
                final=curve.final if math.isfinite(curve.final) else None,
            )
            if (
                math.isfinite(curve.final)
                and curve.final_step not in self._known(trial).intermediate_values
            ):
                self._storage.set_trial_intermediate_value(
                    compat.trial_id(trial), curve.final_step, curve.final
                )
        was_cut_off = outcome.ending is Ending.INTERRUPTED
        pauses = record_of(self._known(trial)).pauses
        seconds = run.seconds
        if seconds is not None:
            run = replace(run, seconds=seconds + sum(pause.seconds for pause in pauses))
        _note(
            trial,
            TrialRecord(
                ending=None if was_cut_off else outcome.ending,
                why="" if was_cut_off else why(outcome),
                steps=curve.final_step if curve.final_step >= 0 else None,
                run=run,
                log=log if outcome.ending is Ending.FAILED else "",
                findings=tuple(finding.text for finding in outcome.findings),
                verdict=outcome.verdict,
                memory=outcome.memory or Memory(),
                alone=outcome.memory.ran_out if outcome.memory is not None else "",
            ),
        )
        for finding in outcome.findings:
            if finding.rule == "infeasible":
                trial.set_constraint(finding.name, finding.amount)
        if outcome.ending is Ending.PAUSED:
            pause = self._pause(number, outcome, replace(run, seconds=seconds), kept)
            attrs = TrialRecord(pauses=(*pauses, pause)).to_attrs()
            attrs[compat.PAUSED_ATTR] = len(pauses) + 1
            self._storage.pause(compat.trial_id(trial), attrs, then)
        self._thawed.discard(number)
        self._finish(trial, outcome)
        if then is not None and outcome.ending is not Ending.PAUSED:
            self._storage.write_then(compat.trial_id(trial), then)
        self._own_plans.pop(number, None)
        self._feed.learn(self._all_trials(), but=self._not_for_pruner())
        for waiting in self._parked.pop(number, []):
            if was_cut_off:
                put_back(self.study, self._known(waiting), outcome.reason)
            else:
                self._take_over_result(waiting, self._known(trial))

    def _pause(self, number: int, outcome: Outcome, run: Run, kept: Kept | None) -> Pause:
        """What is recorded of a pause that begins now. run: of this attempt."""
        trial, verdict = self._trial(number), outcome.verdict
        return Pause(
            step=max(self._curves[number].final_step, 0),
            rule="" if verdict is None else verdict.rule,
            reason=outcome.reason,
            checkpoint=None if kept is None else kept.step,
            n_bytes=0 if kept is None else kept.n_bytes,
            place=self._place,
            slot=run.slot,
            began="" if trial.datetime_start is None else trial.datetime_start.isoformat(),
            seconds=run.seconds or 0.0,
        )

    def siblings(self, number: int) -> list[int]:
        """The other runs, still under way here, of a trial's setting."""
        leader = self._leader(number)
        return [
            other for other in self._trials if other != number and self._leader(other) == leader
        ]

    def _leader(self, number: int) -> int:
        return leader_of(self._trial(number))

    def _finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        match outcome.ending:
            case Ending.COMPLETED:
                self.study.tell(trial, list(outcome.values))
            case Ending.PRUNED | Ending.DIVERGED | Ending.INFEASIBLE | Ending.PAUSED:
                self.study.tell(trial, state=TrialState.PRUNED)
            case Ending.FAILED:
                self.study.tell(trial, state=TrialState.FAIL)
            case Ending.INTERRUPTED:
                put_back(self.study, self._known(trial), outcome.reason)
            case Ending.DUPLICATE:
                raise ValueError(
                    f"trial {trial.number}: a duplicate is not run, so it has no outcome to tell"
                )

    def _add_dimensions(self, trial: optuna.Trial, extend: Callable[[optuna.Trial], None]) -> None:
        try:
            extend(trial)
            fixed = sorted(trial.params.keys() & self._space.fixed.keys())
            if fixed:
                raise ValueError(
                    f"it suggests {', '.join(fixed)}, which the command line or config fixes"
                )
        except Exception as error:
            raise BadInputError(
                f"hydra.sweeper.custom_search_space failed for trial {trial.number}: {error}"
            ) from error

    def _enqueue_next(self) -> None:
        """Queue the next of the settings known in advance that the study does not have yet."""
        for values in self._queue:
            if not self._settings.was_queued(values):
                self.study.enqueue_trial(dict(values))
                return

    def _known(self, trial: optuna.Trial) -> FrozenTrial:
        return self._storage.live_trial(compat.trial_id(trial))

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.numbered(compat.study_id(self.study), number)

    def _all_trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def _as_sampler(study: optuna.Study) -> AbstractContextManager[None]:
    return study.asking() if isinstance(study, compat.AskedStudy) else nullcontext()


def _thaws(pruner: optuna.pruners.BasePruner) -> bool:
    """Whether a pruner may ever want a trial that it has stopped to go on."""
    ours = [part for part in parts(pruner) if isinstance(part, CurvePruner)]
    return any(type(part).thaw is not CurvePruner.thaw for part in ours)


def _pauses(trial: FrozenTrial) -> tuple[Pause, ...]:
    return record_of(trial).pauses


def _note(trial: optuna.Trial, record: TrialRecord) -> None:
    """Add what a record knows to a trial's attributes."""
    for name, value in record.to_attrs().items():
        trial.set_user_attr(name, value)


def _why_not_thawed(record: TrialRecord) -> str:
    """Of a trial that is paused when its sweep is over."""
    if record.verdict is not None and record.verdict.rule == WAITS_RULE:
        return f"waited from step {record.verdict.step:,} to the end of the sweep"
    return record.why.partition(": ")[2]
