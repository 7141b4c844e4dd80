"""The settings of a sweep that are not searched, as they may be kept and compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from iolaus.sweeps.hydra_compat import as_plain, copy_without
from iolaus.sweeps.search.branches import branches_tried
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.secrets import without_password

__all__ = ["fixed_settings", "settings_as_text"]

# Keys whose values are nobody's business, and change no result.
_SECRET = re.compile(
    r"(^|_)(password|passwd|secret|credentials?|(api|access|secret)_?key|auth_token|api_token|"
    r"access_token|hf_token|token)$",
    re.IGNORECASE,
)


def fixed_settings(space: Space, composer: Composer, folders: Mapping[str, Path]) -> dict[str, str]:
    """The task's config as text by dotted key, but for what is searched and what is secret.

    Interpolations stand as they are written: what they give may differ at every start, as with
    `${now:}`. `hydra` is left out, and so are keys named like a password. Where config groups are
    searched, a key that differs between their choices has all its values. folders: what stands for
    each of these folders at the beginning of a value, as they may differ between starts too.
    """
    examples = {key: p.examples()[0] for key, p in space.parameters.items()}
    found: dict[str, dict[str, None]] = {}
    for branch in branches_tried(space):
        setting = space.active(examples | branch)
        config = composer.compose(space.overrides(setting))
        for key, text in settings_as_text(config, folders).items():
            found.setdefault(key, {})[text] = None
    searched = {key.lstrip("+") for key, p in space.parameters.items() if not p.is_group}
    return {
        key: " or ".join(values)
        for key, values in sorted(found.items())
        if not _is_within(key, searched)
    }


def settings_as_text(config: DictConfig, folders: Mapping[str, Path]) -> dict[str, str]:
    """One config as text by dotted key, but for what is secret and `hydra`; see above."""
    return {
        key: _text(value, folders)
        for key, value in _leaves(as_plain(copy_without(config, "hydra")))
        if not _SECRET.search(key.rpartition(".")[2])
    }


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_within(key: str, searched: set[str]) -> bool:
    """Whether a key, or what it lies in, is searched itself."""
    parts = key.split(".")
    return any(".".join(parts[:n]) in searched for n in range(1, len(parts) + 1))


def _text(value: Any, folders: Mapping[str, Path]) -> str:
    if not isinstance(value, str):
        return without_password(json.dumps(value, default=str))
    for name, folder in folders.items():
        if Path(value).is_relative_to(folder) and len(folder.parts) > 1:
            value = str(Path(name, Path(value).relative_to(folder)))
    return without_password(value)
