"""The values that pass between the parts of a sweep: frozen, checked where they are made."""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "OUTPUT_FILE",
    "WAITS_RULE",
    "Ending",
    "Finding",
    "Intervention",
    "Memory",
    "Outcome",
    "Plan",
    "Returned",
    "Verdict",
    "spent_below",
]

# In a trial's folder: all that it prints, beside Hydra's own log.
OUTPUT_FILE = "output.log"
# The rule of a verdict that pauses a trial only until others have come as far: it is not behind.
WAITS_RULE = "waits"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trial was ended before its time.

    rule: the name of the rule that fired, e.g. "diverged", "stalled", "MedianPruner"; of several
        that had to agree, joined by "+".
    step: the step of the report at which it fired (optimizer updates, from 0).
    reason: one sentence for a reader, with the numbers in it.
    numbers: the same numbers for machines; finite or not, never None.
    """

    rule: str
    step: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(
                f"verdict {self.rule!r} at step {self.step} has no reason: say why "
                "the trial was ended"
            )

    @property
    def rules(self) -> frozenset[str]:
        """The names of the rules that fired."""
        return frozenset(self.rule.split("+"))


@dataclass(frozen=True, slots=True)
class Intervention:
    """What to try instead of ending a trial that has stalled.

    action: "decay" lowers the learning rate; "rewind" goes back to the best checkpoint and lowers
    it from there.
    factor: for the rate of every step to come, between 0 and 1. verdict: what ends the trial if it
    does not comply.
    """

    action: str
    factor: float
    verdict: Verdict

    ACTIONS: ClassVar[tuple[str, ...]] = ("decay", "rewind")

    def __post_init__(self) -> None:
        if self.action not in self.ACTIONS:
            raise ValueError(
                f"no intervention is called {self.action!r}: choose from {', '.join(self.ACTIONS)}"
            )
        if not 0 < self.factor < 1:
            raise ValueError(f"an intervention's factor lies between 0 and 1, got {self.factor}")


# A learning rate is spent once it is below this share of its highest, or rests on a floor that is
# lower than the tenth to which rates fall in steps: it hardly moves the weights any more.
SPENT_SHARE = 0.05
FLOOR_SHARE = 0.09


def spent_below(rates: Sequence[float]) -> float:
    """The rate below which one is spent, of the rates of a run in the order of its steps.

    The rate on which they rest at the end counts as a floor if it is below FLOOR_SHARE of the
    highest: from 0.15 down to 0.01 it is 0.017, though 0.01 is more than 5 % of 0.15.
    """
    highest = max(rates, default=0.0)
    rests = len(rates) > 1 and rates[-1] == rates[-2] < FLOOR_SHARE * highest
    floor = rates[-1] if rests else 0.0
    return floor + SPENT_SHARE * (highest - floor)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trial says about its own future, so that a rule can tell a pause from a stall.

    n_steps: optimizer updates it will make if nobody stops it, or None when it cannot know.
    lr: the planned learning rate as (step, rate) corners in rising steps, linear in between; empty
    when unknown. Stored with the trial as the user attributes `n_steps` and `lr_plan`, which anyone
    may set in plain Optuna too.
    """

    n_steps: int | None = None
    lr: tuple[tuple[int, float], ...] = ()

    N_STEPS_ATTR: ClassVar[str] = "n_steps"
    LR_ATTR: ClassVar[str] = "lr_plan"

    def __post_init__(self) -> None:
        if self.n_steps is not None and self.n_steps < 1:
            raise ValueError(
                f"a plan of {self.n_steps} steps: give at least 1, "
                "or None if the length is not known"
            )
        steps = [step for step, _ in self.lr]
        if steps != sorted(set(steps)):
            raise ValueError(f"the steps of a learning-rate plan must rise; got {steps[:8]}")

    def from_step(self, first: int) -> Plan:
        """The plan in the steps of a trial whose first report is at step `first`.

        One that would be over before, since it counts its steps from there, is moved there.
        """
        if self.n_steps is None or first <= self.n_steps:
            return self
        return Plan(first + self.n_steps, tuple((first + step, rate) for step, rate in self.lr))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a lint of a composed config has to say, before any compute.

    name: of the finding, such as "flat". step: where it starts (optimizer updates). text: a
    sentence with the numbers.
    rule: "warn", or "infeasible" if a trial with it shall not run. amount: how bad, above 0; told
    to the sampler.
    """

    name: str
    step: int
    text: str
    rule: str = "warn"
    amount: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in ("warn", "infeasible"):
            raise ValueError(
                f"finding {self.name!r} has rule {self.rule!r}: choose warn or infeasible"
            )
        if not self.amount > 0:
            raise ValueError(
                f"finding {self.name!r} has amount {self.amount}: a violation is above 0"
            )


class Ending(StrEnum):
    """How a trial ended."""

    COMPLETED = "completed"
    PRUNED = "pruned"  # a rule, or the task itself, ended it early; its verdict says why
    DIVERGED = "diverged"  # the watched metric became NaN or infinite, or left its past for good
    INFEASIBLE = "infeasible"  # a lint of its config ruled it out before any compute
    DUPLICATE = "duplicate"  # the same setting had been run before; its result was taken over
    FAILED = "failed"  # an exception, an exit, a killed worker, no usable result
    INTERRUPTED = "interrupted"  # the sweep was stopped; continuing it goes on with the trial
    PAUSED = "paused"  # the pruner ended it early, and may have it go on while the sweep lasts


# A longer value stays in its worker. A driver may keep one for each of ten thousand trials.
MOST_RETURNED_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Returned:
    """What a task returned, as bytes: no object of a user's is made until somebody asks for it.

    text: the value in a few words, for a sentence. data: its pickle; None if it has none, or one of
    more than `MOST_RETURNED_BYTES`.
    """

    text: str
    data: bytes | None

    @classmethod
    def of(cls, value: Any) -> Returned:
        """A value as it leaves its worker; whatever its `__repr__` and `__reduce__` do."""
        try:
            data = pickle.dumps(value)
        except Exception:
            data = None
        is_kept = data is not None and len(data) <= MOST_RETURNED_BYTES
        try:
            text = " ".join(reprlib.repr(value).split())
        except Exception:
            text = f"a {type(value).__name__}"
        if isinstance(value, list | tuple) and "..." in text:
            text += f" ({len(value)} of them)"
        return cls(text, data if is_kept else None)

    def load(self) -> Any:
        """The value; None if it stayed in its worker. Raises what its unpickling raises."""
        return None if self.data is None else pickle.loads(self.data)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a trial held at most, and what it could not get.

    gpu_bytes: of the GPU's, by torch; ram_bytes: resident. capacity_bytes: of the device (or of the
    machine) that it ran on. ran_out: "gpu" or "ram" if it ended because it got no more, else "";
    requested_bytes: what it asked for then. What is not known is None.
    """

    gpu_bytes: int | None = None
    ram_bytes: int | None = None
    capacity_bytes: int | None = None
    requested_bytes: int | None = None
    ran_out: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    values: what the task returned, as floats (one per direction of the study); empty if it returned
    no number.
    reason: one sentence, empty when there is nothing to say beyond the ending.
    verdict: what a rule had decided, if one had.
    returned: the task's return value, for sentences and for callers that want it; None if the task
    returned nothing that is known.
    findings: what a lint found in its config. memory: what it held, None where nobody looked.
    """

    ending: Ending
    values: tuple[float, ...] = ()
    reason: str = ""
    verdict: Verdict | None = None
    returned: Returned | None = None
    findings: tuple[Finding, ...] = ()
    memory: Memory | None = None
