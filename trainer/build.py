"""Objects from config nodes: the class named by `_target_`, called with the other settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

__all__ = ["build"]


def build(node: Mapping[str, Any], name: str) -> Any:
    """The object that a node describes.

    name: the node's place in the config, for messages. Unlike hydra.utils.instantiate it does not
    look into nested nodes, and a setting that the class does not have, or refuses, comes back as
    one sentence. Raises ValueError.
    """
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        raise ValueError(f"{name} needs a _target_, the dotted name of a class; got {dict(node)}")
    try:
        target = get_object(node["_target_"])
    except Exception as error:
        raise ValueError(
            f"{name}._target_={node['_target_']} cannot be imported: {error}"
        ) from error
    try:
        inspect.signature(target).bind(**settings)
    except TypeError as error:
        known = ", ".join(inspect.signature(target).parameters)
        raise ValueError(
            f"{name} ({node['_target_']}): {error}; its settings are {known}"
        ) from error
    return target(**settings)
