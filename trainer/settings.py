"""A run's settings: what the composed config says, checked as a whole before any compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.build import build
from iolaus.trainer.clipping import Clipping
from iolaus.trainer.data import Splits
from iolaus.trainer.early_stopping import EarlyStopping
from iolaus.trainer.lengths import (
    BatchSizes,
    Every,
    batch_sizes,
    every,
    in_steps,
    steps_of,
    stretched,
)
from iolaus.trainer.optim import OptimSettings
from iolaus.trainer.schedules import Schedule
from iolaus.trainer.tasks.base import Task
from iolaus.trainer.terms import TermSettings, terms_of

__all__ = [
    "CONF",
    "PRECISIONS",
    "CheckpointSettings",
    "LossSettings",
    "Settings",
    "data_of",
    "read",
]

CONF = Path(__file__).parent.parent / "conf"

PRECISIONS: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How the losses of a batch's examples become the one number whose gradient is taken.

    reduction: "mean" or "sum". flood: the mean loss is kept near this level by climbing where it is
    below (Ishida et al., arXiv 2002.08709); None for no flooding. l1: so many times the sum of the
    absolute values of all weights of two or more dimensions is added (Tibshirani, JRSS B 58, 1996);
    reported losses are without it. running_decay: report
    `running_loss` too, in which what came before counts so much at each step (TextSum: 0.999), at
    most running_cap (TextSum: 12); None for neither. terms: the extra terms that are not left out,
    by name.
    """

    reduction: str = "mean"
    flood: float | None = None
    l1: float = 0.0
    running_decay: float | None = None
    running_cap: float | None = None
    terms: Mapping[str, TermSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f'loss.reduction is "mean" or "sum"; got {self.reduction!r}')
        if self.flood is not None and not 0 <= self.flood < math.inf:
            raise ValueError(
                f"loss.flood must be from 0 up, or null for no flooding; got {self.flood}"
            )
        if not 0 <= self.l1 < math.inf:
            raise ValueError(f"loss.l1 must be finite and from 0 up; got {self.l1}")
        if self.running_decay is not None and not 0 <= self.running_decay < 1:
            raise ValueError(
                "loss.running_decay must be from 0 up and below 1, or null for no running loss; "
                f"got {self.running_decay}"
            )
        if self.running_cap is not None and not self.running_cap > 0:
            raise ValueError(
                f"loss.running_cap must be above 0, or null for none; got {self.running_cap}"
            )

    def running(self, before: float | None, losses: Sequence[float]) -> float | None:
        """The running loss after these steps' losses; None if it is not asked for.

        before: the same before them, None at the beginning, which is the first loss. A loss that
        is not finite leaves it NaN or at the cap. Source: `_RunningAvgLoss` of TensorFlow's TextSum
        (seq2seq_attention.py).
        """
        if self.running_decay is None:
            return None
        average = before
        for loss in losses:
            decay = self.running_decay
            average = decay * average + (1 - decay) * loss if average else loss
            average = average if self.running_cap is None else min(average, self.running_cap)
        return average


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How often a run's exact state is written; None: not by steps, not by the clock.

    The sweep may ask for it at any time, whatever is set here. at_end: after the last step too, and
    where a constant rate begins to fall, so that the run can be extended; in a sweep, which keeps
    both of its best trials.
    """

    every_steps: Every | None = None
    every_seconds: float | None = 60.0
    at_end: bool = True

    def __post_init__(self) -> None:
        seconds = self.every_seconds
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError(f"checkpoint.every_seconds must be null or from 0 up; got {seconds!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a run: with equal settings, two on one machine are equal to the last bit.

    n_steps: optimizer updates. batches: examples per update over the run; each is split in
    n_accumulate parts. report_every, eval_every: when they are due. norms_each_step_until: the step
    up to which the gradient norms are reported after every update. test: whether the test set is
    measured. deterministic: see `iolaus.trainer.deterministic`. resume: what to go on from, or
    None: a best.pt (`iolaus.trainer.best_weights`), or the folder of an exact state
    (`iolaus.trainer.checkpoint`) or of the run that wrote some. init_checkpoint: a best.pt whose
    weights alone a new run begins with, or None. node: the composed config, for the task's own use.
    """

    task: Task
    splits: Splits
    optim: OptimSettings
    schedule: Schedule
    clip: Clipping
    loss: LossSettings
    n_steps: int
    batches: BatchSizes
    n_accumulate: int
    shuffle_buffer: int | None
    seed: int
    device: torch.device
    precision: str
    deterministic: bool
    report_every: Every
    norms_each_step_until: int
    eval_every: Every
    test: bool
    early_stop: EarlyStopping
    checkpoint: CheckpointSettings
    resume: Path | None
    init_checkpoint: Path | None
    node: Mapping[str, Any]


def read(cfg: DictConfig) -> Settings:
    """The settings that a composed config describes.

    The data of the last task is kept, and not made twice. Raises BadInputError, in one sentence,
    for what cannot be run.
    """
    try:
        node = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        if not isinstance(node, dict):
            raise ValueError("the config is no mapping")
        return _read({str(name): value for name, value in node.items()})
    except (ValueError, TypeError, ImportError, OmegaConfBaseException) as error:
        raise BadInputError(str(error)) from error


def _read(node: Mapping[str, Any]) -> Settings:
    if "audit" in node:
        raise ValueError("audit is called lint now: write lint.n_samples=..., lint.rules.flat=...")
    task = _built(node, "task", Task)
    splits = data_of(task)
    batch = node["batch"]
    _require(
        batch, "shuffle_buffer", "null or from 1 up", lambda v: v is None or _from_1(v), "batch."
    )
    n_train = len(splits.train)
    _require(node, "batch_size", "a whole number from 1 up", _from_1)
    sizes = batch_sizes(node["batch_size"], batch["schedule"] or (), batch["unit"], n_train)
    n_written = math.floor(steps_of(node["steps"], "steps", sizes, n_train))
    stretch = node.get("stretch", 1)
    if isinstance(stretch, bool) or not isinstance(stretch, int | float) or not stretch >= 1:
        raise ValueError(f"stretch must be a number from 1 up; got {stretch!r}")
    n_steps = stretched(n_written, stretch)
    if n_steps < 1:
        raise ValueError(
            f"steps={node['steps']} leaves no whole step at batch_size={node['batch_size']}"
        )
    lint = node["lint"]
    for rule, action in lint["rules"].items():
        if action not in ("ignore", "warn", "infeasible"):
            raise ValueError(
                f"lint.rules.{rule} must be ignore, warn or infeasible; got {action!r}"
            )
    _require(node, "seed", "a whole number from 0 up", _from_0)
    _require(lint, "from_step", "a whole number from 0 up", _from_0, "lint.")
    _require(lint, "n_samples", "a whole number from 1 up", _from_1, "lint.")
    _require(batch, "accumulate", "a whole number from 1 up", _from_1, "batch.")
    if min(sizes.sizes) < batch["accumulate"]:
        raise ValueError(
            f"batch.accumulate={batch['accumulate']} cannot split a batch of {min(sizes.sizes)}"
        )
    device = _device(node["device"])
    # What "auto" means, the run's own folder, is known to those who give it one.
    resume = None if node["resume"] in (None, "auto") else Path(str(node["resume"]))
    given = node.get("init_checkpoint")
    init_checkpoint = None if given is None else Path(str(given))
    if resume is not None and init_checkpoint is not None:
        raise ValueError(
            f"resume={resume} goes on with a run, and init_checkpoint={init_checkpoint} begins a "
            "new one with its weights: give one of them"
        )
    terms = terms_of(
        task.term_names(node),
        task.term_groups,
        node["loss"].get("terms") or {},
        lambda length: math.ceil(steps_of(length, "steps", sizes, n_train, n_steps)),
        node["task"]["_target_"],
    )
    schedule = in_steps(node["schedule"], sizes, n_train, n_written, stretch)
    return Settings(
        task=task,
        splits=splits,
        optim=_optim(node["optim"]),
        schedule=_built({"schedule": schedule}, "schedule", Schedule),
        clip=_built(node, "clip", Clipping),
        loss=LossSettings(**{**node["loss"], "terms": terms}),
        n_steps=n_steps,
        batches=sizes,
        n_accumulate=batch["accumulate"],
        shuffle_buffer=batch["shuffle_buffer"],
        seed=node["seed"],
        device=device,
        precision=_precision(node["precision"], device),
        deterministic=bool(node["deterministic"]),
        report_every=every(node["report_every"], "report_every", sizes, n_train),
        norms_each_step_until=_norms_until(node["norms_each_step_until"], sizes, n_train),
        eval_every=every(node["eval_every"], "eval_every", sizes, n_train),
        test=bool(node["test"]),
        early_stop=EarlyStopping(**node["early_stop"]),
        checkpoint=_checkpoint(node["checkpoint"], sizes, n_train),
        resume=resume,
        init_checkpoint=init_checkpoint,
        node=node,
    )


def data_of(task: Task) -> Splits:
    """A task's data, loaded once for a sweep's trials: it is the same at each call."""
    try:
        return _last_data(task)
    except TypeError:  # a setting of the task is a list, say, and has no hash
        return task.data()


@lru_cache(maxsize=1)
def _last_data(task: Task) -> Splits:
    return task.data()


def _from_0(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _from_1(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _built(node: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    built = build(node[name], name)
    if not isinstance(built, kind):
        raise ValueError(
            f"{name}._target_ must name a {kind.__name__}; {node[name]['_target_']} is none"
        )
    return built


def _optim(node: Mapping[str, Any]) -> OptimSettings:
    own = ("kind", "lr", "weight_decay", "decay_vectors", "groups")
    groups: Sequence[Mapping[str, Any]] = node.get("groups") or ()
    settings = {name: value for name, value in node.items() if name not in own}
    given = {name: node[name] for name in own if name in node and name != "groups"}
    return OptimSettings(**given, groups=tuple(groups), settings=settings)


def _checkpoint(node: Mapping[str, Any], sizes: BatchSizes, n_train: int) -> CheckpointSettings:
    steps = node["every_steps"]
    if steps is not None:
        steps = every(steps, "checkpoint.every_steps", sizes, n_train)
    return CheckpointSettings(**{**node, "every_steps": steps})


def _norms_until(length: int | str, sizes: BatchSizes, n_train: int) -> int:
    try:
        return math.ceil(steps_of(length, "steps", sizes, n_train))
    except ValueError as error:
        raise ValueError(f"norms_each_step_until must be a length: {error}") from error


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return device


def _precision(name: str, device: torch.device) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {name!r}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        gpu = torch.cuda.get_device_name(device)
        raise ValueError(f"precision=bf16: {gpu} has no bf16; take fp16 or float32")
    return name


def _require(node: Mapping[str, Any], name: str, what: str, holds: Any, prefix: str = "") -> None:
    if isinstance(node[name], bool) or not holds(node[name]):
        raise ValueError(f"{prefix}{name} must be {what}; got {node[name]!r}")
