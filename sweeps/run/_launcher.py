"""What becomes of `hydra/launcher`: trials run in this sweep's own workers, on this machine."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import BadInputError

__all__ = ["jobs_asked_for"]

log = logging.getLogger("sweeps")

# Of Hydra's launchers, those that run jobs on the machine they are started on.
LOCAL = ("BasicLauncher", "JoblibLauncher")


def jobs_asked_for(launcher: DictConfig, n_jobs: int | str) -> int | str:
    """The number of slots: `n_jobs`, or under "auto" what a joblib launcher's own n_jobs says.

    launcher: the config's `hydra.launcher`. Joblib's -1, all cores, is "auto". Raises BadInputError
    for a launcher that would run trials elsewhere, or that nobody here knows.
    """
    name = str(OmegaConf.select(launcher, "_target_", default="")).rpartition(".")[2]
    if name not in LOCAL:
        raise BadInputError(
            f"hydra/launcher: {name or launcher} is not used, and all trials would run on this "
            "machine, in worker processes of iolaus: leave hydra/launcher out; to use several "
            "machines, start the same command on each of them with hydra.sweeper.storage=URL of "
            "one database"
        )
    asked = OmegaConf.select(launcher, "n_jobs", default=None)
    if n_jobs != "auto" or type(asked) is not int or asked < 1:
        return n_jobs
    log.info("hydra.launcher.n_jobs=%d is taken as hydra.sweeper.n_jobs", asked)
    return asked
