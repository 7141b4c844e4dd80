"""`iolaus gallery`: all shipped schedules over a run of 1,000 steps, for conf/README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iolaus.trainer.plateau import LossDriven
from iolaus.trainer.settings import Settings, read

__all__ = ["draw", "rates"]

CONF = Path(__file__).parent.parent / "conf"
N_COLUMNS = 5


def rates(run: Settings) -> NDArray[np.float64]:
    """The rate of each step, [n_steps].

    A schedule that looks at the loss is shown one that falls, then creeps up.
    """
    steps = np.arange(run.n_steps)
    if not isinstance(run.schedule, LossDriven):
        planned: NDArray[np.float64] = run.schedule(steps, run.optim.lr)
        return planned
    state, seen = run.schedule.start(run.optim.lr), []
    for step in steps:
        seen.append(run.schedule(int(step), state.lr))
        if run.eval_every.is_due(int(step) + 1):
            state = run.schedule.next(state, max(1.0 - step / 400, 0.25 + step / 1e5))
    return np.array(seen)


def draw(path: Path) -> None:
    """Write the figure: a panel per file of conf/schedule/, all on the same axes, optim.lr=1."""
    names = sorted(file.stem for file in (CONF / "schedule").glob("*.yaml"))
    n_rows = -(-len(names) // N_COLUMNS)
    figure = Figure(figsize=(2.4 * N_COLUMNS, 1.9 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, N_COLUMNS, sharex=True, sharey=True)
    with initialize_config_dir(str(CONF), version_base=None):
        for name, axes in zip(names, panels.flat, strict=False):
            run = read(compose("config", [f"schedule={name}", "optim.lr=1", "eval_every=20"]))
            axes.plot(rates(run), color="#2166ac", linewidth=1.6)
            axes.set_title(name, fontsize=9, loc="left")
            axes.grid(color="0.9", linewidth=0.6)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("step", fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("rate (optim.lr=1)", fontsize=8)
    figure.savefig(path, dpi=110)
