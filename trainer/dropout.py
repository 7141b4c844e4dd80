"""Dropout whose mask is a pure function of seed, step, layer and element.

torch draws masks from one generator per process, in the order of the calls. Models trained side by
side would share it, so none would get the masks it gets alone, and a run taken up in the middle
would need the generator's state. Here a mask is hashed from what identifies it: the same in the
solo loop, in any lane, and after a restart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "AUGMENTATION",
    "KEY",
    "Stream",
    "StreamDropout",
    "hashed_uniform",
    "own_streams",
    "set_streams",
    "streams",
]

KEY = "stream_key"
AUGMENTATION = 2**30  # the layer whose stream augments examples, beyond those of dropouts


class Stream(nn.Module):
    """A module that draws in training: what, is a pure function of seed, step, layer and call.

    layer: tells those of one model apart. The buffer `stream_key` holds (seed, step), int64;
    `set_streams` sets it, and lets the calls of the step, which all draw numbers of their own,
    count from 0 again.
    """

    stream_key: Tensor

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer, self.n_calls = layer, 0
        self.register_buffer(KEY, torch.zeros(2, dtype=torch.int64), persistent=False)

    def uniform(self, n: int) -> Tensor:
        """The numbers of the next call, in [0, 1), float32 [n]."""
        drawn = hashed_uniform(self.stream_key, self.layer * 65536 + self.n_calls, n)
        self.n_calls += 1
        return drawn


class StreamDropout(Stream):
    """nn.Dropout: zero with probability p, the rest scaled by 1 / (1 - p).

    Source: Srivastava et al., JMLR 15 (2014).
    """

    def __init__(self, p: float, layer: int) -> None:
        super().__init__(layer)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The dropout of x, of any shape; as it is in evaluation, or if p is 0."""
        if not self.training or self.p == 0.0:
            return x
        uniform = self.uniform(x.numel()).view(x.shape)
        return torch.where(
            uniform < self.p, torch.zeros((), dtype=x.dtype, device=x.device), x / (1.0 - self.p)
        )


def own_streams(model: nn.Module) -> nn.Module:
    """The model with each nn.Dropout in it replaced by a StreamDropout."""
    named = model.named_modules(remove_duplicate=False)  # a dropout may be used in several places
    dropouts = [(name, module) for name, module in named if type(module) is nn.Dropout]
    layers = {
        module: StreamDropout(module.p, i)
        for i, module in enumerate(dict.fromkeys(m for _, m in dropouts))
    }
    for name, module in dropouts:
        if not name:
            return layers[module]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[module])
    return model


def streams(model: nn.Module) -> list[Stream]:
    """What draws in a model, its dropouts first of all, for `set_streams`."""
    return [module for module in model.modules() if isinstance(module, Stream)]


def set_streams(drawing: list[Stream], seed: int, step: int) -> None:
    """Choose the masks of the update after `step` updates."""
    for stream in drawing:
        stream.stream_key.copy_(torch.tensor([seed, step]))
        stream.n_calls = 0


def hashed_uniform(key: Tensor, layer: int, n: int) -> Tensor:
    """Numbers in [0, 1), float32 [n], for key (seed, step), int64 [2], and a layer (call).

    Each is 24 bits of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) at the element's place in the
    stream that the key chooses; all is arithmetic on int64, so it runs under vmap and on any
    device.
    """
    start = _mix(_mix(key[0]) + _GAMMA * (_mix(key[1]) + layer + 1))
    bits = _mix(start + _GAMMA * torch.arange(1, n + 1, device=key.device))
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_M1, _M2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _M1
    z = (z ^ _shifted(z, 27)) * _M2
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own repeats the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)
