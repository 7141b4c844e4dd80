"""Real learning curves driven by learning-rate schedules.

python benchmarks/pruning_schedules.py OUT.parquet. Trains every trial of a sweep as one stacked
model (CPU, a minute per sweep) and writes the columns `task, trial, step, loss, lr` that `iolaus
replay` reads, and `kind` of schedule. Three problems x three kinds of sweep: `cosine` and
`multistep` (the same shape for every trial), `mixed` (multi-step, cosine, staged restarts, warm-up
then linear decay, constant). The optimizer is SGD with momentum 0.9; learning rate, schedule and
weight decay differ between trials.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits

N_EPOCHS, STEPS_PER_EPOCH, BATCH = 60, 20, 64
KINDS = ("cosine", "multistep", "staged", "warmup", "constant")


def multiplier(kind: str, u: float, shape: float) -> float:
    """The factor on the base rate at the share u of the run, for one family of schedules.

    Shape in [0, 1] varies it.
    """
    match kind:
        case "cosine":
            return 0.5 * (1 + np.cos(np.pi * u)) + 1e-4
        case "multistep":
            return 0.1 ** sum(u >= m for m in (0.4 + 0.3 * shape, 0.8 + 0.1 * shape))
        case "staged":
            return (
                (0.55, 0.15, 0.1, 0.06, 0.01)[min(4, int(5 * u))] * 0.8 ** (5 * (u * 5 % 1)) / 0.55
            )
        case "warmup":
            return min(u / (0.05 + 0.25 * shape), 1.0) * (1 - u) + 1e-4
        case "constant":
            return 1.0
    raise ValueError(f"unknown schedule {kind!r}: one of {KINDS}")


@dataclass(frozen=True)
class Problem:
    """Stacked models that share a batch.

    Parameters [lanes, ...] and a batch of rows shared by all lanes in, losses [lanes] out.
    """

    init: Callable[[int, torch.Generator], list[torch.Tensor]]
    loss: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]
    n_train: int
    validation: torch.Tensor


def mlp(
    x: torch.Tensor, y: torch.Tensor, n_out: int, width: int, n_train: int, classify: bool
) -> Problem:
    def init(lanes: int, generator: torch.Generator) -> list[torch.Tensor]:
        sizes = (x.shape[1], width, width, n_out)
        weights = [
            torch.randn(1, a, b, generator=generator).repeat(lanes, 1, 1) * (2 / a) ** 0.5
            for a, b in itertools.pairwise(sizes)
        ]
        return [p for w in weights for p in (w, torch.zeros(lanes, 1, w.shape[2]))]

    def loss(parameters: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        hidden = x[rows].expand(parameters[0].shape[0], -1, -1)
        for i in range(0, len(parameters), 2):
            hidden = torch.baddbmm(parameters[i + 1], hidden, parameters[i])
            hidden = torch.relu(hidden) if i < len(parameters) - 2 else hidden
        if not classify:
            return (hidden - y[rows]).square().mean((1, 2))
        return -torch.log_softmax(hidden, -1)[:, torch.arange(len(rows)), y[rows]].mean(1)

    return Problem(init, loss, n_train, torch.arange(n_train, len(x)))


def digits(generator: torch.Generator) -> Problem:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=generator)
    x, y = (
        torch.tensor(data.data / 8 - 1, dtype=torch.float32)[order],
        torch.tensor(data.target)[order],
    )
    wrong = torch.rand(len(y), generator=generator) < 0.15
    wrong[1300:] = False
    y[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
    return mlp(x, y, 10, 48, 1300, classify=True)


def teacher(generator: torch.Generator) -> Problem:
    x = torch.randn(3000, 24, generator=generator)
    teach = torch.tanh(x @ torch.randn(24, 16, generator=generator) / 3) @ torch.randn(
        16, 1, generator=generator
    )
    return mlp(
        x, teach + 0.5 * torch.randn(3000, 1, generator=generator), 1, 48, 2000, classify=False
    )


def quadratic(generator: torch.Generator) -> Problem:
    """A quadratic with noisy gradients (Zhang et al., arXiv 1907.04164).

    The noise floor grows with the rate.
    """
    curvature = 1.0 / torch.arange(1, 101) ** 1.0
    noise = torch.randn(4000, 100, generator=generator)

    def init(lanes: int, generator: torch.Generator) -> list[torch.Tensor]:
        return [torch.randn(1, 100, generator=generator).repeat(lanes, 1)]

    def loss(parameters: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        pull = noise[rows].mean(0) * curvature.sqrt() if len(rows) == BATCH else torch.zeros(100)
        return 0.5 * (parameters[0].square() * curvature).sum(1) + (parameters[0] * pull * 3).sum(1)

    return Problem(init, loss, 3000, torch.arange(3000, 4000))


PROBLEMS = {"digits": digits, "teacher": teacher, "quadratic": quadratic}


@dataclass
class Stack:
    """Trials that are trained side by side: parameters and velocities [trials, ...] each."""

    problem: Problem
    parameters: list[torch.Tensor]
    velocity: list[torch.Tensor]
    decay: np.ndarray

    def copy(self) -> Stack:
        """The same trials where they are, to train them otherwise from here."""
        parameters = [p.detach().clone().requires_grad_() for p in self.parameters]
        return Stack(self.problem, parameters, [v.clone() for v in self.velocity], self.decay)

    def step(self, rates: np.ndarray, generator: torch.Generator) -> None:
        """One step of SGD with momentum at rates [trials], on one batch for all."""
        batch = torch.randint(self.problem.n_train, (BATCH,), generator=generator)
        loss = self.problem.loss(self.parameters, batch).sum()
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for p, v, g in zip(self.parameters, self.velocity, gradients, strict=True):
                lanes = (-1,) + (1,) * (p.dim() - 1)
                v.mul_(0.9).add_(g + torch.tensor(self.decay, dtype=p.dtype).view(lanes) * p)
                p.sub_(torch.tensor(rates, dtype=p.dtype).view(lanes) * v)

    def validate(self) -> np.ndarray:
        """Validation losses [trials]."""
        with torch.no_grad():
            losses: np.ndarray = (
                self.problem.loss(self.parameters, self.problem.validation).numpy().copy()
            )
        return losses


def drawn(
    name: str, kinds: tuple[str, ...], n_trials: int, seed: int
) -> tuple[Stack, np.ndarray, np.ndarray, torch.Generator]:
    """One sweep before its first step, its rates [trials, steps], kinds and generator."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    problem = PROBLEMS[name](generator)
    low, high = {"digits": (-3, 0.3), "teacher": (-3.5, 0), "quadratic": (-3, 0.3)}[name]
    base = 10 ** rng.uniform(low, high, n_trials)
    decay = 10 ** rng.uniform(-5, -2, n_trials)
    kind = rng.choice(kinds, n_trials)
    shape = rng.random(n_trials)
    n_steps = N_EPOCHS * STEPS_PER_EPOCH
    rates = np.array(
        [
            [base[i] * multiplier(kind[i], s / n_steps, shape[i]) for s in range(n_steps)]
            for i in range(n_trials)
        ]
    )
    parameters = [p.requires_grad_() for p in problem.init(n_trials, generator)]
    stack = Stack(problem, parameters, [torch.zeros_like(p) for p in parameters], decay)
    return stack, rates, kind, generator


def sweep(name: str, kinds: tuple[str, ...], n_trials: int, seed: int) -> pd.DataFrame:
    """One sweep's validation losses and learning rates, [n_trials x N_EPOCHS], in long format."""
    stack, rates, kind, generator = drawn(name, kinds, n_trials, seed)
    rows = []
    for step in range(rates.shape[1]):
        stack.step(rates[:, step], generator)
        if (step + 1) % STEPS_PER_EPOCH == 0:
            rows.append(stack.validate())
    losses = np.array(rows).T
    losses[~np.cumprod(np.isfinite(losses) & (np.abs(losses) < 1e6), axis=1).astype(bool)] = np.nan
    trial, epoch = np.meshgrid(np.arange(n_trials), np.arange(N_EPOCHS), indexing="ij")
    label = kinds[0] if len(kinds) == 1 else "mixed"
    return pd.DataFrame(
        {
            "task": f"{name}_{label}",
            "trial": trial.ravel(),
            "step": epoch.ravel(),
            "loss": losses.ravel(),
            "lr": rates[:, STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH].ravel(),
            "kind": np.repeat(kind, N_EPOCHS),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = (("cosine",), ("multistep",), KINDS)
    frames = [sweep(name, k, args.trials, args.seed) for name in PROBLEMS for k in kinds]
    pd.concat(frames, ignore_index=True).to_parquet(args.out)


if __name__ == "__main__":
    main()
