"""A search space: its parameters, the conditions under which they exist, and their override text.

Pure. A range is half-open, as in Hydra and Python: range(1, 4) is 1, 2, 3 for every sampler.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.types import Transformer
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from iolaus.sweeps.errors import BadInputError

__all__ = ["Condition", "Parameter", "Space", "Value", "both", "holds", "signature"]

# A parameter's value as Optuna keeps it.
Value = str | int | float | bool | None
# Key of another parameter -> the values of it under which this one exists. All must hold.
Condition = Mapping[str, tuple[Value, ...]]


def holds(condition: Condition, values: Mapping[str, Value]) -> bool:
    """Whether a condition is met by these values; one on a parameter that does not exist is not."""
    return all(key in values and values[key] in allowed for key, allowed in condition.items())


def both(a: Condition, b: Condition) -> Condition:
    """The condition that holds where both do."""
    shared = {
        key: tuple(value for value in a[key] if value in b[key]) for key in a.keys() & b.keys()
    }
    return {**a, **b, **shared}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of the search.

    key: as on the command line, with its prefix and package (`optim.lr`, `+w`, `db@backup`).
    text: what was asked for, for messages.
    distribution: its Optuna distribution.
    is_group: whether its values choose a config file rather than set a value.
    spelling: for a choice, the override text of each value (quotes kept); empty for numbers.
    when: the condition under which it exists; empty if it always does.
    """

    key: str
    text: str
    distribution: BaseDistribution
    is_group: bool = False
    spelling: Mapping[Value, str] = field(default_factory=dict)
    when: Condition = field(default_factory=dict)

    def examples(self) -> list[Value]:
        """Every choice, or the two ends of a range.

        The values that show whether a config takes this parameter.
        """
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
                # In decimals, as written: 0.3 and not 0.1 three times.
                first, stride = Fraction(str(low)), Fraction(str(step))
                return [float(first + i * stride) for i in range(round((high - low) / step) + 1)]
            case _:
                raise BadInputError(
                    f"{self.text}: a grid needs choice(...) or range(...), this has no list of "
                    "values"
                )

    def takes(self, value: Any) -> bool:
        """Whether this is a value of the parameter."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return value in choices
            case IntDistribution() | FloatDistribution() as numbers:
                try:
                    number = numbers.to_internal_repr(value)
                except (TypeError, ValueError):
                    return False
                steps = 0.0 if numbers.step is None else (number - numbers.low) / numbers.step
                inside = numbers.low <= number <= numbers.high
                return inside and abs(steps - round(steps)) < 1e-8
            case other:
                raise TypeError(f"{self.key}: what {other} takes is not known")

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether this parameter exists beside these values of the others."""
        return holds(self.when, values)


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched and what is fixed.

    parameters: the dimensions by key, each after those its condition names.
    fixed: override strings by key. order: all those keys, in the order of the command line.
    narrowed: dimensions of the config that the command line fixes, or that do not exist beside what
    it fixes.
    given: the keys of the command line.
    fixed_when: the conditions of those fixed keys that not every branch of config groups has.
    """

    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, str]
    order: tuple[str, ...]
    narrowed: Mapping[str, Parameter] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    fixed_when: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def unconditional(self) -> dict[str, BaseDistribution]:
        """The distributions of the parameters that always exist, by key."""
        return {key: p.distribution for key, p in self.parameters.items() if not p.when}

    @property
    def conditional(self) -> list[Parameter]:
        """The parameters that do not always exist, each after those its condition names."""
        return [p for p in self.parameters.values() if p.when]

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Those of the values whose parameter exists beside the others."""
        kept: dict[str, Value] = {}
        for key, parameter in self.parameters.items():
            if key in values and parameter.is_active(kept):
                kept[key] = values[key]
        return kept

    def example(self, chosen: Mapping[str, Value]) -> dict[str, Value]:
        """A setting with these values; of each other parameter beside them the first example."""
        examples = {key: parameter.examples()[0] for key, parameter in self.parameters.items()}
        return self.active(examples | dict(chosen))

    def overrides(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """The override strings of one setting.

        Values of keys outside the space follow at the end.
        """
        fixed = {
            key: line
            for key, line in self.fixed.items()
            if holds(self.fixed_when.get(key, {}), values)
        }
        lines = [
            fixed.get(key) or self.line(key, values[key])
            for key in self.order
            if key in fixed or key in values
        ]
        extra = [
            self.line(key, value) for key, value in values.items() if key not in self.parameters
        ]
        return (*lines, *extra)

    def line(self, key: str, value: Value) -> str:
        """The override string that gives a key this value."""
        parameter = self.parameters.get(key) or self.narrowed.get(key)
        spelling = parameter.spelling.get(value) if parameter else None
        return f"{key}={Transformer.str(value) if spelling is None else spelling}"

    def branches(self) -> Iterator[dict[str, Value]]:
        """Every combination of config-group choices; one empty dict if no group is searched."""
        groups = {key: p.examples() for key, p in self.parameters.items() if p.is_group}
        for combination in itertools.product(*groups.values()):
            yield self.active(dict(zip(groups, combination, strict=True)))

    def grid(self) -> list[dict[str, Value]]:
        """All settings in Hydra's order (the last parameter moves fastest), each once."""
        axes = {key: self.parameters[key].grid() for key in self.order if key in self.parameters}
        settings = [
            self.active(dict(zip(axes, v, strict=True))) for v in itertools.product(*axes.values())
        ]
        return list({tuple(setting.items()): setting for setting in settings}.values())

    def signature(self) -> dict[str, Any]:
        """The space as plain data, equal if and only if two spaces search the same."""
        described = signature({key: p.distribution for key, p in self.parameters.items()})
        for key, parameter in self.parameters.items():
            if parameter.when:
                described[key]["when"] = {
                    k: sorted(map(str, allowed)) for k, allowed in parameter.when.items()
                }
        return described


def signature(distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Distributions as plain data, equal if and only if they search the same."""
    return {key: json.loads(distribution_to_json(d)) for key, d in sorted(distributions.items())}
