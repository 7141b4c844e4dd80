"""LiveStorage keeps every promise of an Optuna storage, and keeps them in the database too."""

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase

from sweeps.errors import StorageError
from sweeps.storage import LiveStorage, open_backend


class TestContract(StorageTestCase):
    """Optuna's own storage contract."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[LiveStorage]:
        live = LiveStorage(open_backend(f"sqlite:///{tmp_path}/study.db"))
        yield live
        live.close()
