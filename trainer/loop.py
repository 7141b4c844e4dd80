"""One training run, readable from top to bottom."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sweeps
from sweeps.types import Remedy
from trainer.checkpoint import BestWeights, load_best
from trainer.clipping import gradient_norms, total_norm
from trainer.data import Batches, Examples
from trainer.optim import build_optimizer, set_lr
from trainer.plateau import LossDriven
from trainer.schedules import corners
from trainer.settings import PRECISIONS, Settings


@dataclass(slots=True)
class State:
    """All that a run is between two steps; whoever saves it, with torch's generator, can go on from there.

    step: updates made. examples: seen, which is also the place in the data. lr: the top rate, or the state of a
    schedule that looks at the loss. lr_factor: what remedies have made of the scheduled rate.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr: Any
    step: int = 0
    examples: int = 0
    lr_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Update:
    """What one update measured, on the device: mean loss per example, norms before clipping, was it clipped."""

    loss: Tensor
    norm: Tensor
    norms: Tensor
    clipped: Tensor


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended, with its measures (losses are per example) on the validation and, if asked for, the test set.

    final: after the last step. best: at the lowest validation loss, after best_step updates. tested: after the last
    step, empty unless the settings say `test`. kept_step: the updates behind the weights of the lowest smoothed
    training loss, which are kept; None if nothing was reported.
    """

    n_steps: int
    examples: int
    seconds: float
    final: dict[str, float]
    best: dict[str, float]
    best_step: int
    tested: dict[str, float]
    kept_step: int | None
    ended: str


def start(run: Settings) -> State:
    """A run before its first step, or where the checkpoint it goes on from was written.

    The first weights come from torch's generator. Raises ValueError or RuntimeError for a checkpoint that does not fit.
    """
    model = run.task.build_model(run.node).to(run.device, float_type(run))
    state = State(
        model=model,
        optimizer=build_optimizer(model, run.optim),
        scaler=torch.amp.GradScaler(run.device.type, enabled=run.precision == "fp16"),
        lr=run.schedule.start(run.optim.lr) if isinstance(run.schedule, LossDriven) else run.optim.lr,
    )
    if run.resume is not None:
        kept = load_best(run.resume)
        state.model.load_state_dict(kept["model"])
        settings = [{**group} for group in state.optimizer.param_groups]
        state.optimizer.load_state_dict(kept["optimizer"])
        for group, ours in zip(state.optimizer.param_groups, settings, strict=True):
            group.update(
                {name: ours[name] for name in ours if name != "params"}
            )  # moments are taken over, settings not
        state.step, state.examples = kept["step"], kept["examples"]
    return state


def train(
    run: Settings,
    tell: Callable[[str], None] = lambda _: None,
    report: Callable[..., None] = sweeps.report,
    should_stop: Callable[[], bool] = sweeps.should_stop,
    plan: Callable[..., None] = sweeps.plan,
    ask_remedy: Callable[[], Remedy | None] = sweeps.remedy,
    keep: Path | None = None,
) -> Summary:
    """Train from the beginning to the end, or to where the sweep or a loss that is not finite ends it.

    tell: gets a line of text at each evaluation. report, should_stop, plan, ask_remedy: as in `sweeps`. keep: the file
    for the best weights by smoothed training loss (`trainer.checkpoint`), None for none. Reported at step n is what
    n updates have led to: every report_every steps the mean `loss` per example, the share of steps `clipped` and the
    largest `grad_norm` and `grad_norm/PARAMETER` (before clipping) since the last report, `lr` of the last step, and
    `examples` seen; every eval_every steps and at the end `val_loss`, `val_accuracy` and the task's other measures.
    Raises optuna.TrialPruned out of report.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(seeded(run.seed, run.device))
        state = start(run)
        names = [name for name, param in state.model.named_parameters() if param.requires_grad]
        train_set, val_set, test_set = (
            examples.to(run.device, float_type(run)) for examples in (run.splits.train, run.splits.val, run.splits.test)
        )
        batches = Batches(train_set, run.seed, run.shuffle_buffer)
        rates = planned_rates(run, state)
        announce(plan, run, state, rates)
        best_weights = stack.enter_context(kept_on_disk(BestWeights(keep)))
        window: list[Update] = []
        measured: dict[str, float] = {}
        best: dict[str, float] = {"val_loss": math.inf}
        best_step, ended = 0, "done"

        while state.step < run.n_steps:
            size = run.batches.at(state.step)
            lr = float(rates[state.step]) * state.lr_factor
            window.append(update(run, state, batches.at(state.examples, size), lr))
            state.step += 1
            state.examples += size

            last = state.step == run.n_steps
            metrics: dict[str, float] = {}
            if last or state.step % run.report_every == 0:
                metrics = summarise(window, names) | {"lr": lr, "examples": state.examples}
                window = []
            if last or state.step % run.eval_every == 0:
                measured = evaluate(run, state.model, val_set)
                metrics |= measured
                if measured["val_loss"] < best["val_loss"]:
                    best, best_step = measured, state.step
                tell(_line(state, run, lr, metrics))
                if isinstance(run.schedule, LossDriven):
                    state.lr = run.schedule.next(state.lr, _watched(run.schedule.watch, measured))
                    rates = planned_rates(run, state)
            if "loss" in metrics:
                best_weights.offer(state.step, state.examples, metrics["loss"], state.model, state.optimizer)
            if metrics:
                report(state.step, **metrics)
                if (remedy := ask_remedy()) is not None:
                    tell(comply(remedy, state, best_weights))
                    announce(plan, run, state, rates)
                if not math.isfinite(metrics.get("loss", 0.0)):
                    ended = f"diverged: the loss is {metrics['loss']} at step {state.step}"
                    break
                if should_stop():
                    ended = f"stopped by the sweep at step {state.step}"
                    break

        if not measured or ended != "done":
            measured = evaluate(run, state.model, val_set)
        tested = evaluate(run, state.model, test_set, "test") if run.test else {}
        seconds = time.perf_counter() - began
        return Summary(state.step, state.examples, seconds, measured, best, best_step, tested, best_weights.step, ended)


def announce(plan: Callable[..., None], run: Settings, state: State, rates: NDArray[np.float64]) -> None:
    """Say how long the run will be and, where they are known, which rates lie ahead."""
    plan(run.n_steps, () if isinstance(run.schedule, LossDriven) else corners(rates * state.lr_factor))


def comply(remedy: Remedy, state: State, best_weights: BestWeights) -> str:
    """Do to a run what a remedy asks; returns a line that says so. Steps and data go on where they are."""
    if remedy.action == "rewind":
        best_weights.restore(state.model, state.optimizer)
    state.lr_factor *= remedy.factor
    back = f" with the weights of step {best_weights.step}" if remedy.action == "rewind" else ""
    return f"step {state.step}: {remedy.verdict.reason}; going on{back} at {state.lr_factor:.3g} times the planned rate"


def update(run: Settings, state: State, batch: Examples, lr: float) -> Update:
    """One optimizer update on a batch, in n_accumulate parts; no number leaves the device."""
    params = [param for param in state.model.parameters() if param.requires_grad]
    state.optimizer.zero_grad()
    set_lr(state.optimizer, lr)
    n_examples = len(batch)
    mean_loss = torch.zeros((), dtype=params[0].dtype, device=run.device)
    parts = [batch[i] for i in torch.arange(n_examples).chunk(run.n_accumulate)] if run.n_accumulate > 1 else [batch]
    for part in parts:
        with autocast(run):
            losses = run.task.loss(state.model, part)
        objective = losses.sum() if run.loss.reduction == "sum" else losses.sum() / n_examples
        state.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        mean_loss += losses.detach().sum() / n_examples
    state.scaler.unscale_(state.optimizer)

    grads = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
    if run.loss.flood is not None:
        # The gradient of |loss - flood| + flood; taken here, the parts of a batch need not know their common mean.
        sign = torch.sign(mean_loss - run.loss.flood)
        grads = [grad * sign for grad in grads]
    norms = gradient_norms(grads)
    grads, clipped = run.clip([param.detach() for param in params], grads, norms)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return Update(mean_loss, total_norm(norms), norms, clipped)


def evaluate(run: Settings, model: nn.Module, examples: Examples, split: str = "val") -> dict[str, float]:
    """The task's measures, `SPLIT_NAME` -> mean over the examples, without gradients and with dropout off."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(run):
        measures = run.task.measures(model, examples)
    model.train(was_training)
    means = torch.stack([values.double().mean() for values in measures.values()]).tolist()
    return {f"{split}_{name}": mean for name, mean in zip(measures, means, strict=True)}


def summarise(window: list[Update], names: list[str]) -> dict[str, float]:
    """The metrics of a report window: means of loss and clipped, maxima of norms; one transfer from the device."""
    means = torch.stack([torch.stack([u.loss.double(), u.clipped.double()]) for u in window]).mean(0)
    peaks = torch.stack([torch.cat([u.norm[None], u.norms]) for u in window]).double().amax(0)
    loss, clipped, norm, *norms = torch.cat([means, peaks]).tolist()
    metrics = {"loss": loss, "clipped": clipped, "grad_norm": norm}
    return metrics | {f"grad_norm/{name}": value for name, value in zip(names, norms, strict=True)}


def planned_rates(run: Settings, state: State) -> NDArray[np.float64]:
    """The learning rate of every step, [n_steps], as far as the state knows it."""
    top = state.lr.lr if isinstance(run.schedule, LossDriven) else state.lr
    rates: NDArray[np.float64] = run.schedule(np.arange(run.n_steps), top)
    return rates


def float_type(run: Settings) -> torch.dtype:
    """The type of weights and inputs; with half precision they stay float32, and autocast converts."""
    return torch.float64 if run.precision == "float64" else torch.float32


def autocast(run: Settings) -> torch.amp.autocast_mode.autocast:
    """Half precision where the run asks for it."""
    half = run.precision in ("bf16", "fp16")
    return torch.autocast(run.device.type, PRECISIONS[run.precision] if half else None, enabled=half)


@contextlib.contextmanager
def kept_on_disk(best_weights: BestWeights) -> Iterator[BestWeights]:
    """The best weights, written once more however the run ends."""
    try:
        yield best_weights
    finally:
        best_weights.write()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators set to a seed within, and as they were afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _watched(name: str, measured: dict[str, float]) -> float:
    if name not in measured:
        raise ValueError(f"schedule.watch={name} is not measured by this task; there are {', '.join(measured)}")
    return measured[name]


def _line(state: State, run: Settings, lr: float, metrics: dict[str, float]) -> str:
    width = len(str(run.n_steps))
    shown = [f"{name} {metrics[name]:.4g}" for name in metrics if name in ("loss", "grad_norm") or name[:4] == "val_"]
    return f"step {state.step:>{width}}/{run.n_steps}  lr {lr:.3g}  " + "  ".join(shown)
