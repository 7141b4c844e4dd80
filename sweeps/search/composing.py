"""The config of a trial from its overrides.

A branch of config groups is composed once, then copied.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from iolaus.sweeps.hydra_compat import (
    apply_overrides,
    config_groups,
    overrides_dirname,
    with_number,
)

__all__ = ["Composer"]

# How many parsed overrides are kept.
MOST_OVERRIDES = 1000
# Some of the numbers of Hydra's grammar: those that Python writes.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")


class Composer:
    """Makes the config of a trial from its overrides; composes each branch of groups once."""

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._of_hydra = cast(list[str], OmegaConf.to_container(master.hydra.overrides.hydra))
        self._parser = OverridesParser.create(config_loader=loader)
        self._branches: dict[tuple[str, ...], bytes | DictConfig] = {}
        self._groups: dict[str, bool] = {}
        self._knows_groups: Callable[[str], bool] | None = None
        self._overrides: dict[str, Override] = {}  # by line

    def __reduce__(self) -> tuple[Any, ...]:
        return Composer, (self._loader, self._master)  # what it keeps is made again when needed

    def parse(self, lines: list[str]) -> list[Override]:
        """What Hydra's own parser makes of overrides.

        It takes 0.2 ms for each; what has been parsed before is kept, and of those that give
        another number to the same key only the number is read again.
        """
        return [self._parsed(line) for line in lines]

    def _parsed(self, line: str) -> Override:
        key, _, text = line.partition("=")
        if _NUMBER.fullmatch(text):
            number = int(text) if _INTEGER.fullmatch(text) else float(text)
            return with_number(self._parsed_before(f"{key}=0"), line, number)
        return self._parsed_before(line)

    def _parsed_before(self, line: str) -> Override:
        if line not in self._overrides:
            if len(self._overrides) >= MOST_OVERRIDES:
                self._overrides.clear()
            (self._overrides[line],) = self._parser.parse_overrides([line])
        return self._overrides[line]

    def is_group(self, key: str) -> bool:
        """Whether `key` names a config group of this app."""
        if self._knows_groups is None:
            self._knows_groups = config_groups(self._loader)
        if key not in self._groups:
            self._groups[key] = self._knows_groups(key)
        return self._groups[key]

    def compose(self, lines: Sequence[str]) -> DictConfig:
        """The whole config, `hydra` node included, as Hydra would compose it from these overrides.

        Raises Hydra's ConfigCompositionException for a key or value the config does not take.
        """
        overrides = self.parse(list(lines))
        shape = [o for o in overrides if o.package is not None or self.is_group(o.key_or_group)]
        values = [o for o in overrides if o not in shape]
        config = self._branch(tuple(o.input_line or "" for o in shape))
        apply_overrides(config, values)
        of_hydra = [o.input_line for o in overrides if o.is_hydra_override()]
        of_task = [o for o in overrides if not o.is_hydra_override()]
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.hydra = [*self._of_hydra, *of_hydra]
            config.hydra.overrides.task = [o.input_line for o in of_task]
            config.hydra.job.override_dirname = overrides_dirname(
                of_task, config.hydra.job.config.override_dirname
            )
        return config

    def _branch(self, shape: tuple[str, ...]) -> DictConfig:
        if shape not in self._branches:
            config = self._loader.load_sweep_config(self._master, list(shape))
            try:
                self._branches[shape] = pickle.dumps(config)
            except (
                Exception
            ):  # a config may hold objects that cannot be pickled; they can still be copied
                self._branches[shape] = config
        kept = self._branches[shape]
        return pickle.loads(kept) if isinstance(kept, bytes) else copy.deepcopy(kept)
