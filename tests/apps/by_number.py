"""A sampler whose proposals depend on the trial's number alone."""

import random
from typing import Any

from optuna.samplers import BaseSampler


class ByNumber(BaseSampler):
    """Any two sweeps of as many trials have the same settings, whatever happened to them."""

    def infer_relative_search_space(self, *_: Any) -> dict:
        return {}

    def sample_relative(self, *_: Any) -> dict:
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        drawn = random.Random(f"{trial.number} {name}").uniform(distribution.low, distribution.high)
        return distribution.to_external_repr(distribution.to_internal_repr(drawn))
