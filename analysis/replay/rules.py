"""The pruners that `iolaus.analysis.replay.comparison` compares.

Optuna's own classes, this project's rule, and two that Optuna lacks. Every rule but `none` also
stops a trial whose loss is not finite, so that what is compared is the judgement of finite losses.
Lengths that a rule needs are set as shares of the run, in steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Protocol

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.pruners.curve_pruner import StudyView
from iolaus.sweeps.pruners.peers import PeerOutcome
from iolaus.sweeps.pruners.stalled import StalledLoss
from iolaus.sweeps.signals import Array
from iolaus.sweeps.types import Plan

__all__ = [
    "RULES",
    "AshaPromote",
    "Move",
    "Nothing",
    "Optuna",
    "Plateau",
    "Rule",
    "Stalled",
    "SweepInfo",
]


class Move(Enum):
    """What a rule wants of a trial after a report.

    A PAUSED trial may be resumed where it stands.
    """

    GO = "go"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class SweepInfo:
    """What is known of a sweep before it starts.

    That is the steps and reports of a whole trial, and the seed of the replay.
    """

    n_steps: int
    n_reports: int
    seed: int


class Rule(Protocol):
    """A pruner under replay.

    Trials are numbered from 0 as they start. Losses are finite, smaller is better.
    """

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:
        """Judge a trial at its last report; steps and losses [n] are all it has reported."""

    def end(self, trial: int, best: float, complete: bool) -> None:
        """Take the end of a trial: complete, or stopped (by this rule, or diverged)."""

    def resume(self, last_call: bool) -> int | None:
        """A paused trial to go on with, or None; asked whenever a worker is free.

        last_call: no new trial is left.
        """


class Nothing:
    """Never stops anything: the rules `none` and `divergence`."""

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:  # noqa: ARG002
        """Go on."""
        return Move.GO

    def end(self, trial: int, best: float, complete: bool) -> None:
        """Nothing to learn."""

    def resume(self, last_call: bool) -> int | None:  # noqa: ARG002
        """Nothing is ever paused."""
        return None


class Stalled(Nothing):
    """`iolaus.sweeps.pruners.StalledLoss` as a sweep's driver asks it.

    pauses: as with `on_prune: pause`, else a stop is final. repeats: the share of a trial's run
    that a thaw has to repeat, of what it has run.
    """

    def __init__(self, caution: float = 1.0, pauses: bool = True, repeats: bool = False) -> None:
        self._pruner = StalledLoss(caution=caution)
        self._pruner.start(StudyView(_study(0), _no_trial, pauses=pauses))
        self._pauses, self._repeats = pauses, repeats
        self._paused: dict[int, float] = {}  # trial -> share of its run that it has made

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:
        """Stop or pause on a verdict."""
        step = int(steps[-1])
        if self._pruner.observe(trial, step, float(losses[-1]), plan) is None:
            return Move.GO
        if not self._pauses:
            return Move.STOP
        self._pruner.paused(trial)
        made = (step + 1) / (plan.n_steps or step + 1)
        self._paused[trial] = made if self._repeats else 0.0
        return Move.PAUSE

    def end(self, trial: int, best: float, complete: bool) -> None:  # noqa: ARG002
        """Let peers know."""
        self._pruner.finished(trial, PeerOutcome.COMPLETE if complete else PeerOutcome.STOPPED)

    def resume(self, last_call: bool) -> int | None:
        """What the pruner thaws."""
        trial = self._pruner.thaw(self._paused, last_call) if self._paused else None
        if trial is not None:
            del self._paused[trial]
            self._pruner.resumed(trial)
        return trial


class Optuna(Nothing):
    """Any Optuna pruner, as it is, on a study in memory."""

    def __init__(self, pruner: BasePruner, seed: int) -> None:
        self._study = _study(seed, pruner)
        self._storage = self._study._storage
        self._ids: dict[int, int] = {}

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:
        """Stop if the pruner prunes."""
        trial_id = self._id(trial, plan)
        self._storage.set_trial_intermediate_value(trial_id, int(steps[-1]), float(losses[-1]))
        frozen = self._storage.get_trial(trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Wilcoxon remarks on every step that the best trial lacks
            return Move.STOP if self._study.pruner.prune(self._study, frozen) else Move.GO

    def end(self, trial: int, best: float, complete: bool) -> None:
        """Tell the study."""
        state = TrialState.COMPLETE if complete else TrialState.PRUNED
        self._storage.set_trial_state_values(
            self._id(trial, Plan()), state, [best] if complete else None
        )

    def _id(self, trial: int, plan: Plan) -> int:
        # Trials are created up to this one, in order: a trial that diverges at once has reported
        # nothing before.
        while len(self._ids) <= trial:
            self._ids[len(self._ids)] = self._storage.create_new_trial(self._study._study_id)
            trial_id = self._ids[len(self._ids) - 1]
        trial_id = self._ids[trial]
        attributes = self._storage.get_trial(trial_id).user_attrs
        if plan.n_steps is not None and Plan.N_STEPS_ATTR not in attributes:
            self._storage.set_trial_user_attr(trial_id, Plan.N_STEPS_ATTR, plan.n_steps)
            self._storage.set_trial_user_attr(trial_id, Plan.LR_ATTR, plan.lr)
        return trial_id


class Plateau(Nothing):
    """Ray Tune's TrialPlateauStopper at its defaults.

    It stops a trial when the last 4 values have a standard deviation of 0.01. Source:
    ray.tune.stopper.TrialPlateauStopper (std 0.01, num_results 4, grace_period 4), Ray 2.x.
    """

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:  # noqa: ARG002
        """Stop on four values that hardly differ."""
        with np.errstate(over="ignore"):  # a spread too large to be squared is no plateau
            return Move.STOP if len(losses) >= 4 and float(np.std(losses[-4:])) < 0.01 else Move.GO


class AshaPromote:
    """Asynchronous successive halving as published.

    Trials pause at rungs, the best 1/eta of a rung are resumed. Rungs at n_steps / eta^k, k = 4..1.
    Source: Li et al., arXiv 1810.05934, algorithm 2.
    """

    def __init__(self, n_steps: int, eta: int = 2) -> None:
        self._eta = eta
        self._rungs = sorted({max(1, n_steps // eta**k) for k in (4, 3, 2, 1)})
        self._shown: list[dict[int, float]] = [{} for _ in self._rungs]
        self._promoted: list[set[int]] = [set() for _ in self._rungs]
        self._at: dict[int, int] = {}

    def report(self, trial: int, steps: Array, losses: Array, plan: Plan) -> Move:  # noqa: ARG002
        """Pause at the next rung."""
        rung = self._at.get(trial, 0)
        if rung == len(self._rungs) or steps[-1] + 1 < self._rungs[rung]:
            return Move.GO
        self._shown[rung][trial] = float(losses[-1])
        self._at[trial] = rung + 1
        return Move.PAUSE

    def end(self, trial: int, best: float, complete: bool) -> None:
        """An ended trial is paused nowhere."""

    def resume(self, last_call: bool) -> int | None:  # noqa: ARG002
        """The best trial of the highest rung that is in its top 1/eta and has not been promoted."""
        for shown, promoted in zip(reversed(self._shown), reversed(self._promoted), strict=True):
            top = sorted(shown, key=shown.__getitem__)[: len(shown) // self._eta]
            for trial in top:
                if trial not in promoted:
                    promoted.add(trial)
                    return trial
        return None


def _study(seed: int, pruner: BasePruner | None = None) -> optuna.Study:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Hyperband hashes the study's name with the trial's number to choose a bracket.
    study = optuna.create_study(study_name=f"replay-{seed}", pruner=pruner)
    optuna.logging.set_verbosity(verbosity)
    return study


def _no_trial(number: int) -> FrozenTrial:
    raise LookupError(f"trial {number}: a replay keeps no trials")


def _patient(info: SweepInfo) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PatientPruner(None, patience=math.ceil(0.2 * info.n_reports))


def _wilcoxon(_: SweepInfo) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WilcoxonPruner()


def _optuna(make: Callable[[SweepInfo], BasePruner]) -> Callable[[SweepInfo], Rule]:
    return lambda info: Optuna(make(info), info.seed)


RULES: Mapping[str, Callable[[SweepInfo], Rule]] = MappingProxyType(
    {
        "none": lambda _: Nothing(),
        "divergence": lambda _: Nothing(),
        "stalled": lambda _: Stalled(),
        "stalled-cautious": lambda _: Stalled(caution=2.0),
        "stalled-stop": lambda _: Stalled(pauses=False),
        "stalled-cautious-stop": lambda _: Stalled(caution=2.0, pauses=False),
        "median": _optuna(lambda _: MedianPruner()),
        "median-warmup": _optuna(lambda info: MedianPruner(n_warmup_steps=info.n_steps // 10)),
        "percentile": _optuna(
            lambda info: PercentilePruner(25.0, n_warmup_steps=info.n_steps // 10)
        ),
        "hyperband": _optuna(
            lambda info: HyperbandPruner(max(1, info.n_steps // 100), info.n_steps, 3)
        ),
        "asha": _optuna(lambda info: SuccessiveHalvingPruner(max(1, info.n_steps // 100), 3)),
        "asha-promote": lambda info: AshaPromote(info.n_steps),
        "patient": _optuna(_patient),
        "wilcoxon": _optuna(_wilcoxon),
        "plateau": lambda _: Plateau(),
    }
)
