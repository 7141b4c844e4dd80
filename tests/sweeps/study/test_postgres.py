"""A study on a PostgreSQL server: the storage contract, two drivers at once, a restart."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.testing import StorageContract


@pytest.fixture(scope="module")
def tables(postgres: Any) -> str:
    """A database with Optuna's tables in it, to copy: making them is most of the time."""
    url = str(postgres.new_database())
    LiveStorage(open_backend(url)).close()
    return url


class TestContract(StorageContract):
    """Optuna's own storage contract, and ours."""

    @pytest.fixture
    def storage(self, postgres: Any, tables: str) -> Iterator[LiveStorage]:
        live = LiveStorage(open_backend(postgres.new_database(like=tables)))
        yield live
        live.close()
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # Optuna's suite pickles storages, and leaves the copies open
