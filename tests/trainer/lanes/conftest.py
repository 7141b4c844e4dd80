from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes.serve import Lanes
from iolaus.trainer.loop import train
from iolaus.trainer.settings import Settings

SMALL = (
    "task.n_train=200",
    "task.n_val=50",
    "task.n_test=50",
    "batch_size=16",
    "report_every=5",
    "eval_every=20",
)


@dataclass
class Ran:
    """What a run reported, how it ended, and what it planned."""

    reports: list[dict[str, float]] = field(default_factory=list)
    outcome: Summary | BaseException | None = None
    plans: list[Any] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def hooks(self, **others: Any) -> Hooks:
        given: dict[str, Any] = {
            "tell": self.lines.append,
            "report": lambda step, **metrics: self.reports.append({"step": step, **metrics}),
            "plan": lambda *plan: self.plans.append(plan),
            "should_stop": lambda: False,
            "ask_intervention": lambda: None,
        }
        return Hooks(**{**given, **others})

    def ended(self, outcome: Summary | BaseException) -> None:
        assert self.outcome is None
        self.outcome = outcome


Train = Callable[..., list[Ran]]


@pytest.fixture
def alone() -> Train:
    """Each run by the solo loop."""

    def trained(
        runs: Sequence[Settings], keep: Sequence[Path | None] = (), **others: Any
    ) -> list[Ran]:
        results = []
        for i, run in enumerate(runs):
            ran = Ran()
            hooks = ran.hooks(**others)
            given = {
                name: getattr(hooks, name)
                for name in ("tell", "report", "should_stop", "plan", "ask_intervention")
            }
            ran.outcome = train(run, keep=keep[i] if keep else None, **given)
            results.append(ran)
        return results

    return trained


@pytest.fixture
def together() -> Train:
    """All runs in lanes: the first n_first at once, the others one by one as lanes fall empty."""

    def trained(
        runs: Sequence[Settings],
        keep: Sequence[Path | None] = (),
        n_first: int | None = None,
        **others: Any,
    ) -> list[Ran]:
        lanes, results = Lanes(), [Ran() for _ in runs]
        width = len(runs) if n_first is None else n_first
        waiting = list(range(len(runs)))
        while waiting or lanes.n_lane_runs:
            while waiting and lanes.n_lane_runs < width:
                i = waiting.pop(0)
                lanes.admit(
                    runs[i], results[i].hooks(**others), keep[i] if keep else None, results[i].ended
                )
            lanes.run_block()
        return results

    return trained
