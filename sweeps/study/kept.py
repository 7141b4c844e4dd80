"""Of which completed trials the last checkpoint stays, for `iolaus extend` to go on from."""

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

    sign: what an objective is multiplied by to be minimised.
    """

    def __init__(self, n: int, sign: float) -> None:
        self._n, self._sign = n, sign
        self._best: list[tuple[float, Path]] = []  # best first

    def offer(self, value: float, folder: Path) -> list[Path]:
        """Take a completed trial; the folders of which no checkpoint is to be kept any more.

        NaN is the worst value; of equal ones the earlier stays.
        """
        loss = math.inf if math.isnan(value) else self._sign * value
        at = bisect.bisect_right(self._best, loss, key=lambda one: one[0])
        self._best.insert(at, (loss, folder))
        dropped, self._best = self._best[self._n :], self._best[: self._n]
        return [folder for _, folder in dropped]

    def __contains__(self, folder: Path) -> bool:
        """Whether the checkpoint in a trial's folder is kept."""
        return any(folder == kept for _, kept in self._best)

    def offer_all(self, trials: Iterable[FrozenTrial], sweep: Path) -> list[Path]:
        """The same of all trials of a study, in the sweep's folder: what an earlier session left.

        Those that have ended otherwise keep none.
        """
        dropped: list[Path] = []
        for trial in trials:
            own = record_of(trial).run.folder
            if not is_over(trial) or not own or not (sweep / own / CHECKPOINTS).is_dir():
                continue
            is_done = trial.state is TrialState.COMPLETE and trial.values
            dropped += self.offer(trial.values[0], sweep / own) if is_done else [sweep / own]
        return dropped
