"""An Optuna storage that answers from memory and writes behind.

The database never holds up a decision. Optuna's RDB storage takes about 1 ms per value written, and
re-reads running trials from the database at every check of a pruner. Here trials that this process
runs live in memory, where samplers and pruners see them at once; a thread writes them to the
database in the same order. What a crash can lose is what the thread had not yet written: fractions
of a second. Creating a trial and taking a queued one go straight to the database, which numbers
them and decides who gets them, so several processes can share one study.
"""

from __future__ import annotations

import copy
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.study.backend import first_line

# A database that is restarted or briefly locked comes back within this time; after it the sweep
# stops.
PATIENCE_S = 60.0


class LiveStorage(BaseStorage):
    """Wraps a storage for one driver. Use `flush` before others read, and `close` at the end.

    refresh_s: how old what others have written may be to this process; 0 where other drivers share
    the study.
    """

    def __init__(self, backend: BaseStorage, refresh_s: float = 0.0) -> None:
        self._backend = backend
        self._refresh_s = refresh_s
        self._refreshed_s: dict[int, float] = {}  # study id -> when
        self._trials: dict[int, FrozenTrial] = {}  # by trial id
        self._study_of: dict[int, int] = {}
        self._ids: dict[int, dict[int, int]] = {}  # study id -> trial number -> trial id
        self._directions: dict[int, list[StudyDirection]] = {}
        self._mine: set[int] = set()  # trials this process runs: memory is ahead of the database
        self._writes: queue.SimpleQueue[
            tuple[Callable[..., Any], tuple[Any, ...]] | threading.Event | None
        ]
        self._writes = queue.SimpleQueue()
        # One at a time by a lock of our own: SQLite's is waited for in sleeps that are longer than
        # a write takes.
        self._database = threading.Lock()
        self._error: Exception | None = None
        self._writer: threading.Thread | None = None

    # --- what is particular to this storage ---

    def refresh(self, study_id: int) -> None:
        """Take in what other processes have written: trials they queued, run or finished."""
        if time.monotonic() - self._refreshed_s.get(study_id, -math.inf) >= self._refresh_s:
            self._read(study_id)

    def _read(self, study_id: int) -> None:
        self._refreshed_s[study_id] = time.monotonic()
        ids = self._ids.setdefault(study_id, {})
        for trial in self._now(self._backend.get_all_trials, study_id, False):
            if trial._trial_id not in self._mine:
                self._keep(study_id, trial)
        self._ids[study_id] = dict(sorted(ids.items()))

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

    def close(self) -> None:
        """Write what is left and end the thread."""
        if self._writer is not None:
            self._writes.put(None)
            self._writer.join()
            self._writer = None
        self._backend.remove_session()

    def __reduce__(self) -> tuple[Any, ...]:
        self.flush()
        return LiveStorage, (self._backend, self._refresh_s)

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
        if self._writer is None:  # begun late: forking with threads is not safe
            self._writer = threading.Thread(
                target=self._write_all, name="iolaus-storage", daemon=True
            )
            self._writer.start()
        self._writes.put((method, arguments))

    def _write_all(self) -> None:
        while (item := self._writes.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            elif self._error is None:
                method, arguments = item
                self._error = _try_for(
                    PATIENCE_S, functools.partial(self._alone, method, *arguments)
                )

    def _keep(self, study_id: int, trial: FrozenTrial) -> None:
        self._trials[trial._trial_id] = trial
        self._study_of[trial._trial_id] = study_id
        self._ids.setdefault(study_id, {})[trial.number] = trial._trial_id

    def _changed(self, trial_id: int, **fields: Any) -> None:
        # A changed copy: snapshots that were handed out stay as they were.
        trial = copy.copy(self._updatable(trial_id))
        for name, value in fields.items():
            setattr(trial, name, value)
        self._trials[trial_id] = trial
        self._mine.add(trial_id)

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _known(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._trials:
            trial = self._backend.get_trial(trial_id)  # raises KeyError for an unknown one
            for study in self._backend.get_all_studies():
                self._read(study._study_id)
            self._trials.setdefault(trial_id, trial)
        return self._trials[trial_id]

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
        for trial_id in self._ids.pop(study_id, {}).values():
            del self._trials[trial_id], self._study_of[trial_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._backend.set_study_system_attr(study_id, key, value)

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
        trial_id: int = self._now(self._backend.create_new_trial, study_id, template_trial)
        if study_id not in self._ids:
            self._read(study_id)
        trial = self._created(study_id, trial_id)
        self._keep(study_id, trial)
        if trial.state is TrialState.RUNNING:
            self._mine.add(trial_id)
        return trial_id

    def _created(self, study_id: int, trial_id: int) -> FrozenTrial:
        # Optuna's cache has it at hand but does not give it out; to read it again takes 2 ms.
        cached = getattr(self._backend, "_trial_id_to_study_id_and_number", {})
        if trial_id not in cached:
            return self._now(self._backend.get_trial, trial_id)  # type: ignore[no-any-return]
        trial: FrozenTrial = self._backend._studies[study_id].trials[cached[trial_id][1]]  # type: ignore[attr-defined]
        return copy.deepcopy(trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See optuna.storages.BaseStorage."""
        trial = self._updatable(trial_id)
        for other_id in self._ids.get(self._study_of[trial_id], {}).values():
            known = self._trials[other_id].distributions.get(param_name)
            if known is not None:
                check_distribution_compatibility(known, distribution)
                break
        value = distribution.to_external_repr(param_value_internal)
        self._changed(
            trial_id,
            params={**trial.params, param_name: value},
            distributions={**trial.distributions, param_name: distribution},
        )
        self._write(
            self._backend.set_trial_param, trial_id, param_name, param_value_internal, distribution
        )

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """See optuna.storages.BaseStorage. Who takes a queued trial is decided by the database."""
        trial = self._updatable(trial_id)
        if state is TrialState.RUNNING:
            taken: bool = self._now(self._backend.set_trial_state_values, trial_id, state, values)
            if taken:
                self._mine.add(trial_id)
                self._trials[trial_id] = self._now(self._backend.get_trial, trial_id)
            return taken
        finished = datetime.now() if state.is_finished() else trial.datetime_complete
        self._changed(trial_id, state=state, datetime_complete=finished)
        if values is not None:
            self._trials[trial_id].values = list(values)
        self._write(self._backend.set_trial_state_values, trial_id, state, values)
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See optuna.storages.BaseStorage."""
        known = self._updatable(trial_id).intermediate_values
        self._changed(trial_id, intermediate_values={**known, step: intermediate_value})
        self._write(self._backend.set_trial_intermediate_value, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See optuna.storages.BaseStorage."""
        self._changed(trial_id, user_attrs={**self._updatable(trial_id).user_attrs, key: value})
        self._write(self._backend.set_trial_user_attr, trial_id, key, value)

    def set_trial_system_attr(
        self, trial_id: int, key: str, value: Mapping[str, Any] | Any
    ) -> None:
        """See optuna.storages.BaseStorage."""
        self._changed(trial_id, system_attrs={**self._updatable(trial_id).system_attrs, key: value})
        self._write(self._backend.set_trial_system_attr, trial_id, key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See optuna.storages.BaseStorage."""
        return copy.deepcopy(self._known(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See optuna.storages.BaseStorage."""
        if study_id not in self._ids:
            self._backend.get_study_name_from_id(study_id)  # raises KeyError for an unknown study
            self._read(study_id)
        trials = [self._trials[i] for i in self._ids[study_id].values()]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def _broken(error: Exception) -> StorageError:
    return StorageError(
        f"the study's storage cannot be used: {first_line(error)}; mend it and run the same command again to continue"
    )


def _try_for(patience_s: float, write: Callable[[], Any]) -> Exception | None:
    """Try a write again and again until it succeeds (None), or return its error when patience is spent."""
    deadline_s, pause_s = time.monotonic() + patience_s, 0.1
    while True:
        try:
            write()
            return None
        except optuna.exceptions.StorageInternalError as error:
            if time.monotonic() > deadline_s:
                return error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
        except Exception as error:
            return error
