"""`iolaus join`: which command another driver is started by, decided before anything is."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from iolaus.cli.running import _command_to_join, _to_join
from iolaus.sweeps.errors import BadInputError

OWN = ["python", "train.py", "--multirun", "hydra.sweeper.n_trials=9", "hydra.sweep.dir=old"]


def made(folder: Path, command: list[str] = OWN) -> optuna.Study:
    study = optuna.create_study(study_name="s")
    study.set_user_attr("config", f"hydra: {{runtime: {{cwd: {folder}}}}}")
    study.set_user_attr("provenance", [{"command": command}] if command else [])
    (folder / "train.py").touch()
    return study


def test_it_is_the_sweep_s_own_for_this_study_and_folder(tmp_path: Path) -> None:
    """What is to be otherwise for this driver goes before what the command had."""
    study = made(tmp_path)
    folder = tmp_path / "a b"
    command, where = _command_to_join(study, folder, ["hydra.sweeper.n_trials=12"])
    assert where == tmp_path
    assert command[1:] == [
        *("train.py", "--multirun", "hydra.sweeper.study_name=s"),
        *(f"hydra.sweep.dir='{folder}'", "hydra.sweeper.n_trials=12"),
    ]
    command, _ = _command_to_join(study, None, ["hydra.sweep.dir=/local"])
    assert command[2:] == [
        *("--multirun", "hydra.sweeper.n_trials=9", "hydra.sweeper.study_name=s"),
        "hydra.sweep.dir=/local",
    ]


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    """A study of another tool, an app that is not here, and a database of several studies."""
    with pytest.raises(BadInputError, match="does not say by which command"):
        _command_to_join(made(tmp_path, []), None, [])
    study = made(tmp_path)
    (tmp_path / "train.py").unlink()
    with pytest.raises(BadInputError, match=rf"app train.py is not in {tmp_path}"):
        _command_to_join(study, None, [])
    url = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(BadInputError, match=r"which study.*has none"):
        _to_join(None, url, None)
    storage = optuna.storages.RDBStorage(url)
    for name in ("b", "a"):
        optuna.create_study(storage=storage, study_name=name)
    storage.remove_session()
    storage.engine.dispose()
    for name in (None, "c"):
        with pytest.raises(BadInputError, match=r"which study.*has a, b"):
            _to_join(None, url, name)
