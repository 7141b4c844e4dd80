"""The one place that touches what Hydra 1.3 and OmegaConf 2.3 keep to themselves.

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
from collections.abc import Callable, Sequence
from typing import Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType
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
    "may_keep_configs",
    "overrides_dirname",
    "overwrite",
    "plain_value",
    "resolver",
    "returned_by",
    "set_hydra_config",
    "to_yaml",
    "with_number",
]


def apply_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Change a composed config by overrides of values, as `load_sweep_config` would.

    Raises Hydra's ConfigCompositionException for a key or value that the config does not take.
    Relies on `ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)` being static and working
    in place: the public way composes the whole config again.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def overrides_dirname(overrides: Sequence[Override], rule: DictConfig) -> str:
    """The value of `hydra.job.override_dirname`.

    rule: the config's `hydra.job.config.override_dirname`. Relies on `get_overrides_dirname`.
    """
    return get_overrides_dirname(
        list(overrides), kv_sep=rule.kv_sep, item_sep=rule.item_sep, exclude_keys=rule.exclude_keys
    )


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
