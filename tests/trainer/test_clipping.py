from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iolaus.trainer.clipping import (
    Adaptive,
    Clipping,
    GlobalNorm,
    NoClipping,
    ParameterNorm,
    Value,
    gradient_norms,
    total_norm,
)

SHAPES = [(4, 3), (5,), (2, 3, 2, 2), (1, 7), ()]

seeds = st.integers(0, 2**31)
thresholds = st.floats(1e-4, 1e3)
scales = st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e6])
dtypes = st.sampled_from([torch.float32, torch.float64])


def draw(seed: int, scale: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def apply(
    clip: Clipping, grads: list[Tensor], weights: list[Tensor] | None = None
) -> tuple[list[Tensor], bool]:
    clipped, any_clipped = clip(
        weights or draw(0, 1.0, grads[0].dtype), grads, gradient_norms(grads)
    )
    return clipped, bool(any_clipped)


def parameters(grads: list[Tensor]) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    return params


def same_bits(ours: list[Tensor], theirs: list[torch.nn.Parameter]) -> bool:
    return all(
        torch.equal(a, b.grad) for a, b in zip(ours, theirs, strict=True) if b.grad is not None
    )


@given(seed=seeds, scale=scales, threshold=thresholds, dtype=dtypes)
def test_global_norm_is_torchs_to_the_last_bit(
    seed: int, scale: float, threshold: float, dtype: torch.dtype
) -> None:
    """GlobalNorm equals torch.nn.utils.clip_grad_norm_, its gradients and the norm before
    clipping.
    """
    grads = draw(seed, scale, dtype)
    params = parameters(grads)
    norm = torch.nn.utils.clip_grad_norm_(params, threshold)
    clipped, any_clipped = apply(GlobalNorm(threshold=threshold), grads)
    assert same_bits(clipped, params)
    assert torch.equal(total_norm(gradient_norms(grads)), norm)
    assert (
        any_clipped == any(not torch.equal(a, b) for a, b in zip(clipped, grads, strict=True))
        or norm < 1e-5
    )


@given(seed=seeds, scale=scales, threshold=thresholds, dtype=dtypes)
def test_value_is_torchs_to_the_last_bit(
    seed: int, scale: float, threshold: float, dtype: torch.dtype
) -> None:
    """Value equals torch.nn.utils.clip_grad_value_, and says whether it changed anything."""
    grads = draw(seed, scale, dtype)
    params = parameters(grads)
    torch.nn.utils.clip_grad_value_(params, threshold)
    clipped, any_clipped = apply(Value(threshold=threshold), grads)
    assert same_bits(clipped, params)
    assert any_clipped == any(not torch.equal(a, b) for a, b in zip(clipped, grads, strict=True))


@given(seed=seeds, scale=scales, threshold=thresholds, dtype=dtypes)
def test_parameter_norm_is_torchs_on_each_parameter(
    seed: int, scale: float, threshold: float, dtype: torch.dtype
) -> None:
    """ParameterNorm equals clip_grad_norm_ called on one parameter after the other, to the last
    bit.
    """
    grads = draw(seed, scale, dtype)
    params = parameters(grads)
    for param in params:
        torch.nn.utils.clip_grad_norm_([param], threshold)
    assert same_bits(apply(ParameterNorm(threshold=threshold), grads)[0], params)


@given(seed=seeds, scale=scales, threshold=st.floats(1e-3, 10))
def test_adaptive_follows_the_paper_unit_by_unit(seed: int, scale: float, threshold: float) -> None:
    """Adaptive bounds each row's (channel's, vector's) gradient norm by threshold x its weight
    norm.
    """
    grads, weights = draw(seed, scale, torch.float64), draw(seed + 1, 1.0, torch.float64)
    weights[3].zero_()  # a layer that begins at 0 counts as 1e-3
    clipped, any_clipped = apply(Adaptive(threshold=threshold), grads, weights)
    changed = False
    for w, g, ours in zip(weights, grads, clipped, strict=True):
        rows_w, rows_g = (
            x.numpy().reshape(x.shape[0], -1) if x.ndim > 1 else x.numpy().reshape(1, -1)
            for x in (w, g)
        )
        expected = rows_g.copy()
        for i, (row_w, row_g) in enumerate(zip(rows_w, rows_g, strict=True)):
            limit = threshold * max(np.sqrt((row_w**2).sum()), 1e-3)
            norm = np.sqrt((row_g**2).sum())
            if norm > limit:
                expected[i], changed = row_g * limit / norm, True
        np.testing.assert_allclose(ours.numpy().reshape(expected.shape), expected, rtol=1e-12)
    assert any_clipped == changed


def test_without_clipping_gradients_are_the_same_objects() -> None:
    """NoClipping hands the gradients on and never says that it clipped."""
    grads = draw(0, 1e9)
    clipped, any_clipped = apply(NoClipping(), grads)
    assert all(a is b for a, b in zip(clipped, grads, strict=True))
    assert not any_clipped


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "clip", [GlobalNorm(threshold=1.0), ParameterNorm(threshold=1.0), Adaptive(threshold=0.1)]
)
def test_a_norm_that_is_not_finite_is_never_hidden(clip: Clipping, bad: float) -> None:
    """Where a gradient is NaN or infinite the scaled one is NaN; what has a norm of its own is not
    touched.
    """
    grads = draw(3, 1e-3)
    grads[1][2] = bad
    clipped, _ = apply(clip, grads)
    assert torch.isnan(clipped[1]).any()
    if not isinstance(clip, GlobalNorm):
        assert all(torch.equal(clipped[i], grads[i]) for i in (0, 2, 4))


@pytest.mark.parametrize(
    "clip",
    [
        NoClipping(),
        GlobalNorm(threshold=2.0),
        Value(threshold=0.5),
        ParameterNorm(threshold=1.0),
        Adaptive(threshold=0.1),
    ],
)
def test_stacked_models_are_clipped_each_by_itself(clip: Clipping) -> None:
    """Under vmap over a leading axis each model's gradients come out as alone: what lanes rely
    on.
    """
    alone = [draw(seed, scale, torch.float64) for seed, scale in ((1, 0.01), (2, 1.0), (3, 50.0))]
    weights = draw(9, 1.0, torch.float64)
    stacked = [torch.stack(tensors) for tensors in zip(*alone, strict=True)]

    def one(grads: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        return clip(weights, grads, gradient_norms(grads))

    together, flags = torch.vmap(one)(stacked)
    for lane, grads in enumerate(alone):
        expected, flag = one(grads)
        assert bool(flags[lane]) == bool(flag)
        for ours, theirs in zip(together, expected, strict=True):
            torch.testing.assert_close(ours[lane], theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [GlobalNorm, Value, ParameterNorm, Adaptive])
@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_a_threshold_that_is_not_above_0_is_refused(kind: type[Clipping], threshold: float) -> None:
    """The sentence names the setting, its value and what to use instead."""
    with pytest.raises(ValueError, match=r"clip\.threshold must be above 0; got .*; use clip=none"):
        kind(threshold=threshold)  # type: ignore[call-arg]
