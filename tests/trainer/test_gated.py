from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from iolaus.trainer.models.gru import GRU, GRULayer
from iolaus.trainer.models.lstm import LSTM, LSTMLayer

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
OURS_AND_TORCHS: list[Any] = [
    pytest.param(LSTM, LSTMLayer, nn.LSTM, id="lstm"),
    pytest.param(GRU, GRULayer, nn.GRU, id="gru"),
]
sizes = st.integers(1, 7)


@pytest.mark.parametrize(("model_type", "layer_type", "reference_type"), OURS_AND_TORCHS)
@given(
    n_examples=sizes,
    length=sizes,
    n_inputs=sizes,
    n_hidden=sizes,
    n_layers=st.integers(1, 3),
    seed=st.integers(0),
)
def test_it_is_torchs(
    n_examples: int,
    length: int,
    n_inputs: int,
    n_hidden: int,
    n_layers: int,
    seed: int,
    model_type: Any,
    layer_type: Any,
    reference_type: Any,
) -> None:
    """With equal weights, states and gradients of stacked layers are those of nn.LSTM and nn.GRU,
    to rounding in float64.
    """
    torch.manual_seed(seed % 2**32)
    reference = reference_type(n_inputs, n_hidden, n_layers).double()
    layers = [
        layer_type(n_inputs if k == 0 else n_hidden, n_hidden).double() for k in range(n_layers)
    ]
    for k, layer in enumerate(layers):
        layer.load_state_dict({kind: getattr(reference, f"{kind}_l{k}") for kind in KINDS})

    inputs = torch.randn(length, n_examples, n_inputs, dtype=torch.float64, requires_grad=True)
    toward = torch.randn(length, n_examples, n_hidden, dtype=torch.float64)
    theirs = reference(inputs)[0]
    (theirs * toward).sum().backward()
    expected, inputs.grad = inputs.grad, None
    ours = inputs
    for layer in layers:
        ours = torch.stack(layer(ours))
    (ours * toward).sum().backward()

    close = {"rtol": 1e-10, "atol": 1e-13}
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(inputs.grad, expected, **close)
    for k, layer in enumerate(layers):
        for kind in KINDS:
            grad = getattr(layer, kind).grad
            if grad is None:  # the recurrent weights where there is one step only
                grad = torch.zeros_like(getattr(layer, kind))
            torch.testing.assert_close(grad, getattr(reference, f"{kind}_l{k}").grad, **close)


@pytest.mark.parametrize(("model_type", "layer_type", "reference_type"), OURS_AND_TORCHS)
@pytest.mark.parametrize(("n_layers", "n_symbols"), [(1, 10), (3, 10), (1, 100)])
def test_first_weights_are_drawn_as_torch_draws_them(
    n_layers: int, n_symbols: int, model_type: Any, layer_type: Any, reference_type: Any
) -> None:
    """From one seed, embedding, torch's recurrence and linear layer start with the same numbers, in
    the order of construction; the logits are theirs, with fewer symbols than tokens and with more.
    """
    torch.manual_seed(3)
    model = model_type(
        n_symbols=n_symbols, n_classes=19, n_embedding=5, n_hidden=7, n_layers=n_layers
    )
    torch.manual_seed(3)
    reference = nn.ModuleList(
        [nn.Embedding(n_symbols, 5), reference_type(5, 7, n_layers), nn.Linear(7, 19)]
    )
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True)
    )
    tokens = torch.randint(n_symbols, (4, 20))
    embedding, recurrence, output = reference
    torch.testing.assert_close(model(tokens), output(recurrence(embedding(tokens.t()))[0][-1]))


@pytest.mark.parametrize(("model_type", "layer_type", "reference_type"), OURS_AND_TORCHS)
def test_no_layer_is_refused(model_type: Any, layer_type: Any, reference_type: Any) -> None:
    """n_layers=0 comes back by name."""
    with pytest.raises(ValueError, match=r"model\.n_layers must be from 1 up; got 0"):
        model_type(n_symbols=10, n_classes=19, n_layers=0)
