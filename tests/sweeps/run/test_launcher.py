"""A sweep runs on this machine: a launcher that would not is refused, not ignored."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._launcher import jobs_asked_for

BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}


@pytest.mark.parametrize(
    ("launcher", "n_jobs", "slots"),
    [
        (BASIC, "auto", "auto"),
        (BASIC, 3, 3),
        (JOBLIB | {"n_jobs": 4}, "auto", 4),
        (JOBLIB | {"n_jobs": 4}, 2, 2),
        (JOBLIB | {"n_jobs": -1}, "auto", "auto"),
    ],
)
def test_the_number_of_jobs_of_joblib_is_that_of_slots(
    launcher: dict[str, Any], n_jobs: int | str, slots: int | str
) -> None:
    """But for all cores, which auto shares out; the sweeper's own number goes before."""
    assert jobs_asked_for(OmegaConf.create(launcher), n_jobs) == slots


@pytest.mark.parametrize("launcher", [SLURM, {"_target_": "my.Launcher"}, {}])
def test_a_launcher_that_would_run_elsewhere_is_refused(launcher: dict[str, Any]) -> None:
    """With what happens instead, and how several machines share a sweep."""
    with pytest.raises(BadInputError, match=r"leave hydra/launcher out.*storage=URL"):
        jobs_asked_for(OmegaConf.create(launcher), "auto")
