"""Keras 3 on torch in a trial: what it reports, when it stops, where it goes on."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import optuna
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from iolaus.integrations.keras import IolausCallback  # noqa: E402

# Keras makes NumPy arrays of torch's tensors when it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
N_EPOCHS, N_BATCHES = 4, 8


def fit(callback: Any) -> tuple[Any, list[int]]:
    """The model, and the epochs it has made."""
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
    targets = inputs.sum(1, keepdims=True)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    data = {"validation_data": (inputs, targets), "verbose": 0, "shuffle": False}
    history = model.fit(
        inputs, targets, batch_size=8, epochs=N_EPOCHS, callbacks=[callback], **data
    )
    return model, history.epoch


def test_each_epoch_is_reported(trial: Any) -> None:
    """Its logs under their names at its last update; the length is announced."""
    fit(IolausCallback())
    ends = [N_BATCHES * (epoch + 1) - 1 for epoch in range(N_EPOCHS)]
    assert trial.steps("val_loss") == trial.steps("loss") == ends
    assert trial.plan.n_steps == N_EPOCHS * N_BATCHES


def test_a_stop_ends_the_fit(trial: Any) -> None:
    """TrialPruned flies out of model.fit."""
    trial.stop_at(N_BATCHES)
    with pytest.raises(optuna.TrialPruned, match="enough"):
        fit(IolausCallback())
    assert len(trial.steps("val_loss")) == 2


def test_a_trial_goes_on_from_its_checkpoint(trial: Any) -> None:
    """It makes the epochs that are left; where nothing is random it ends as if it had not stopped,
    the optimizer's state included.
    """
    whole, _ = fit(IolausCallback(checkpoint_every_s=None))
    trial.begin_anew()
    trial.stop_at(2 * N_BATCHES)
    with pytest.raises(optuna.TrialPruned):
        fit(IolausCallback(checkpoint_every_s=0))
    trial.go_on()
    model, epochs = fit(IolausCallback(checkpoint_every_s=0))
    assert epochs == [2, 3]
    assert trial.steps("val_loss") == [3 * N_BATCHES - 1, 4 * N_BATCHES - 1]
    for ours, undisturbed in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, undisturbed)


def test_outside_a_sweep_it_does_nothing() -> None:
    """A fit without a trial is a fit."""
    assert fit(IolausCallback(checkpoint_every_s=0))[1] == list(range(N_EPOCHS))
