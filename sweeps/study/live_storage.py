"""An Optuna storage that answers from memory and writes behind.

The database never holds up a decision. Optuna's RDB storage takes about 1 ms per value written, and
re-reads running trials from the database at every check of a pruner. Here trials that this process
runs live in memory, where samplers and pruners see them at once; a thread writes them to the
database in the same order, those of a tenth of a second in one transaction. What a crash can lose
is what the thread had not yet written: fractions of a second. Creating a trial and taking a queued
one go straight to the database, which numbers them and decides who gets them, so several processes
can share one study.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import StorageError, is_disk_full
from iolaus.sweeps.study.backend import first_line

__all__ = ["PATIENCE_S", "LiveStorage", "OutdatedError"]

log = logging.getLogger("sweeps")

# A database that is restarted or briefly locked comes back within this time; after it the sweep
# stops.
PATIENCE_S = 180.0
# A full disk stays full, as a rule, until the sweep has said so.
PATIENCE_WITH_DISK_S = 5.0
# How long a write may wait for others, which share its transaction, and how many at most.
GATHER_S = 0.1
MOST_GATHERED = 500


class OutdatedError(Exception):
    """Another driver has changed the study since it was looked at: look again, then decide."""


class LiveStorage(BaseStorage):
    """Wraps a storage for one driver. Use `flush` before others read, and `close` at the end.

    refresh_s: how old what others have written may be to this process; 0 where other drivers share
    the study. driver: the name of this driver in a study that several share, "" where it is alone.
    With a name, trials that it creates or takes are its own from the first moment; what is written
    to them is written only as long as they are, decided by the database; and a trial is created
    only if `may_create` says so and the study has no trial that this process has not seen, else
    OutdatedError is raised.
    """

    def __init__(self, backend: BaseStorage, refresh_s: float = 0.0, driver: str = "") -> None:
        self._backend = backend
        self._refresh_s = refresh_s
        self.driver = driver
        self.may_create = True
        self._lost: queue.SimpleQueue[int] = queue.SimpleQueue()  # trials that others have now
        self._refreshed_s: dict[int, float] = {}  # study id -> when
        self._known_trials: dict[int, _Trials] = {}  # by study id
        self._place: dict[int, tuple[int, int]] = {}  # trial id -> study id, number
        self._directions: dict[int, list[StudyDirection]] = {}
        self._mine: set[int] = set()  # trials this process runs: memory is ahead of the database
        # See `pause`, by trial id.
        self._to_pause: dict[int, tuple[Mapping[str, Any], Callable[[], None] | None]] = {}
        self._writes: queue.SimpleQueue[_Item | threading.Event | None] = queue.SimpleQueue()
        # One at a time by a lock of our own: SQLite's is waited for in sleeps that are longer than
        # a write takes.
        self._database = threading.Lock()
        self._error: Exception | None = None
        self._writer: threading.Thread | None = None
        self._system_attrs: dict[int, Mapping[str, Any]] = {}  # by study id, as last looked at
        self._is_looking = False

    # --- what is particular to this storage ---

    def refresh(self, study_id: int) -> None:
        """Take in what other processes have written: trials they queued, run or finished."""
        if time.monotonic() - self._refreshed_s.get(study_id, -math.inf) >= self._refresh_s:
            self._read(study_id)

    def _read(self, study_id: int) -> None:
        self._refreshed_s[study_id] = time.monotonic()
        known = self._known_trials.setdefault(study_id, _Trials())
        # A finished trial never changes; of those that this process runs, memory is ahead.
        others = [
            trial
            for trial in (*known.unfinished(), *known.paused())
            if compat.trial_id(trial) not in self._mine
        ]
        since = (others, len(known.by_number), known.last_id)
        for trial in self._now(compat.news, self._backend, study_id, *since):
            if not known.has_pause_of(trial):
                self._keep(study_id, trial)

    def last_system_attrs(self, study_id: int) -> Mapping[str, Any] | None:
        """A study's system attributes as last seen; None before. Never waits for the database.

        Has the writing thread look again, unless the last look is still to come.
        """
        if not self._is_looking:
            self._is_looking = True
            self._write(self._look, study_id)
        return self._system_attrs.get(study_id)

    def note(self, study_id: int, key: str, value: Any) -> None:
        """Write a study's system attribute, later: nobody waits for the database."""
        self._write(self._backend.set_study_system_attr, study_id, key, value)

    def _look(self, study_id: int) -> None:
        try:
            self._system_attrs[study_id] = self._backend.get_study_system_attrs(study_id)
        except optuna.exceptions.StorageInternalError as error:  # those who need it will notice
            log.debug("no look at the study's attributes: %s", error)
        finally:
            self._is_looking = False

    def running_here(self, study_id: int) -> list[FrozenTrial]:
        """The trials that this process has begun and not ended, by number."""
        unfinished = self._known_trials[study_id].unfinished()
        return [
            trial
            for trial in unfinished
            if trial.state is TrialState.RUNNING and compat.trial_id(trial) in self._mine
        ]

    def flush(self) -> None:
        """Wait until everything is in the database. Raises StorageError if it cannot be written."""
        if self._writer is not None:
            written = threading.Event()
            self._writes.put(written)
            written.wait()
        self.check()

    def check(self) -> None:
        """Raise StorageError if a write has failed for good."""
        if self._error is not None:
            raise _broken(self._error) from self._error

    def write_after(self, event: threading.Event) -> None:
        """Write nothing that comes from now on before the event is set; memory has it at once."""
        self._put(_Wait(event))

    def write_then(self, trial_id: int, act: Callable[[], None]) -> None:
        """Do something, in the writing thread, when all that came before is in the database.

        Not where the trial was lost to another driver.
        """

        def then() -> None:
            owner = self._backend.get_trial(trial_id).user_attrs.get(compat.DRIVER_ATTR, "")
            if owner == self.driver:
                act()

        self._write(then if self.driver else act)

    def close(self) -> None:
        """Write what is left, end the thread, and leave the database."""
        if self._writer is not None:
            self._writes.put(None)
            self._writer.join()
            self._writer = None
        compat.disconnect(self._backend)

    def give_back(self, trial_id: int, user_attrs: Mapping[str, Any]) -> bool:
        """Let a running trial wait, with these attributes; the next that asks takes it.

        Whose it is may not have changed since it was looked at: False if another took it, or it
        is over. A trial of this process waits at once in memory.
        """
        trial = self._updatable(trial_id)
        owner = trial.user_attrs.get(compat.DRIVER_ATTR, "")
        if trial_id in self._mine:
            attrs = {**trial.user_attrs, **user_attrs, compat.DRIVER_ATTR: ""}
            self._changed(trial_id, state=TrialState.WAITING, user_attrs=attrs)
            self._write(self._give_back, trial_id, owner, user_attrs)
            return True
        given: bool = self._now(compat.give_back, self._backend, trial_id, owner, user_attrs)
        self._keep(self._place[trial_id][0], self._now(self._backend.get_trial, trial_id))
        return given

    def pause(
        self, trial_id: int, user_attrs: Mapping[str, Any], then: Callable[[], None] | None = None
    ) -> None:
        """Have what is told next of a trial, that it was pruned, be a pause, with these attributes.

        They mark it (`optuna_compat.PAUSED_ATTR`). In the database it waits; here, and wherever
        such a trial is read, it is pruned until it is thawed. then: called, in a thread, when it is
        in the database.
        """
        self._to_pause[trial_id] = user_attrs, then

    def thaw(self, trial_id: int, user_attrs: Mapping[str, Any]) -> bool:
        """Have a paused trial run here, with these attributes; False if another driver has it."""
        if trial_id in self._mine:  # paused a moment ago
            self.flush()
        n_paused = self.live_trial(trial_id).user_attrs[compat.PAUSED_ATTR]
        taken = self._take(trial_id, n_paused, user_attrs)
        if taken:
            self._mine.add(trial_id)
        self._keep(self._place[trial_id][0], self._now(self._backend.get_trial, trial_id))
        return taken

    def change_paused(
        self, trial_id: int, user_attrs: Mapping[str, Any], then: Callable[[], None]
    ) -> None:
        """Give a paused trial other attributes.

        then: called, in a thread, when the database has them; not where another driver was quicker.
        """
        trial = self.live_trial(trial_id)
        n_paused = trial.user_attrs[compat.PAUSED_ATTR]
        changed = copy.copy(trial)
        changed.user_attrs = {**trial.user_attrs, **user_attrs}
        self._keep(self._place[trial_id][0], changed)

        def change() -> None:
            if compat.change_waiting(self._backend, trial_id, user_attrs, n_paused):
                then()

        self._write(change)

    def close_paused(self, trial_id: int, user_attrs: Mapping[str, Any]) -> bool:
        """End a paused trial as pruned, with these attributes; False if another driver has it."""
        trial = self.live_trial(trial_id)
        n_paused = trial.user_attrs[compat.PAUSED_ATTR]
        end = (user_attrs, n_paused, TrialState.PRUNED, trial.values)
        closed: bool = self._now(compat.change_waiting, self._backend, trial_id, *end)
        if closed:
            trial = copy.copy(trial)
            trial.user_attrs = {**trial.user_attrs, **user_attrs}
        else:
            trial = self._now(self._backend.get_trial, trial_id)
        self._keep(self._place[trial_id][0], trial)
        return closed

    def take_lost(self) -> list[FrozenTrial]:
        """Trials of this process that others took over since the last call, as they are now.

        What was written to them since is in memory no more, and never came into the database.
        """
        lost = set()
        while not self._lost.empty():
            lost.add(self._lost.get())
        for trial_id in lost:
            self._mine.discard(trial_id)
            self._keep(self._place[trial_id][0], self._now(self._backend.get_trial, trial_id))
        return [self.live_trial(trial_id) for trial_id in sorted(lost)]

    def check_leases(self) -> None:
        """Have the database asked whether the trials of this process are still its own."""
        for trials in self._known_trials.values():
            for trial in trials.of((TrialState.RUNNING,)):
                if compat.trial_id(trial) in self._mine:
                    self._write_trial("", compat.trial_id(trial))

    def beat(self, study_id: int, key: str, value: Any) -> dict[str, Any]:
        """Write a study's system attribute from any thread; returns all, as they are now."""
        self._alone(self._backend.set_study_system_attr, study_id, key, value)
        attrs: dict[str, Any] = self._alone(self._backend.get_study_system_attrs, study_id)
        return attrs

    def __reduce__(self) -> tuple[Any, ...]:
        self.flush()
        return LiveStorage, (self._backend, self._refresh_s, self.driver)

    def _now(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """The database's answer, waited for. Raises StorageError if it gives none."""
        answers: list[Any] = []
        error = _try_for(PATIENCE_S, lambda: answers.append(self._alone(method, *arguments)))
        if isinstance(error, optuna.exceptions.StorageInternalError):
            raise _broken(error) from error
        if error is not None:
            raise error
        return answers[0]

    def _alone(self, method: Callable[..., Any], *arguments: Any) -> Any:
        with self._database:
            return method(*arguments)

    def _write(self, method: Callable[..., Any], *arguments: Any) -> None:
        self._put((method, arguments))

    def _write_trial(self, method: str, trial_id: int, *arguments: Any) -> None:
        """Have a method of the storage called, with others of the same time in one transaction."""
        self._put(compat.TrialWrite(method, trial_id, arguments, datetime.now()))

    def _put(self, item: _Item) -> None:
        if self._writer is None:  # begun late: forking with threads is not safe
            self._writer = threading.Thread(
                target=self._write_all, name="iolaus-storage", daemon=True
            )
            self._writer.start()
        self._writes.put(item)

    def _write_all(self) -> None:
        gathered: list[compat.TrialWrite] = []
        gathered_s = 0.0  # when the first of these came
        while True:
            try:
                wait_s = max(0.0, gathered_s + GATHER_S - time.monotonic()) if gathered else None
                item = self._writes.get(timeout=wait_s)
            except queue.Empty:
                self._write_gathered(gathered)
                continue
            if isinstance(item, _Wait) and item.until.is_set():
                continue
            if isinstance(item, compat.TrialWrite):
                gathered_s = gathered_s if gathered else time.monotonic()
                gathered.append(item)
                if len(gathered) >= MOST_GATHERED:
                    self._write_gathered(gathered)
                continue
            self._write_gathered(gathered)
            if item is None:
                return
            if isinstance(item, threading.Event):
                item.set()
            elif isinstance(item, _Wait):
                item.until.wait()
            else:
                method, arguments = item
                self._write_now(functools.partial(self._alone, method, *arguments))

    def _write_gathered(self, gathered: list[compat.TrialWrite]) -> None:
        """Write what has gathered, of which nothing is left to be written then."""

        def write() -> None:
            for trial_id in self._alone(compat.write_trials, self._backend, gathered, self.driver):
                self._lost.put(trial_id)

        if gathered:
            self._write_now(write)
            gathered.clear()

    def _write_now(self, write: Callable[[], Any]) -> None:
        if self._error is None:
            self._error = _try_for(PATIENCE_S, write)

    def _keep(self, study_id: int, trial: FrozenTrial) -> None:
        if compat.is_paused(trial):
            trial = compat.as_pruned(trial, len(self.get_study_directions(study_id)))
        self._place[compat.trial_id(trial)] = study_id, trial.number
        self._known_trials.setdefault(study_id, _Trials()).put(trial)

    def _changed(self, trial_id: int, **fields: Any) -> None:
        # A changed copy: snapshots that were handed out stay as they were.
        trial = copy.copy(self._updatable(trial_id))
        for name, value in fields.items():
            setattr(trial, name, value)
        self._keep(self._place[trial_id][0], trial)
        self._mine.add(trial_id)

    def _take(self, trial_id: int, n_paused: int, user_attrs: Mapping[str, Any]) -> bool:
        attrs = {**user_attrs, **({compat.DRIVER_ATTR: self.driver} if self.driver else {})}
        arguments = (trial_id, attrs, n_paused, TrialState.RUNNING)
        taken: bool = self._now(compat.change_waiting, self._backend, *arguments)
        return taken

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self.live_trial(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _give_back(
        self,
        trial_id: int,
        owner: str,
        user_attrs: Mapping[str, Any],
        then: Callable[[], None] | None = None,
    ) -> None:
        """From here on any process may have the trial: the database knows better than memory."""
        if not compat.give_back(self._backend, trial_id, owner, user_attrs):
            self._lost.put(trial_id)
        elif then is not None:
            then()
        self._mine.discard(trial_id)

    def forget_reports(self, trial_id: int, from_step: int) -> None:
        """A trial of this process goes on: what it had reported from there on is not its curve."""
        before = self._updatable(trial_id).intermediate_values
        kept = {step: value for step, value in before.items() if step < from_step}
        if len(kept) < len(before):
            self._changed(trial_id, intermediate_values=kept)
            self._write(self._forget_reports, trial_id, from_step)

    def _forget_reports(self, trial_id: int, from_step: int) -> None:
        forget = functools.partial(compat.forget_reports, self._backend, trial_id, from_step)
        if not self.driver:
            forget()
        elif not compat.if_owned(self._backend, trial_id, self.driver, forget):
            self._lost.put(trial_id)

    def paused(self, study_id: int) -> list[FrozenTrial]:
        """The trials of a study that are paused, by number, for looking at."""
        return self._known_trials[study_id].paused() if study_id in self._known_trials else []

    def live_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now, for looking at: `get_trial` without its copy."""
        if trial_id not in self._place:
            self._backend.get_trial(trial_id)  # raises KeyError for an unknown one
            for study in self._backend.get_all_studies():
                self._read(compat.study_id(study))
        study_id, number = self._place[trial_id]
        return self._known_trials[study_id].by_number[number]

    def numbered(self, study_id: int, number: int) -> FrozenTrial:
        """The trial of a study that has this number, as `live_trial`; no other is looked at."""
        if study_id not in self._known_trials:
            self._read(study_id)
        return self._known_trials[study_id].by_number[number]

    # --- studies: straight from the database ---

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """See optuna.storages.BaseStorage."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """See optuna.storages.BaseStorage."""
        self.flush()
        self._backend.delete_study(study_id)
        self._known_trials.pop(study_id, None)
        self._place = {i: place for i, place in self._place.items() if place[0] != study_id}

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._now(self._backend.set_study_user_attr, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._now(self._backend.set_study_system_attr, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """See optuna.storages.BaseStorage."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See optuna.storages.BaseStorage."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See optuna.storages.BaseStorage."""
        if study_id not in self._directions:
            self._directions[study_id] = self._backend.get_study_directions(study_id)
        return self._directions[study_id]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See optuna.storages.BaseStorage."""
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See optuna.storages.BaseStorage."""
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        """See optuna.storages.BaseStorage."""
        return self._backend.get_all_studies()

    # --- trials: from memory, written behind ---

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See optuna.storages.BaseStorage. The database gives the number."""
        known = self._known_trials.get(study_id, _Trials())
        trial = self._create(study_id, template_trial, known)
        if trial.number > len(known.by_number):  # others made some meanwhile
            self._read(study_id)
        self._keep(study_id, trial)
        trial_id = compat.trial_id(trial)
        if trial.state is TrialState.RUNNING:
            self._mine.add(trial_id)
        return trial_id

    def _create(self, study_id: int, template: FrozenTrial | None, known: _Trials) -> FrozenTrial:
        if template is None:
            if self.driver and not self.may_create:  # the queued trial to be taken is another's now
                raise OutdatedError
            attrs = {compat.DRIVER_ATTR: self.driver} if self.driver else {}
            template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attrs)
        made: FrozenTrial | None = self._now(
            functools.partial(compat.create_trial, is_only_next=bool(self.driver)),
            *(self._backend, study_id, template, len(known.by_number), known.last_id),
        )
        if made is None:
            raise OutdatedError
        return made

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See optuna.storages.BaseStorage."""
        trial = self._updatable(trial_id)
        known = self._known_trials[self._place[trial_id][0]].distributions.get(param_name)
        if known is not None:
            check_distribution_compatibility(known, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._changed(
            trial_id,
            params={**trial.params, param_name: value},
            distributions={**trial.distributions, param_name: distribution},
        )
        self._write_trial(
            "set_trial_param", trial_id, param_name, param_value_internal, distribution
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See optuna.storages.BaseStorage. Who takes a queued trial is decided by the database."""
        trial = self._updatable(trial_id)
        if state is TrialState.WAITING:
            return self.give_back(trial_id, {})
        if state is TrialState.RUNNING:
            if trial_id in self._mine:  # given back a moment ago
                self.flush()
            taken = self._take(trial_id, 0, {})
            if taken:
                self._mine.add(trial_id)
                study_id = self._place[trial_id][0]
                self._keep(study_id, self._now(self._backend.get_trial, trial_id))
            return taken
        finished = datetime.now() if state.is_finished() else trial.datetime_complete
        results: dict[str, Any] = {} if values is None else {"values": list(values)}
        if trial_id in self._to_pause:
            attrs, then = self._to_pause.pop(trial_id)
            owner = trial.user_attrs.get(compat.DRIVER_ATTR, "")
            results["user_attrs"] = {**trial.user_attrs, **attrs, compat.DRIVER_ATTR: ""}
            self._changed(trial_id, state=state, datetime_complete=finished, **results)
            self._write(self._give_back, trial_id, owner, attrs, then)
            return True
        self._changed(trial_id, state=state, datetime_complete=finished, **results)
        self._write_trial("set_trial_state_values", trial_id, state, values)
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See optuna.storages.BaseStorage."""
        known = self._updatable(trial_id).intermediate_values
        self._changed(trial_id, intermediate_values={**known, step: intermediate_value})
        self._write_trial("set_trial_intermediate_value", trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._changed(trial_id, user_attrs={**self._updatable(trial_id).user_attrs, key: value})
        self._write_trial("set_trial_user_attr", trial_id, key, value)

    def set_trial_system_attr(
        self, trial_id: int, key: str, value: Mapping[str, Any] | Any
    ) -> None:
        """See optuna.storages.BaseStorage."""
        self._changed(trial_id, system_attrs={**self._updatable(trial_id).system_attrs, key: value})
        self._write_trial("set_trial_system_attr", trial_id, key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See optuna.storages.BaseStorage."""
        return copy.deepcopy(self.live_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See optuna.storages.BaseStorage."""
        if study_id not in self._known_trials:
            self._backend.get_study_name_from_id(study_id)  # raises KeyError for an unknown study
            self._read(study_id)
        trials = self._known_trials[study_id].of(states)
        return copy.deepcopy(trials) if deepcopy else trials


@dataclass(frozen=True, slots=True)
class _Wait:
    """Among the writes: those that follow come after this event."""

    until: threading.Event


_Item: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]] | compat.TrialWrite | _Wait


class _Trials:
    """The trials of one study, so kept that no question costs a look at each finished one."""

    def __init__(self) -> None:
        self.by_number: list[FrozenTrial] = []
        self.distributions: dict[str, BaseDistribution] = {}  # of the first trial that has it
        self._unfinished: set[int] = set()
        self._paused: set[int] = set()

    def put(self, trial: FrozenTrial) -> None:
        """Take a new trial, the next by number, or a new state of a known one."""
        if trial.number == len(self.by_number):
            self.by_number.append(trial)
        else:
            self.by_number[trial.number] = trial
        if trial.state.is_finished():
            self._unfinished.discard(trial.number)
        else:
            self._unfinished.add(trial.number)
        if compat.is_paused(trial):
            self._paused.add(trial.number)
        else:
            self._paused.discard(trial.number)
        for name, distribution in trial.distributions.items():
            self.distributions.setdefault(name, distribution)

    @property
    def last_id(self) -> int:
        """The id of the last trial, -1 where there is none."""
        return compat.trial_id(self.by_number[-1]) if self.by_number else -1

    def unfinished(self) -> list[FrozenTrial]:
        """Those that run or wait, by number."""
        return [self.by_number[number] for number in sorted(self._unfinished)]

    def has_pause_of(self, trial: FrozenTrial) -> bool:
        """Whether a trial is paused, and no more often than is known: there is nothing new."""
        if trial.number not in self._paused or not compat.is_paused(trial):
            return False
        n_paused = self.by_number[trial.number].user_attrs[compat.PAUSED_ATTR]
        return bool(trial.user_attrs[compat.PAUSED_ATTR] == n_paused)

    def paused(self) -> list[FrozenTrial]:
        """Those that were stopped and may go on, which are shown as pruned, by number."""
        return [self.by_number[number] for number in sorted(self._paused)]

    def of(self, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """Those in these states, all if None, by number, in a list of the caller's own."""
        if states is None:
            return list(self.by_number)
        if any(state.is_finished() and state in states for state in TrialState):
            return [trial for trial in self.by_number if trial.state in states]
        return [trial for trial in self.unfinished() if trial.state in states]


def _broken(error: Exception) -> StorageError:
    do = "free some space on its disk" if is_disk_full(error.__cause__ or error) else "put it right"
    return StorageError(
        f"the study's storage cannot be used: {first_line(error)}; {do} and run the same "
        "command again to continue"
    )


def _try_for(patience_s: float, write: Callable[[], Any]) -> Exception | None:
    """Try a write until it succeeds (None); its error when patience is spent."""
    began_s, pause_s = time.monotonic(), 0.1
    while True:
        try:
            write()
            return None
        except optuna.exceptions.StorageInternalError as error:
            if is_disk_full(error.__cause__ or error):
                patience_s = min(patience_s, PATIENCE_WITH_DISK_S)
            if time.monotonic() - began_s > patience_s:
                return error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
        except Exception as error:
            return error
