"""What `hydra/launcher` asks for: drivers, or nothing that would be ignored."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from omegaconf import OmegaConf, open_dict

from hydra_plugins.iolaus.config import IolausSweeperConf
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._launcher import Launch, launch_of
from iolaus.sweeps.run.settings import read_settings

PLUGINS = "hydra_plugins.hydra"
LAUNCHERS: dict[str, dict[str, Any]] = {
    "basic": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "joblib": {"_target_": f"{PLUGINS}_joblib_launcher.joblib_launcher.JoblibLauncher"},
    "submitit_slurm": {"_target_": f"{PLUGINS}_submitit_launcher.submitit_launcher.SlurmLauncher"},
    "submitit_local": {"_target_": f"{PLUGINS}_submitit_launcher.submitit_launcher.LocalLauncher"},
    "ray": {"_target_": f"{PLUGINS}_ray_launcher.ray_launcher.RayLauncher"},
    "unknown": {"_target_": "my.Launcher"},
    "nothing": {},
}
SERVER, FILE = "postgresql+psycopg://me@host/db", "sqlite:////tmp/study.db"


def launch(launcher: str, n_nodes: int, storage: str | None = None, name: str | None = "s") -> Any:
    options = OmegaConf.structured(IolausSweeperConf)
    given = {"sampler": {}, "pruner": {}, "storage": storage, "study_name": name}
    options.update({**given, "n_nodes": n_nodes})
    with open_dict(options):
        del options["defaults"]  # Hydra's
    return launch_of(OmegaConf.create(LAUNCHERS[launcher]), read_settings(options))


@pytest.mark.parametrize("storage", [None, SERVER])
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_one_driver_on_this_machine_is_this_process(launcher: str, storage: str | None) -> None:
    """Nothing is started."""
    assert launch(launcher, 1, storage) is None


@pytest.mark.parametrize(
    ("launcher", "n_nodes", "storage"),
    [
        ("joblib", 2, FILE),
        ("submitit_local", 1, None),
        ("submitit_local", 2, FILE),
        ("submitit_slurm", 1, None),
        ("submitit_slurm", 3, SERVER),
        ("ray", 2, SERVER),
    ],
)
def test_launchers_start_drivers(launcher: str, n_nodes: int, storage: str | None) -> None:
    """As many as there are to be nodes, with the options that Hydra's launcher has."""
    assert launch(launcher, n_nodes, storage) == Launch(launcher, LAUNCHERS[launcher], n_nodes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("launcher", "n_nodes", "storage", "name", "sentence"),
    [
        ("unknown", 1, None, "s", r"my|Launcher is not known here; submitit_slurm.*storage=URL"),
        ("nothing", 1, None, "s", "is not known here"),
        ("basic", 2, SERVER, "s", "n_nodes=2: without a launcher there is one driver"),
        ("submitit_slurm", 2, None, "s", r"own folder has one driver; set .*storage=postgresql"),
        ("joblib", 2, None, "s", r"or sqlite:////PATH for this machine alone"),
        ("ray", 2, FILE, "s", "machines cannot share a file of SQLite"),
        ("ray", 1, "sqlite://", "s", "no other process sees a study in memory"),
        ("ray", 2, SERVER, None, "set hydra.sweeper.study_name=NAME"),
        ("ray", 0, SERVER, "s", "n_nodes=0: give how many drivers"),
    ],
)
def test_what_would_not_be_one_study_is_refused(
    launcher: str, n_nodes: int, storage: str | None, name: str | None, sentence: str
) -> None:
    """In a sentence that says what to do, before anything is started."""
    with pytest.raises(BadInputError, match=sentence):
        launch(launcher, n_nodes, storage, name)


def test_the_number_of_jobs_of_joblib_is_not_that_of_slots(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver fills its node; that the number is not used is said."""
    monkeypatch.setitem(LAUNCHERS["joblib"], "n_jobs", 4)
    with caplog.at_level(logging.WARNING):
        launch("joblib", 1)
    assert "hydra.launcher.n_jobs=4 is not used" in caplog.text
