"""A trial without a sweep: a reporter that keeps what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from iolaus.sweeps.checkpoints import newest
from iolaus.sweeps.reporting import Reporter, Row, reporting_to
from iolaus.sweeps.types import Plan, Verdict


class Trial:
    """The current trial, as a worker would make it, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._stack = folder, ExitStack()
        self.begin_anew()

    def begin_anew(self) -> None:
        """The trial begins, with a new reporter and without a checkpoint."""
        self._begin(goes_on=False)

    def go_on(self) -> None:
        """The trial was cut off, and goes on from its newest checkpoint."""
        self._begin(goes_on=True)

    def stop_at(self, step: int) -> None:
        """End the trial at the first report at this step, or later."""
        self._reporter.end = step

    def close(self) -> None:
        self._stack.close()

    @property
    def rows(self) -> list[Row]:
        return [row for row in self._reporter.rows if row.metrics]

    @property
    def plan(self) -> Plan:
        return self._reporter.planned

    def steps(self, name: str) -> list[int]:
        """Where this metric was reported."""
        return [row.step for row in self.rows if name in row.metrics]

    def _begin(self, goes_on: bool) -> None:
        self._stack.close()
        self._reporter = _Kept()
        self._reporter.place(str(self.folder), newest(self.folder) if goes_on else None, ())
        self._stack.enter_context(reporting_to(self._reporter))


class _Kept(Reporter):
    """Keeps what it is given, and stops where it is told to."""

    def __init__(self) -> None:
        super().__init__("val_loss", clock=lambda: 0.0)
        self.rows: list[Row] = []
        self.planned, self.end = Plan(), float("inf")

    def report(self, step, metrics, checkpoint=None) -> None:
        self.rows.append(Row(int(step), 0.0, dict(metrics)))
        if step >= self.end:
            self.stop(Verdict("Rule", int(step), "enough"))
        super().report(step, metrics, checkpoint)

    def plan(self, plan: Plan) -> None:
        self.planned = plan
        super().plan(plan)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    folder = tmp_path / "trial"
    folder.mkdir()
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = OmegaConf.create(
        {"hydra": {"runtime": {"output_dir": str(folder)}}}
    )
    trial = Trial(folder)
    yield trial
    trial.close()
    HydraConfig.instance().cfg = before
