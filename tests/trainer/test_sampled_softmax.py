"""The softmax by a sample of the classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iolaus.trainer.dropout import set_streams, streams
from iolaus.trainer.sampled_softmax import (
    SampledSoftmax,
    log_uniform_sample,
    sampled_cross_entropy,
)


def test_it_is_the_sampled_softmax_loss_of_tensorflow() -> None:
    """Row by row as `sampled_softmax_loss` writes it: true logits beside sampled ones, each less
    the logarithm of its expected count, accidental hits out, softmax cross-entropy.
    """
    rng = np.random.default_rng(0)
    n_classes, drawn = 50, np.array([3, 0, 7, 11, 2, 30])
    weight, bias = rng.normal(size=(n_classes, 5)), rng.normal(size=n_classes)
    features, labels = rng.normal(size=(4, 5)), np.array([7, 1, 0, 49])
    n_tries = 9
    # tensorflow/core/kernels/range_sampler.cc
    p = [math.log((i + 2) / (i + 1)) / math.log(n_classes + 1) for i in range(n_classes)]
    expected = [-math.expm1(n_tries * math.log1p(-q)) for q in p]
    losses = []
    for x, label in zip(features, labels, strict=True):
        logits = [x @ weight[label] + bias[label] - math.log(expected[label])]
        logits += [x @ weight[i] + bias[i] - math.log(expected[i]) for i in drawn if i != label]
        losses.append(math.log(sum(math.exp(one) for one in logits)) - logits[0])
    ours = sampled_cross_entropy(
        *(torch.from_numpy(a) for a in (features, labels, weight, bias, drawn)),
        torch.log(torch.tensor(expected, dtype=torch.float64)),
    )
    np.testing.assert_allclose(ours.numpy(), losses, rtol=1e-12)


def test_classes_are_drawn_as_by_rejection_and_counted_as_expected() -> None:
    """How often a class is among 10 of 40 agrees with TensorFlow's way, draw and skip what was
    drawn, and the mean number of its tries with ours: each within 4.5 standard errors of 4,000
    draws (fails by luck once in 3,000 seeds).
    """
    n_classes, k, n = 40, 10, 4000
    generator = torch.Generator().manual_seed(0)
    ours, tries = np.zeros(n_classes), []
    p = np.log1p(1 / np.arange(1, n_classes + 1)) / math.log(n_classes + 1)
    for _ in range(n):
        drawn, log_expected = log_uniform_sample(torch.rand(n_classes, generator=generator), k)
        assert len(set(drawn.tolist())) == k
        ours[drawn.numpy()] += 1
        # of the first class, 1 - (1 - p) ** n_tries
        tries.append(math.log1p(-math.exp(float(log_expected[0]))) / math.log1p(-p[0]))
    rng, theirs, their_tries = np.random.default_rng(0), np.zeros(n_classes), []
    for _ in range(n):
        tried = rng.choice(n_classes, 400, p=p)
        _, first = np.unique(tried, return_index=True)
        n_tries = int(np.sort(first)[k - 1]) + 1
        theirs[np.unique(tried[:n_tries])] += 1
        their_tries.append(n_tries)
    error = np.sqrt(2 * np.maximum(theirs, 1) * (1 - theirs / n) + 1)
    assert (np.abs(ours - theirs) < 4.5 * error).all()
    spread = math.sqrt((np.var(tries) + np.var(their_tries)) / n)
    assert abs(np.mean(tries) - np.mean(their_tries)) < 4.5 * spread


def test_all_classes_are_the_full_softmax() -> None:
    """In evaluation, and where as many are to be drawn as there are; by a sample the loss is lower,
    the nearer the more are drawn, and in evaluation always by the same one.
    """
    torch.manual_seed(0)
    features, labels = torch.randn(2000, 6), torch.randint(300, (2000,))
    full = SampledSoftmax(6, 300, 0, 0.3)
    expected = F.cross_entropy(F.linear(features, full.weight, full.bias), labels, reduction="none")
    errors = []
    for n_sampled in (300, 200, 20):
        layer = SampledSoftmax(6, 300, n_sampled, 0.3)
        layer.load_state_dict(full.state_dict())
        torch.testing.assert_close(layer.eval()(features, labels), expected)
        errors.append(abs(float((layer.train()(features, labels) - expected).detach().mean())))
    assert errors[0] == pytest.approx(0, abs=1e-6)
    assert errors[0] < errors[1] < errors[2]
    assert torch.equal(layer.eval()(features, labels, True), layer(features, labels, True))
    assert (layer(features, labels, True) - expected).mean() < -1


def test_the_draw_is_of_seed_and_step() -> None:
    """The same step draws the same classes, another step or seed others."""
    layer = SampledSoftmax(4, 1000, 8, 1.0)
    features, labels = torch.ones(3, 4), torch.tensor([1, 2, 3])
    found = []
    for key in ((0, 0), (0, 1), (1, 0), (0, 0)):
        set_streams(streams(layer), *key)
        found.append(layer(features, labels).tolist())
    assert found[0] == found[3]
    assert found[0] != found[1] != found[2] != found[0]
    with pytest.raises(ValueError, match="n_sampled must be from 1 up, or 0 for all words; got -1"):
        SampledSoftmax(4, 10, -1, 1.0)
