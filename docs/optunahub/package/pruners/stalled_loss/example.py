"""Gradient descent on a parabola with a noisy loss; the learning rate is searched.

python example.py, in this folder
"""

import random
from pathlib import Path

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """The loss after 100 steps."""
    lr = trial.suggest_float("lr", 1e-5, 1, log=True)
    noise, x = random.Random(trial.number), 1.0
    for step in range(100):
        x -= lr * 2 * x
        loss = x * x + 0.001 * noise.random()
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


if __name__ == "__main__":
    module = optunahub.load_local_module(
        "pruners/stalled_loss", registry_root=str(Path(__file__).parents[2])
    )
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, pruner=module.StalledLoss(n_steps=100))
    study.optimize(objective, n_trials=30)
    for trial in study.get_trials(states=(optuna.trial.TrialState.PRUNED,)):
        print(trial.number, trial.params["lr"], trial.user_attrs["verdict"])
    print("best", study.best_params, study.best_value)
