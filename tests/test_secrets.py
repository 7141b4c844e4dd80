"""A sweep whose storage has a password: nowhere does it stand afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from iolaus.analysis.data.sweep import load
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.folder import STORAGE_VARIABLE

PASSWORD = "geheim123"


# The option is SQLite's stand-in for a server's password: it is taken, with a warning.
@pytest.mark.filterwarnings("ignore:Query string")
@pytest.mark.parametrize("by_environment", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_password_is_written_and_printed_nowhere(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    """Typed, or (the documented way) in the environment, of which the files keep the name.

    No file of the sweep, its database included, and no line on the screen has it. Readers get the
    URL by the environment.
    """
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    url = f"sqlite:///{tmp_path}/shared.db?password={PASSWORD}"
    given = "${oc.env:MY_DB}" if by_environment else f"'{url}'"
    options = ["x=interval(0, 1)", "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=s"]
    options += [f"hydra.sweeper.storage={given}", "hydra.sweeper.report=html", "do=report"]
    run = sweep("trouble.py", *options, MY_DB=url).ok()
    assert PASSWORD not in run.out + run.err
    folder = tmp_path / "study"
    assert (folder / "report").is_dir()
    assert (folder / "0" / ".hydra" / "hydra.yaml").is_file()
    files = [path for path in (*folder.rglob("*"), tmp_path / "shared.db") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    kept = OmegaConf.to_container(OmegaConf.load(folder / "sweep.yaml"), resolve=False)["storage"]
    variable = "MY_DB" if by_environment else STORAGE_VARIABLE
    assert kept == (given if by_environment else url.replace(PASSWORD, "***"))
    with pytest.raises(BadInputError, match=f"export {variable}="):
        load(folder)
    monkeypatch.setenv(variable, url)
    assert len(load(folder).trials) == 2
    assert f"{given if by_environment else '${oc.env:IOLAUS_STORAGE}'}" in run.out
    assert ("export IOLAUS_STORAGE=URL" in run.out) is not by_environment
