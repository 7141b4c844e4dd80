"""The end of a sweep: its ranking and its results file, also where there is little to show."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from iolaus.sweeps.study.record import Pause, TrialRecord
from iolaus.sweeps.study.summary import (
    N_ROWS_SHOWN,
    Result,
    cut_off_text,
    holdout_text,
    pauses_text,
    rank,
    save_results,
    table,
)

STATES = [
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.RUNNING,
    TrialState.WAITING,
]


def study_of(*trials: dict[str, Any], directions: tuple[str, ...] = ("minimize",)) -> optuna.Study:
    study = optuna.create_study(directions=directions)
    for trial in trials:
        given = {
            "params": {"optim.lr": 0.1},
            "distributions": {"optim.lr": FloatDistribution(0, 1)},
            **trial,
        }
        study.add_trial(create_trial(**given))
    return study


def test_what_others_wrote_into_a_study_ends_no_table() -> None:
    """Attributes under our names that are not ours read as not known: the table is shown."""
    study = study_of({"value": 1.0}, {"value": 0.5})
    study.set_user_attr("metric", "accuracy")
    others = {"run": "theirs", "repeat_of": "first", "duplicate_of": [1], "why": 3}
    study.add_trial(create_trial(value=2.0, user_attrs=others))
    assert [result.number for result in rank(study)] == [1, 0, 2]


def shown(study: optuna.Study, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table(rank(study), "loss", len(study.directions)))
    return out.getvalue()


numbers = st.floats(allow_nan=False) | st.sampled_from([math.inf, -math.inf])


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[optuna.Study, str]:
    direction = draw(st.sampled_from(["minimize", "maximize"]))
    trials = []
    for _ in range(draw(st.integers(0, 8))):
        state = draw(st.sampled_from(STATES))
        best = draw(st.none() | st.floats(allow_nan=False, allow_infinity=False))
        trial: dict[str, Any] = {
            "state": state,
            "user_attrs": {} if best is None else {"run": {"best": best}},
        }
        if state is TrialState.COMPLETE:
            trial["value"] = draw(numbers)
        elif state is TrialState.PRUNED:  # as `tell` leaves them: the last report is their value
            trial["intermediate_values"] = {3: draw(numbers)}
            trial["value"] = trial["intermediate_values"][3]
        trials.append(trial)
    return study_of(*trials, directions=(direction,)), direction


@given(sweeps())
def test_the_ranking_is_an_order(sweep: tuple[optuna.Study, str]) -> None:
    """Completed by their value, then pruned by their best, then running, then failed; every one
    that ran, once.
    """
    study, direction = sweep
    results = rank(study)
    trials = {trial.number: trial for trial in study.trials}
    assert sorted(r.number for r in results) == [
        n for n, t in trials.items() if t.state is not TrialState.WAITING
    ]
    places = [STATES.index(trials[r.number].state) for r in results]
    order = [0, 1, 3, 2]  # running before failed
    assert [order[place] for place in places] == sorted(order[place] for place in places)
    sign = 1 if direction == "minimize" else -1
    for state, value in ((0, lambda r: r.values[0]), (1, lambda r: r.best)):
        ranked = [
            sign * value(r) for r, place in zip(results, places, strict=True) if place == state
        ]
        known = [v for v in ranked if not math.isnan(v)]
        assert known == sorted(known)
        assert ranked[: len(known)] == known  # those without a value come last
    assert study.trials == list(trials.values())
    if places and places[0] == 0:
        assert results[0].values == (study.best_value,)


def test_interrupted_trials_are_left_out() -> None:
    """A trial that was cut off stands in the ranking only as the one that ran its setting again."""
    study = study_of(
        {"state": TrialState.FAIL, "user_attrs": {"why": "interrupted: the sweep was stopped"}},
        {"state": TrialState.FAIL, "user_attrs": {"why": "failed: KeyError: 'interrupted'"}},
    )
    assert [(r.number, r.state, r.why) for r in rank(study)] == [
        (1, "failed", "KeyError: 'interrupted'")
    ]


def test_the_table_shows_the_best_rows_and_counts_the_rest() -> None:
    """Of a thousand trials the best are shown, best first, and how many there are below."""
    study = study_of(*({"value": float(1000 - i)} for i in range(1000)))
    lines = shown(study).splitlines()
    assert [int(line.split()[0]) for line in lines[1 : N_ROWS_SHOWN + 1]] == list(
        range(999, 999 - N_ROWS_SHOWN, -1)
    )
    assert lines[-1] == f"… and {1000 - N_ROWS_SHOWN} more"


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], "trial state"),
        (
            [{"state": TrialState.FAIL, "user_attrs": {"why": "failed: ValueError: [b]no[/b]"}}],
            "ValueError: [b]no[/b]",
        ),
        ([{"state": TrialState.PRUNED}], "pruned"),
        (
            [
                {
                    "state": TrialState.PRUNED,
                    "user_attrs": {"why": "diverged: loss became nan at step 3"},
                }
            ],
            "diverged",
        ),
        ([{"value": math.inf}, {"value": -math.inf}], "-inf"),
        ([{"value": 0.5, "user_attrs": {"run": "of another tool"}}], "0.5"),
        ([{"value": 0.5, "params": {}, "distributions": {}}], "0.5"),
    ],
)
@pytest.mark.parametrize("width", [1, 20, 160])
def test_awkward_sweeps_have_a_table_too(
    trials: list[dict[str, Any]], expected: str, width: int
) -> None:
    """No trials, only failures, no value anywhere, text that looks like markup, another tool's
    trials, any width.
    """
    text = shown(study_of(*trials), width)
    if width == 160:
        assert expected in " ".join(text.split())


def test_columns_are_the_objective_and_the_best_of_the_curve() -> None:
    """What the study optimises stands first, whether or not it is the curve's best; without a curve
    there is no column for it.
    """
    curve = {"user_attrs": {"run": {"best": 0.25, "final": 0.5}, "steps": 1499}}
    for value in (0.5, 0.25, 7.0):
        header, row = shown(study_of({"value": value, **curve})).splitlines()
        assert header.split()[:6] == ["trial", "state", "objective", "best", "loss", "steps"]
        assert row.split()[:5] == ["0", "complete", f"{value:.4g}", "0.25", "1,499"]
    assert "best" not in shown(study_of({"value": 7.0}))


def test_parameters_have_the_shortest_names_that_tell_them_apart() -> None:
    """The last part of a key, with what is before it where two end alike."""
    keys = ["optim.lr", "model.a.size", "model.b.size", "seed"]
    study = study_of(
        {
            "params": dict.fromkeys(keys, 0.5),
            "distributions": dict.fromkeys(keys, FloatDistribution(0, 1)),
            "value": 1.0,
        }
    )
    header = shown(study).splitlines()[0].split()
    assert header[-4:] == ["lr", "a.size", "b.size", "seed"]


def test_several_objectives_rank_the_front_first() -> None:
    """Each objective has its column, and trials that nothing beats come first."""
    study = study_of(
        {"values": [1.0, 1.0]},
        {"values": [0.5, 0.0]},
        {"values": [2.0, 9.0]},
        {"state": TrialState.FAIL},
        directions=("minimize", "maximize"),
    )
    assert [r.number for r in rank(study)] == [1, 0, 2, 3]
    assert "objective 1" in shown(study)
    assert "objective 2" in shown(study)


def test_seeds_of_one_setting_are_one_row() -> None:
    """Repeats stand under their first trial, with mean and spread, also where one of them returned
    infinity.
    """
    study = study_of(
        {"value": 1.0}, {"value": 3.0, "user_attrs": {"repeat_of": 0}},
        {"value": 1.0}, {"value": math.inf, "user_attrs": {"repeat_of": 2}},
    )  # fmt: skip
    first, second = rank(study)
    assert (first.number, first.values, first.n_runs) == (0, (2.0,), 2)
    assert first.spread == pytest.approx(math.sqrt(2))
    assert (second.number, second.values, second.n_runs) == (2, (math.inf,), 2)
    assert "inf" in shown(study)


def saved(study: optuna.Study, path: Path) -> Any:
    save_results(study, path / "optimization_results.yaml")
    return yaml.safe_load((path / "optimization_results.yaml").read_text())


def test_the_results_file_names_the_best_trial(tmp_path: Path) -> None:
    """As the official sweeper's, with the best trial's number and folder; Optuna agrees on which it
    is.
    """
    study = study_of(
        {"value": 2.0, "user_attrs": {"run": {"folder": "trials/0"}}},
        {
            "value": 1.0,
            "params": {"c": None, "db": "${x}"},
            "distributions": {
                "c": CategoricalDistribution((None, 1)),
                "db": CategoricalDistribution(("${x}", "b")),
            },
            "user_attrs": {"run": {"folder": "trials/1"}},
        },
        {"state": TrialState.FAIL},
    )
    assert saved(study, tmp_path) == {
        "name": "optuna",
        "best_params": study.best_params,
        "best_value": study.best_value,
        "best_trial": 1,
        "best_folder": "trials/1",
    }


def test_the_results_file_lists_the_front(tmp_path: Path) -> None:
    """With several objectives each trial on the front is a solution."""
    study = study_of(
        {"values": [1.0, 1.0]},
        {"values": [0.5, 0.0], "user_attrs": {"run": {"folder": "t"}}},
        {"values": [2.0, 0.0]},
        directions=("minimize", "maximize"),
    )
    solutions = saved(study, tmp_path)["solutions"]
    assert {s["trial"]: s["values"] for s in solutions} == {
        t.number: t.values for t in study.best_trials
    }
    assert {s["trial"]: s["folder"] for s in solutions} == {0: "", 1: "t"}


@pytest.mark.parametrize("directions", [("minimize",), ("minimize", "maximize")])
def test_a_sweep_without_a_result_says_so(tmp_path: Path, directions: tuple[str, ...]) -> None:
    """Where no trial has completed there is a results file without a best trial, and no error."""
    study = study_of(
        {"state": TrialState.FAIL}, {"state": TrialState.PRUNED}, directions=directions
    )
    expected = {"best_params": None} if len(directions) == 1 else {"solutions": []}
    assert saved(study, tmp_path) == {"name": "optuna", **expected}


def test_what_breaks_a_constraint_is_not_the_best() -> None:
    """An infeasible trial stands below all feasible completed ones, named as such, and is never the
    saved best.
    """
    study = study_of(
        {"value": 0.1, "constraints": {"memory": 2.0}},
        {"value": 0.5, "constraints": {"memory": -1.0}},
    )
    assert [(result.number, result.state) for result in rank(study)] == [
        (1, "complete"),
        (0, "infeasible"),
    ]
    assert "breaks memory" in shown(study)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ranking_fits_its_terminal(width: int) -> None:
    """One line per trial at any width: parameters that do not fit are named below, and reasons are
    cut short.
    """
    params = {f"optim.parameter_{i}": 0.123456 for i in range(6)}
    why = (
        "RuntimeError: a long story of what went wrong, with all its details and numbers, told in "
        "one line"
    )
    results = [Result(i, "failed", (), 1.0, 1000, why, params) for i in range(3)]
    out = io.StringIO()
    Console(file=out, width=width).print(table(results, "loss"))
    header, *rows = out.getvalue().splitlines()
    assert [row.split()[0] for row in rows[:3]] == ["0", "1", "2"]
    assert all("RuntimeErro" in row and row.rstrip().endswith(("…", "line")) for row in rows[:3])
    assert max(map(len, [header, *rows])) <= width
    below = " ".join(rows[3:])
    for name in (f"parameter_{i}" for i in range(6)):
        assert (name in header) != (name in below)
    assert ("parameter_5" in header) == (width == 200)


def test_the_steps_of_all_interruptions_are_counted() -> None:
    """Of a trial that was cut off twice both times count; what is not known is not claimed."""

    def trial(*went_on: tuple[int, int]) -> FrozenTrial:
        attrs = TrialRecord(went_on=went_on).to_attrs()
        return create_trial(state=TrialState.RUNNING, user_attrs=attrs)

    assert cut_off_text([trial()]) == ""
    assert cut_off_text([trial((400, 460), (500, 530)), trial((-1, 20))]) == (
        "Of those cut off, 1 trial went on from its checkpoints and 1 trial began anew, with no "
        "checkpoint loaded: at least 110 steps computed again."
    )
    assert cut_off_text([trial((400, 400))]) == (
        "Of those cut off, 1 trial went on from its checkpoints."
    )


def test_a_completed_trial_that_was_held_out_or_extends_another_is_marked():
    """In the column of why it ended, and the sentence below the table counts those held out."""
    study = optuna.create_study()
    for value, attrs in (
        (3.0, TrialRecord(why="completed", held_out="behind", held_out_step=1200)),
        (1.0, TrialRecord(why="completed", extension_of=7, extended_from=2000)),
        (2.0, TrialRecord(why="completed", extension_of=8)),
    ):
        study.enqueue_trial({}, user_attrs=attrs.to_attrs())
        study.tell(study.ask(), value)
    assert [(result.number, result.why) for result in rank(study)] == [
        (1, "extends trial 7: went on from step 2,000"),
        (2, "extends trial 8: began anew"),
        (0, "held out: to be stopped at step 1,200"),
    ]
    assert holdout_text(study).startswith(
        "1 trial that was to be stopped ran on; it ended 3rd of 3"
    )
    assert holdout_text(optuna.create_study()) == ""


def test_what_came_of_pauses_is_said_and_counted() -> None:
    """How many were paused and thawed, and how the best of those that finished stands; the table
    has a column for it if there is any.
    """
    again = Pause(5, "behind", "too far behind", thawed="2026-01-01T00:00:00", why="last call")
    never = Pause(5, "behind", "too far behind")

    def attrs(*pauses: Pause) -> dict[str, Any]:
        return TrialRecord(pauses=pauses).to_attrs()

    plain = study_of({"value": 1.0})
    assert pauses_text(plain) == ""
    assert "pauses" not in shown(plain)
    study = study_of(
        {"value": 1.0},
        {"value": 2.0, "user_attrs": attrs(again, again)},
        {"value": 3.0, "user_attrs": attrs(again)},
        {"state": TrialState.PRUNED, "user_attrs": attrs(again, never)},
        {"state": TrialState.PRUNED, "user_attrs": attrs(never)},
    )
    assert (
        pauses_text(study)
        == "4 trials paused, 3 went on (2 of them finished, the best of these 2nd)."
    )
    assert "pauses" in shown(study)
    study.add_trial(create_trial(value=0.5, user_attrs=attrs(again)))
    assert (
        pauses_text(study)
        == "5 trials paused, 4 went on (3 of them finished, the best of these 1st)."
    )


def test_a_paused_trial_stands_before_those_pruned_for_good() -> None:
    """With its verdict, under the word paused, whatever its best."""
    paused = {"paused": 1, "why": "paused: too far behind", "ending": "paused"}
    paused |= {"verdict": "too far behind", "verdict_rule": "behind", "verdict_step": 7}
    study = study_of({"value": 1.0}, {"state": TrialState.PRUNED})
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=paused))
    found = rank(study)
    assert [result.number for result in found] == [0, 2, 1]
    assert (found[1].state, found[1].why) == ("paused", "behind at step 7")
