"""Runs that are equal to the last bit, and by what one sees that two did not begin alike."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["checksum", "deterministic"]

# What cuBLAS needs for results that do not depend on its scratch memory; read at its first use.
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(is_on: bool) -> Iterator[None]:
    """Within, two runs of equal settings on one kind of device give equal bits.

    torch takes deterministic algorithms only, and raises RuntimeError for an operation that has
    none; on the CPU one thread, since a sum's bits depend on how many share it. What was set before
    is set again afterwards. Nothing is changed if it is not on.
    """
    if not is_on:
        yield
        return
    was = torch.are_deterministic_algorithms_enabled()
    benchmark, n_threads = torch.backends.cudnn.benchmark, torch.get_num_threads()
    os.environ.setdefault(*CUBLAS)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(n_threads)


def checksum(model: nn.Module) -> float:
    """CRC-32 of a model's parameters and buffers in their order: two that differ are told apart."""
    crc = 0
    for tensor in model.state_dict().values():
        crc = zlib.crc32(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(), crc
        )
    return float(crc)
