"""Which stack a run joins by the size of its batches: smaller batches may be filled up."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from iolaus.trainer.dropout import set_streams, streams
from iolaus.trainer.lanes.kind import Kind
from iolaus.trainer.loop import augmented
from iolaus.trainer.settings import Settings

__all__ = ["is_filling_up_exact", "stack_size"]

# A step of a stack costs about as much as so many examples do, beside those it has: on one core 40
# (LSTM) to 260 (MLP), on a card 1,000 (MLP) to 5,000 (RNN).
STEP_COSTS_EXAMPLES = {"cpu": 100, "cuda": 1000}
# One more stack is traced three or four times while it fills, each time for as long as some 260
# (MLP) to 600 (LSTM) of its steps take beside those of its examples.
STACK_COSTS_STEPS = 1000
N_COMPARED = 8


def stack_size(
    kind: Kind, n_runs: int, n_steps: int, stacks: Mapping[int, Mapping[int, int]]
) -> int:
    """The batch size of the stack that n_runs more of a kind join; their own if they join none.

    n_steps: that they have to come. stacks: those of the kind but for the batch size: its batch
    size -> batch size of a run -> how many such runs it has. A run's batches are filled up to the
    stack's size where what is added for all runs of its size costs less than one more stack.
    """
    own, step_costs = kind.batch_size, STEP_COSTS_EXAMPLES.get(kind.device.type, 0)
    stack_costs = step_costs * (1 + STACK_COSTS_STEPS / max(n_steps, 1))  # in each step
    joinable = [
        size
        for size, n_by_size in stacks.items()
        if size >= own and (n_runs + n_by_size.get(own, 0)) * (size - own) <= stack_costs
    ]
    return min(joinable, default=own)


def is_filling_up_exact(run: Settings, model: torch.nn.Module) -> bool:
    """Whether the losses of a batch are the same, to rounding, if examples are put behind it.

    They are not with BatchNorm, with a dropout before which time comes first, or in parts
    (n_accumulate) with any dropout. Found out in float64 on a few training examples; the model
    stays as it is.
    """
    examples = run.splits.train[: 2 * N_COMPARED].to(run.device, torch.float64)
    n = len(examples) // 2
    if n == 0 or run.n_accumulate > 1:
        return False
    found = []
    for batch in (examples[:n], examples):
        its_own = copy.deepcopy(model).double()
        set_streams(streams(its_own), run.seed, 0)
        if run.task.n_draws:
            key = torch.tensor([run.seed, 0], device=run.device)
            batch = augmented(run.task, batch, key)
        with torch.no_grad():
            losses = run.task.loss(its_own, batch)
        found.append([losses[:n], *its_own.buffers()])
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(*found, strict=True))
