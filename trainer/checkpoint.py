"""The exact state of a run between two updates: written to a folder, and read from one.

A run that goes on from it reports what it would have reported if it had never been cut off, to the
last bit on the same device. Where in the data it is and which dropout masks come next are functions
of seed, step and examples seen (data.py, dropout.py), so they need no state of their own. What a
model keeps outside its parameters and buffers is lost, unless it has torch's `get_extra_state`.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iolaus.sweeps.checkpoints import STAYS, newest
from iolaus.trainer.course import Hooks, before_fall, planned_rates
from iolaus.trainer.plateau import LossDriven
from iolaus.trainer.settings import Settings

__all__ = [
    "FILE",
    "SHARE",
    "RunState",
    "Saves",
    "read_state",
    "set_random_state",
    "state_to_resume",
    "taken_random_state",
    "write_state",
]

FILE = "state.pt"
UNFINISHED = "checkpoint.writing"
FORMAT = 1  # another number wherever what is in the file, or means, changes

# Writing by the clock takes no more than this share of the time, however slow the disk is or how
# many lanes are written.
SHARE = 0.02

# Settings that may differ where a run goes on: where it runs, what is kept of it, what is said.
FREE = ("checkpoint", "device", "keep_best", "lint", "resume", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """All that decides the rest of a run, but its settings; tensors on any device.

    model, optimizer, scaler: torch's state dicts. course, best: of `Course.state_dict` and
    `BestWeights.state_dict`. window: what the updates since the last report measured, float64
    [n, 3 + n_params], n from 0. random: of `taken_random_state`.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    course: Mapping[str, Any]
    best: Mapping[str, Any]
    window: Tensor
    random: Mapping[str, Any]


def write_state(folder: Path, run: Settings, state: RunState) -> None:
    """Write what `read_state` reads into a folder that is there."""
    parts = {part.name: getattr(state, part.name) for part in fields(RunState)}
    torch.save({"format": FORMAT, "config": _deciding(run), **parts}, folder / FILE)


def read_state(folder: Path, run: Settings) -> RunState:
    """The state in a folder, on the CPU.

    The run may be a longer one, with its schedule stretched, if that has the same rates as far as
    the state has come. Raises ValueError, in one sentence, where there is none, it cannot be read,
    another version of the trainer has written it, or it is of a run with other settings or rates:
    which ones is said.
    """
    path = folder / FILE
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[:1] or ["it is cut short"]
        raise ValueError(f"cannot read the checkpoint {path}: {reason[0]}") from error
    if not isinstance(kept, dict) or "format" not in kept:
        raise ValueError(f"{path} is no checkpoint of this trainer")
    if kept["format"] != FORMAT:
        raise ValueError(
            f"the checkpoint {path} has format {kept['format']}, and this version of iolaus reads "
            f"{FORMAT}: go on with the version that wrote it, or begin anew"
        )
    was, now = json.loads(kept["config"]), json.loads(_deciding(run))
    is_extended = was.pop("stretch", 1) != now.pop("stretch", 1)
    if different := _differences(was, now):
        raise ValueError(
            f"the checkpoint {path} is of a run with other settings ({'; '.join(different)}): an "
            "exact continuation needs the same; to go on from its weights with these, give "
            "resume=best.pt of that run, or init_checkpoint=best.pt for a run that begins at step 0"
        )
    if is_extended:
        _refuse_other_rates(path, kept["course"], run)
    return RunState(**{part.name: kept[part.name] for part in fields(RunState)})


def _refuse_other_rates(path: Path, course: Mapping[str, Any], run: Settings) -> None:
    """Raise ValueError if a run's rates up to where a checkpoint is are not those it was made with.

    Those of a schedule that looks at the loss are, unless an intervention has lowered them.
    """
    step = int(course["step"])
    if step > run.n_steps:
        raise ValueError(f"{path} is at step {step:,}, beyond the run's {run.n_steps:,}")
    if isinstance(run.schedule, LossDriven):
        if course["lr_factor"] != 1:
            raise ValueError(f"{path}: an intervention has lowered the rates, so they do not fit")
        return
    made, planned = course["rates"].numpy()[:step], planned_rates(run, run.optim.lr)[:step]
    other = np.flatnonzero(made != planned)
    if len(other):
        at = int(other[-1])
        raise ValueError(
            f"{path}: the rate of step {at:,} was {made[at]:.3g}, and that of the stretched "
            f"schedule is {planned[at]:.3g}"
        )


def state_to_resume(run: Settings, own: Path | None = None) -> RunState | None:
    """Where a run goes on from, or None for one that begins anew or from a best.pt.

    own: the run's own checkpoint, which comes before what `resume` says. Raises ValueError as
    `read_state` does, and for a folder without a whole checkpoint.
    """
    if own is None and run.resume is not None and run.resume.is_dir():
        found = newest(run.resume)
        own = run.resume if found is None else found.path
        if found is None and not (own / FILE).exists():
            raise ValueError(
                f"resume={run.resume}: the folder has no whole checkpoint; a run keeps them in "
                "checkpoints/ of its folder until it is over"
            )
    return None if own is None else read_state(own, run)


def taken_random_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators that a task's own code may draw from: torch, numpy, python."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def set_random_state(taken: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators where `taken_random_state` found them.

    A run from a CPU that goes on on a GPU has the GPU's generator as its seed made it.
    """
    torch.set_rng_state(taken["torch"])
    if device.type == "cuda" and taken["cuda"] is not None:
        torch.cuda.set_rng_state(taken["cuda"], device)
    name, keys, *rest = taken["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(taken["python"])


@dataclass(slots=True)
class Saves:
    """Says when a run's state is due to be written, and hands it in.

    folder: the run's own, in which it is written before it is handed in; None: it never is. clock:
    seconds, any origin, never going back.
    """

    run: Settings
    folder: Path | None
    hooks: Hooks
    clock: Callable[[], float] = time.monotonic
    _saved_s: float = field(init=False)
    _before_fall: int | None = field(init=False)  # where a longer run could go on
    _cost_s: float = 0.0
    _has_answered: bool = False  # to `should_checkpoint`, which asks once

    def __post_init__(self) -> None:
        self._saved_s = self.clock()
        self._before_fall = before_fall(self.run) if self.run.checkpoint.at_end else None

    def is_due(self, step: int) -> bool:
        """Whether to save after so many updates."""
        if self.folder is None:
            return False
        every = self.run.checkpoint
        return (
            (not self._has_answered and self.hooks.should_checkpoint())
            or step == self._before_fall
            or (every.every_steps is not None and every.every_steps.is_due(step))
            or (
                every.every_seconds is not None
                and self.clock() - self._saved_s >= max(every.every_seconds, self._cost_s / SHARE)
            )
        )

    def is_due_at_end(self, ended: str) -> bool:
        """Whether to save after the last step, of a run that came to it."""
        return self.folder is not None and self.run.checkpoint.at_end and ended == "done"

    def save(self, state: RunState) -> None:
        """Write the state and hand it in; raises what the report does, such as the order to end.

        What cannot be written, as on a full disk, is told, and the run goes on: the last state that
        was handed in is still there.
        """
        assert self.folder is not None
        began_s, step = self.clock(), state.course["step"]
        self._has_answered = self.hooks.should_checkpoint()
        unfinished = self.folder / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        try:
            unfinished.mkdir()
            write_state(unfinished, self.run, state)
            if step == self._before_fall:
                (unfinished / STAYS).touch()
        except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
            shutil.rmtree(unfinished, ignore_errors=True)
            self.hooks.tell(f"step {step}: no checkpoint written, going on: {error}")
        else:
            self.hooks.report(step, checkpoint=unfinished)
            shutil.rmtree(unfinished, ignore_errors=True)  # nobody has taken it: there is no sweep
        self.saved(self.clock() - began_s)

    def saved(self, cost_s: float) -> None:
        """Count the time to the next from now. cost_s: what all that is written at once takes."""
        self._saved_s, self._cost_s = self.clock(), cost_s


def _deciding(run: Settings) -> str:
    """The settings that decide what a run computes, as JSON."""
    node = {name: value for name, value in run.node.items() if name not in FREE}
    return json.dumps(node, sort_keys=True, default=str)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs, as `optim.lr 0.1 there, 0.2 here`."""
    there, here = dict(_flat(theirs)), dict(_flat(ours))
    return [
        f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)  # null is as good as absent
    ]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping) or not node:
        yield prefix, node
        return
    for name, value in node.items():
        yield from _flat(value, f"{prefix}.{name}" if prefix else name)
