from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
from hydra.version import VersionBase

# The first example pays for imports, so a deadline per example would say nothing about our code.
hypothesis.settings.register_profile("sweeps", deadline=None)
hypothesis.settings.load_profile("sweeps")


@pytest.fixture(autouse=True, scope="module")
def _hydra_as_it_was() -> Iterator[None]:
    # Composing sets Hydra's version for the whole process, on which other tests depend.
    before = VersionBase.instance().version_base
    yield
    VersionBase.instance().version_base = before
