from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hydra
import hypothesis
import pytest
import torch
from omegaconf import DictConfig

# The first example pays for imports and torch's start, so a deadline per example would say nothing
# about our code.
hypothesis.settings.register_profile("trainer", deadline=None)
hypothesis.settings.load_profile("trainer")

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """The trainer's config composed with these overrides, as on the command line."""

    def composed(*overrides: str) -> DictConfig:
        with hydra.initialize_config_dir(str(CONF), version_base=None):
            return hydra.compose("config", list(overrides))

    return composed


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small only lose time to threads that wait for each other."""
    torch.set_num_threads(1)
