"""A study on a PostgreSQL server: the storage contract, two drivers at once, a restart."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.testing import StorageContract


@pytest.fixture(scope="module")
def tables(postgres: Any) -> Iterator[str]:
    """A database with Optuna's tables in it, to copy: making them is most of the time."""
    url = str(postgres.new_database())
    LiveStorage(open_backend(url)).close()
    yield url
    gc.collect()  # what Optuna's suite has left open, while its warnings are ignored


# Optuna's suite pickles storages, and leaves the copies open.
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
class TestContract(StorageContract):
    """Optuna's own storage contract, and ours."""

    @pytest.fixture
    def storage(self, postgres: Any, tables: str) -> Iterator[LiveStorage]:
        live = LiveStorage(open_backend(postgres.new_database(like=tables)))
        yield live
        live.close()
