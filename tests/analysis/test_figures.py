"""The figure of all curves, on ordinary and on awkward sweeps."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures import draw_curves
from analysis.load import Sweep

mpl.use("agg")


def sweep(curves: dict[int, list[float]], states: dict[int, str], direction: str = "minimize") -> Sweep:
    """A sweep whose trials reported these losses at steps 0, 1, ..., and ended in these states."""
    rows = [(t, step, float(step), "loss", v) for t, losses in curves.items() for step, v in enumerate(losses)]
    objective = [curves[t][-1] if state == "complete" else np.nan for t, state in states.items()]
    trials = pd.DataFrame({"state": list(states.values()), "objective": objective}, index=list(states))
    frame = pd.DataFrame(rows, columns=["trial", "step", "seconds", "metric", "value"])
    return Sweep("s", "loss", (direction,), trials, frame)


def drawn(what: Sweep) -> tuple[list[str], tuple[float, float]]:
    """The legend's texts and the limits of the value axis, after really drawing."""
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    draw_curves(ax, what)
    FigureCanvasAgg(figure).draw()
    assert ax.get_xlabel() == "step (optimizer updates)"
    assert ax.get_ylabel() == "loss"
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else [], ax.get_ylim()


def test_the_best_stands_out_by_its_direction() -> None:
    """The legend names the best completed trial, lowest or highest as the study asks, and counts the states."""
    curves = {0: [3.0, 2.0], 1: [3.0, 1.0], 2: [3.0]}
    states = {0: "complete", 1: "complete", 2: "pruned"}
    assert drawn(sweep(curves, states))[0] == ["best: trial 1", "completed (2)", "pruned (1)"]
    assert drawn(sweep(curves, states, "maximize"))[0][0] == "best: trial 0"


def test_a_diverged_curve_does_not_spoil_the_frame() -> None:
    """Others stay readable beside a loss of 1e30, which leaves the frame."""
    ordinary = {t: [3.0 - 0.1 * t - 0.05 * step for step in range(20)] for t in range(5)}
    exploded = {5: [3.0 * 10.0**step for step in range(20)]}
    states = dict.fromkeys(ordinary, "complete") | {5: "pruned"}
    _, (low, high) = drawn(sweep(ordinary | exploded, states))
    assert low < min(min(losses) for losses in ordinary.values())
    assert 3.0 < high < 10


def test_a_remedy_is_marked() -> None:
    """A remedy in the curves is drawn at the loss it was taken at, and counted."""
    what = sweep({0: [3.0, 2.0, 1.0]}, {0: "complete"})
    taken = pd.DataFrame([(0, 1, 1.0, "intervention/decay", 0.3)], columns=what.curves.columns)
    with_remedy = Sweep(what.name, what.metric, what.directions, what.trials, pd.concat([what.curves, taken]))
    assert "remedies (1)" in drawn(with_remedy)[0]


@pytest.mark.parametrize(
    "what",
    [
        sweep({0: [1.0]}, {0: "complete"}),
        sweep({0: [1.0, 1.0, 1.0]}, {0: "running"}),
        sweep({0: [np.nan, np.inf]}, {0: "pruned"}),
        sweep({0: [-1.0, -5.0], 1: [0.0, -3.0]}, {0: "fail", 1: "pruned"}),
        sweep({t: [1.0 + t, 0.5 + t] for t in range(1000)}, dict.fromkeys(range(1000), "complete")),
    ],
    ids=["one report", "flat and running", "nothing finite", "all ended early, negative", "1,000 trials"],
)
def test_awkward_sweeps_are_drawn(what: Sweep) -> None:
    """Whatever a sweep holds, the figure is drawn without a warning."""
    drawn(what)
