"""skorch in a trial: what it reports, when it stops, where it goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
import torch

skorch = pytest.importorskip("skorch")

from iolaus.integrations.skorch import IolausCallback  # noqa: E402

N_EPOCHS, N_BATCHES = 4, 8


def fit(callback: Any) -> Any:
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).standard_normal((80, 4), np.float32)
    net = skorch.NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=4,
        module__out_features=1,
        lr=0.1,
        max_epochs=N_EPOCHS,
        batch_size=8,
        iterator_train__shuffle=False,
        callbacks=[callback],
        verbose=0,
    )
    return net.fit(inputs, inputs.sum(1, keepdims=True))


def test_each_epoch_is_reported(trial: Any) -> None:
    """Its numbers under their names at its last update; the length is announced."""
    fit(IolausCallback())
    ends = [N_BATCHES * (epoch + 1) - 1 for epoch in range(N_EPOCHS)]
    assert trial.steps("valid_loss") == trial.steps("train_loss") == ends
    assert {tuple(sorted(row.metrics)) for row in trial.rows} == {("train_loss", "valid_loss")}
    assert trial.plan.n_steps == N_EPOCHS * N_BATCHES


def test_a_stop_ends_the_fit(trial: Any) -> None:
    """TrialPruned flies out of net.fit."""
    trial.stop_at(N_BATCHES)
    with pytest.raises(optuna.TrialPruned, match="enough"):
        fit(IolausCallback())
    assert len(trial.steps("valid_loss")) == 2


def test_a_trial_goes_on_from_its_checkpoint(trial: Any) -> None:
    """It makes the epochs that are left; where nothing is random it ends as if it had not stopped.

    The net's own max_epochs is as it was.
    """
    whole = fit(IolausCallback(checkpoint_every_s=None)).module_.weight
    trial.begin_anew()
    trial.stop_at(2 * N_BATCHES)
    with pytest.raises(optuna.TrialPruned):
        fit(IolausCallback(checkpoint_every_s=0))
    trial.go_on()
    net = fit(IolausCallback(checkpoint_every_s=0))
    assert trial.steps("valid_loss") == [3 * N_BATCHES - 1, 4 * N_BATCHES - 1]
    assert (len(net.history), net.max_epochs) == (N_EPOCHS, N_EPOCHS)
    assert torch.equal(net.module_.weight, whole)


def test_outside_a_sweep_it_does_nothing() -> None:
    """A fit without a trial is a fit."""
    assert len(fit(IolausCallback(checkpoint_every_s=0)).history) == N_EPOCHS
