from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from iolaus.trainer.models.transformer import Block, Transformer


@given(
    n_examples=st.integers(1, 4),
    length=st.integers(1, 9),
    n_heads=st.integers(1, 4),
    seed=st.integers(0),
)
def test_a_block_is_torchs_encoder_layer(
    n_examples: int, length: int, n_heads: int, seed: int
) -> None:
    """With equal weights, outputs and gradients are those of nn.TransformerEncoderLayer with the
    norm first.
    """
    torch.manual_seed(seed % 2**32)
    n_features, n_hidden = 3 * n_heads, 10
    reference = nn.TransformerEncoderLayer(
        n_features,
        n_heads,
        n_hidden,
        dropout=0.0,
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    block = Block(n_features, n_heads, n_hidden, dropout=0.0).double()
    pairs = {
        "attention_norm": reference.norm1,
        "attention_output.0": reference.self_attn.out_proj,
        "feedforward.0": reference.norm2,
        "feedforward.1": reference.linear1,
        "feedforward.3": reference.linear2,
    }
    theirs = {
        f"{name}.{kind}": getattr(module, kind)
        for name, module in pairs.items()
        for kind in ("weight", "bias")
    }
    theirs["query_key_value.weight"] = reference.self_attn.in_proj_weight
    theirs["query_key_value.bias"] = reference.self_attn.in_proj_bias
    block.load_state_dict(theirs)

    inputs = torch.randn(n_examples, length, n_features, dtype=torch.float64)
    toward = torch.randn_like(inputs)
    expected, got = reference(inputs), block(inputs)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    (expected * toward).sum().backward()
    (got * toward).sum().backward()
    for name, param in block.named_parameters():
        torch.testing.assert_close(param.grad, theirs[name].grad, rtol=1e-9, atol=1e-11)


def test_without_positions_the_order_of_the_symbols_makes_no_difference() -> None:
    """Attention and mean see a set; what tells the first two digits from the others are the learned
    positions.
    """
    torch.manual_seed(0)
    model = Transformer(n_symbols=10, n_classes=19, length=20).double().eval()
    tokens = torch.randint(10, (6, 20))
    shuffled = tokens[:, torch.randperm(20)]
    assert not torch.allclose(model(tokens), model(shuffled), rtol=1e-3)
    model.positions.data.zero_()
    torch.testing.assert_close(model(tokens), model(shuffled), rtol=1e-10, atol=1e-12)
    assert model(tokens[:, :7]).shape == (6, 19)


def test_heads_that_do_not_divide_the_features_are_refused() -> None:
    """The sentence names both settings."""
    with pytest.raises(
        ValueError, match=r"model\.n_features=32 must be a multiple of model\.n_heads=5"
    ):
        Transformer(n_symbols=10, n_classes=19, length=20, n_heads=5)
