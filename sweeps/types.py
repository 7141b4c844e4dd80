"""The values that pass between the parts of a sweep: frozen, checked where they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a trial was ended before its time.

    rule: the name of the rule that fired, e.g. "diverged", "StalledLoss", "MedianPruner".
    step: the step of the report at which it fired (optimizer updates, from 0).
    reason: one sentence for a reader, with the numbers in it.
    numbers: the same numbers for machines; finite or not, never None.
    """

    rule: str
    step: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(f"verdict {self.rule!r} at step {self.step} has no reason: say why the trial was ended")
