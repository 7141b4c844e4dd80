"""The figures, on ordinary and on awkward sweeps."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from iolaus.analysis import figures
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.shapes import SHAPES
from iolaus.analysis.figures._style import SHAPE_MARKS, centred_mean, smoothed, value_limits
from iolaus.analysis.figures.gradients import PREFIX
from iolaus.analysis.figures.timeline import lanes
from iolaus.analysis.ranking.rank import Ranking, best_trial, rank
from iolaus.analysis.replay.holdout import pruning

mpl.use("agg")

Make = Callable[..., Sweep]

AWKWARD: dict[str, dict[str, Any]] = {
    "one trial, one report": {"n_trials": 1, "n_reports": 1},
    "all pruned": {"state": "pruned"},
    "all running": {"state": "running"},
    "all paused": {"state": "paused"},
    "nothing finite": {"finite": False},
    "larger is better, below 0": {"direction": "maximize"},
    "repeats and held_out": {"n_seeds": 3, "holdout": True},
    "1,000 trials": {"n_trials": 1000, "n_reports": 20},
}
# In CI; `make test-all` draws all.
COMMON = ("one trial, one report", "all running", "nothing finite", "repeats and held_out")


def shapes(what: Sweep) -> pd.DataFrame:
    """A diagnosis in which every shape occurs, if there are as many trials."""
    n = len(what.trials)
    since = (
        [float(step) if i % 3 else np.nan for i, step in enumerate(what.trials["steps"])]
        if n
        else []
    )
    return pd.DataFrame(
        {"shape": [SHAPES[i % len(SHAPES)] for i in range(n)], "since": since},
        index=what.trials.index,
    )


def curves_and_rates(figure: Figure, what: Sweep) -> None:
    above, below = figure.subplots(2, 1)
    figures.draw_curves(above, what, diagnosis=shapes(what), axis="examples", rate_ax=below)


DRAWN: dict[str, Callable[[Figure, Sweep], None]] = {
    "curves": curves_and_rates,
    "one trial": lambda figure, what: figures.draw_curves(figure.subplots(), what, highlight=0),
    "by shape": lambda figure, what: figures.draw_by_shape(figure, what, shapes(what)),
    "gradients": figures.draw_gradients,
    "batches": figures.draw_batches,
    "decays": figures.draw_decays,
    "explosions": figures.draw_explosions,
    "map": lambda figure, what: figures.draw_map(
        figure.subplots(), what, "optim.lr", "schedule.decay_rate", shapes(what)
    ),
    "map of choices": lambda figure, what: figures.draw_map(
        figure.subplots(), what, "clip", "batch_size"
    ),
    "ranking": lambda figure, what: figures.draw_ranking(figure.subplots(), rank(what)),
    "timeline": lambda figure, what: figures.draw_timeline(figure.subplots(), what),
    "schedules": lambda figure, what: figures.draw_schedules(figure.subplots(), what),
    "holdout": lambda figure, what: figures.draw_holdout(figure.subplots(), what, pruning(what)),
}


def drawn(draw: Callable[[Figure], None]) -> Figure:
    figure = Figure(layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    canvas.draw()
    return figure


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(given, id=name, marks=[] if name in COMMON else [pytest.mark.slow])
        for name, given in AWKWARD.items()
    ],
)
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_awkward_sweeps_are_drawn(
    draw: Callable[[Figure, Sweep], None], given: dict[str, Any], made_sweep: Make
) -> None:
    """Whatever a sweep holds, each figure is drawn without a warning, and what has data says what
    its axes are.
    """
    figure = drawn(lambda figure: draw(figure, made_sweep(**given)))
    axes = [ax for ax in figure.axes if ax.get_visible()]
    labelled = figure.get_supxlabel() + "".join(ax.get_xlabel() for ax in axes)
    assert labelled or all(isinstance(ax.texts[0], Text) for ax in axes)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_sweep_that_has_not_begun_is_drawn(
    draw: Callable[[Figure, Sweep], None], made_sweep: Make
) -> None:
    """With no trials and no curves, a figure says why it is empty."""
    what = dataclasses.replace(
        made_sweep(1), trials=pd.DataFrame(), curves=made_sweep(1).curves.iloc[:0]
    )
    figure = drawn(lambda figure: draw(figure, what))
    assert any("no " in text.get_text() for ax in figure.axes for text in ax.texts)


def small(
    curves: dict[int, list[float]], states: dict[int, str], direction: str = "minimize"
) -> Sweep:
    """A sweep whose trials reported these losses at steps 0, 1, ..., and ended in these states."""
    rows = [
        (t, step, step, float(step), "loss", v)
        for t, losses in curves.items()
        for step, v in enumerate(losses)
    ]
    objective = [curves[t][-1] if state == "complete" else np.nan for t, state in states.items()]
    trials = pd.DataFrame(
        {"state": list(states.values()), "objective": objective}, index=list(states)
    )
    trials = trials.assign(
        why=trials["state"],
        setting=trials.index,
        seed=np.nan,
        best=[min(own) for own in curves.values()],
    )
    frame = pd.DataFrame(rows, columns=["trial", "step", "examples", "seconds", "metric", "value"])
    return Sweep("s", "loss", (direction,), trials, frame)


def all_curves(what: Sweep, **given: Any) -> Axes:
    return drawn(lambda figure: figures.draw_curves(figure.subplots(), what, **given)).axes[0]


def test_the_best_stands_out_by_its_direction() -> None:
    """The legend names the best completed trial, lowest or highest as the study asks, and counts
    the states.
    """
    curves = {0: [3.0, 2.0], 1: [3.0, 1.0], 2: [3.0]}
    states = {0: "complete", 1: "complete", 2: "pruned"}
    assert legend(all_curves(small(curves, states))) == [
        "best: trial 1",
        "completed (2)",
        "pruned (1)",
    ]
    assert legend(all_curves(small(curves, states, "maximize")))[0] == "best: trial 0"
    assert legend(all_curves(small(curves, states), highlight=2))[0] == "trial 2"


def test_a_diverged_curve_does_not_spoil_the_frame() -> None:
    """Others stay readable beside a loss of 1e30, which leaves the frame."""
    ordinary = {t: [3.0 - 0.1 * t - 0.05 * step for step in range(20)] for t in range(5)}
    exploded = {5: [3.0 * 10.0**step for step in range(20)]}
    states = dict.fromkeys(ordinary, "complete") | {5: "pruned"}
    low, high = all_curves(small(ordinary | exploded, states)).get_ylim()
    assert low < min(min(losses) for losses in ordinary.values())
    assert 3.0 < high < 10


def test_the_best_is_the_rankings_first() -> None:
    """What every figure calls the best is the first of the ranking, who has the lowest objective;
    that it may be luck is said by the ranking.
    """
    lucky = [3.0, 2.0, 1.6, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 0.9]
    steady = [3.0, 2.0, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    what = small({0: lucky, 1: steady}, {0: "complete", 1: "complete"})
    ranking = rank(what)
    assert ranking.winner == best_trial(what) == best_trial(what, ranking) == 0
    assert "best: trial 0" in legend(all_curves(what, ranking=ranking))
    assert ranking.level_leader == 1
    assert "its curve ends above run 1's" in ranking.sentences()[1]


def test_interventions_and_stalls_are_marked_where_they_were() -> None:
    """An intervention lies on its trial's curve where it was taken, a stall where the diagnosis
    says; both are counted.
    """
    what = small({0: [3.0, 2.0, 1.0]}, {0: "complete"})
    taken = pd.DataFrame([(0, 1, 1, 1.0, "intervention/decay", 0.3)], columns=what.curves.columns)
    what = dataclasses.replace(what, curves=pd.concat([what.curves, taken]))
    diagnosis = pd.DataFrame({"shape": ["stalled"], "since": [2.0]}, index=[0])
    ax = all_curves(what, diagnosis=diagnosis)
    assert {"interventions (1)", "stalled from here (1)"} <= set(legend(ax))
    marks = {line.get_marker(): line.get_xydata().tolist() for line in ax.lines}
    assert marks["v"] == [[1.0, 2.0]]
    assert marks["o"] == [[2.0, 1.0]]


@given(arrays(float, st.integers(1, 200), elements=st.floats(-1e6, 1e6)))
def test_smoothing_keeps_what_is_straight(values: np.ndarray) -> None:
    """Smoothing neither shifts nor bends: a line stays as it is, ends stay where they were, values
    in their range.
    """
    steps = np.arange(float(len(values)))
    smoothed = centred_mean(np.column_stack([steps, values]))
    line = np.column_stack([steps, 3 - 0.5 * steps])
    np.testing.assert_allclose(centred_mean(line), line, atol=1e-9)
    np.testing.assert_allclose(smoothed[[0, -1], 1], values[[0, -1]], atol=1e-6)
    assert (
        values.min() - 1e-6 <= smoothed[:, 1].min() <= smoothed[:, 1].max() <= values.max() + 1e-6
    )


@given(st.lists(arrays(float, (5, 2), elements=st.floats(-1e12, 1e12)), max_size=5))
def test_limits_hold_the_best_value(curves: list[np.ndarray]) -> None:
    """However far a curve goes, the lowest value is inside the frame, and the frame is not
    turned.
    """
    ax = Figure().subplots()
    value_limits(ax, curves)
    low, high = ax.get_ylim()
    assert low < high
    if curves and np.ptp([c[:, 1] for c in curves]) > 0:
        assert low <= min(c[:, 1].min() for c in curves)


def test_panels_share_their_limits(made_sweep: Make) -> None:
    """Small multiples are compared with one another, so all have the same axes."""
    what = made_sweep(24)
    for draw in (
        lambda f: figures.draw_by_shape(f, what, shapes(what)),
        lambda f: figures.draw_gradients(f, what),
    ):
        axes = [ax for ax in drawn(draw).axes if ax.get_visible()]
        assert len(axes) > 1
        assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes}) == 1


def test_shapes_differ_without_colour() -> None:
    """Every shape has a mark, and no two the same: a map printed in grey can be read."""
    assert set(SHAPE_MARKS) == set(SHAPES)
    assert len({marker for marker, _ in SHAPE_MARKS.values()}) == len(SHAPES)


def test_gradients_tell_clipped_from_unclipped(made_sweep: Make) -> None:
    """The legend counts trials by the share of steps that were clipped; a norm that became NaN ends
    in a cross.
    """
    what = made_sweep(6, 40, "complete")
    curves = what.curves.copy()
    curves.loc[
        (curves["trial"] == 0) & (curves["metric"] == f"{PREFIX}W") & (curves["step"] > 100),
        "value",
    ] = np.nan
    figure = drawn(
        lambda f: figures.draw_gradients(f, dataclasses.replace(what, curves=curves), n_steps=400)
    )
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["clipped in most steps (4)", "never clipped (2)", "not finite from here"]
    crosses = [line.get_xydata() for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert crosses[0][:, 0].tolist() == [100.0]
    assert figure.axes[0].get_xlim() == (0, 400)


def test_schedules_end_where_trials_ended(made_sweep: Make) -> None:
    """The marks lie at the last step of each trial, by state; rates of 0 stay in the frame."""
    what = made_sweep(6)
    curves = what.curves.copy()
    curves.loc[(curves["metric"] == "lr") & (curves["step"] > 200), "value"] = 0.0
    ax = drawn(
        lambda f: figures.draw_schedules(f.subplots(), dataclasses.replace(what, curves=curves))
    ).axes[0]
    ends = {line.get_marker(): sorted(line.get_xdata()) for line in ax.lines}
    for state, marker in (("pruned", "|"), ("fail", "x")):
        assert ends[marker] == sorted(what.trials.loc[what.trials["state"] == state, "steps"])
    bottom = min(y for line in ax.lines for y in line.get_ydata())
    assert ax.get_ylim()[0] <= bottom
    assert bottom > 0


def test_the_timeline_says_how_much_of_the_slots_was_used(made_sweep: Make) -> None:
    """Two slots, one busy all the time and one half of it, are in use 75 % of the time."""
    what = made_sweep(2)
    trials = what.trials.assign(started_s=[0.0, 0.0], seconds=[10.0, 5.0], slot=[0, 1])
    ax = drawn(
        lambda f: figures.draw_timeline(f.subplots(), dataclasses.replace(what, trials=trials))
    ).axes[0]
    assert ax.get_title(loc="left") == "slots in use 75% of the time"
    assert sorted(bar.get_width() for bar in ax.patches) == [5.0, 10.0]


def test_time_between_sessions_is_not_time_in_use(made_sweep: Make) -> None:
    """A night between two sessions is cut out; an hour for which a session had no trial is not."""
    what = made_sweep(3)
    trials = what.trials.assign(started_s=[0.0, 50000.0, 53700.0], seconds=100.0, slot=0)
    sessions = [{"started": f"2026-01-01T{at}+00:00"} for at in ("00:00:00", "13:53:30")]
    what = dataclasses.replace(what, trials=trials, provenance=tuple(sessions))
    ax = drawn(lambda f: figures.draw_timeline(f.subplots(), what)).axes[0]
    assert ax.get_title(loc="left") == (
        f"slots in use {300 / 3900:.0%} of the time; 13 h 51 min between sessions cut out (dashed)"
    )


def test_a_trial_that_was_paused_is_drawn_where_it_ran(made_sweep: Make) -> None:
    """A bar for each stretch, on its slot, and a line from one to the next; counted once."""
    what = made_sweep(2, state="complete")
    trials = what.trials.assign(started_s=[0.0, 0.0], seconds=[10.0, 5.0], slot=[0, 1])
    trials["stretches"] = [None, [(1, 0.0, 2.0), (0, 10.0, 3.0)]]
    ax = drawn(
        lambda f: figures.draw_timeline(f.subplots(), dataclasses.replace(what, trials=trials))
    ).axes[0]
    bars = sorted(
        (round(bar.get_x()), round(bar.get_width()), round(bar.get_y())) for bar in ax.patches
    )
    assert bars == [(0, 2, 1), (0, 10, 0), (10, 3, 0)]
    (line,) = ax.lines
    assert [*line.get_xdata()] == [2.0, 10.0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[-1] == "paused (1)"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=30))
def test_trials_of_one_lane_do_not_overlap(ran: list[tuple[int, int]]) -> None:
    """Bars in one lane never overlap, and there are only as many lanes as trials that ran at
    once.
    """
    start = np.array([s for s, _ in ran], dtype=float)
    end = start + np.array([n for _, n in ran], dtype=float)
    lane = lanes(start, end)
    for own in range(lane.max(initial=-1) + 1):
        order = np.argsort(start[lane == own])
        assert (end[lane == own][order][:-1] <= start[lane == own][order][1:]).all()
    at_once = max((int(((start <= t) & (t < end)).sum()) for t in start), default=0)
    assert lane.max(initial=-1) + 1 == at_once


def test_tiers_are_set_apart(made_sweep: Make) -> None:
    """Every tier of the ranking is named once, and a line stands between two."""
    ranking = rank(made_sweep(24, n_seeds=3))
    assert ranking.is_repeated
    n_tiers = ranking.table["tier"].max()
    ax = drawn(lambda f: figures.draw_ranking(f.subplots(), ranking)).axes[0]
    assert [text.get_text() for text in ax.texts] == [f"tier {i + 1}" for i in range(n_tiers)]
    assert sum(line.get_linestyle() == "--" for line in ax.lines) == n_tiers - 1


def spread(**changes: float) -> Ranking:
    """Settings of a tier each, at 1.0 to 1.8, but those named (s2=10.65), with intervals of 0.1
    either way.
    """
    estimate = pd.Series({f"s{i}": 1 + 0.2 * i for i in range(5)} | changes).to_numpy()
    table = pd.DataFrame(
        {
            "setting": range(5),
            "state": "complete",
            "n_seeds": 1,
            "objective": estimate,
            "level": estimate,
            "tier": range(1, 6),
        }
    )
    table = table.assign(low=estimate - 0.1, high=estimate + 0.1)
    return Ranking(table, "objective", False, 0.05, "seeds", "", 0.15, 0.2, 2, ())


@pytest.mark.parametrize(("sign", "said"), [(1.0, "10.65 →"), (-1.0, "← -10.65")])
def test_one_exploded_setting_squashes_no_others(sign: float, said: str) -> None:
    """A setting many times as far from the best as the median is an arrow with its number at the
    edge.
    """
    ranking = spread(s4=10.65)
    low, high = ("low", "high") if sign > 0 else ("high", "low")
    turned = {"level": sign * ranking.table["level"], "low": sign * ranking.table[low]}
    table = ranking.table.assign(**turned, high=sign * ranking.table[high])
    ranking = dataclasses.replace(ranking, table=table, larger_is_better=sign < 0)
    ax = drawn(lambda f: figures.draw_ranking(f.subplots(), ranking)).axes[0]
    left, right = ax.get_xlim()
    assert right - left < 1.5
    assert [text.get_text() for text in ax.texts if "10.65" in text.get_text()] == [said]


def test_a_whisker_that_is_cut_is_marked() -> None:
    """An interval that goes on beyond the frame ends in an arrowhead at its edge, others do not."""
    ranking = spread()
    table = ranking.table.assign(high=ranking.table["high"] + [0, 0, 90, 0, 0])
    ranking = dataclasses.replace(ranking, table=table)
    ax = drawn(lambda f: figures.draw_ranking(f.subplots(), ranking)).axes[0]
    marked = {
        line.get_marker(): list(line.get_ydata())
        for line in ax.lines
        if line.get_marker() in ("<", ">")
    }
    assert marked == {"<": [], ">": [2]}


def test_without_repeats_no_tier_is_drawn() -> None:
    """Intervals are named after each run's own end, in one colour; what seeds may differ by is a
    band around the first.
    """
    ranking = dataclasses.replace(
        spread(), noise_source="alike", table=spread().table.assign(tier=1), seed_difference=0.25
    )
    ax = drawn(lambda f: figures.draw_ranking(f.subplots(), ranking)).axes[0]
    assert not [text for text in ax.texts if "tier" in text.get_text()]
    assert "own end" in ax.get_title(loc="left")
    (band,) = ax.patches
    assert band.get_x() == pytest.approx(0.75)
    assert band.get_width() == pytest.approx(0.5)


def test_exploded_trials_have_no_say_in_what_colours_mean() -> None:
    """Where most trials have exploded, the colours still tell the others apart."""
    ends = [1.0, 1.2, 1.4, *[1e4] * 9]
    what = small(
        {n: [2.0, end, end] for n, end in enumerate(ends)}, dict.fromkeys(range(12), "complete")
    )
    trials = what.trials.assign(
        final=ends, **{"params.a": np.arange(12.0), "params.b": np.arange(12.0)}
    )
    what = dataclasses.replace(what, trials=trials)
    table = pd.DataFrame({"shape": ["converged"] * 3 + ["exploded"] * 9}, index=trials.index)
    figure = drawn(lambda f: figures.draw_map(f.subplots(), what, "a", "b", table))
    (norm,) = {c.norm for c in figure.axes[0].collections if c.get_array() is not None}
    assert norm.vmax <= 1.6


def test_one_setting_lies_in_its_frame() -> None:
    """A setting that is alone has its whole interval in the frame, and the label beside it is not
    cut off.
    """
    ranking = spread()
    ranking = dataclasses.replace(ranking, table=ranking.table.head(1), smallest_difference=np.nan)
    figure = Figure((8.0, 1.42), layout="constrained")
    ax = figure.subplots()
    figures.draw_ranking(ax, ranking)
    FigureCanvasAgg(figure).draw()
    assert ax.get_xlim()[0] < 0.9
    assert ax.get_xlim()[1] > 1.1
    label = ax.yaxis.label.get_window_extent()
    assert label.y0 >= 0
    assert label.y1 <= figure.bbox.height


def test_small_multiples_have_the_axis_of_the_curves(made_sweep: Make) -> None:
    """Panels are drawn on the axis that is asked for, their marks on their curves, and their
    numbers do not touch.
    """
    what = made_sweep()
    figure = drawn(lambda f: figures.draw_by_shape(f, what, shapes(what), axis="examples"))
    panel = figure.axes[0]
    assert figure.get_supxlabel() == "examples seen"
    examples = what.curves.loc[what.curves["metric"] == "loss", "examples"]
    assert panel.get_xlim()[1] == examples.max()
    marks = [x for ax in figure.axes for line in ax.lines for x in line.get_xdata()]
    assert marks
    assert set(marks) <= set(examples)
    boxes = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_a_panel_without_a_line_says_why(made_sweep: Make) -> None:
    """Curves that lie above the frame, or that nobody reported, are counted with the reason why
    none is seen.
    """
    what = made_sweep(12, state="complete")
    high, silent = what.curves["trial"] < 2, what.curves["trial"] == 2
    curves = what.curves.assign(value=what.curves["value"].mask(high, what.curves["value"] + 1e4))[
        ~silent
    ]
    shape = ["exploded", "exploded", "broken", *["slow"] * 9]
    diagnosis = pd.DataFrame({"shape": shape, "since": np.nan}, index=what.trials.index)
    figure = drawn(
        lambda f: figures.draw_by_shape(f, dataclasses.replace(what, curves=curves), diagnosis)
    )
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[:3] == ["slow (9)", "exploded (2, above the frame)", "broken (1, no curve)"]


def test_the_legend_leaves_the_ends_of_rising_curves_free(made_sweep: Make) -> None:
    """Where the watched metric rises, the best ends on the top right, so the legend is below."""
    figure = drawn(lambda f: figures.draw_curves(f.subplots(), made_sweep(direction="maximize")))
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().get_points()[:, 1].mean()
    assert ax.get_title(loc="left") == "made: 12 trials"
    assert (
        drawn(lambda f: figures.draw_curves(f.subplots(), made_sweep(1)))
        .axes[0]
        .get_title(loc="left")
        == "made: 1 trial"
    )


def test_a_trial_shorter_than_a_pixel_is_seen(made_sweep: Make) -> None:
    """Trials of a second in a sweep of hours, sessions apart, leave marks in the timeline, in their
    colours.
    """
    what = made_sweep(state="complete")
    late = what.trials["started_s"].where(what.trials.index < 6, 36000.0)
    what = dataclasses.replace(what, trials=what.trials.assign(started_s=late, seconds=0.05))
    ax = drawn(lambda f: figures.draw_timeline(f.subplots(), what)).axes[0]
    assert all(bar.get_edgecolor() == bar.get_facecolor() for bar in ax.patches)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9])
def test_smoothing_by_a_weight_is_a_weighted_mean_of_what_came_before(weight: float) -> None:
    """Each value is the mean of all up to it, with weights that fall by the factor."""
    values = np.random.default_rng(0).normal(size=30)
    found = smoothed(np.column_stack([np.arange(30.0), values]), weight)[:, 1]
    for i in range(30):
        weights = weight ** np.arange(i, -1, -1.0)
        assert found[i] == pytest.approx(np.average(values[: i + 1], weights=weights))


def test_smoothing_over_reports_is_a_mean_of_so_many() -> None:
    """Away from the ends of so many reports around; one or a share of a report is refused."""
    curve = np.column_stack([np.arange(30.0), np.random.default_rng(0).normal(size=30)])
    assert smoothed(curve, 5)[10, 1] == pytest.approx(curve[8:13, 1].mean())
    assert (smoothed(curve) == centred_mean(curve)).all()
    for wrong in (1, 2.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="smooth is from 0"):
            smoothed(curve, wrong)
