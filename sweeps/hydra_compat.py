"""The one place that touches what Hydra 1.3 and OmegaConf 2.3 keep to themselves.

Each function says what it does in public terms and which private part it relies on;
tests/sweeps/test_hydra_compat.py holds each against Hydra's own slow way. Another minor version of
either package is to pass that file before the bounds in pyproject.toml are raised.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any, cast

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

__all__ = [
    "apply_overrides",
    "as_plain",
    "copy_without",
    "overrides_dirname",
    "returned_by",
    "set_hydra_config",
    "to_yaml",
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


def returned_by(job: JobReturn) -> Any:
    """What a job's task returned, or the exception that it raised.

    Relies on `JobReturn._return_value`: the public property raises the exception.
    """
    return job._return_value


class _Dumper(yaml.CDumper):
    """OmegaConf's YAML, written by libyaml.

    Relies on the dumper of `get_omega_conf_dumper` having a `str_representer`, which keeps the
    quotes of strings that look like numbers to OmegaConf.
    """


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)  # type: ignore[arg-type] # same interface


def to_yaml(content: Any) -> str:
    """A config, or plain data with configs in it, as OmegaConf would write it: nothing resolved."""
    stream = io.StringIO()
    yaml.dump(
        as_plain(content),
        stream,
        Dumper=_Dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    return stream.getvalue()


def as_plain(content: Any) -> Any:
    """A config, or a dict with configs in it, as plain data: nothing resolved, enums by name."""
    if isinstance(content, Container):
        return OmegaConf.to_container(content, enum_to_str=True)
    if isinstance(content, dict):
        return {key: as_plain(value) for key, value in content.items()}
    return content
