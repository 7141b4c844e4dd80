"""What a run's settings will do to its learning rate, and what is wrong with that, beforehand.

Each rule looks at the rate of every step, or at the order of the examples, which are known in
advance, and may make one finding. To add a rule: write a function from a `Preview` to a `Finding`
or None, add it to RULES, and give it an entry in `lint` of conf/config.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.types import Finding, spent_below
from iolaus.trainer.checkpoint import state_to_resume
from iolaus.trainer.course import planned_rates
from iolaus.trainer.data import epoch_order, longest_run
from iolaus.trainer.loop import float_type, seeded, start
from iolaus.trainer.phases import Staged
from iolaus.trainer.plateau import LossDriven
from iolaus.trainer.schedules import Constant, MultiStep
from iolaus.trainer.settings import Settings, read

__all__ = ["RULES", "Preview", "lint", "lint_config", "preview"]

FLAT_FACTOR = 1.5
LONG_WARMUP_SHARE = 1 / 3


@dataclass(frozen=True)
class Preview:
    """What is known of a run before it starts, or before it is taken up again at from_step.

    rates: of all its steps, [n_steps]; what a schedule that looks at the loss will do to them is
    not known.
    weight_scale: median size of the first weights that are not 0.
    """

    run: Settings
    rates: NDArray[np.float64]
    weight_scale: float
    from_step: int = 0

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.rates)

    @property
    def warm(self) -> int:
        """The first step to come after warm-up, n_steps if there is none."""
        return max(self.from_step, min(int(np.ceil(self.run.schedule.warmup_steps)), self.n_steps))

    def lasting(self, holds: NDArray[np.bool_]) -> int:
        """The first step to come from which `holds` [n_steps] is true to the end, or n_steps."""
        fails = np.flatnonzero(~holds)
        return max(self.from_step, int(fails[-1]) + 1 if len(fails) else 0)


def preview(run: Settings, from_step: int = 0) -> Preview:
    """The run's rates and weights.

    from_step: where it is taken up, if later than at its checkpoint or beginning. Raises
    BadInputError if model or optimizer cannot be made, its checkpoint does not fit, or the model
    does not take two of the task's examples.
    """
    try:
        with seeded(run.seed, run.device):
            state = start(run, state_to_resume(run))
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise BadInputError(str(error).replace("\n", " ")) from error
    try:
        with torch.no_grad():
            run.task.loss(state.model, run.splits.train[:2].to(run.device, float_type(run)))
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        model, task = run.node["model"]["_target_"], run.node["task"]["_target_"]
        reason = str(error).splitlines()[0]
        raise BadInputError(
            f"model {model} does not take the data of task {task}: {reason}"
        ) from error
    weights = torch.cat([param.detach().abs().flatten() for param in state.model.parameters()])
    nonzero = weights[weights > 0]
    scale = float(nonzero.median()) if len(nonzero) else 0.0
    return Preview(run, planned_rates(run, run.optim.lr), scale, max(from_step, state.step))


def lint(view: Preview) -> list[Finding]:
    """The findings about a run, in the order of RULES.

    Their `rule` ("warn" or "infeasible") is what the config says under lint.rules; findings on
    "ignore" are left out.
    """
    actions = view.run.node["lint"]["rules"]
    found = [finding for rule in RULES.values() if (finding := rule(view)) is not None]
    return [
        replace(finding, rule=actions[finding.name])
        for finding in found
        if actions[finding.name] != "ignore"
    ]


def lint_config(cfg: DictConfig) -> list[Finding]:
    """The findings about a composed config, as `hydra.sweeper.lint` asks for them.

    Raises BadInputError.
    """
    run = read(cfg)
    return lint(preview(run, run.node["lint"]["from_step"]))


def over(view: Preview) -> Finding | None:
    """The run would be resumed where it has ended, as when a larger batch makes it shorter."""
    if view.from_step < view.n_steps:
        return None
    after = float(view.run.schedule(view.from_step, view.run.optim.lr))
    sentence = (
        f"the run has {view.n_steps} steps and would be taken up at step {view.from_step}: "
        f"nothing is left to train (the rate there would be {after:.3g}){_ways_out(view)}"
    )
    return Finding(
        "over", view.from_step, sentence, amount=1 + (view.from_step - view.n_steps) / view.n_steps
    )


def flat(view: Preview) -> Finding | None:
    """A schedule that is meant to fall, and does not, as from 0.095 to 0.0925 in 39,630 steps."""
    rates = view.rates[view.warm :]
    if isinstance(view.run.schedule, Constant | LossDriven) or len(rates) < 2 or rates.max() == 0:
        return None
    factor = float(rates.max() / rates.min()) if rates.min() > 0 else np.inf
    if factor >= FLAT_FACTOR:
        return None
    sentence = (
        f"the rate is flat: from {rates[0]:.3g} at step {view.warm} to {rates[-1]:.3g} at step "
        f"{view.n_steps - 1}, less than a factor {FLAT_FACTOR} between highest and lowest; "
        "make the decay faster or shorter"
    )
    return Finding("flat", view.warm, sentence, amount=FLAT_FACTOR - factor)


def spent(view: Preview) -> Finding | None:
    """A rate that has all but gone, or come down to a low floor, before half the run."""
    peak, low = float(view.rates.max()), spent_below(view.rates.tolist())
    step = view.lasting(view.rates < low)
    if peak == 0 or step >= view.n_steps / 2:
        return None
    sentence = (
        f"the rate is spent early: below {low:.3g}, its peak is {peak:.3g}, from step {step} of "
        f"{view.n_steps} on; make the decay slower, or the run shorter"
    )
    return Finding("spent", step, sentence, amount=0.5 - step / view.n_steps)


def zero(view: Preview) -> Finding | None:
    """A rate of exactly 0 while training goes on."""
    step = view.lasting(view.rates == 0)
    n_zero = view.n_steps - step
    if n_zero <= 0:
        return None
    sentence = (
        f"the rate is exactly 0 from step {step} of {view.n_steps} on: "
        f"the last {n_zero} steps train nothing; "
        f"let the decay end with the run, or set schedule.min_lr{_ways_out(view)}"
    )
    return Finding("zero", step, sentence, amount=n_zero / view.n_steps)


def _ways_out(view: Preview) -> str:
    """How to train on with what has been learned; nothing for a run that begins anew."""
    run = view.run
    if view.from_step == 0:
        return ""
    best = run.resume if run.resume is not None and run.resume.is_file() else "best.pt"
    if isinstance(run.schedule, Constant) or view.from_step < view.n_steps:
        return f"; init_checkpoint={best} begins a run at step 0 with the weights alone"
    n_epochs = run.batches.examples(view.from_step + view.n_steps) / len(run.splits.train)
    return (
        f". Two ways out: init_checkpoint={best} begins a run at step 0 with the weights alone; "
        f"steps='{n_epochs:.4g} epochs' makes this one {view.n_steps} steps longer than it has come"
    )


def warming(view: Preview) -> Finding | None:
    """A warm-up so long that little is learned."""
    length = float(view.run.schedule.warmup_steps)
    share = length / view.n_steps
    if share <= LONG_WARMUP_SHARE or view.from_step >= length:
        return None
    sentence = (
        f"warm-up takes {length:.0f} of {view.n_steps} steps, more than a third; "
        "shorten schedule.warmup_steps"
    )
    return Finding("warming", view.from_step, sentence, amount=share - LONG_WARMUP_SHARE)


def unresolvable(view: Preview) -> Finding | None:
    """A rate so low that an update of size one times it leaves the typical weight as it is."""
    smallest = torch.finfo(float_type(view.run)).eps / 2 * view.weight_scale
    step = view.lasting((view.rates > 0) & (view.rates < smallest))
    if step >= view.n_steps:
        return None
    sentence = (
        f"from step {step} on the rate is below {smallest:.2g}, what the typical weight of "
        f"{view.weight_scale:.2g} can resolve: updates of size one (as Adam's) are rounded away; "
        "raise schedule.min_lr"
    )
    return Finding("unresolvable", step, sentence, amount=smallest / float(view.rates[step]))


def beyond(view: Preview) -> Finding | None:
    """Milestones or stages that the run does not live to see."""
    schedule = view.run.schedule
    offset = 0.0 if schedule.decay_during_warmup else schedule.warmup_steps
    if isinstance(schedule, MultiStep):
        kind, points = "milestone", [offset + milestone for milestone in schedule.milestone_steps]
    elif isinstance(schedule, Staged):
        lengths = [stage.length_steps for stage in schedule.filled]
        kind, points = "stage", [offset + sum(lengths[:i]) for i in range(len(lengths))]
    else:
        return None
    late = [point for point in points if point >= view.n_steps]
    if not late:
        return None
    sentence = (
        f"{len(late)} of {len(points)} {kind}s would come at step {min(late):.0f} or later, "
        f"after the run's end at step {view.n_steps}"
    )
    return Finding("beyond", view.n_steps, sentence, amount=len(late) / len(points))


def short(view: Preview) -> Finding | None:
    """A run that does not see all of its data once."""
    n_examples, n_train = view.run.batches.examples(view.n_steps), len(view.run.splits.train)
    if n_examples >= n_train:
        return None
    sentence = (
        f"the run ends after {n_examples} of {n_train} training examples, "
        "before its first epoch does"
    )
    return Finding("short", view.n_steps, sentence, amount=1 - n_examples / n_train)


def unshuffled(view: Preview) -> Finding | None:
    """Examples in the order of their labels, with a shuffle buffer that does not reach the next."""
    run, buffer = view.run, view.run.shuffle_buffer
    targets = run.splits.train.targets
    longest, size = longest_run(targets), run.batches.at(0)
    if buffer is None or buffer >= longest:
        return None
    seen = targets[torch.from_numpy(epoch_order(len(targets), run.seed, 0, buffer))]
    batches = seen[: len(seen) // size * size].view(-1, size)
    alone = float((batches == batches[:, :1]).all(1).double().mean()) if len(batches) else 1.0
    sentence = (
        f"batch.shuffle_buffer={buffer} is shorter than the longest run of one label in the "
        f"training data ({longest} examples), and {alone:.0%} of the first epoch's batches hold "
        "one label alone; take batch.shuffle_buffer=null (a full permutation), or shuffle the data "
        f"in advance: a buffer of {longest} is the least that mixes two labels, and mixes no more"
    )
    return Finding("unshuffled", view.from_step, sentence, amount=1 - buffer / longest)


RULES: Mapping[str, Callable[[Preview], Finding | None]] = {
    rule.__name__: rule
    for rule in (over, flat, spent, zero, warming, unresolvable, beyond, short, unshuffled)
}
