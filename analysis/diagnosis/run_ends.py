"""When and where runs will end, and how right that was of those that have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.metric import highest_of
from iolaus.sweeps.run_end import ASKED_AT, RunEnd, foresee, looked_back
from iolaus.sweeps.signals import Array
from iolaus.sweeps.text import counted

__all__ = ["run_end_sentences", "run_ends", "runs_that_ended"]

N_NAMED = 4
N_ASKED = 200  # completed trials that are asked in looking back
LEAST_S = 1.0  # a time below is mostly that of starting
# Steps, losses, seconds if they are known, planned steps, the metric's sign and its highest value:
# what `foresee` and `looked_back` take.
Reported = tuple[Array, Array, Array | None, int, float, float]
WHEN = dict(zip(ASKED_AT, ("a quarter", "half"), strict=True))


def run_ends(sweep: Sweep, trials: Iterable[int] | None = None) -> dict[int, RunEnd]:
    """Where trials that are running will end in the watched metric, and when, by number.

    trials: their numbers; left out, all. Those that have not said how long they are to be, or have
    too few reports, are not in it.
    """
    found = {}
    for trial, reported in _reported(sweep, "running", trials).items():
        end = foresee(*reported)
        if end is not None and end.step < end.n_steps:
            found[trial] = end
    return found


def runs_that_ended(
    sweep: Sweep, trials: Iterable[int] | None = None
) -> dict[int, list[tuple[RunEnd, float, float]]]:
    """What was foreseen of completed trials: see `iolaus.sweeps.run_end.looked_back`."""
    found = {
        trial: looked_back(*reported)
        for trial, reported in _reported(sweep, "complete", trials).items()
    }
    return {trial: foreseen for trial, foreseen in found.items() if foreseen}


def run_end_sentences(sweep: Sweep) -> list[str]:
    """When and where running trials will end; of completed ones, how right that was."""
    running = run_ends(sweep)
    said = [
        f"Trial {trial}: {end.sentence(sweep.metric)}."
        for trial, end in list(running.items())[:N_NAMED]
    ]
    if len(running) > N_NAMED:
        said.append(f"{counted(len(running) - N_NAMED, 'more trial')} run.")
    done = sweep.trials.index[sweep.trials["state"].eq("complete")]
    ended = runs_that_ended(sweep, done[:: max(1, -(-len(done) // N_ASKED))])
    parts = []
    for i, share in enumerate(ASKED_AT):
        asked = [foreseen[i] for foreseen in ended.values() if len(foreseen) == len(ASKED_AT)]
        if not asked:
            continue
        n_held = sum(end.low <= came <= end.high for end, came, _ in asked)
        off = float(np.median([abs(end.level - came) for end, came, _ in asked]))
        late = [
            abs(end.seconds_left - took_s) / took_s for end, _, took_s in asked if took_s > LEAST_S
        ]
        time = f", the time left by {np.median(late):.0%}" if late else ""
        parts.append(
            f"at {WHEN[share]} of the run {n_held} of {len(asked)} ends lay in the interval, "
            f"its middle was off by {off:.2g} (median){time}"
        )
    if parts:
        said.append(
            f"Where completed trials would end in {sweep.metric}, as foreseen from their reports "
            f"so far: {'; '.join(parts)}."
        )
    return said


def _reported(sweep: Sweep, state: str, asked: Iterable[int] | None) -> dict[int, Reported]:
    """What the trials in a state that know their length reported of the watched metric."""
    trials = sweep.trials[sweep.trials["state"].eq(state) & sweep.trials["n_steps"].notna()]
    if asked is not None:
        trials = trials[trials.index.isin(list(asked))]
    rows = sweep.curves[sweep.curves["trial"].isin(trials.index)]
    losses, times = curves_of(rows, sweep.metric), curves_of(rows, sweep.metric, "seconds")
    # By all trials: one may still be below 1 where an accuracy is in per cent.
    seen = sweep.curves.loc[sweep.curves["metric"].eq(sweep.metric), "value"].max()
    of_metric = sweep.metric_sign, highest_of(sweep.metric, float(seen))
    found: dict[int, Reported] = {}
    for number, n_steps in trials["n_steps"].items():
        trial = int(str(number))
        if trial in losses:
            seconds = times[trial][1]
            known = seconds if np.isfinite(seconds).all() else None
            found[trial] = (*losses[trial], known, int(n_steps), *of_metric)
    return found
