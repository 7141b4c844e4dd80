"""Asynchronous, pruning, resumable sweeps of any training function, on Hydra and Optuna."""
