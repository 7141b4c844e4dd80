"""What the official sweeper's tests import of it, led to what Iolaus has in its place."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra import __version__ as hydra_version
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import MISSING
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hydra_plugins.iolaus.sweeper import IolausSweeper as OptunaSweeper
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.old_search_space import params_of
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.search.space import Parameter, Space

__all__ = [
    "BaseDistribution",
    "CategoricalDistribution",
    "FloatDistribution",
    "IntDistribution",
    "OptunaSweeper",
]

_impl = sys.modules[__name__]


def _space(params: dict[str, Any], lines: Sequence[str]) -> Space:
    parse = OverridesParser.create().parse_overrides
    try:
        return parse_space(params, lines, parse, is_group=lambda _: False)
    except BadInputError as error:
        raise ValueError(str(error)) from error  # as the tests expect


def create_optuna_distribution_from_config(old: dict[str, Any]) -> BaseDistribution:
    """What is searched by an entry of `search_space`."""
    return _space(params_of({"key": old}), []).parameters["key"].distribution


def create_optuna_distribution_from_override(override: Override) -> BaseDistribution:
    """What is searched by an override."""
    assert override.input_line is not None
    (parameter,) = _space({}, [override.input_line]).parameters.values()
    return parameter.distribution


def create_params_from_overrides(lines: Sequence[str]) -> tuple[Any, ...]:
    """The distributions and the fixed values of a command line, by key; for Hydra 1.4 the
    overrides that delete besides.
    """
    space = _space({}, lines)
    found = {key: p.distribution for key, p in space.parameters.items()}
    deleting = [line for line in space.fixed.values() if line.startswith("~")]
    pairs = [line.partition("=") for line in space.fixed.values() if line not in deleting]
    fixed = {key: value for key, _, value in pairs}
    return (found, fixed) if hydra_version.startswith("1.3.") else (found, fixed, deleting)


class OptunaSweeperImpl:
    """Of the class that sweeps there, what makes the axis of a grid."""

    @staticmethod
    def _to_grid_sampler_choices(distribution: BaseDistribution) -> list[Any]:
        return Parameter("key", "key", distribution).grid()


# Names of Optuna 2, with what stands for them since.
IntUniformDistribution = IntDistribution
UniformDistribution = FloatDistribution
IntLogUniformDistribution = partial(IntDistribution, log=True)
LogUniformDistribution = partial(FloatDistribution, log=True)


def DiscreteUniformDistribution(low: float, high: float, q: float) -> FloatDistribution:  # noqa: N802
    """Of Optuna 2."""
    return FloatDistribution(low, high, step=q)


def __getattr__(name: str) -> Any:
    """Classes of the tests that are left out."""
    if name.startswith("_"):
        raise AttributeError(name)
    return MISSING
