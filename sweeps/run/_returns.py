"""What a sweep returns to Hydra's callers: its trials as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import SweepFailedError
from iolaus.sweeps.run._job import changes_directory
from iolaus.sweeps.run.driver import TrialRun
from iolaus.sweeps.types import Ending, Outcome

__all__ = ["FolderReturn", "job_returns"]


class FolderReturn(JobReturn):
    """A finished trial as Hydra's callers know it.

    Its configs are read from its folder, and its return value from bytes, when they are asked for.
    A value that cannot be pickled, or has more than `MOST_RETURNED_BYTES`, is None.
    """

    def __init__(
        self, overrides: Sequence[str], folder: Path, working_dir: str, outcome: Outcome
    ) -> None:
        self.overrides = list(overrides)
        self.working_dir = working_dir
        self.task_name = JobRuntime.instance().get("name")
        self._folder = folder
        failed = outcome.ending in (Ending.FAILED, Ending.INTERRUPTED)
        self.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        self._outcome = outcome

    @property  # type: ignore[misc] # a dataclass's field, which nobody sets
    def return_value(self) -> Any:
        """What the task returned; raises SweepFailedError if it failed."""
        if self.status is JobStatus.FAILED:
            raise SweepFailedError(self._outcome.reason)
        returned = self._outcome.returned
        return None if returned is None else returned.load()

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        """The task's config."""
        return cast(DictConfig, OmegaConf.load(self._folder / ".hydra" / "config.yaml"))

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        """Hydra's own config."""
        return cast(DictConfig, OmegaConf.load(self._folder / ".hydra" / "hydra.yaml"))


def job_returns(
    trials: Mapping[int, TrialRun], config: DictConfig, n_per_row: int
) -> list[list[JobReturn]]:
    """The trials that are over, by number, in rows of `n_per_row`.

    config: the sweep's, which says whether jobs ran in their folders.
    """
    changed = changes_directory(config)

    def one(run: TrialRun, outcome: Outcome) -> JobReturn:
        folder = run.folder or Path()
        working_dir = folder if changed else Path.cwd()
        return FolderReturn(run.assignment.overrides, folder, str(working_dir), outcome)

    over = [one(run, run.outcome) for _, run in sorted(trials.items()) if run.outcome is not None]
    return [over[i : i + n_per_row] for i in range(0, len(over), n_per_row)]
