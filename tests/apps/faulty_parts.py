"""A pruner, a sampler and a search space of a user's that raise at the fifth trial."""

from typing import Any

import optuna


class Pruner(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number == 5 and bool(1 / 0)


class Sampler(optuna.samplers.RandomSampler):
    def sample_relative(self, study: optuna.Study, trial: Any, space: Any) -> dict[str, Any]:
        return {} if trial.number != 5 else {"x": 1 / 0}

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
        return {"x": optuna.distributions.FloatDistribution(0, 1)}


class LateSampler(optuna.samplers.RandomSampler):
    def after_trial(self, study: optuna.Study, trial: Any, state: Any, values: Any) -> None:
        if trial.number == 5:
            raise ZeroDivisionError("after the trial")


def search_space(config: Any, trial: optuna.Trial) -> None:
    trial.suggest_float("+y", 0, 1 if trial.number != 5 else 1 / 0)
