"""When a parameter exists: `hydra.sweeper.when`, checked before anything runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import FloatDistribution

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.space import Parameter, Space, Value

__all__ = ["in_order", "with_conditions", "without"]


def with_conditions(
    space: Space, when: Mapping[str, Mapping[str, Any]], fixed_values: Mapping[str, Value]
) -> Space:
    """The space in which these keys exist only beside these values of others.

    when: key -> key of another parameter -> the value, or list of values, under which the first
    exists. fixed_values: of the keys that are not searched. Raises BadInputError for a condition
    that names what is not searched or can never hold.
    """
    parameters, fixed_when = dict(space.parameters), dict(space.fixed_when)
    dropped: set[str] = set()
    for key, condition in when.items():
        if key in space.given or key in space.narrowed:
            continue  # the command line has decided it
        if key not in space.parameters and key not in space.fixed:
            raise BadInputError(
                f"hydra.sweeper.when names {key}, which is not searched; add it to params or "
                "remove it"
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
                    f"hydra.sweeper.when: {key} can never exist: its own condition and those of "
                    "the parameters it "
                    f"depends on ask for different values of {other}"
                )
            open_.append(parameters[other])


def _refuse_unknown_values(space: Space, key: str, other: str, allowed: tuple[Value, ...]) -> None:
    parent = space.parameters.get(other) or space.narrowed.get(other)
    if parent is None:
        raise BadInputError(
            f"hydra.sweeper.when: {key} depends on {other}, which is not searched: {key} always or "
            "never exists; "
            f"search {other}, or remove the condition"
        )
    if isinstance(parent.distribution, FloatDistribution):
        raise BadInputError(
            f"hydra.sweeper.when: {key} depends on {other}, which is continuous ({parent.text})"
        )
    for value in allowed:
        if not parent.takes(value):
            raise BadInputError(
                f"hydra.sweeper.when: {key} exists when {other} is {value}, which it never is "
                f"({parent.text}); "
                "the dimension is dead: fix the value"
            )
