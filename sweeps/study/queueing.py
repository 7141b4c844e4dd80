"""A setting that someone wants run, queued in a study that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.parsing import checked_setting
from iolaus.sweeps.search.space import Parameter, Space, Value

__all__ = ["queue_setting"]


def queue_setting(study: optuna.Study, setting: Mapping[str, Any]) -> dict[str, Value]:
    """Queue a setting to be run next, by the sweep that runs or by its next session.

    setting: values by key, of some or all parameters; the sampler chooses the rest. A key may leave
    out the `+` that the sweep's command has. Returns the setting under the study's own keys. Raises
    BadInputError for a key that is not searched, or a value outside what is.
    """
    known = study.user_attrs.get("search_space", {})
    if not known or not setting:
        raise BadInputError(
            "name at least one parameter: " + ", ".join(known)
            if known
            else f"study {study.study_name} does not say what it searches: nothing can be queued"
        )
    space = Space({key: _parameter(key, known[key]) for key in known}, {}, ())
    full = {key.lstrip("+"): key for key in known}
    given = {full.get(key.lstrip("+"), key): value for key, value in setting.items()}
    values = checked_setting(space, given, "the setting to queue")
    study.enqueue_trial(values)
    return values


def _parameter(key: str, described: Mapping[str, Any]) -> Parameter:
    kept = {name: value for name, value in described.items() if name != "when"}
    distribution = json_to_distribution(json.dumps(kept))
    match distribution:
        case CategoricalDistribution(choices=choices):
            among = ", ".join(map(str, choices))
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            among = f"{low} to {high}"
        case other:
            among = str(other)
    return Parameter(key, f"{key}={among}", distribution)
