from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hydra
import hypothesis
import numpy as np
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


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two class folders of ten 32 x 32 PNGs in colour: cats are dark, dogs are light."""
    from matplotlib.image import imsave

    rng = np.random.default_rng(0)
    for name, level in (("cat", 0.0), ("dog", 0.5)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            imsave(tmp_path / "images" / name / f"{i}.png", level + rng.random((32, 32, 3)) / 2)
    return tmp_path / "images"
