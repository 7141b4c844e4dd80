"""The search space: Hydra's overrides in, Optuna's distributions and configs out."""
