"""`search_space`, as sweeper configs of before hydra-optuna-sweeper 1.2 have it, as `params`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iolaus.sweeps.errors import BadInputError

__all__ = ["params_of"]

KEYS = frozenset({"type", "low", "high", "step", "log", "choices"})


def params_of(search_space: Mapping[str, Any]) -> dict[str, Any]:
    """Each entry in Hydra's grammar, with the ends that the old sweeper had: both included.

    Raises BadInputError for an entry that it could not have read.

    >>> params_of({"lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True}})
    {'lr': 'tag(log, interval(0.001, 0.1))'}
    >>> params_of({"n": {"type": "int", "low": 1, "high": 5, "step": 2}})
    {'n': 'range(1, 6, 2)'}
    >>> params_of({"model": {"type": "categorical", "choices": ["mlp", "cnn"]}})
    {'model': ['mlp', 'cnn']}
    """
    where = "hydra.sweeper.search_space"
    return {key: _param(f"{where}.{key}", one) for key, one in search_space.items()}


def _param(where: str, one: Any) -> Any:
    if not isinstance(one, Mapping) or not set(one) <= KEYS:
        raise BadInputError(
            f"{where}={one}: give type (float, int or categorical) with low and high, or choices; "
            "better, write it as Hydra does, in hydra.sweeper.params"
        )
    kind, low, high, step = (one.get(name) for name in ("type", "low", "high", "step"))
    if kind == "categorical" and one.get("choices"):
        return list(one["choices"])
    if kind not in ("int", "float") or low is None or high is None:
        raise BadInputError(
            f"{where}: type={kind}, low={low}, high={high}; give type float or int with low and "
            "high, or type categorical with choices"
        )
    if kind == "int":
        log = f"int(tag(log, interval({low}, {high})))"
        return log if one.get("log") else f"range({low}, {high + 1}, {step or 1})"
    if step is not None:
        return f"range({float(low)}, {high + step / 2}, {step})"
    interval = f"interval({float(low)}, {float(high)})"
    return f"tag(log, {interval})" if one.get("log") else interval
