"""A study on a PostgreSQL server: the storage contract, drivers that begin at once, a restart."""

from __future__ import annotations

import gc
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.folder import STORAGE_VARIABLE
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.testing import StorageContract
from tests.postgres import PASSWORD

ROOT = Path(__file__).parents[3]
N_ROUNDS, N_DRIVERS = 6, 3
# Optuna's suite pickles storages, and leaves the copies open; they may be found after any test.
pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")


@pytest.fixture(scope="module")
def tables(postgres: Any) -> Iterator[str]:
    """A database with Optuna's tables in it, to copy: making them is most of the time."""
    url = str(postgres.new_database())
    LiveStorage(open_backend(url)).close()
    yield url
    gc.collect()  # what Optuna's suite has left open, while its warnings are ignored


class TestContract(StorageContract):
    """Optuna's own storage contract, and ours."""

    @pytest.fixture
    def storage(self, postgres: Any, tables: str) -> Iterator[LiveStorage]:
        live = LiveStorage(open_backend(postgres.new_database(like=tables)))
        yield live
        live.close()


def begin(urls: list[str], high: int, barrier: Any, results: Any) -> None:
    """Begin a study in each database, together with other processes; an error is a result too."""
    parse = OverridesParser.create().parse_overrides
    space = parse_space({}, [f"x=interval(0, {high})"], parse, lambda _: False)
    pruner = optuna.pruners.NopPruner()
    for url in urls:
        barrier.wait(30)
        try:
            storage = LiveStorage(open_backend(url))
            study = open_study(storage, "s", ["minimize"], None, pruner, space)
            study.ask()
            results.put((url, study.study_name))
            storage.close()
        except Exception as error:
            results.put((url, error if isinstance(error, BadInputError) else repr(error)))


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_drivers_that_begin_at_the_same_moment_share_one_study(
    where: str, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds it, whoever makes tables and study in an empty database; one that searches another
    space is refused, though it begins before the first has written what it searches.
    """
    if where == "sqlite":
        urls = [f"sqlite:///{tmp_path}/{i}.db" for i in range(N_ROUNDS)]
    else:
        server = request.getfixturevalue("postgres")
        urls = [server.new_database() for _ in range(N_ROUNDS)]
    monkeypatch.syspath_prepend(ROOT)  # where the children find this file
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(N_DRIVERS), context.SimpleQueue()
    drivers = [
        context.Process(target=begin, args=(urls, 2 if i == 0 else 1, barrier, results))
        for i in range(N_DRIVERS)
    ]
    for driver in drivers:
        driver.start()
    found = [results.get() for _ in urls for _ in drivers]
    for driver in drivers:
        driver.join()
    for url in urls:
        of_url = [result for where, result in found if where == url]
        refused = [result for result in of_url if isinstance(result, BadInputError)]
        # Either the one was first, and the others are refused, or the other way round.
        assert len(refused) in (1, N_DRIVERS - 1), of_url
        assert all("searches another space" in str(error) for error in refused)
        assert of_url.count("s") == N_DRIVERS - len(refused), of_url
        with closing(LiveStorage(open_backend(url))) as storage:
            study = optuna.load_study(study_name="s", storage=storage)
            assert len(study.trials) == N_DRIVERS - len(refused)


def test_a_sweep_outlives_a_restart_of_its_server(
    sweep: Any, cli: Any, eventually: Callable[..., Any], postgres: Any, tmp_path: Path
) -> None:
    """Trials run on and are recorded when the server is back; all commands read such a study, and
    the password is printed nowhere.
    """
    url, folder, diary = postgres.new_database(), tmp_path / "study", tmp_path / "diary"

    def asked(command: str, *options: str) -> Any:
        done = cli(command, folder, *options, "--json", **{STORAGE_VARIABLE: url}).ok()
        assert PASSWORD not in done.out + done.err
        return json.loads(done.out)

    given = [
        *("trouble.py", "hydra/sweeper/sampler=grid", "x=range(1, 9)", "do=report"),
        *("n_steps=20", "step_s=0.02", f"diary={diary}", "hydra.sweeper.n_jobs=2"),
        *("hydra.sweeper.storage=${oc.env:DB}", "hydra.sweeper.study_name=s"),
    ]
    run = sweep(*given, DB=url)
    eventually(lambda: diary.is_file() and len(diary.read_text().splitlines()) >= 3)
    postgres.stop()
    time.sleep(1)
    postgres.start()
    run.ok()
    assert PASSWORD not in run.out + run.err
    assert asked("status")["n_by_state"] == {"complete": 8}
    assert len(diary.read_text().splitlines()) == 8
    with closing(LiveStorage(open_backend(url))) as storage:
        trials = optuna.load_study(study_name="s", storage=storage).trials
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert sorted(t.params["x"] for t in trials) == list(range(1, 9))
    assert all(len(t.intermediate_values) == 20 for t in trials)
    assert len(asked("rank")["settings"]) == 8
    assert Path(asked("report")["html"]).is_file()
    assert asked("retry", "--failed")["queued_again"] == []
