"""What becomes of `hydra/launcher`: it starts drivers, of which each has workers on its node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.study.backend import in_memory

__all__ = ["Engine", "Launch", "launch_of"]

log = logging.getLogger("sweeps")

Engine = Literal["submitit_slurm", "submitit_local", "ray", "joblib"]
# By the name of Hydra's launcher class; None: the one driver is this process.
ENGINES: Mapping[str, Engine | None] = {
    "BasicLauncher": None,
    "SlurmLauncher": "submitit_slurm",
    "LocalLauncher": "submitit_local",
    "RayLauncher": "ray",
    "JoblibLauncher": "joblib",
}
ON_OTHER_MACHINES = ("submitit_slurm", "ray")
_KNOWN = "submitit_slurm, submitit_local, ray or joblib"


@dataclass(frozen=True, slots=True)
class Launch:
    """Drivers that an engine is to start, n_nodes of them.

    options: of Hydra's launcher of that name, resolved.
    """

    engine: Engine
    options: Mapping[str, Any]
    n_nodes: int

    @property
    def is_here(self) -> bool:
        """Whether all drivers are processes of this machine."""
        return self.engine not in ON_OTHER_MACHINES


def launch_of(launcher: DictConfig, settings: Settings) -> Launch | None:
    """What `hydra/launcher` asks for; None where the one driver is to be this process.

    launcher: the config's `hydra.launcher`. Raises BadInputError for a launcher that nobody here
    knows, and for drivers that could not share the study.
    """
    n_nodes = settings.n_nodes
    name = str(OmegaConf.select(launcher, "_target_", default="")).rpartition(".")[2]
    if name not in ENGINES:
        raise BadInputError(
            f"hydra/launcher: {name or launcher} is not known here; {_KNOWN} start drivers "
            "(hydra.sweeper.n_nodes), of which each runs trials in workers of its own; or leave "
            "hydra/launcher out, and start the same command on each machine with "
            "hydra.sweeper.storage=URL of one database"
        )
    engine = ENGINES[name]
    if engine is None and n_nodes > 1:
        raise BadInputError(
            f"hydra.sweeper.n_nodes={n_nodes}: without a launcher there is one driver, this "
            f"process; choose hydra/launcher={_KNOWN}, or start the same command on each machine"
        )
    asked = OmegaConf.select(launcher, "n_jobs", default=-1)
    if engine == "joblib" and asked != -1:
        log.warning(
            "hydra.launcher.n_jobs=%s is not used: a driver has hydra.sweeper.n_jobs slots, one "
            "per core or GPU by default",
            asked,
        )
    if engine is None or (engine == "joblib" and n_nodes == 1):
        return None
    _refuse_storage(engine, settings)
    options = cast(dict[str, Any], OmegaConf.to_container(launcher, resolve=True))
    return Launch(engine, options, n_nodes)


def _refuse_storage(engine: Engine, settings: Settings) -> None:
    """Raise BadInputError where the drivers could not have one study."""
    n_nodes, storage = settings.n_nodes, settings.storage
    asked = f"hydra/launcher={engine} with hydra.sweeper.n_nodes={n_nodes}"
    wanted = "set hydra.sweeper.storage=postgresql+psycopg://USER@HOST/DATABASE"
    if isinstance(storage, str) and in_memory(storage):
        raise BadInputError(f"{asked}: no other process sees a study in memory; {wanted}")
    if storage is not None and settings.study_name is None:
        raise BadInputError(
            f"{asked}: in a storage each start makes a study of its own, unless it has a name: set "
            "hydra.sweeper.study_name=NAME"
        )
    if n_nodes == 1:
        return
    if storage is None:
        here = "" if engine in ON_OTHER_MACHINES else ", or sqlite:////PATH for this machine alone"
        raise BadInputError(
            f"{asked}: a study in the sweep's own folder has one driver; {wanted}{here}"
        )
    is_file = isinstance(storage, str) and storage.startswith("sqlite")
    if is_file and engine in ON_OTHER_MACHINES:
        raise BadInputError(f"{asked}: machines cannot share a file of SQLite; {wanted}")
