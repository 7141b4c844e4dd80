"""The search space: Hydra override strings in, Optuna distributions and override strings out. Pure.

A range is half-open, as in Hydra and Python: range(1, 4) is 1, 2, 3 for every sampler.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from sweeps.errors import BadInputError

# A parameter's value as Optuna keeps it.
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of the search.

    key: as on the command line, with its prefix and package (`optim.lr`, `+w`, `db@backup`).
    text: what was asked for, for messages.
    distribution: its Optuna distribution.
    is_group: whether its values choose a config file rather than set a value.
    spelling: for a choice, the override text of each value (quotes kept); empty for numbers.
    """

    key: str
    text: str
    distribution: BaseDistribution
    is_group: bool = False
    spelling: Mapping[Value, str] = field(default_factory=dict)

    def examples(self) -> list[Value]:
        """Every choice, or the two ends of a range: the values that show whether a config takes this parameter."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
                return [low, high]
            case other:
                raise TypeError(f"{self.key}: no examples of {other}")

    def grid(self) -> list[Value]:
        """All values in order. Raises BadInputError for a parameter that is continuous."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step, log=False):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float(step)):
                return [low + i * step for i in range(round((high - low) / step) + 1)]
            case _:
                raise BadInputError(f"{self.text}: a grid needs choice(...) or range(...), this has no list of values")


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched and what is fixed, in the order of the command line.

    parameters: the dimensions by key. fixed: override strings by key. order: all those keys.
    """

    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, str]
    order: tuple[str, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view: the distribution of each parameter, by key."""
        return {key: p.distribution for key, p in self.parameters.items()}

    def overrides(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """The override strings of one setting. Values of keys outside the space follow at the end."""
        lines = [self.fixed[key] if key in self.fixed else self._line(key, values[key]) for key in self.order]
        extra = [self._line(key, value) for key, value in values.items() if key not in self.parameters]
        return (*lines, *extra)

    def _line(self, key: str, value: Value) -> str:
        parameter = self.parameters.get(key)
        spelling = parameter.spelling.get(value) if parameter else None
        return f"{key}={Transformer.str(value) if spelling is None else spelling}"

    def branches(self) -> Iterator[dict[str, Value]]:
        """Every combination of config-group choices; one empty dict if no group is searched."""
        groups = {key: p.examples() for key, p in self.parameters.items() if p.is_group}
        for combination in itertools.product(*groups.values()):
            yield dict(zip(groups, combination, strict=True))

    def grid(self) -> list[dict[str, Value]]:
        """All settings in Hydra's order (the last parameter moves fastest)."""
        axes = {key: p.grid() for key, p in self.parameters.items()}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def signature(distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Distributions as plain data, equal if and only if they search the same."""
    return {key: json.loads(distribution_to_json(d)) for key, d in sorted(distributions.items())}


def parse_space(
    params: Mapping[str, Any],
    command_line: Sequence[str],
    parse: Callable[[list[str]], list[Override]],
    is_group: Callable[[str], bool],
) -> Space:
    """Read the search space from the sweeper's `params` and the command line, which beats them.

    A key that the command line fixes or deletes is no longer searched. parse: Hydra's override parser.
    is_group: whether a key names a config group. Raises BadInputError for whatever could not be searched.
    """
    configured = _by_key([f"{key}={_as_text(value)}" for key, value in params.items()], parse, "hydra.sweeper.params")
    given = _by_key(command_line, parse, "the command line")
    chosen = {key: o for key, o in configured.items() if key not in given} | given

    parameters: dict[str, Parameter] = {}
    fixed: dict[str, str] = {}
    order: list[str] = []
    for override in chosen.values():
        key = override.get_key_element()
        order.append(key)
        if override.is_sweep_override():
            name = override.key_or_group
            parameters[key] = _parameter(key, override, override.package is not None or is_group(name))
        else:
            fixed[key] = override.input_line or key
    return Space(parameters, fixed, tuple(order))


def _as_text(value: Any) -> str:
    return "null" if value is None else str(value)


def _by_key(lines: Sequence[str], parse: Callable[[list[str]], list[Override]], where: str) -> dict[str, Override]:
    found: dict[str, Override] = {}
    try:
        overrides = parse(list(lines))
    except HydraException as error:
        raise BadInputError(f"cannot read {where}: {str(error).splitlines()[0]}") from error
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        other = found.pop(key, None)
        if other is not None and (other.is_sweep_override() or override.is_sweep_override()):
            both = "is both fixed and searched" if not _both_search(other, override) else "is searched twice"
            raise BadInputError(
                f"{key} {both} in {where}: {other.input_line} and {override.input_line}; keep one of them"
            )
        found[key] = override
    return found


def _both_search(a: Override, b: Override) -> bool:
    return a.is_sweep_override() and b.is_sweep_override()


def _parameter(key: str, override: Override, is_group: bool) -> Parameter:
    text = override.input_line or key
    match override.value():
        case IntervalSweep(start=low, end=high, tags=tags):
            return Parameter(key, text, _interval(text, low, high, "log" in tags))
        case RangeSweep(shuffle=False):
            return Parameter(key, text, _range(text, override))
        case RangeSweep() | ChoiceSweep():
            return _choice(key, text, override, is_group)
        case _ if override.is_choice_sweep():  # glob
            return _choice(key, text, override, is_group=True)
    raise BadInputError(f"{text}: this kind of sweep is not known; use choice, range, interval or glob")


def _interval(text: str, low: float | None, high: float | None, log: bool) -> BaseDistribution:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise BadInputError(f"{text}: an interval needs two finite ends, got {low} and {high}")
    if low > high:
        raise BadInputError(f"{text}: the interval runs from {low} down to {high}; write interval({high}, {low})")
    if low == high:
        raise BadInputError(f"{text}: the interval from {low} to {high} is empty; widen it, or fix the value")
    if log and low <= 0:
        raise BadInputError(f"{text}: a log interval must lie above 0, got {low}; start it at a small positive number")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(text: str, override: Override) -> BaseDistribution:
    try:
        values: list[Any] = sorted(override.sweep_iterator())
    except (HydraException, ValueError) as error:
        raise BadInputError(f"{text}: a range needs a step other than 0") from error
    if not values:
        raise BadInputError(f"{text}: the range is empty; it runs from its start up to, not including, its stop")
    low, high = values[0], values[-1]
    step = values[1] - low if len(values) > 1 else 1
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, step=step)
    return FloatDistribution(low, high, step=step)


def _choice(key: str, text: str, override: Override, is_group: bool) -> Parameter:
    elements = list(override.sweep_iterator())
    spelling: dict[Value, str] = {}
    for element in elements:
        value = _choice_value(element)
        if value in spelling:
            raise BadInputError(f"{text}: the choice {spelling[value]} stands there twice; name each choice once")
        spelling[value] = Transformer.str(element)
    if not spelling:
        raise BadInputError(f"{text}: nothing to choose from; name at least one choice")
    return Parameter(key, text, CategoricalDistribution(tuple(spelling)), is_group, spelling)


def _choice_value(element: Any) -> Value:
    if isinstance(element, QuotedString):
        return element.text
    if element is None or isinstance(element, str | int | float | bool):
        return element
    return Transformer.str(element)  # a list or dict is chosen by its text
