"""One training run, readable from top to bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import iolaus
from iolaus.sweeps.types import Intervention
from iolaus.trainer.best_weights import BestWeights, forget_rebounds, load_best
from iolaus.trainer.checkpoint import (
    RunState,
    Saves,
    set_random_state,
    state_to_resume,
    taken_random_state,
)
from iolaus.trainer.clipping import gradient_norms, total_norm
from iolaus.trainer.course import Course, Hooks, Summary
from iolaus.trainer.data import Batches, Examples, joined
from iolaus.trainer.deterministic import checksum, deterministic
from iolaus.trainer.dropout import (
    AUGMENTATION,
    hashed_uniform,
    own_streams,
    set_streams,
    streams,
)
from iolaus.trainer.early_stopping import EarlyStopping
from iolaus.trainer.lengths import Every
from iolaus.trainer.optim import build_optimizer, load_moments, set_lr
from iolaus.trainer.settings import PRECISIONS, CheckpointSettings, Settings
from iolaus.trainer.tasks.base import Task
from iolaus.trainer.terms import MAIN, Blame, Weights, blamed, weights_at

__all__ = [
    "State",
    "Update",
    "augmented",
    "autocast",
    "evaluate",
    "float_type",
    "kept_on_disk",
    "measured_of",
    "scores",
    "seeded",
    "start",
    "train",
    "update",
    "with_l1",
]


@dataclass(frozen=True, slots=True)
class State:
    """What an update changes, after `step` updates on `examples` examples."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    examples: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """What one update measured, on the device.

    loss: mean per example. norm, norms [n_params]: of the gradient and of each parameter's, before
    clipping. clipped: whether it was. terms: mean raw value per example of each extra term, in the
    order of the settings, 0 for one that is not in yet. blame: the term whose gradient was not
    finite, looked for only where there are extra terms.
    """

    loss: Tensor
    norm: Tensor
    norms: Tensor
    clipped: Tensor
    terms: Tensor
    blame: Blame | None = None


def start(run: Settings, kept: RunState | None = None) -> State:
    """A run before its first step, or where the checkpoint it goes on from was written.

    kept: its exact state, of `state_to_resume`; else that of a best.pt if the settings name one:
    its weights alone with `init_checkpoint`, with `resume` step, place in the data and moments too.
    Other first weights come from torch's generator. Raises ValueError or RuntimeError for a
    checkpoint that does not fit.
    """
    model = own_streams(run.task.build_model(run.node)).to(run.device, float_type(run))
    optimizer = build_optimizer(model, run.optim)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.precision == "fp16")
    if kept is not None:
        model.load_state_dict(kept.model)
        load_moments(optimizer, kept.optimizer)
        scaler.load_state_dict(dict(kept.scaler))
        set_random_state(kept.random, run.device)
        return State(model, optimizer, scaler, kept.course["step"], kept.course["examples"])
    if run.init_checkpoint is not None:
        model.load_state_dict(load_best(run.init_checkpoint)["model"])
    if run.resume is None:
        return State(model, optimizer, scaler)
    best = load_best(run.resume)
    model.load_state_dict(best["model"])
    load_moments(optimizer, best["optimizer"])
    return State(model, optimizer, scaler, best["step"], best["examples"])


def train(
    run: Settings,
    tell: Callable[[str], None] = lambda _: None,
    report: Callable[..., None] = iolaus.report,
    should_stop: Callable[[], bool] = iolaus.should_stop,
    plan: Callable[..., None] = iolaus.plan,
    ask_intervention: Callable[[], Intervention | None] = iolaus.intervention,
    keep: Path | None = None,
    folder: Path | None = None,
    get_checkpoint: Callable[[], Path | None] = iolaus.get_checkpoint,
    should_checkpoint: Callable[[], bool] = iolaus.should_checkpoint,
) -> Summary:
    """Train to the end, or to where the sweep or a loss that is not finite ends the run.

    tell: gets a line of text at each evaluation. report, should_stop, plan, ask_intervention,
    get_checkpoint, should_checkpoint: as in `iolaus`. keep: the file for the best weights by
    smoothed training loss (`iolaus.trainer.best_weights`), None for none. folder: the run's own, in
    which its exact states (`iolaus.trainer.checkpoint`) are written when they are due, to be
    reported; None for none. Reported at step n is what n updates have led to:
    every report_every steps the mean `loss` per example, the share of steps `clipped` and the
    largest `grad_norm` and `grad_norm/PARAMETER` (before clipping) since the last report, `lr` of
    the last step, `examples` seen, `running_loss` where asked for, and `term/NAME` of the loss's
    extra terms (`iolaus.trainer.terms`), raw; up to norms_each_step_until the norms of each step,
    after it; every eval_every steps and at the end `val_loss`, `val_accuracy` and the task's other
    measures; after the last step its scores, such as `val_bleu`, and those of the test set if the
    settings say `test`. Raises optuna.TrialPruned out of report.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(seeded(run.seed, run.device))
        stack.enter_context(deterministic(run.deterministic))
        kept = state_to_resume(run, get_checkpoint())
        state = start(run, kept)
        names = [name for name, param in state.model.named_parameters() if param.requires_grad]
        train_set, val_set, test_set = (
            examples.to(run.device, float_type(run))
            for examples in (run.splits.train, run.splits.val, run.splits.test)
        )
        dropouts = streams(state.model)
        batches = Batches(train_set, run.seed, run.shuffle_buffer)
        n_params = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
        hooks = Hooks(
            tell, report, should_stop, plan, ask_intervention, get_checkpoint, should_checkpoint
        )
        course = Course(
            run, hooks, state.step, state.examples, earlier=kept.course if kept else None
        )
        if keep is not None and kept is None:
            forget_rebounds(keep)
        best_weights = stack.enter_context(
            kept_on_disk(BestWeights(keep, earlier=kept.best if kept else None))
        )
        n_columns = 3 + len(names) + len(run.loss.terms)
        earlier = kept.window.numpy() if kept else np.empty((0, n_columns))
        begun = {"first_weights": checksum(state.model)} if run.deterministic and not kept else {}
        window: list[Update] = []
        is_on_all = False
        saves = Saves(run, folder, hooks)
        del kept  # as large as the run itself

        def exact_state() -> RunState:
            return RunState(
                model=state.model.state_dict(),
                optimizer=state.optimizer.state_dict(),
                scaler=state.scaler.state_dict(),
                course=course.state_dict(time.perf_counter() - began),
                best=best_weights.state_dict(),
                window=torch.from_numpy(measured_of(window, earlier)),
                random=taken_random_state(run.device),
            )

        while not course.is_over:
            set_streams(dropouts, run.seed, course.step)
            if course.is_on_all and not is_on_all:
                batches, is_on_all = Batches(joined(train_set, val_set), run.seed), True
            batch = batches.at(course.examples, course.size)
            if run.task.n_draws:
                batch = augmented(run.task, batch, torch.tensor([run.seed, course.step]))
            weights = weights_at(run.loss.terms, course.step)
            window.append(update(run, state, batch, course.lr, weights, course.step + 1))
            course.blame = course.blame or window[-1].blame
            course.advance()
            if course.pauses:
                measured = evaluate(run, state.model, val_set) if course.evaluates else {}
                if course.is_last:
                    measured |= scores(run, state.model, val_set, test_set)
                metrics = begun | course.row(measured_of(window, earlier), names, measured)
                begun = {}
                if measured and course.tests:
                    course.tested = evaluate(run, state.model, test_set, "test")
                if course.reports:
                    window, earlier = [], earlier[:0]
                    before_rebound = best_weights.offer(
                        course.step, course.examples, metrics["loss"], state.model, state.optimizer
                    )
                    if before_rebound is not None:
                        course.tell_of_rebound(best_weights.step, before_rebound)
                if (intervention := course.report(metrics)) is not None:
                    if intervention.action == "rewind":
                        best_weights.restore(state.model, state.optimizer)
                    course.comply(intervention, best_weights.step)
            if not course.is_over and saves.is_due(course.step):
                saves.save(exact_state())
        if saves.is_due_at_end(course.ended):
            saves.save(exact_state())

        is_measured = bool(course.measured) and course.ended == "done"
        final = course.measured if is_measured else evaluate(run, state.model, val_set)
        if run.test and not course.tested:
            course.tested = evaluate(run, state.model, test_set, "test")
        seconds = time.perf_counter() - began
    if (again := again_on_all(run, course)) is not None:
        kept_again = None if keep is None else keep.with_name("retrained.pt")
        course.tested = retrained(again, tell, should_stop, kept_again)
    return course.summary(seconds, final, best_weights.step, n_params)


def again_on_all(run: Settings, course: Course) -> Settings | None:
    """The run on training and validation examples that follows one stopped early; None for none.

    Its validation set is one of these now, and says nothing of examples that were not seen.
    """
    splits, n_train = run.splits, len(run.splits.train)
    n_steps = run.early_stop.n_steps_again(course.early, n_train, n_train + len(splits.val))
    if n_steps is None or not course.ended.startswith("stopped early"):
        return None
    return replace(
        run,
        splits=replace(splits, train=joined(splits.train, splits.val)),
        n_steps=n_steps,
        eval_every=Every(n_steps),
        early_stop=EarlyStopping(),
        checkpoint=CheckpointSettings(every_seconds=None, at_end=False),
        resume=None,
    )


def retrained(
    run: Settings, tell: Callable[[str], None], should_stop: Callable[[], bool], keep: Path | None
) -> dict[str, float]:
    """Train the run of `again_on_all`, unreported; returns its measures on the test set."""
    tell(f"training anew on all {len(run.splits.train):,} examples, for {run.n_steps:,} steps")
    nothing = Hooks(report=lambda *_, **__: None, plan=lambda *_: None)
    summary = train(
        run,
        report=nothing.report,
        should_stop=should_stop,
        plan=nothing.plan,
        ask_intervention=lambda: None,
        keep=keep,
        get_checkpoint=lambda: None,
        should_checkpoint=lambda: False,
    )
    tell(f"trained anew: {summary.conclusion}")
    return summary.tested


def update(
    run: Settings,
    state: State,
    batch: Examples,
    lr: float,
    weights: Weights | None = None,
    step: int = 1,
) -> Update:
    """One optimizer update on a batch, in n_accumulate parts.

    weights: of the loss's extra terms that are in. step: the number of this update, for messages.
    Without extra terms no number leaves the device.
    """
    weights = weights or {}
    params = [param for param in state.model.parameters() if param.requires_grad]
    state.optimizer.zero_grad()
    set_lr(state.optimizer, lr)
    n_examples = len(batch)
    mean_loss = torch.zeros((), dtype=params[0].dtype, device=run.device)
    mean_terms = torch.zeros(len(run.loss.terms), dtype=params[0].dtype, device=run.device)
    parts = (
        [batch[i] for i in torch.arange(n_examples).chunk(run.n_accumulate)]
        if run.n_accumulate > 1
        else [batch]
    )
    for part in parts:
        with autocast(run):
            losses, raw = run.task.terms(state.model, part, weights.keys())
            for name, weight in weights.items():
                losses = losses + weight * raw[name]
        objective = losses.sum() if run.loss.reduction == "sum" else losses.sum() / n_examples
        state.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        mean_loss += losses.detach().sum() / n_examples
        for i, name in enumerate(run.loss.terms):
            if name in weights:
                mean_terms[i] += raw[name].detach().sum() / n_examples
    state.scaler.unscale_(state.optimizer)

    grads = [param.grad if param.grad is not None else torch.zeros_like(param) for param in params]
    if run.loss.flood is not None:
        # The gradient of |loss - flood| + flood; taken here, the parts of a batch need not know
        # their common mean.
        sign = torch.sign(mean_loss - run.loss.flood)
        grads = [grad * sign for grad in grads]
    if run.loss.l1:
        grads = with_l1([param.detach() for param in params], grads, run.loss.l1)
    norms = gradient_norms(grads)
    norm, blame = total_norm(norms), None
    if weights and not bool(torch.isfinite(norm)) and _is_last_scale(state.scaler):
        blame = blamed(state.model, step, list(weights), partial(_raw, run, state, parts))
    grads, clipped = run.clip([param.detach() for param in params], grads, norms)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return Update(mean_loss, norm, norms, clipped, mean_terms, blame)


def _is_last_scale(scaler: torch.amp.GradScaler) -> bool:
    """Whether a gradient that is not finite is so at any scale.

    A scaler meets infinity as a matter of course: it leaves the update out and halves its scale.
    """
    return not scaler.is_enabled() or scaler.get_scale() <= 1.0


def _raw(run: Settings, state: State, parts: list[Examples], name: str) -> Iterator[Tensor]:
    """A term of each part of a batch, with the dropout of the update."""
    for dropout in streams(state.model):
        dropout.n_calls = 0
    for part in parts:
        with autocast(run):
            main, raw = run.task.terms(state.model, part, () if name == MAIN else (name,))
        yield main if name == MAIN else raw[name]


def scores(
    run: Settings, model: nn.Module, val_set: Examples, test_set: Examples
) -> dict[str, float]:
    """The task's scores, `SPLIT_NAME` -> number, of validation and, if asked for, the test set."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(run):
        found = {
            f"{split}_{name}": value
            for split, examples in (("val", val_set), *([("test", test_set)] if run.test else []))
            for name, value in run.task.scores(model, examples).items()
        }
    model.train(was_training)
    return found


def augmented(task: Task, batch: Examples, key: Tensor) -> Examples:
    """A training batch as the task augments it in one step. key: (seed, step), int64 [2]."""
    n = len(batch)
    key = key.to(batch.targets.device)
    uniform = hashed_uniform(key, AUGMENTATION, n * task.n_draws).view(n, task.n_draws)
    return task.augment(batch, uniform)


def with_l1(params: Sequence[Tensor], grads: Sequence[Tensor], l1: Tensor | float) -> list[Tensor]:
    """Gradients with that of `l1` times the sum of the weights' absolute values; not of vectors."""
    return [
        grad + l1 * torch.sign(param) if param.ndim >= 2 else grad
        for param, grad in zip(params, grads, strict=True)
    ]


def evaluate(
    run: Settings, model: nn.Module, examples: Examples, split: str = "val"
) -> dict[str, float]:
    """The task's measures, `SPLIT_NAME` -> mean over the examples; dropout is off."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(run):
        measures = run.task.measures(model, examples)
    model.train(was_training)
    means = torch.stack([values.double().mean() for values in measures.values()]).tolist()
    return {f"{split}_{name}": mean for name, mean in zip(measures, means, strict=True)}


def measured_of(window: list[Update], earlier: NDArray[np.float64]) -> NDArray[np.float64]:
    """What these updates measured, for `Course.row`, in one transfer from the device.

    earlier: what those before them did, [n, 3 + n_params + n_terms].
    """
    if not window:
        return earlier
    steps = [
        torch.cat(
            [torch.stack([u.loss.double(), u.clipped.double(), u.norm.double()]), u.norms, u.terms]
        )
        for u in window
    ]
    measured: NDArray[np.float64] = torch.stack(steps).cpu().numpy()
    return np.concatenate([earlier, measured])


def float_type(run: Settings) -> torch.dtype:
    """The type of weights and inputs; for half precision float32, which autocast converts."""
    return torch.float64 if run.precision == "float64" else torch.float32


def autocast(run: Settings) -> torch.amp.autocast_mode.autocast:
    """Half precision where the run asks for it."""
    half = run.precision in ("bf16", "fp16")
    return torch.autocast(
        run.device.type, PRECISIONS[run.precision] if half else None, enabled=half
    )


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
    if device.type == "cpu":
        # Torch's own function notes for each other kind of device where in the code it was called.
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
