"""A pruner that pauses each trial but the first at a step, and thaws some when it is told to."""

from collections.abc import Mapping
from pathlib import Path

from iolaus.sweeps.pruners.curve_pruner import NO_PLAN, CurvePruner
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.types import Plan, Verdict


class PauseAll(CurvePruner):
    """Pauses each trial but trial 0 at step `at`, once. Thaws the first of those paused.

    n_finished: when so many trials have finished; None: never, but for a last call. file: if there
    is such a file. stall_at: the step from which a trial stalls, once.
    """

    def __init__(
        self,
        at: int,
        n_finished: int | None = None,
        file: str | None = None,
        stall_at: int | None = None,
    ) -> None:
        self.at, self.n_finished, self.file, self.stall_at = at, n_finished, file, stall_at
        self._stalled: set[int] = set()
        self.told: list[tuple[str, int]] = []
        self._last: dict[int, int] = {}
        self._thawed: set[int] = set()

    def observe(self, trial: int, step: int, loss: float, plan: Plan) -> Verdict | None:
        if step <= self._last.get(trial, -1):  # reported again
            return None
        self.learn(trial, step, loss, plan)
        if self.stall_at is not None and step >= self.stall_at and trial not in self._stalled:
            self._stalled.add(trial)
            return Verdict("stalled", step, f"stalled at step {step}")
        if trial and step >= self.at and trial not in self._thawed:
            return Verdict("behind", step, f"paused at step {step}")
        return None

    def learn(self, trial: int, step: int, loss: float, plan: Plan = NO_PLAN) -> None:
        self._last[trial] = step

    def finished(self, trial: int, outcome: PeerOutcome) -> None:
        self.told.append((outcome.name, trial))

    def paused(self, trial: int) -> None:
        self.told.append(("PAUSED", trial))

    def resumed(self, trial: int) -> None:
        self._thawed.add(trial)
        self.told.append(("RESUMED", trial))

    def thaw(self, paused: Mapping[int, float], last_call: bool = False) -> int | None:
        fresh = [trial for trial in paused if trial not in self._thawed]
        n = len({trial for name, trial in self.told if name == "COMPLETE"})
        is_time = last_call or (self.n_finished is not None and n >= self.n_finished)
        if self.file is not None:
            is_time = Path(self.file).exists()
        return min(fresh) if fresh and is_time else None
