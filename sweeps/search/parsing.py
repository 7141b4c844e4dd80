"""From Hydra's overrides to a search space: choice, range, interval and glob become distributions.

Pure: Hydra's parser and the app's config groups come in as functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
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
)

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.hydra_compat import is_changed_range, values_of_range
from iolaus.sweeps.search._conditions import with_conditions
from iolaus.sweeps.search.space import Parameter, Space, Value

__all__ = ["PLAIN_TEXT", "checked_setting", "parse_space", "with_ties"]

# Steps of a range nearer than this to a whole number of them may be one more by rounding; they are
# counted up to so many.
ROUNDING, MOST_COUNTED = 1e-15, 100_000

# Text that Hydra's grammar reads as itself, but for the words that mean something else.
PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")
NOT_TEXT = frozenset({"null", "true", "false", "nan", "inf"})


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
    return with_conditions(space, when or {}, values)


def with_ties(resolved: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The sweeper's params with their interpolations resolved, but for ties.

    Those every trial resolves by itself. A tie is a value that begins with an interpolation
    (`${sweep.mul:0.1,${batch_size}}`): a fixed override, quoted for Hydra's grammar. In
    `interval(0, ${max})` the interpolation is resolved once, for the whole sweep.
    """
    return {key: _tied(value, written[key]) for key, value in resolved.items()}


def _tied(resolved: Any, written: Any) -> Any:
    if isinstance(written, str) and written.lstrip().startswith("${"):
        return Transformer.str(QuotedString(written, quote=Quote.single))
    return resolved


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
        if not parameter.takes(value):
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
    """A value of `params` as override text; a list is a choice between its elements."""
    if isinstance(value, list | tuple):
        elements = ",".join(map(_spelled, value))
        return elements if len(value) > 1 else f"choice({elements})"  # choice takes no null
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
                f"{key} {both} in {where}: {other.input_line} and {override.input_line}; keep one "
                "of them"
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
        case RangeSweep(step=0):
            raise BadInputError(f"{text}: a range needs a step other than 0")
        case RangeSweep(shuffle=False) as sweep if not is_changed_range(sweep):
            return Parameter(key, text, _range(text, sweep))
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
            f"{text}: a log interval must lie above 0, got {low}; start it at a small positive "
            "number"
        )
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(text: str, sweep: RangeSweep) -> BaseDistribution:
    """The distribution of a range, by arithmetic: a range of any length takes no memory."""
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or not all(map(math.isfinite, (start, stop, step))):
        raise BadInputError(f"{text}: a range needs two finite ends, got {start} and {stop}")
    # How many there are is Hydra's, which adds the steps up in 28 decimal digits: where they come
    # to the stop but for rounding, it is asked. Which they are is as written: in binary the steps
    # of 0.1 are not quite equal, and Optuna warns.
    values = sweep.range()
    steps = (Fraction(values.stop) - Fraction(values.start)) / Fraction(values.step)
    n = math.ceil(steps)
    is_close = abs(steps - round(steps)) < ROUNDING and not isinstance(values, range)
    if is_close and 0 <= n < MOST_COUNTED:
        n = sum(1 for _ in values)
    if n <= 0:
        raise BadInputError(
            f"{text}: the range is empty; it runs from its start up to, not including, its stop"
        )
    origin, stride = Fraction(str(start)), Fraction(str(step))
    low, high = sorted((origin, origin + (n - 1) * stride))
    width = abs(stride) if n > 1 else Fraction(1)
    if isinstance(values, range):
        return IntDistribution(int(low), int(high), step=int(width))
    return FloatDistribution(float(low), float(high), step=float(width))


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
    """The elements as written.

    `shuffle` would make another space at every start, and no sweep could be continued.
    """
    match override.value():
        case ChoiceSweep(list=elements):
            return iter(elements)
        case RangeSweep() as sweep:
            return values_of_range(sweep)
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
