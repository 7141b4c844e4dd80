"""Can a task be trained in lanes? A few steps of two runs, alone and side by side, compared."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from torch import nn

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._lane_run import begin_lane_run
from iolaus.trainer.lanes._width import MOST_CHECKED, best_width
from iolaus.trainer.lanes.kind import NotInLanesError, kind_of
from iolaus.trainer.lengths import Every
from iolaus.trainer.loop import seeded, start, train
from iolaus.trainer.settings import CONF, Settings, read

__all__ = ["TOLERANCE", "Check", "check", "check_command"]

N_STEPS = 3
# Relative difference of losses and gradient norms that rounding may make in so many steps, in
# float64 or bf16.
TOLERANCE = {"float64": 1e-7, "bf16": 0.1}

# What torch says, and what to do about it.
HINTS = (
    (
        "randomness",
        "its random numbers come from torch's one generator: use nn.Dropout modules, "
        "which draw from each lane's own",
    ),
    (
        r"data-dependent control flow|\.item\(\)|is_nonzero",
        "it decides by a tensor's value: use torch.where or a mask",
    ),
    (
        "nonzero|dynamic shape|masked_select",
        "the shape of a result depends on values: multiply by a mask instead",
    ),
    (
        "gru|lstm|rnn_tanh|rnn_relu|flat_weights",
        "torch's recurrences know one model: write the cells, as model=lstm",
    ),
    ("packed", "packed sequences have no batching rule: pad, and mask the loss"),
    (
        "in-?place",
        "it writes into a tensor it has made: make that with x.new_zeros, or use torch.where",
    ),
    (
        "running_mean|num_batches_tracked",
        "its running statistics cannot be stacked: use GroupNorm, or momentum=0.1",
    ),
)


@dataclass(frozen=True)
class Check:
    """What a comparison of lanes with the solo loop has found.

    difference: the largest, relative, of a loss or gradient norm. n_weights: trained, per lane.
    """

    difference: float
    n_weights: int


def check(run: Settings) -> Check:
    """Train two seeds of a run for a few steps, alone and in lanes.

    In float64 unless the run is in bf16, so that anything beyond rounding is a fault. Raises
    NotInLanesError, in a sentence that names the module or operation, if the model cannot be
    stacked or the results differ.
    """
    precision = (
        run.precision if run.precision in TOLERANCE or run.precision == "fp16" else "float64"
    )
    short = dataclasses.replace(
        run,
        n_steps=N_STEPS,
        report_every=Every(1),
        eval_every=Every(N_STEPS),
        precision=precision,
        resume=None,
        test=False,
    )
    runs = [dataclasses.replace(short, seed=run.seed + i) for i in range(2)]
    alone = [_reports_alone(r) for r in runs]
    together, n_weights = _reports_together(runs)
    pairs = [
        (a, b)
        for one, other in zip(alone, together, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    difference = max(_difference(a, b) for a, b in pairs)
    if not difference <= TOLERANCE[precision]:
        raise NotInLanesError(
            f"in {N_STEPS} steps the losses in lanes differ from those alone by {difference:.1g} "
            f"(rounding would be {TOLERANCE[precision]:.0g}): the model keeps something between "
            "steps that is no parameter or buffer, or reads settings that differ between trials "
            "in a way that cannot be seen"
        )
    return Check(difference, n_weights)


def _difference(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """The largest relative difference of two rows of metrics; NaN and 0 are equal to themselves.

    A parameter's norm counts from a thousandth of the whole gradient's: one that should be 0 is all
    rounding.
    """
    floor = {name: 1e-3 * abs(a["grad_norm"]) for name in a if name.startswith("grad_norm/")}
    return max(
        abs(a[name] - b[name]) / max(abs(a[name]), floor.get(name, 1e-12))
        for name in a
        if not (math.isnan(a[name]) and math.isnan(b[name]))
    )


def check_command(overrides: Sequence[str], as_json: bool = False) -> str:
    """What `check` and `best_width` say of the run that these overrides ask for.

    as_json: as one line of JSON. Raises BadInputError, and NotInLanesError if the run cannot be
    trained in lanes.
    """
    with initialize_config_dir(str(CONF), version_base=None, job_name="trainer"):
        try:
            run = read(compose("config", list(overrides)))
        except HydraException as error:
            raise BadInputError(str(error)) from error
    found = check(run)
    width = best_width(run, MOST_CHECKED)
    if as_json:
        return json.dumps({"task": type(run.task).__name__, **vars(found), **vars(width)})
    verdict = (
        "trains in lanes"
        if width.n_lanes > 1
        else "can train in lanes, but alone it is faster here"
    )
    return (
        f"{type(run.task).__name__} with {found.n_weights:,} weights {verdict}\n"
        f"  the same: {N_STEPS} steps of two seeds differ from the solo loop "
        f"by {found.difference:.1g}, relative\n"
        f"  the speed: {width}"
    )


def _reports_alone(run: Settings) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    train(run, report=lambda _, **metrics: reports.append(metrics), **_silent())
    return reports


def _reports_together(runs: list[Settings]) -> tuple[list[list[dict[str, float]]], int]:
    reports: list[list[dict[str, float]]] = [[] for _ in runs]
    lane_runs, errors = [], []

    def done(outcome: Summary | BaseException) -> None:
        if isinstance(outcome, BaseException):
            errors.append(outcome)

    for run, own in zip(runs, reports, strict=True):
        with seeded(run.seed, run.device):
            state = start(run)
        hooks = Hooks(report=lambda _, own=own, **metrics: own.append(metrics), **_silent())
        lane_runs.append(begin_lane_run(run, state, hooks, None, done))
    model = lane_runs[0].state.model
    kind = kind_of(runs[0], model, runs[0].batches.at(0))
    try:
        group = Group(kind, runs[0], model)
    except Exception as error:  # copy.deepcopy calls what the modules define
        raise NotInLanesError(
            f"the model cannot be copied (copy.deepcopy says: {str(error)[:200]})"
        ) from error
    group.admit(lane_runs)
    with _named_failures(group.stack.template):
        while group.lane_runs:
            for mover in group.run_block():
                raise NotInLanesError(
                    f"batch sizes change within the first {N_STEPS} steps ({mover.run.batches})"
                )
    if errors:
        raise errors[0]
    return reports, group.stack.n_weights


def _silent() -> dict[str, Any]:
    return {"should_stop": lambda: False, "plan": lambda *_: None, "ask_intervention": lambda: None}


@contextmanager
def _named_failures(model: nn.Module) -> Iterator[None]:
    """Turn what torch raises inside into a NotInLanesError that names the module at work."""
    at_work: list[str] = []
    handles = []
    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        handles.append(
            module.register_forward_pre_hook(lambda *_, label=label: at_work.append(label))
        )
        handles.append(module.register_forward_hook(lambda *_: at_work.pop() and None))
    try:
        yield
    except NotInLanesError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        hint = next(
            (hint for pattern, hint in HINTS if re.search(pattern, text, re.IGNORECASE)), None
        )
        where = at_work[-1] if at_work else "the task's loss"
        raise NotInLanesError(
            f"{where}: {hint or 'torch cannot stack it'} (torch says: {text[:200]})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
