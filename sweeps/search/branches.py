"""Every branch of the search space is composed before the first trial starts.

A branch is a combination of config-group choices. Composing them shows what Hydra would refuse in
the middle of a sweep, and which parameters a choice brings with it: `clip.threshold` is searched
only where `clip` has a threshold, with nothing to write for it.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.sweeps.errors import BadInputError, one_line
from iolaus.sweeps.hydra_compat import is_known_in_jobs
from iolaus.sweeps.search._conditions import in_order, without
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.old_search_space import params_of
from iolaus.sweeps.search.parsing import parse_space, with_ties
from iolaus.sweeps.search.space import Space, Value, both, holds

__all__ = ["branches_tried", "searched", "settled"]

log = logging.getLogger("sweeps")

RANGE = re.compile(r"=(int\(|float\(|sort\()*range\(")
# Composing a branch takes some 40 ms. Beyond this many, each choice is tried once instead of each
# combination.
N_BRANCHES_TRIED = 64


def searched(sweeper: DictConfig, arguments: Sequence[str], composer: Composer) -> Space:
    """The search space of a sweep.

    The `params` and `when` of its `hydra.sweeper` node, beaten by the command line. Raises
    BadInputError for what cannot be searched or does not compose.
    """
    try:
        resolved, when = _plain(sweeper.params, resolve=True), _plain(sweeper.when, resolve=True)
    except OmegaConfBaseException as error:
        raise BadInputError(f"hydra.sweeper.params: {one_line(error)}") from error
    params = with_ties(resolved, _plain(sweeper.params, resolve=False))
    read: dict[str, Any] = {}
    if old := _plain(OmegaConf.select(sweeper, "search_space"), resolve=True):
        read = params_of(old)
        log.warning(
            "hydra.sweeper.search_space is the old way to say what is searched; it is read as "
            "hydra.sweeper.params: %s",
            ", ".join(f"{key}: {value}" for key, value in read.items()),
        )
        params = {**read, **params}
    space = parse_space(params, arguments, composer.parse, composer.is_group, when)
    ranges = [
        p.text for key, p in space.parameters.items() if RANGE.search(p.text) and key not in read
    ]
    if ranges:
        log.info("a range leaves out its stop, as in Hydra and Python: %s", ", ".join(ranges))
    return settled(space, composer)


def _plain(node: DictConfig | None, *, resolve: bool) -> dict[str, Any]:
    return (
        {} if node is None else cast(dict[str, Any], OmegaConf.to_container(node, resolve=resolve))
    )


def settled(space: Space, composer: Composer) -> Space:
    """The space with the conditions that its config groups imply.

    Every branch and every example value has been composed. What only branches have which the
    command line has ruled out is dropped. Raises BadInputError for what does not compose, naming
    the parameter.
    """
    branches = branches_tried(space)
    parameters, fixed_when, dropped = dict(space.parameters), dict(space.fixed_when), set()
    for key in space.order:
        if _is_shape(key, composer):
            continue
        parameter = space.parameters.get(key)
        line = space.line(key, parameter.examples()[0]) if parameter else space.fixed[key]
        where = [branch for branch in branches if _has(space, branch, key, line, composer)]
        if len(where) == len(branches):
            continue
        if where:
            condition = _implied(line, branches, where)
            if parameter:
                parameters[key] = replace(parameter, when=both(parameter.when, condition))
            else:
                fixed_when[key] = both(fixed_when.get(key, {}), condition)
        elif key not in space.given and any(
            _has(space, b, key, line, composer) for b in _ruled_out(space)
        ):
            log.info("%s is left out: it does not exist beside what the command line fixes", line)
            dropped.add(key)
        else:
            config = composer.compose(_shape(space, branches[0], composer))
            raise BadInputError(_unknown(key, parameter.text if parameter else line, config))
    space = replace(space, parameters=in_order(parameters), fixed_when=fixed_when)
    space = without(space, dropped)
    for setting in _examples(space, branches):
        _compose(space, setting, composer)
    return space


def _is_shape(key: str, composer: Composer) -> bool:
    """Whether an override decides which keys a config has, rather than the value of one."""
    bare = key.lstrip("+~")
    return key.startswith("~") or "@" in key or composer.is_group(bare)


def _shape(space: Space, branch: Mapping[str, Value], composer: Composer) -> list[str]:
    fixed = [
        line for key, line in space.fixed.items() if key not in branch and _is_shape(key, composer)
    ]
    return [*fixed, *(space.line(key, value) for key, value in branch.items())]


def branches_tried(space: Space) -> list[dict[str, Value]]:
    """The branches that are composed, each once.

    All of them, or beyond `N_BRANCHES_TRIED` those that show each choice once.
    """
    branches = list(itertools.islice(space.branches(), N_BRANCHES_TRIED + 1))
    if len(branches) > N_BRANCHES_TRIED:
        groups = [p for p in space.parameters.values() if p.is_group]
        branches = [
            branches[0],
            *({**branches[0], p.key: v} for p in groups for v in p.examples()[1:]),
        ]
    return [branch for i, branch in enumerate(branches) if branch not in branches[:i]]


def _ruled_out(space: Space) -> Iterator[dict[str, Value]]:
    """Branches that the command line excludes by fixing a group."""
    for parameter in space.narrowed.values():
        if parameter.is_group:
            yield from ({parameter.key: value} for value in parameter.examples())


def _examples(space: Space, branches: Sequence[Mapping[str, Value]]) -> Iterator[dict[str, Value]]:
    """Each branch with the first example of each parameter in it.

    In its first branch, each other example too.
    """
    tried: set[str] = set()
    for branch in branches:
        first = space.example(branch)
        yield first
        for key in first.keys() - branch.keys() - tried:
            tried.add(key)
            yield from ({**first, key: value} for value in space.parameters[key].examples()[1:])


def _has(
    space: Space, branch: Mapping[str, Value], key: str, line: str, composer: Composer
) -> bool:
    """Whether the config of a branch has this key (or lets it be added)."""
    try:
        composer.compose([*_shape(space, branch, composer), line])
    except HydraException as error:
        return f"Could not override '{key}'" not in str(error)
    return True


def _implied(
    line: str, branches: Sequence[Mapping[str, Value]], where: Sequence[Mapping[str, Value]]
) -> dict[str, tuple[Value, ...]]:
    """The choices, group by group, beside which a key exists."""
    condition: dict[str, tuple[Value, ...]] = {}
    for group in dict.fromkeys(key for branch in branches for key in branch):
        choices = tuple(dict.fromkeys(branch[group] for branch in branches if group in branch))
        allowed = tuple(
            choice for choice in choices if any(branch.get(group) == choice for branch in where)
        )
        if allowed != choices:
            condition[group] = allowed
    if [branch for branch in branches if holds(condition, branch)] != list(where):
        raise BadInputError(
            f"{line}: whether this key exists depends on a combination of {', '.join(condition)}; "
            "say in "
            "hydra.sweeper.when beside which values of them it is searched"
        )
    return condition


def _compose(space: Space, setting: Mapping[str, Value], composer: Composer) -> None:
    try:
        config = composer.compose(space.overrides(setting))
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInputError(_refusal(error, space, setting, composer)) from error
    for key, line in space.fixed.items():
        if "${" in line:
            try:
                OmegaConf.select(config, key.lstrip("+"), throw_on_missing=False)
            except OmegaConfBaseException as error:
                if not is_known_in_jobs(error):
                    raise BadInputError(
                        f"the tie {line} cannot be resolved: {one_line(error)}"
                    ) from error


def _refusal(
    error: Exception, space: Space, setting: Mapping[str, Value], composer: Composer
) -> str:
    """What is wrong with a setting that does not compose.

    The parameter, what was asked, what could be meant.
    """
    culprit = _culprit(space, setting, composer)
    if culprit is None:
        return f"the config cannot be composed: {one_line(error)}"
    key, text, rest = culprit
    if f"Could not override '{key}'" in str(error):
        return _unknown(key, text, composer.compose(rest))
    return f"{text}: the config does not take it: {one_line(error.__cause__ or error)}"


def _culprit(
    space: Space, setting: Mapping[str, Value], composer: Composer
) -> tuple[str, str, list[str]] | None:
    """The key and text of the override without which the setting composes, and the others.

    None if there is no one.
    """
    lines = space.overrides(setting)
    for line in lines:
        rest = [other for other in lines if other != line]
        try:
            composer.compose(rest)
        except (HydraException, OmegaConfBaseException):
            continue
        key = line.partition("=")[0]
        return key, space.parameters[key].text if key in space.parameters else line, rest
    return None


def _unknown(key: str, text: str, config: DictConfig) -> str:
    near = difflib.get_close_matches(key, _keys(config), n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"unknown parameter {key} (in {text}): the config has no such key; {meant}To add one, "
        f"write +{text}"
    )


def _keys(config: DictConfig) -> list[str]:
    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return list(walk({key: value for key, value in plain.items() if key != "hydra"}, ""))
