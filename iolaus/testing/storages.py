"""What every storage promises: Optuna's own contract, and what a sweep relies on beyond it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import optuna
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

__all__ = ["StorageContract"]

N_QUEUED = 40
N_THREADS = 4


class StorageContract(StorageTestCase):
    """Subclass it as `TestMyStorage` with a pytest fixture `storage` that gives an empty one."""

    def test_what_was_handed_out_does_not_change(self, storage: BaseStorage) -> None:
        """A trial, once given to a reader, stays as it was whatever is reported afterwards."""
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        for step in range(20):
            before = study.get_trials(deepcopy=False)[0]
            kept = dict(before.intermediate_values)
            trial.report(1.0 / (step + 1), step)
            assert before.intermediate_values == kept, f"step {step} changed an earlier copy"
        assert len(study.trials[0].intermediate_values) == 20

    def test_a_queued_trial_is_taken_once(self, storage: BaseStorage) -> None:
        """However many threads ask at once, each queued setting is given out once, none is lost."""
        study = optuna.create_study(storage=storage)
        for i in range(N_QUEUED):
            study.enqueue_trial({"x": float(i)})
        together = threading.Barrier(N_THREADS)

        def take(_: int) -> list[float]:
            together.wait()
            trials = [study.ask() for _ in range(N_QUEUED // N_THREADS)]
            return [trial.suggest_float("x", -1, N_QUEUED) for trial in trials]

        with ThreadPoolExecutor(N_THREADS) as pool:
            taken = sorted(x for xs in pool.map(take, range(N_THREADS)) for x in xs)
        assert taken == [float(i) for i in range(N_QUEUED)], f"taken were {taken}"

    def test_a_trial_is_finished_once(self, storage: BaseStorage) -> None:
        """What was told of a trial stands: a second result is refused, and the first is kept."""
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        study.tell(trial, 0.5)
        try:
            study.tell(trial, 0.1)
        except ValueError:
            pass
        else:
            raise AssertionError("a finished trial took a second result")
        assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 0.5)
