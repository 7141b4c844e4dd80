"""The softmax over a large vocabulary, in training by a sample of it.

As TensorFlow's `sampled_softmax_loss` with its log-uniform candidate sampler: each update draws
classes without replacement, class i with `p = log((i + 2) / (i + 1)) / log(n_classes + 1)` (Zipf's
law, for classes by falling frequency); from each logit the logarithm of how often its class was to
be expected is taken away; a drawn class that is an example's own does not count against it.
Sources: Jean et al., arXiv 1412.2007; tensorflow/python/ops/nn_impl.py (`_compute_sampled_logits`)
and core/kernels/range_sampler.cc.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iolaus.trainer.dropout import Stream, hashed_uniform

__all__ = ["SampledSoftmax", "log_uniform_sample", "sampled_cross_entropy"]

LAYER = 32768  # of its stream: behind those of all dropouts


class SampledSoftmax(Stream):
    """The output layer and its cross-entropy.

    In training over n_sampled drawn classes and the own one; in evaluation, where n_sampled is 0
    and where it is n_classes or more, over all. weight [n_classes, n_features] and bias
    [n_classes] begin normal around 0 with this std. The draw is a pure function of the run's seed
    and the step, as the masks of dropout are.
    """

    def __init__(self, n_features: int, n_classes: int, n_sampled: int, std: float) -> None:
        if n_sampled < 0:
            raise ValueError(
                f"model.n_sampled must be from 1 up, or 0 for all words; got {n_sampled}"
            )
        super().__init__(LAYER)
        self.n_sampled = n_sampled
        self.weight = nn.Parameter(std * torch.randn(n_classes, n_features))
        self.bias = nn.Parameter(std * torch.randn(n_classes))

    def forward(self, features: Tensor, targets: Tensor, sampled: bool = False) -> Tensor:
        """Cross-entropy of each target; features [..., n_features], targets int64 [...].

        sampled: by a sample in evaluation too, always the same one.
        """
        n_classes = len(self.bias)
        rows, labels = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
        if not (self.training or sampled) or not 0 < self.n_sampled < n_classes:
            losses = F.cross_entropy(self.logits(rows), labels, reduction="none")
        else:
            uniform = (
                self.uniform(n_classes)
                if self.training
                else hashed_uniform(torch.zeros_like(self.stream_key), LAYER * 65536, n_classes)
            )
            drawn, log_expected = log_uniform_sample(uniform, self.n_sampled)
            losses = sampled_cross_entropy(
                rows, labels, self.weight, self.bias, drawn, log_expected.to(self.bias.dtype)
            )
        return losses.reshape(targets.shape)

    def logits(self, features: Tensor) -> Tensor:
        """Of all classes, [..., n_classes]."""
        return F.linear(features, self.weight, self.bias)


def log_uniform_sample(uniform: Tensor, n_sampled: int) -> tuple[Tensor, Tensor]:
    """Classes drawn one after the other without replacement, and how often each was expected.

    uniform: independent numbers in [0, 1), [n_classes]. Returns int64 [n_sampled], the first drawn
    first, and `log(1 - (1 - p) ** n_tries)`, float64 [n_classes].

    Classes arrive as in a race, class i after an exponential time of mean 1 / p: the order is that
    of drawing with replacement and skipping what was drawn before. n_tries, which TensorFlow
    counts, is here the time of the last arrival: what it counts is expected to be that.
    """
    n_classes = len(uniform)
    ranks = torch.arange(1, n_classes + 1, dtype=torch.float64, device=uniform.device)
    p = torch.log1p(1 / ranks) / torch.log(ranks[-1] + 1)
    # Half a step of the 24 bits up, so that none is 0.
    times = -torch.log1p(-(uniform.double() + 2.0**-25)) / p
    first, drawn = torch.topk(times, n_sampled, largest=False)
    return drawn, torch.log(-torch.expm1(first[-1] * torch.log1p(-p)))


def sampled_cross_entropy(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    drawn: Tensor,
    log_expected: Tensor,
) -> Tensor:
    """Cross-entropy of each label against itself and the drawn classes, [n].

    features: [n, n_features]. labels: int64 [n]. weight, bias: of all classes. drawn: int64
    [n_sampled]. log_expected: [n_classes].
    """
    offsets = bias - log_expected
    own = (features * F.embedding(labels, weight)).sum(-1) + offsets[labels]
    others = F.linear(features, F.embedding(drawn, weight), offsets[drawn])
    others = others.masked_fill(labels[:, None] == drawn, -torch.inf)
    return torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own
