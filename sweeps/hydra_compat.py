"""The one place that touches what Hydra 1.3, 1.4 and OmegaConf 2.3, 2.4 keep to themselves.

Each function says what it does in public terms and which private part it relies on;
tests/sweeps/test_hydra_compat.py holds each against Hydra's own slow way. Another minor version of
either package is to pass that file before the bounds in pyproject.toml are raised.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, cast

import yaml
from hydra import __version__ as hydra_version
from hydra import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import _run_hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import Container, DictConfig, ListConfig, Node, OmegaConf, StringNode
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.grammar_parser import parse

__all__ = [
    "apply_overrides",
    "as_plain",
    "as_set_again",
    "config_groups",
    "copy_without",
    "is_changed_range",
    "is_command_line",
    "is_known_in_jobs",
    "made",
    "may_keep_configs",
    "overrides_dirname",
    "overwrite",
    "plain_value",
    "resolver",
    "returned_by",
    "set_hydra_config",
    "to_yaml",
    "values_of_range",
    "whitelisted",
    "with_number",
]


def apply_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Change a composed config by overrides of values, as `load_sweep_config` would.

    Raises Hydra's ConfigCompositionException for a key or value that the config does not take.
    Relies on `ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)` being static and working
    in place: the public way composes the whole config again.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def is_known_in_jobs(error: Exception) -> bool:
    """Whether it is of an interpolation of `${hydra:...}`, which has its value within a job.

    Relies on the message of `HydraConfig.get`, whose error OmegaConf hands on as text.
    """
    return "HydraConfig was not set" in str(error)


def overrides_dirname(overrides: Sequence[Override], rule: DictConfig) -> str:
    """The value of `hydra.job.override_dirname`.

    rule: the config's `hydra.job.config.override_dirname`. Relies on nothing: Hydra 1.3 and 1.4
    have this under different private names.
    """
    kept = [o.input_line or "" for o in overrides if o.key_or_group not in rule.exclude_keys]
    return str(rule.item_sep).join(sorted(kept)).replace("=", rule.kv_sep)


# Where classes are that a config may name without more ado.
TRUSTED = ("optuna.*", "iolaus.*", "hydra_plugins.hydra_optuna_sweeper.*")


def made(config: Mapping[str, Any], **extra: Any) -> Any:
    """What `hydra.utils.instantiate` makes of a config with `_target_`.

    Hydra 1.4 wants to know from the caller what a config may name, and warns where it is not told.
    It is told for what is Optuna's or ours; other classes pass as they do for Hydra itself.
    """
    names = [str(name) for name in _targets(config)]
    is_trusted = all(name.startswith(tuple(one[:-1] for one in TRUSTED)) for name in names)
    if is_trusted and _version(hydra_version) >= (1, 4):
        extra["_execution_whitelist_"] = TRUSTED
    return utils.instantiate(config, **extra)


def whitelisted(context: HydraContext) -> AbstractContextManager[object]:
    """Within it a job's config may name what its app lets it, as within Hydra's `run_job`.

    `hydra.main(execution_whitelist=...)`, from Hydra 1.4 on.
    """
    allow: Callable[..., AbstractContextManager[object]] | None
    allow = getattr(utils, "execution_whitelist", None)
    given: object = getattr(context, "execution_whitelist", None)
    return nullcontext() if allow is None else allow(given, reset=True)


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from (value for key, value in node.items() if key == "_target_")
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _targets(value)


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def is_changed_range(sweep: RangeSweep) -> bool:
    """Whether the values of a range are changed one by one, as Hydra 1.4 reads `int(range(...))`.

    Hydra 1.3 changes its ends and its step instead.
    """
    return bool(getattr(sweep, "transformers", ()))


def values_of_range(sweep: RangeSweep) -> Iterator[float]:
    """The values of a range in order, whether or not it is to be shuffled."""
    return iter(cast(Any, sweep)) if is_changed_range(sweep) else iter(sweep.range())


def with_number(override: Override, line: str, number: float) -> Override:
    """The override of a line that differs from another one's in its number alone.

    Relies on `Override` keeping the parsed value in `_value`.
    """
    return dataclasses.replace(override, _value=number, input_line=line)


def as_set_again(override: Override) -> Override:
    """An override of a value for a config in which it has been applied before.

    What it added then is there now.
    """
    return (
        dataclasses.replace(override, type=OverrideType.FORCE_ADD)
        if override.is_add()
        else override
    )


def copy_without(config: DictConfig, key: str) -> DictConfig:
    """A deep copy of a config without one of its nodes; the config itself is as before.

    Relies on a DictConfig keeping its nodes in the dict `_content`. Hydra copies the whole and
    deletes the node from the copy; `hydra` is by far the largest node, so it steps aside instead.
    """
    content = config.__dict__["_content"]
    node = content.pop(key)
    try:
        return copy.deepcopy(config)
    finally:
        content[key] = node


def set_hydra_config(config: DictConfig) -> None:
    """What `HydraConfig.set_config` does, with the `hydra` node shared instead of copied.

    Relies on a node put into `_content` keeping its parent, so that its interpolations still lead
    into `config`.
    """
    OmegaConf.set_readonly(config.hydra, True)
    holder = OmegaConf.create({})
    holder.__dict__["_content"]["hydra"] = config.hydra
    HydraConfig.instance().cfg = cast(Any, holder)


def config_groups(loader: Any) -> Callable[[str], bool]:
    """What says whether a key names a config group of an app.

    Hydra's `get_group_options` reads the primary config and looks through the search path anew for
    each question. Relies on `ConfigLoaderImpl._parse_overrides_and_create_caching_repo`, from which
    it asks.
    """
    _, repository = loader._parse_overrides_and_create_caching_repo(None, [])
    return lambda key: bool(repository.get_group_options(key, ObjectType.CONFIG))


def may_keep_configs(context: HydraContext) -> bool:
    """Whether an app has callbacks that may hold on to a job's config after the job.

    Any may, but those that say `keeps_configs = False`. Relies on the list `Callbacks.callbacks`.
    """
    return any(getattr(each, "keeps_configs", True) for each in context.callbacks.callbacks)


def is_command_line() -> bool:
    """Whether the sweep of this thread was asked for on a command line, that of `hydra.main`.

    Else by a call, such as hydra-zen's `launch`, whose arguments no command has. Relies on
    `hydra.main` going through `_run_hydra`.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not _run_hydra.__code__:
        frame = frame.f_back
    return frame is not None


def returned_by(job: JobReturn) -> Any:
    """What a job's task returned, or the exception that it raised.

    Relies on `JobReturn._return_value`: the public property raises the exception.
    """
    return job._return_value


def overwrite(config: DictConfig, path: Sequence[str], value: Any) -> None:
    """Give a leaf of a config another value of its type, or a list of strings others.

    Nothing is checked, flags are not looked at. Relies on nodes keeping their value in `_val`, and
    lists their nodes in `_content`.
    """
    node = _node(config, path)
    if isinstance(node, ListConfig):
        nodes = [StringNode(one, key=i, parent=node) for i, one in enumerate(value)]
        node.__dict__["_content"] = nodes
    else:
        node.__dict__["_val"] = value


def plain_value(config: DictConfig, path: Sequence[str]) -> Any:
    """A leaf of a config as `as_plain` of the whole has it: not resolved.

    Relies on `_get_node` and `_value`.
    """
    node = _node(config, path)
    if isinstance(node, Container):
        return as_plain(node)
    value = node._value()
    return value.name if isinstance(value, enum.Enum) else value


def _node(config: DictConfig, path: Sequence[str]) -> Node:
    node: Any = config
    for key in path:
        node = node._get_node(key)
    return cast(Node, node)


def resolver(config: DictConfig, key: str) -> Callable[[], Any]:
    """What gives a value of a config as it is then, as `config[key]` would.

    An interpolation is parsed once, which takes longer than all else. Relies on
    `grammar_parser.parse` and `_resolve_interpolation_from_parse_tree`, which `config[key]` calls
    one after the other.
    """
    config[key]  # raises what is to be raised
    node = cast(Node, config._get_node(key))
    if not node._is_interpolation():
        return lambda: config[key]
    tree = parse(node._value())

    def resolve() -> Any:
        found = config._resolve_interpolation_from_parse_tree(
            *(config, node, key, tree), throw_on_resolution_failure=True, memo=set()
        )
        return None if found is None else found._value()

    return resolve


class _Dumper(yaml.CDumper):
    """OmegaConf's YAML, written by libyaml.

    Relies on the dumper of `get_omega_conf_dumper` having a `str_representer`, which keeps the
    quotes of strings that look like numbers to OmegaConf.
    """


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)  # type: ignore[arg-type] # same interface

# What libyaml and PyYAML, where it wraps lines and escapes characters, write alike.
_SIMPLE = re.compile(r"[\w./=+,:@-]*", re.ASCII)


def to_yaml(content: Any) -> str:
    """A config, or plain data with configs in it, as OmegaConf would write it: nothing resolved.

    To the byte: by libyaml, ten times as fast, what it writes alike.
    """
    plain = as_plain(content)
    dumper = _Dumper if _is_simple(plain) else get_omega_conf_dumper()
    stream = io.StringIO()
    yaml.dump(
        plain, stream, Dumper=dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return stream.getvalue()


def _is_simple(plain: Any) -> bool:
    if isinstance(plain, str):
        return _SIMPLE.fullmatch(plain) is not None
    if isinstance(plain, dict):
        return all(_is_simple(key) and _is_simple(value) for key, value in plain.items())
    if isinstance(plain, list):
        return all(map(_is_simple, plain))
    return plain is None or isinstance(plain, bool | int | float)


def as_plain(content: Any) -> Any:
    """A config, or a dict with configs in it, as plain data: nothing resolved, enums by name."""
    if isinstance(content, Container):
        return OmegaConf.to_container(content, enum_to_str=True)
    if isinstance(content, dict):
        return {key: as_plain(value) for key, value in content.items()}
    return content
