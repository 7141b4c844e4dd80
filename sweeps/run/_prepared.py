"""The jobs of trials, of which what they have in common is made once.

Hydra composes, checks and copies a whole config for each job and writes it as YAML, which takes
some 50 ms. Trials of a sweep mostly differ in a few values. Here those are put into a config that
is kept, and into the text of its files.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from iolaus.sweeps.hydra_compat import (
    apply_overrides,
    as_plain,
    as_set_again,
    copy_without,
    overrides_dirname,
    overwrite,
    plain_value,
    resolver,
    set_hydra_config,
    to_yaml,
)
from iolaus.sweeps.run._job_files import YamlTexts
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.secrets import without_password

__all__ = ["Job", "PreparedJobs", "folder_of", "set_job"]

# What each trial has for itself of Hydra's own config, by its keys there.
OF_TRIAL = (
    ("hydra", "overrides", "task"),
    ("hydra", "job", "override_dirname"),
    ("hydra", "job", "id"),
    ("hydra", "job", "num"),
    ("hydra", "runtime", "output_dir"),
)
# How many of them are kept: a sweep may have a branch for each of its trials.
MOST_BRANCHES = 64


@dataclass(frozen=True, slots=True)
class Job:
    """A trial as a Hydra job; its folder is there.

    whole: its config, `hydra` node included. overrides: those of the task. config: makes a copy of
    the config without that node, for whoever may change it. files: makes the text of the files
    that Hydra leaves of a job, by name. All but folder and overrides are the next trial's once it
    has been given its job.
    """

    whole: DictConfig
    folder: Path
    overrides: Sequence[str]
    config: Callable[[], DictConfig]
    files: Callable[[], Mapping[str, str]]


class PreparedJobs:
    """Makes the jobs of trials from their overrides.

    keeps: whether trials may share what is Hydra's of their configs. One who holds on to it after
    the job would see it change.
    """

    def __init__(self, composer: Composer, *, keeps: bool = True) -> None:
        self._composer = composer
        self._keeps = keeps
        self._branches: dict[tuple[str, ...], _Branch] = {}
        self._yaml = YamlTexts()

    def job(self, trial: int, lines: Sequence[str]) -> Job:
        """The job of a trial, to which HydraConfig is set.

        Raises Hydra's ConfigCompositionException for a key or value that the config does not take.
        """
        overrides = self._composer.parse(list(lines))
        values = self._values(overrides) if self._keeps else []
        branch = self._branch(lines, overrides, values)
        return branch.job(trial, overrides, [as_set_again(o) for o in values])

    def prepare(self, lines: Sequence[str]) -> None:
        """Make what trials have in common that differ from this one in values; raises as `job`."""
        overrides = self._composer.parse(list(lines))
        if self._keeps:
            self._branch(lines, overrides, self._values(overrides))

    def _branch(
        self, lines: Sequence[str], overrides: Sequence[Override], values: Sequence[Override]
    ) -> _Branch:
        others = [o.input_line or "" for o in overrides if o not in values]
        keys = [o.get_key_element() for o in values]
        branch = self._branches.pop((*others, *keys), None)
        if branch is None:
            whole = self._composer.compose(lines)
            branch = _Branch(whole, [o.key_or_group for o in values], self._yaml)
        if self._keeps:
            while len(self._branches) >= MOST_BRANCHES:  # those that were used longest ago
                self._branches.pop(next(iter(self._branches)))
            self._branches[(*others, *keys)] = branch
        return branch

    def _values(self, overrides: Sequence[Override]) -> list[Override]:
        """Those that give the task's config a plain value.

        None, where one may touch what another does: then their order counts.
        """
        of_values = [
            o
            for o in overrides
            if o.package is None and not self._composer.is_group(o.key_or_group)
        ]
        keys = [o.key_or_group for o in of_values]
        inside = {f"{key}." for key in keys}
        if len(set(keys)) < len(keys) or any(_ancestors(key) & inside for key in keys):
            return []
        return [
            o
            for o in of_values
            if not (o.is_delete() or o.is_hydra_override() or isinstance(o.value(), dict))
            and not any(part.isdecimal() for part in o.key_or_group.split("."))
        ]


def _ancestors(key: str) -> set[str]:
    """Of "a.b.c": "a." and "a.b."."""
    return {key[: i + 1] for i, letter in enumerate(key) if letter == "."}


class _Branch:
    """Configs and files of the trials that differ in the values of these keys."""

    def __init__(self, whole: DictConfig, keys: Sequence[str], yaml: YamlTexts) -> None:
        self._whole = whole
        self._cache = OmegaConf.get_cache(whole)  # of resolvers, as each trial is to find it
        _set_folder(whole, folder_of(whole, 0))  # whose values each job replaces by its own
        task = copy_without(whole, "hydra")
        try:
            kept = pickle.dumps(task)
            self._copy: Callable[[], DictConfig] = lambda: cast(DictConfig, pickle.loads(kept))
        except Exception:  # it may hold objects that cannot be pickled; they can still be copied
            self._copy = lambda: copy.deepcopy(task)
        self._for_task = cast(DictConfig, HydraConfig.instance().cfg)
        self._dir, self._subdir = (resolver(whole.hydra.sweep, key) for key in ("dir", "subdir"))
        self._dirname_rule = whole.hydra.job.config.override_dirname
        self._keys = [tuple(key.split(".")) for key in keys]
        self._task_text = yaml.text(as_plain(task), self._keys)
        self._hydra_text = yaml.text({"hydra": as_plain(whole.hydra)}, OF_TRIAL)

    def job(self, trial: int, overrides: Sequence[Override], values: Sequence[Override]) -> Job:
        """Put a trial's values in. overrides: all that it has."""
        whole = self._whole
        OmegaConf.set_cache(whole, self._cache)
        apply_overrides(whole, values)
        of_task = [o for o in overrides if not o.is_hydra_override()]
        lines = [o.input_line or "" for o in of_task]
        dirname = overrides_dirname(of_task, self._dirname_rule)
        for path, value in zip(OF_TRIAL, (lines, dirname, str(trial), trial), strict=False):
            overwrite(whole, path, value)
        HydraConfig.instance().cfg = cast(Any, self._for_task)
        folder = Path(self._dir(), str(self._subdir())).absolute()
        overwrite(whole, OF_TRIAL[-1], str(folder))
        folder.mkdir(parents=True, exist_ok=True)

        def config() -> DictConfig:
            mine = self._copy()
            apply_overrides(mine, values)
            OmegaConf.copy_cache(whole, mine)
            return mine

        def files() -> Mapping[str, str]:
            of_hydra = [lines, dirname, str(trial), trial, str(folder)]
            return {
                "config.yaml": self._task_text([plain_value(whole, key) for key in self._keys]),
                "overrides.yaml": to_yaml(lines),
                "hydra.yaml": without_password(self._hydra_text(of_hydra)),
            }

        return Job(whole, folder, lines, config, files)


def folder_of(config: DictConfig, trial: int) -> Path:
    """The output folder of a composed config as this trial; nothing is made.

    `hydra.job.num` and `hydra.job.id` are set to the trial's number, and HydraConfig to the config:
    the folder's name may be written with `${hydra:...}`.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = str(trial)
        config.hydra.job.num = trial
    set_hydra_config(config)
    return Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()


def set_job(config: DictConfig, trial: int) -> Path:
    """Give a composed config its trial's number and output folder.

    Returns the folder, made if it was missing.
    """
    folder = folder_of(config, trial)
    _set_folder(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _set_folder(config: DictConfig, folder: Path) -> None:
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)
