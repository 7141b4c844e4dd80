"""From what a config names to what a sweep uses: samplers, pruners, plans, functions."""

from __future__ import annotations

import functools
import importlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.hydra_compat import made
from iolaus.sweeps.pruners import Holdout
from iolaus.sweeps.pruners.compose import parts
from iolaus.sweeps.run.settings import Settings
from iolaus.sweeps.search.parsing import checked_setting
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.study.sweep_study import OnStall, Plans
from iolaus.sweeps.text import to_install

__all__ = [
    "as_given",
    "function_named",
    "make",
    "make_plans",
    "make_pruner",
    "make_sampler",
    "seed_of",
]

log = logging.getLogger("sweeps")


def as_given(sampler: Any, hydra: DictConfig) -> Any:
    """A sampler's config without the values of the node that hydra-optuna-sweeper has for it.

    Where that plugin is installed too, `hydra/sweeper/sampler=tpe` is its node, which has a value
    for each option: what Optuna 2 did by default. Optuna's own defaults hold instead, but for what
    a config changes or the command line gives.

    hydra: the config's `hydra` node.
    """
    choice = OmegaConf.select(hydra, "runtime.choices").get("hydra/sweeper/sampler")
    try:
        node = ConfigStore.instance().load(f"hydra/sweeper/sampler/{choice}.yaml")
    except ConfigLoadError:
        return sampler
    if node.provider == "iolaus" or isinstance(sampler, str):
        return sampler
    given = {line.lstrip("+").partition("=")[0] for line in hydra.overrides.hydra}
    whole: Any = sampler  # OmegaConf's types know neither that its keys are texts nor its parent
    kept = {
        key: whole._get_node(key)
        for key in whole
        if f"hydra.sweeper.sampler.{key}" in given
        or key == "_target_"
        or key not in node.node
        or whole[key] != node.node[key]
    }
    return OmegaConf.create(kept, parent=whole._get_parent())


def make_sampler(config: Any, space: Space) -> optuna.samplers.BaseSampler:
    """The sampler of a config with `_target_`.

    A grid is a queue known in advance (`make_plans`), which leaves its sampler nothing to do. TPE
    is told to model a conditional space by groups of parameters that exist together, unless the
    config says otherwise.
    """
    if _is_grid(config):
        return optuna.samplers.RandomSampler()
    if _class_name(config) == "TPESampler" and space.conditional:
        chosen = {
            key
            for key in ("multivariate", "group")
            if not OmegaConf.is_missing(config, key) and key in config
        }
        sampler = make(
            config, "sampler", **({} if chosen else {"multivariate": True, "group": True})
        )
    else:
        sampler = make(config, "sampler")
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise BadInputError(
            f"hydra.sweeper.sampler: {config.get('_target_')} is no Optuna sampler; "
            "see its documentation"
        )
    return sampler


def make_plans(settings: Settings, space: Space, config: DictConfig) -> Plans:
    """What is to be run: settings known in advance first, then what the sampler proposes.

    Each with its seeds. Where nothing is searched there is one setting, which is said.
    """
    known = [
        checked_setting(space, s, f"hydra.sweeper.enqueue[{i}]")
        for i, s in enumerate(settings.enqueue)
    ]
    grid = space.grid() if _is_grid(settings.sampler) else []
    n_trials = min(settings.n_trials, len(grid)) if grid else settings.n_trials
    if not space.parameters and settings.custom_search_space is None:
        times = "once" if settings.repeats == 1 else f"with {settings.repeats} seeds"
        log.warning(
            "nothing is searched, so the one setting runs %s: neither the command line nor "
            "hydra.sweeper.params has a choice, range or interval; to search, write one, such as "
            "'lr=interval(0.001,0.1)'",
            times,
        )
        n_trials = 1
    return Plans(
        n_trials=n_trials,
        queue=[*known, *grid],
        n_repeats=settings.repeats,
        repeat_hopeless=settings.repeat_hopeless,
        finalists=settings.final_seeds,
        first_seed=_first_seed(settings, space, config),
        extend=_extension(settings.custom_search_space, config),
        on_stall=OnStall(settings.on_stall, settings.stall_factor, settings.n_interventions),
        pauses=settings.on_prune == "pause",
        stop_when=settings.no_gain,
        monotonic=_known(settings.monotonic, space),
        seed_key=settings.seed_key,
    )


def _known(monotonic: Sequence[str], space: Space) -> Sequence[str]:
    """The keys, all of parameters that are searched."""
    unknown = [key for key in monotonic if key not in space.parameters]
    if unknown and space.parameters:
        raise BadInputError(
            f"hydra.sweeper.monotonic={list(monotonic)}: {', '.join(unknown)} is not searched; "
            f"there are {', '.join(space.parameters)}"
        )
    return monotonic


def _first_seed(settings: Settings, space: Space, config: DictConfig) -> int:
    key, option = settings.seed_key, f"repeats={settings.repeats}"
    if settings.repeats == 1:
        if settings.finalists is None:
            return 0
        option = f"finalists={settings.finalists}"
    if key in space.parameters:
        raise BadInputError(
            f"{key} is searched and repeated: remove it from the search, or "
            f"hydra.sweeper.{option.partition('=')[0]}"
        )
    seed = OmegaConf.select(config, key)
    if not isinstance(seed, int):
        raise BadInputError(
            f"hydra.sweeper.{option} counts seeds from the config's {key}, "
            f"which is {seed}; give it a whole number, or name the app's own key in "
            "hydra.sweeper.seed_key"
        )
    return seed


def _is_grid(config: Any) -> bool:
    return _class_name(config) == "GridSampler"


def _class_name(config: Any) -> str:
    target = config.get("_target_", "") if isinstance(config, Mapping) else ""
    return str(target).rpartition(".")[2]


def make_pruner(
    config: Any, n_directions: int, holdout_fraction: float, seed: int = 0
) -> optuna.pruners.BasePruner:
    """The pruner; none if the config is empty. It lets the holdout run on, unless that is its own.

    seed: draws which trials that is.
    Raises BadInputError if it or a part of it cannot judge where there are several objectives: all
    judge the watched metric, but Wilcoxon's asks for the one best trial too.
    """
    pruner: optuna.pruners.BasePruner = (
        make(config, "pruner") if config else optuna.pruners.NopPruner()
    )
    if isinstance(pruner, optuna.pruners.NopPruner):
        return pruner
    for part in parts(pruner) if n_directions > 1 else ():
        if isinstance(part, optuna.pruners.WilcoxonPruner):
            raise BadInputError(
                f"{type(part).__name__} compares with the best trial and there are {n_directions} "
                "objectives; use a pruner that judges the watched metric alone, such as "
                "hydra/sweeper/pruner=stalled, or none"
            )
    if holdout_fraction == 0 or isinstance(pruner, Holdout):
        return pruner
    return Holdout(pruner, holdout_fraction, seed)


def seed_of(sampler: Any) -> int:
    """The seed in a sampler's config; 0 where it has none."""
    seed = None if OmegaConf.is_missing(sampler, "seed") else sampler.get("seed")
    return seed if isinstance(seed, int) else 0


def make(config: Any, what: str, **extra: Any) -> Any:
    """What a config with `_target_` describes; options set to ??? are left to its own defaults.

    what: the option it belongs to, for messages. Raises BadInputError.
    """
    if not isinstance(config, Mapping):
        raise BadInputError(
            f"hydra.sweeper.{what}={config} is a word where a group is chosen: give "
            f"hydra/sweeper/{what}={config}"
        )
    try:
        given = {key: config[key] for key in config if not OmegaConf.is_missing(config, key)}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", optuna.exceptions.ExperimentalWarning
            )  # the user has chosen it by name
            return made(given, **extra)
    except Exception as error:
        cause = error.__cause__ or error
        missing = isinstance(cause, ImportError)
        hint = to_install("samplers") if missing else f"see optuna's documentation of the {what}"
        target = str(config.get("_target_", what)) if hasattr(config, "get") else what
        raise BadInputError(
            f"hydra/sweeper/{what}: cannot make {target}: {' '.join(str(cause).split())}; {hint}"
        ) from error


def _extension(name: str | None, config: DictConfig) -> Callable[[optuna.Trial], None] | None:
    return functools.partial(function_named("custom_search_space", name), config) if name else None


def function_named(option: str, name: str) -> Callable[..., Any]:
    """The function of a dotted name, given for this option of the sweeper.

    Raises BadInputError if there is none.
    """
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInputError(
            f"hydra.sweeper.{option}={name}: {one_line(error)}; give module.function"
        ) from error
    if not callable(found):
        raise BadInputError(
            f"hydra.sweeper.{option}={name} is a {type(found).__name__}; "
            "give the name of a function"
        )
    return cast(Callable[..., Any], found)
