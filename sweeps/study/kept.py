"""Of which trials the last checkpoint stays, for `iolaus extend` to go on from."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.checkpoints import CHECKPOINTS
from iolaus.sweeps.study.record import is_over, record_of

__all__ = ["KeptCheckpoints"]


class KeptCheckpoints:
    """The folders of the best n completed trials that have left a checkpoint.

    And of the best n that stayed paused to the end of the sweep.
    sign, metric_sign: what an objective, and the watched metric, are multiplied by to be minimised.
    """

    def __init__(self, n: int, sign: float, metric_sign: float = 1.0) -> None:
        self._sign, self._metric_sign = sign, metric_sign
        self._completed, self._paused = _Best(n), _Best(n)

    def offer(self, value: float, folder: Path) -> list[Path]:
        """Take a completed trial; the folders of which no checkpoint is to be kept any more.

        NaN is the worst value; of equal ones the earlier stays.
        """
        return self._completed.offer(self._sign * value, folder)

    def offer_over(self, trial: FrozenTrial, sweep: Path) -> list[Path]:
        """The same of any trial that is over, in the sweep's folder.

        Those that neither completed nor were paused keep none. One that is kept is still kept.
        """
        record = record_of(trial)
        folder = sweep / record.run.folder
        if not record.run.folder or not (folder / CHECKPOINTS).is_dir() or folder in self:
            return []
        if trial.state is TrialState.COMPLETE and trial.values:
            return self.offer(trial.values[0], folder)
        if record.stayed_paused:
            best = math.nan if record.run.best is None else record.run.best
            return self._paused.offer(self._metric_sign * best, folder)
        return [folder]

    def offer_all(self, trials: Iterable[FrozenTrial], sweep: Path) -> list[Path]:
        """The same of all trials of a study that are over: what an earlier session left."""
        return [f for trial in trials if is_over(trial) for f in self.offer_over(trial, sweep)]

    def __contains__(self, folder: Path) -> bool:
        """Whether the checkpoint in a trial's folder is kept."""
        return folder in self._completed or folder in self._paused


class _Best:
    """The folders of the n lowest losses."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._best: list[tuple[float, Path]] = []  # best first

    def offer(self, loss: float, folder: Path) -> list[Path]:
        loss = math.inf if math.isnan(loss) else loss
        at = bisect.bisect_right(self._best, loss, key=lambda one: one[0])
        self._best.insert(at, (loss, folder))
        dropped, self._best = self._best[self._n :], self._best[: self._n]
        return [folder for _, folder in dropped]

    def __contains__(self, folder: Path) -> bool:
        return any(folder == kept for _, kept in self._best)
