"""The search space: Hydra override strings in, Optuna distributions and override strings out. Pure.

A range is half-open, as in Hydra and Python: range(1, 4) is 1, 2, 3 for every sampler.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import BadInputError

# A parameter's value as Optuna keeps it.
Value = str | int | float | bool | None
# Text that Hydra's grammar reads as itself, but for the words that mean something else.
PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")
NOT_TEXT = frozenset({"null", "true", "false", "nan", "inf"})
# Key of another parameter -> the values of it under which this one exists. All must hold.
Condition = Mapping[str, tuple[Value, ...]]


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
                return [low + i * step for i in range(round((high - low) / step) + 1)]
            case _:
                raise BadInputError(
                    f"{self.text}: a grid needs choice(...) or range(...), this has no list of values"
                )

    def is_active(self, values: Mapping[str, Value]) -> bool:
        """Whether this parameter exists beside these values of the others."""
        return holds(self.when, values)


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


def parse_space(
    params: Mapping[str, Any],
    command_line: Sequence[str],
    parse: Callable[[list[str]], list[Override]],
    is_group: Callable[[str], bool],
    when: Mapping[str, Mapping[str, Any]] | None = None,
) -> Space:
    """Read the search space from the sweeper's `params` and the command line, which beats them.

    A key that the command line fixes or deletes is no longer searched; what existed only beside
    other values of it is dropped. parse: Hydra's override parser. is_group: whether a key names a
    config group.
    when: key -> key of another parameter -> the value, or list of values, under which the first
    exists. Raises BadInputError for whatever could not be searched.
    """
    configured = _by_key(
        [f"{key}={_as_text(value)}" for key, value in params.items()], parse, "hydra.sweeper.params"
    )
    given = _by_key(command_line, parse, "the command line")
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, str] = {}
    values: dict[str, Value] = {}
    order: list[str] = []
    for override in (
        {key: o for key, o in configured.items() if key not in given} | given
    ).values():
        key = override.get_key_element()
        order.append(key)
        if override.is_sweep_override():
            parameters[key] = _parameter(override, is_group)
        else:
            fixed[key] = override.input_line or key
            values[key] = _choice_value(override.value())
    narrowed = {
        k: _parameter(o, is_group)
        for k, o in configured.items()
        if k in given and o.is_sweep_override()
    }
    narrowed = {key: p for key, p in narrowed.items() if key not in parameters}
    given_keys = frozenset(override.get_key_element() for override in given.values())
    space = Space(parameters, fixed, tuple(order), narrowed, given_keys)
    return _with_conditions(space, when or {}, values)


def with_ties(resolved: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The sweeper's params with their interpolations resolved, but for ties, which every trial resolves by itself.

    A tie is a value that begins with an interpolation (`${sweep.mul:0.1,${batch_size}}`): a fixed
    override, quoted for Hydra's grammar. In `interval(0, ${max})` the interpolation is resolved
    once, for the whole sweep.
    """
    return {key: _tied(value, written[key]) for key, value in resolved.items()}


def _tied(resolved: Any, written: Any) -> Any:
    if isinstance(written, str) and written.lstrip().startswith("${"):
        return Transformer.str(QuotedString(written, quote=Quote.single))
    return resolved


def _with_conditions(
    space: Space, when: Mapping[str, Mapping[str, Any]], fixed_values: Mapping[str, Value]
) -> Space:
    parameters, fixed_when = dict(space.parameters), dict(space.fixed_when)
    dropped: set[str] = set()
    for key, condition in when.items():
        if key in space.given or key in space.narrowed:
            continue  # the command line has decided it
        if key not in space.parameters and key not in space.fixed:
            raise BadInputError(
                f"hydra.sweeper.when names {key}, which is not searched; add it to params or remove it"
            )
        still: dict[str, tuple[Value, ...]] = {}
        for other, asked in condition.items():
            allowed = tuple(asked) if isinstance(asked, list | tuple) else (asked,)
            _refuse_unknown_values(space, key, other, allowed)
            if other in space.parameters:
                still[other] = allowed
            elif fixed_values[other] not in allowed:
                dropped.add(key)
        if key in space.parameters:
            parameters[key] = replace(parameters[key], when=still)
        else:
            fixed_when[key] = still
    return without(replace(space, parameters=in_order(parameters), fixed_when=fixed_when), dropped)


def _refuse_unknown_values(space: Space, key: str, other: str, allowed: tuple[Value, ...]) -> None:
    parent = space.parameters.get(other) or space.narrowed.get(other)
    if parent is None:
        raise BadInputError(
            f"hydra.sweeper.when: {key} depends on {other}, which is not searched: {key} always or never exists; "
            f"search {other}, or remove the condition"
        )
    if isinstance(parent.distribution, FloatDistribution):
        raise BadInputError(
            f"hydra.sweeper.when: {key} depends on {other}, which is continuous ({parent.text})"
        )
    for value in allowed:
        if not _takes(parent.distribution, value):
            raise BadInputError(
                f"hydra.sweeper.when: {key} exists when {other} is {value}, which it never is ({parent.text}); "
                "the dimension is dead: mend the value"
            )


def _takes(distribution: BaseDistribution, value: Value) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    try:
        return compat.contains(distribution, value)
    except (TypeError, ValueError):
        return False


def without(space: Space, dropped: set[str]) -> Space:
    """The space without these dimensions, and without those that exist only beside them."""
    gone = set(dropped)
    for key, parameter in space.parameters.items():
        if gone & parameter.when.keys():
            gone.add(key)
    return replace(
        space,
        parameters={key: p for key, p in space.parameters.items() if key not in gone},
        fixed={key: line for key, line in space.fixed.items() if key not in gone},
        narrowed={
            **space.narrowed,
            **{key: p for key, p in space.parameters.items() if key in gone},
        },
        order=tuple(key for key in space.order if key not in gone),
    )


def in_order(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The parameters, each after those its condition names.

    Refuses cycles and dimensions that can never exist.
    """
    sorted_: dict[str, Parameter] = {}

    def visit(key: str, path: tuple[str, ...]) -> None:
        if key in path:
            cycle = " needs ".join([*path[path.index(key) :], key])
            raise BadInputError(
                f"hydra.sweeper.when goes in a circle: {cycle}; remove one of these conditions"
            )
        if key not in sorted_:
            for other in parameters[key].when:
                visit(other, (*path, key))
            sorted_[key] = parameters[key]

    for key in parameters:
        visit(key, ())
    for key, parameter in sorted_.items():
        _refuse_contradiction(key, parameter, sorted_)
    return sorted_


def _refuse_contradiction(
    key: str, parameter: Parameter, parameters: Mapping[str, Parameter]
) -> None:
    needed: dict[str, set[Value]] = {}
    open_ = [parameter]
    while open_:
        for other, allowed in open_.pop().when.items():
            needed[other] = needed.get(other, set(allowed)) & set(allowed)
            if not needed[other]:
                raise BadInputError(
                    f"hydra.sweeper.when: {key} can never exist: its own condition and those of the parameters it "
                    f"depends on ask for different values of {other}"
                )
            open_.append(parameters[other])


def checked_setting(space: Space, setting: Mapping[str, Any], where: str) -> dict[str, Value]:
    """A setting known in advance, as values of the space.

    What it leaves out is for the sampler to choose.
    where: what to call it in messages. Raises BadInputError for a key that is not searched or a
    value outside.
    """
    values: dict[str, Value] = {}
    for key, value in setting.items():
        if key in space.narrowed or key in space.fixed:
            continue  # fixed on the command line
        parameter = space.parameters.get(key)
        if parameter is None:
            raise BadInputError(
                f"{where}: {key} is not searched; the space has {', '.join(space.parameters)}"
            )
        value = (
            value if isinstance(parameter.distribution, CategoricalDistribution) else _number(value)
        )
        if not _takes(parameter.distribution, value):
            raise BadInputError(f"{where}: {key}={value} lies outside {parameter.text}")
        values[key] = value
    return values


def _number(value: Any) -> Any:
    return (
        float(value) if isinstance(value, str) and _is_float(value) else value
    )  # YAML reads 1e-3 as text


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_text(value: Any) -> str:
    return "null" if value is None else str(value)


def _by_key(
    lines: Sequence[str], parse: Callable[[list[str]], list[Override]], where: str
) -> dict[str, Override]:
    found: dict[str, Override] = {}
    try:
        overrides = parse(list(lines))
    except HydraException as error:
        raise BadInputError(f"cannot read {where}: {str(error).splitlines()[0]}") from error
    for override in overrides:
        key = override.get_key_element().lstrip("+~")
        other = found.pop(key, None)
        if other is not None and (other.is_sweep_override() or override.is_sweep_override()):
            both = (
                "is searched twice"
                if _both_search(other, override)
                else "is both fixed and searched"
            )
            raise BadInputError(
                f"{key} {both} in {where}: {other.input_line} and {override.input_line}; keep one of them"
            )
        found[key] = override
    return found


def _both_search(a: Override, b: Override) -> bool:
    return a.is_sweep_override() and b.is_sweep_override()


def _parameter(override: Override, is_group: Callable[[str], bool]) -> Parameter:
    key = override.get_key_element()
    text = override.input_line or key
    match override.value():
        case IntervalSweep(start=low, end=high, tags=tags):
            return Parameter(key, text, _interval(text, low, high, "log" in tags))
        case RangeSweep(shuffle=False):
            return Parameter(key, text, _range(text, override))
        case _ if override.is_discrete_sweep():
            return _choice(
                key, text, override, override.package is not None or is_group(override.key_or_group)
            )
    raise BadInputError(
        f"{text}: this kind of sweep is not known; use choice, range, interval or glob"
    )


def _interval(text: str, low: float | None, high: float | None, log: bool) -> BaseDistribution:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise BadInputError(f"{text}: an interval needs two finite ends, got {low} and {high}")
    if low > high:
        raise BadInputError(
            f"{text}: the interval runs from {low} down to {high}; write interval({high}, {low})"
        )
    if low == high:
        raise BadInputError(
            f"{text}: the interval from {low} to {high} is empty; widen it, or fix the value"
        )
    if log and low <= 0:
        raise BadInputError(
            f"{text}: a log interval must lie above 0, got {low}; start it at a small positive number"
        )
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(text: str, override: Override) -> BaseDistribution:
    try:
        values: list[Any] = sorted(override.sweep_iterator())
    except (HydraException, ValueError) as error:
        raise BadInputError(f"{text}: a range needs a step other than 0") from error
    if not values:
        raise BadInputError(
            f"{text}: the range is empty; it runs from its start up to, not including, its stop"
        )
    low, high = values[0], values[-1]
    step = values[1] - low if len(values) > 1 else 1
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, step=step)
    return FloatDistribution(low, high, step=step)


def _choice(key: str, text: str, override: Override, is_group: bool) -> Parameter:
    spelling: dict[Value, str] = {}
    for element in _in_order(override):
        value = _choice_value(element)
        if value in spelling:
            raise BadInputError(
                f"{text}: the choice {spelling[value]} stands there twice; name each choice once"
            )
        spelling[value] = Transformer.str(element) if is_group else _spelled(element)
    if not spelling:
        raise BadInputError(f"{text}: nothing to choose from; name at least one choice")
    return Parameter(key, text, CategoricalDistribution(tuple(spelling)), is_group, spelling)


def _in_order(override: Override) -> Iterator[Any]:
    """The elements as written: `shuffle` would make another space at every start, and no sweep could be continued."""
    match override.value():
        case ChoiceSweep(list=elements):
            return iter(elements)
        case RangeSweep() as sweep:
            return iter(sweep.range())
    return iter(override.sweep_iterator())


def _spelled(element: Any) -> str:
    """An element as override text.

    Hydra forgets the quotes within choice(...), so text that needs them gets them.
    """
    if isinstance(element, str) and (
        not PLAIN_TEXT.fullmatch(element) or element.lower() in NOT_TEXT
    ):
        return QuotedString(element, Quote.single).with_quotes()
    return Transformer.str(element)


def _choice_value(element: Any) -> Value:
    if isinstance(element, QuotedString):
        return element.text
    if element is None or isinstance(element, str | int | float | bool):
        return element
    return Transformer.str(element)  # a list or dict is chosen by its text
