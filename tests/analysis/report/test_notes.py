import io
import math
import re
from collections.abc import Callable
from dataclasses import replace

import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from optuna_dashboard import get_note, save_note

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.figures import draw_trial
from iolaus.analysis.report.notes import N_RANKED, PART_LENGTH, SIGNATURE, note_attributes, review

MadeSweep = Callable[..., Sweep]
long_text = st.text(st.characters(codec="ascii"), max_size=50).map(
    lambda text: text * (1 + 3 * PART_LENGTH // 50)
)
texts = (st.text(max_size=200) | long_text).filter(lambda text: SIGNATURE not in text)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def write(study: optuna.Study, body: str, trial: optuna.Trial | None) -> int:
    """Puts a note on a study or trial as `write_notes` does; returns how many attributes that
    took.
    """
    storage, study_id = study._storage, study._study_id
    stored = storage.get_study_system_attrs(study_id)
    changed = note_attributes(body, trial and trial._trial_id, stored, record=True)
    for key, value in changed.items():
        storage.set_study_system_attr(study_id, key, value)
    return len(changed)


@given(st.booleans(), texts, texts, texts)
def test_the_dashboard_reads_our_latest_note_and_what_people_added(
    of_trial: bool, before: str, after: str, theirs: str
) -> None:
    """Whatever their lengths: the dashboard reads our new text, and below the signature what people
    wrote there.
    """
    study = optuna.create_study()
    trial = study.ask() if of_trial else None
    write(study, before, trial)
    save_note(trial or study, get_note(trial or study) + theirs)
    write(study, after, trial)
    assert get_note(trial or study) == f"{after}\n\n{SIGNATURE}{theirs}"
    assert write(study, after, trial) == 0


@given(texts.filter(str.strip), texts)
def test_a_note_without_our_signature_is_left_alone(theirs: str, ours: str) -> None:
    """A person's note that does not carry our signature stays as it is."""
    study = optuna.create_study()
    save_note(study, theirs)
    write(study, ours, None)
    assert get_note(study) == theirs


def test_a_recorded_note_counts_its_version_up_and_a_shown_one_does_not() -> None:
    """An open page cannot write over a note that was recorded since; showing one never blocks an
    edit.
    """
    stored = {"dashboard:note_ver": 3, "dashboard:note_str:0": f"old\n\n{SIGNATURE}"}
    assert note_attributes("new", None, stored, record=True)["dashboard:note_ver"] == 4
    assert note_attributes("new", None, stored, record=False)["dashboard:note_ver"] == 3


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_attributes_are_short_and_those_of_the_sweep(made_sweep: MadeSweep, n_seeds: int) -> None:
    """Every attribute is a word or a finite number: those of the trials' table, and shape and tier
    as judged.
    """
    sweep = made_sweep(n_seeds=n_seeds)
    made = review(sweep, 1)
    assert set(made.attributes) == set(sweep.trials.index)
    for number, attributes in made.attributes.items():
        row = sweep.trials.loc[number]
        assert all(isinstance(v, str) or math.isfinite(v) for v in attributes.values())
        assert all(len(v) < 20 for v in attributes.values() if isinstance(v, str))
        for name in ("steps", "examples", "seconds", "final"):
            assert attributes[name] == pytest.approx(row[name], rel=1e-5)
        assert ("tier" in attributes) == (n_seeds > 1 and row["state"] == "complete")
        assert ("setting" in attributes) == (n_seeds > 1)
        flat = made.diagnosis.at[number, "shape"] in ("stalled", "fast_then_flat")
        assert attributes.get("stalled_since", "") == (
            made.diagnosis.at[number, "since"] if flat else ""
        )


def test_a_trial_note_has_diagnosis_end_and_fix(made_sweep: MadeSweep) -> None:
    """A trial's note has the numbers of its diagnosis, how it ended, and its fix as overrides."""
    made = review(made_sweep(), 1)
    assert len(made.notes) == 12
    for number, found in made.diagnosis.iterrows():
        plain = made.notes[number].replace("\\", "")  # type: ignore[index]
        assert found["reason"].rstrip(".") in plain
        assert not found["fix"] or f"`{' '.join(found['fix'])}`" in plain
    assert "**Ended**: pruned." in made.notes[2]


def test_nothing_said_by_a_trial_is_markup(made_sweep: MadeSweep) -> None:
    """An error message shows as it is: no tag vanishes, no underscore turns text italic, no line
    ends a table.
    """
    sweep = made_sweep(1)
    sweep = replace(
        sweep,
        trials=sweep.trials.assign(why="failed: <class 'X'> _a_ *b* `c` [d](e)\n# f | val_loss"),
    )
    note = review(sweep, 1).notes[0]
    assert r"failed: \<class 'X'\> \_a\_ \*b\* \`c\` \[d\](e) \# f \| val_loss." in note


def test_the_study_note_is_the_reports_paragraph_with_the_ranking(made_sweep: MadeSweep) -> None:
    """First the paragraph, then a table of the first settings by the objective, each with its tier
    and a link to its trials.
    """
    sweep = made_sweep(60, n_seeds=2)
    about = review(sweep, 7).about
    table = [line for line in about.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in [table[0], *table[2:]]]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    objectives = [float(row["objective"]) for row in rows if row["objective"]]
    assert about.startswith("Setting ")
    assert len(table) == 2 + N_RANKED
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert objectives == sorted(objectives)
    assert all(row["tier"] for row in rows[: len(objectives)])
    assert re.search(r"\[0\]\(/dashboard/studies/7/trials\?numbers=0%2C1\)", about)
    assert "10 more settings" in about


def test_the_study_note_has_what_to_know_before_believing_the_order(made_sweep: MadeSweep) -> None:
    """Every warning of the ranking is in the note, before the table."""
    made = review(made_sweep(60), 7)
    assert made.ranking.warnings
    for warning in made.ranking.warnings:
        assert warning in made.about.partition("\n| ")[0].replace("\\", "")
    assert "`iolaus top-up DIR`" in made.about


def test_the_study_note_leads_to_the_trials_of_each_shape(made_sweep: MadeSweep) -> None:
    """Every shape that occurs is a link to its trials, to the first twenty if there are more."""
    made = review(made_sweep(60), 7)
    found = re.findall(
        r"\[(\d+) ([^]]*)\]\(/dashboard/studies/7/trials\?numbers=([\d%C]+)\)", made.about
    )
    linked = [(int(n), [int(number) for number in numbers.split("%2C")]) for n, _, numbers in found]
    shapes = made.diagnosis["shape"].value_counts()
    assert [n for n, _ in linked[: len(shapes)]] == list(shapes)
    for (n, numbers), shape in zip(linked, shapes.index, strict=False):
        assert len(numbers) == min(n, 20)
        assert set(made.diagnosis["shape"].loc[numbers]) == {shape}


@pytest.mark.parametrize("sweep", [(1,), (5, 40, "running"), (5, 40, "fail"), (3, 2)])
def test_awkward_sweeps_are_reviewed(made_sweep: MadeSweep, sweep: tuple[object, ...]) -> None:
    """One trial, none that completed, hardly any reports, no finite value: there is a note on
    each.
    """
    for finite in (True, False):
        made = review(made_sweep(*sweep, finite=finite), 1)
        assert all(made.notes.values())
        assert made.about


def test_a_sweep_without_trials_is_reviewed(made_sweep: MadeSweep) -> None:
    """Before the first trial there is a note on the study, and none else."""
    sweep = made_sweep(1)
    made = review(replace(sweep, trials=pd.DataFrame(), curves=sweep.curves.head(0)), 1)
    assert "no trial has begun" in made.about
    assert not made.notes


@pytest.mark.parametrize(
    ("kind", "trial"),
    [((12,), 2), ((12,), 5), ((1,), 0), ((3, 2), 1), ((5, 40, "running"), 0), ((200, 5), 100)],
)
@pytest.mark.parametrize("finite", [True, False])
def test_the_picture_of_a_trial_is_drawn_whatever_it_reported(
    made_sweep: MadeSweep, kind: tuple[object, ...], trial: int, finite: bool
) -> None:
    """Alone, among many, exploded, with hardly a report or no finite one: labelled axes, the same
    limits for all.
    """
    made = review(made_sweep(*kind, finite=finite), 1)
    figures = [Figure(layout="constrained") for _ in range(2)]
    for figure, number in zip(figures, (trial, 0), strict=True):
        draw_trial(figure, made.sweep, number, made.diagnosis)
        figure.savefig(io.BytesIO(), format="png")
    limits = [[(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes[:1]] for figure in figures]
    assert limits[0] == limits[1]
    assert [ax.get_ylabel() for ax in figures[0].axes] == ["loss", "learning rate"]
    assert figures[0].axes[1].get_xlabel() == "step (optimizer updates)"


def test_the_picture_says_where_a_verdict_ended_the_trial(made_sweep: MadeSweep) -> None:
    """A dashed line at the verdict's step, through curve and rate, named by its rule; no plan, no
    planned rate.
    """
    sweep = made_sweep()
    made = review(replace(sweep, trials=sweep.trials.drop(columns="lr_plan")), 1)
    figure = Figure()
    draw_trial(figure, made.sweep, 2, made.diagnosis)
    for ax in figure.axes:
        (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert set(line.get_xdata()) == {sweep.trials.at[2, "verdict_step"]}
    assert "ended by rule stalled" in figure.axes[0].get_legend_handles_labels()[1]
    assert "planned" not in figure.axes[1].get_legend_handles_labels()[1]
