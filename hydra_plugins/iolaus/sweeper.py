"""The sweeper class that Hydra makes.

Everything it does is in `iolaus.sweeps`, loaded when a sweep begins.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from typing import Any

from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.iolaus.config import IolausSweeperConf

__all__ = ["IolausSweeper", "SweepException", "complete"]

log = logging.getLogger("sweeps")

OFFICIAL = "hydra_plugins.hydra_optuna_sweeper"


class SweepException(CompactHydraException):
    """What went wrong with a sweep.

    Hydra prints its sentence without a traceback and exits with 1.
    """


class IolausSweeper(Sweeper):
    """Hands a multirun to `iolaus.sweeps.run.sweep.run_sweep`.

    Its options are read from the config, where ties are unresolved.
    """

    def __init__(self, **_: Any) -> None:
        pass

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """See hydra.plugins.sweeper.Sweeper."""
        self.hydra_context = hydra_context
        self.config = config
        self._task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """See hydra.plugins.sweeper.Sweeper.

        Returns the trials' JobReturns in rows of one per slot. A sweep that a signal stopped with
        trials left ends as others do, and the process with the code of that signal: 128 and its
        number.
        """
        from iolaus.sweeps.errors import SweepError, SweepStoppedError
        from iolaus.sweeps.run._rank import is_rank_of_trial, run_rank
        from iolaus.sweeps.run.settings import read_settings
        from iolaus.sweeps.run.sweep import run_sweep

        assert self.hydra_context is not None
        assert self.config is not None
        if is_rank_of_trial(os.environ):
            return run_rank(self.hydra_context, self._task_function, self.config)
        try:
            complete(self.config.hydra.sweeper)
            settings = read_settings(self.config.hydra.sweeper)
            return run_sweep(
                settings, self.hydra_context, self._task_function, self.config, arguments
            )
        except SweepStoppedError as stop:
            name = self.config.hydra.job.config_name
            self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
            sys.exit(128 + stop.signal_number)
        except SweepError as error:
            raise SweepException(str(error)) from error


def complete(node: DictConfig) -> None:
    """Give a sweeper's node that an app has written itself the options that it does not have."""
    own = OmegaConf.structured(IolausSweeperConf)
    with open_dict(node):
        for key in own.keys() - node.keys() - {"defaults"}:
            node[key] = own[key]
        if node.sampler is None:
            node.sampler = {"_target_": "optuna.samplers.TPESampler"}


class OptunaSweeper(IolausSweeper):
    """What `_target_` of a config that was written for hydra-optuna-sweeper leads to.

    Where `hydra/sweeper` is iolaus, the options are ours, and so is the sweep.
    """

    def __new__(cls, **options: Any) -> Any:
        is_ours = "log_to" in options or importlib.util.find_spec(OFFICIAL) is None
        return super().__new__(cls) if is_ours else _official(**options)

    def sweep(self, arguments: list[str]) -> Any:
        """See hydra.plugins.sweeper.Sweeper."""
        log.warning(
            "iolaus runs this sweep, as hydra/sweeper asks, and not the official Optuna sweeper: "
            "delete the line `_target_: %s.optuna_sweeper.OptunaSweeper` under hydra.sweeper",
            OFFICIAL,
        )
        return super().sweep(arguments)


def _official(**options: Any) -> Any:
    return importlib.import_module(f"{OFFICIAL}.optuna_sweeper").OptunaSweeper(**options)


# Hydra registers a plugin under MODULE.NAME, the other plugin's here, and makes it as
# MODULE.QUALNAME.
OptunaSweeper.__module__, _, OptunaSweeper.__name__ = (
    f"{OFFICIAL}.optuna_sweeper.OptunaSweeper".partition(".")
)
OptunaSweeper.__qualname__ = f"{__name__}.OptunaSweeper".partition(".")[2]
