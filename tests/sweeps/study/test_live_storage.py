"""LiveStorage keeps every promise of an Optuna storage, and keeps them in the database too."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.study import backend as backend_module
from iolaus.sweeps.study import live_storage as storage_module
from iolaus.sweeps.study.backend import in_memory, open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.testing import StorageContract


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables in it, to copy: making them is most of the time."""
    path = tmp_path_factory.mktemp("tables") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()
    return path


class TestContract(StorageContract):
    """Optuna's own storage contract, and ours."""

    @pytest.fixture
    def storage(self, tables: Path, tmp_path: Path) -> Iterator[LiveStorage]:
        shutil.copy(tables, tmp_path)
        live = LiveStorage(open_backend(f"sqlite:///{tmp_path}/study.db"))
        yield live
        live.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def make_trials(storage: LiveStorage) -> optuna.Study:
    """Trials of every state, with everything a trial can have."""
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial({"x": 0.25}, user_attrs={"queued": True})
    for i in range(6):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("c", [None, "a", 1])
        for step in range(30):
            trial.report(1 / (step + 1) if step else float("inf"), step)
        trial.set_user_attr("run", {"folder": str(i)})
        if i < 4:
            state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE][
                i
            ]
            study.tell(trial, 0.5 if state is TrialState.COMPLETE else None, state=state)
    study.enqueue_trial({"x": 0.75})
    return study


def as_written(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as another process reads them."""
    (study,) = (backend := open_backend(url)).get_all_studies()
    trials = backend.get_all_trials(study._study_id)
    backend.remove_session()
    return trials


def told(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in vars(trial).items() if "datetime" not in name}


@pytest.mark.parametrize("way", ["flush", "close"])
def test_what_was_written_behind_is_in_the_database(url: str, way: str) -> None:
    """After flush, and after close, another process reads every trial exactly as this one holds
    it.
    """
    storage = LiveStorage(open_backend(url))
    study = make_trials(storage)
    held = study.get_trials()
    getattr(storage, way)()
    assert [told(trial) for trial in as_written(url)] == [told(trial) for trial in held]
    assert len({trial.state for trial in held}) == 5
    storage.close()


def test_what_other_processes_write_is_seen_after_refresh(url: str) -> None:
    """Refresh takes in their trials, and never goes back behind what this process has said of its
    own.
    """
    ours, theirs = LiveStorage(open_backend(url)), LiveStorage(open_backend(url))
    study = make_trials(ours)
    ours.flush()
    other = optuna.load_study(study_name=study.study_name, storage=theirs)
    number = other.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).number
    other.tell(number, 0.1)
    theirs.flush()
    mine = study.ask()
    mine.set_user_attr("why", "not in the database yet")
    ours.refresh(study._study_id)
    assert study.trials[number].value == 0.1
    assert study.trials[mine.number].user_attrs["why"] == "not in the database yet"
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    ours.close()
    theirs.close()


N_QUEUED = 60
ROOT = Path(__file__).parents[3]


def take_all(url: str, barrier: Any) -> list[int]:
    """Take queued trials as fast as possible until none is left; their numbers."""
    storage = LiveStorage(open_backend(url))
    (known,) = storage.get_all_studies()
    study = optuna.load_study(study_name=known.study_name, storage=storage)
    barrier.wait()
    taken = []
    while True:
        storage.refresh(known._study_id)
        number = study._pop_waiting_trial_id()
        if number is None:
            storage.close()
            return taken
        taken.append(number)


def take_all_in_process(url: str, barrier: Any, results: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results.put(take_all(url, barrier))


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_queued_trial_is_taken_once(
    url: str, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many drivers ask at the same time, each queued trial goes to one of them and none is
    forgotten.
    """
    storage = LiveStorage(open_backend(url))
    study = optuna.create_study(storage=storage)
    for i in range(N_QUEUED):
        study.enqueue_trial({"x": i})
    storage.close()
    if workers == "threads":
        import threading

        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            taken = [
                number
                for numbers in pool.map(take_all, [url] * 4, [barrier] * 4)
                for number in numbers
            ]
    else:
        monkeypatch.syspath_prepend(ROOT)  # where the children find this file
        context = multiprocessing.get_context("spawn")
        shared, results = context.Barrier(2), context.SimpleQueue()
        children = [
            context.Process(target=take_all_in_process, args=(url, shared, results))
            for _ in range(2)
        ]
        for child in children:
            child.start()
        taken = [number for _ in children for number in results.get()]
        for child in children:
            child.join()
    assert len(taken) == len(set(taken)) == N_QUEUED


def test_a_transaction_holds_the_write_lock_before_it_reads(url: str, tmp_path: Path) -> None:
    """Between its first look and its write nobody else can write: who reads that a trial waits and
    then takes it is the only one to do so, and never finds that it read an old state.
    """
    engine = open_backend(url)._backend.engine  # type: ignore[attr-defined]
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None, timeout=0)) as other:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM trials").fetchone()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of patience, so that a test need not wait a minute."""
    monkeypatch.setattr(storage_module, "PATIENCE_S", 0.5)
    monkeypatch.setattr(
        backend_module, "_engine_options", lambda url: {"connect_args": {"timeout": 0.2}}
    )


@pytest.mark.usefixtures("hurried")
def test_a_database_that_stays_locked_is_an_error_and_no_hang(url: str, tmp_path: Path) -> None:
    """Reports go on at full speed; flush and check then say what is wrong; asking says it too."""
    storage = LiveStorage(open_backend(url))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        for step in range(100):
            trial.report(1.0, step)
        assert time.monotonic() - began_s < 0.2
        assert len(study.trials[0].intermediate_values) == 100
        with pytest.raises(
            StorageError, match=r"cannot be used: .*locked.*run the same command again"
        ):
            storage.flush()
        with pytest.raises(StorageError):
            storage.check()
        with pytest.raises(StorageError, match="locked"):
            study.ask()
        assert time.monotonic() - began_s < 10
        other.execute("ROLLBACK")
    storage.close()


@pytest.mark.usefixtures("hurried")
def test_looking_waits_for_no_writer_and_lets_none_wait(url: str, tmp_path: Path) -> None:
    """While another process holds the write lock all is read; while a reader is at it, writes go
    through.
    """
    storage = LiveStorage(open_backend(url))
    study = make_trials(storage)
    storage.flush()
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        seen = optuna.load_study(
            study_name=study.study_name, storage=open_backend(url, only_reads=True)
        ).trials
        other.execute("ROLLBACK")
        assert [told(trial) for trial in seen] == [told(trial) for trial in study.trials]
        other.execute("BEGIN")
        other.execute("SELECT * FROM trials").fetchone()  # a reader in the middle of its reading
        study.ask()
        storage.flush()
    storage.close()


@pytest.mark.usefixtures("hurried")
def test_a_short_lock_is_waited_for(url: str, tmp_path: Path) -> None:
    """A database that comes back within our patience has lost nothing, written behind or asked
    for.
    """
    storage = LiveStorage(open_backend(url))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        trial.report(0.5, 3)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(study.ask)
            time.sleep(0.3)
            other.execute("ROLLBACK")
            assert asked.result().number == 1
    storage.flush()
    assert as_written(url)[0].intermediate_values == {3: 0.5}
    storage.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
        ("postgresql+psycopg2://nobody@127.0.0.1:1/none", "postgresql"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_in_one_sentence(url: str, words: str) -> None:
    """The sentence names the URL, the cause and the option."""
    with pytest.raises(StorageError, match=words) as refused:
        open_backend(url)
    assert url in str(refused.value)
    assert "check hydra.sweeper.storage" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_storage_in_memory_is_one_for_all_threads() -> None:
    """SQLite's name for memory means a study that all threads share and that is gone at the end."""
    assert in_memory("sqlite://")
    assert not in_memory("sqlite:///study.db")
    storage = LiveStorage(open_backend("sqlite:///:memory:"))
    held = make_trials(storage).get_trials()
    storage.flush()
    assert [told(trial) for trial in storage._backend.get_all_trials(0)] == [
        told(trial) for trial in held
    ]
    storage.close()


@given(steps=st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=False)), max_size=30))
@settings(max_examples=15)
def test_snapshots_stay_as_they_were(steps: list[tuple[int, float]]) -> None:
    """A trial that was handed out does not change under its reader."""
    storage = LiveStorage(optuna.storages.InMemoryStorage())
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    snapshots = []
    for step, value in steps:
        before = study.get_trials(deepcopy=False)[0]
        snapshots.append((before, dict(before.intermediate_values)))
        storage.set_trial_intermediate_value(trial._trial_id, step, value)
    assert all(snapshot.intermediate_values == kept for snapshot, kept in snapshots)
    assert study.trials[0].intermediate_values == dict(steps)
    storage.close()


def test_the_database_waits_for_what_has_to_come_first(url: str) -> None:
    """After `write_after` memory is ahead, and the database gets the rest when the event is set."""
    live = LiveStorage(open_backend(url))
    study = optuna.create_study(storage=live, study_name="s")
    trial, first = study.ask(), threading.Event()
    trial.set_user_attr("before", 1)
    live.write_after(first)
    study.tell(trial, 0.5)
    others = study.ask()  # goes straight to the database, which nobody holds meanwhile
    time.sleep(0.2)
    seen = optuna.load_study(study_name="s", storage=url).trials
    assert [t.state for t in seen] == [TrialState.RUNNING, TrialState.RUNNING]
    assert seen[0].user_attrs == {"before": 1}
    assert study.trials[0].state is TrialState.COMPLETE
    first.set()
    live.flush()
    seen = optuna.load_study(study_name="s", storage=url).trials
    assert seen[0].state is TrialState.COMPLETE
    assert seen[others.number].state is TrialState.RUNNING
    live.close()
