"""What readers see of numbers and tables."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.importance import in_words
from iolaus.analysis.ranking.rank import rank
from iolaus.analysis.report._document import Document, Section, Table, as_html
from iolaus.analysis.report.report import _counted
from iolaus.analysis.report.terminal import as_table, cell
from iolaus.cli import main


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (64000.0, "64000"),
        (-1234.5, "-1234"),
        (999.96, "1000"),
        (0.012345, "0.01235"),
        (1.5e-7, "1.5e-07"),
        (2e12, "2e+12"),
        (math.nan, ""),
        (None, ""),
        (pd.NA, ""),
        (3, "3"),
        (True, "True"),
        (np.float64(2), "2"),
    ],
)
def test_numbers_are_read_at_a_glance(value: object, text: str) -> None:
    """Four digits, thousands written out, nothing for what is not known."""
    assert cell(value) == text


def test_a_word_among_numbers_stands_with_them() -> None:
    """A column of numbers with a word in place of some is to the right throughout, on the page and
    in the terminal.
    """
    frame = pd.DataFrame(
        {
            "steps": pd.Series([280.0, "not reached"], dtype=object),
            "why": ["a", None],
            "is": [True, False],
        }
    )
    page = as_html(Document("", "", "", [Section("s", [Table("c", frame)])]), {})
    assert '<th scope="col" class=n><button>steps' in page
    assert "<td class=n>not reached</td>" in page
    assert [column.justify for column in as_table(frame).columns] == ["right", "left", "left"]


def test_a_ranking_says_what_it_ranks_and_nothing_twice(made_sweep: Callable[..., Sweep]) -> None:
    """The level stands beside the objective where it is another number; the trials of a setting are
    listed only where there are several.
    """
    once, thrice = rank(made_sweep(12)), rank(made_sweep(12, n_seeds=3))
    assert {"objective", "level", "best"} <= set(once.shown())
    assert once.of == "level of loss"
    assert "level" not in rank(made_sweep(12, state="complete", n_seeds=3)).shown()
    assert "trials" not in once.shown()
    assert thrice.shown()["trials"].iloc[0].count(" ") == 2


@pytest.mark.parametrize(
    ("beyond", "text"),
    [
        ([], "cannot be told"),
        ([False, False], "No parameter separates"),
        ([False, True], "Beyond chance: b."),
    ],
)
def test_importance_is_said_in_words(beyond: list[bool], text: str) -> None:
    """A table whose every row is chance says so, and one that could not be made says why."""
    assert text in in_words(
        pd.DataFrame({"beyond_chance": beyond}, index=["a", "b"][: len(beyond)])
    )


def test_advice_that_differs_within_a_shape_is_counted() -> None:
    """Where some trials of a shape need the opposite of others, both are said."""
    assert _counted(pd.Series(["raise", "lower", "raise", ""])) == "raise (2); lower (1)"
    assert _counted(pd.Series(["lower", "lower"])) == "lower"
    assert _counted(pd.Series(["", ""])) == ""


def test_the_ranking_in_the_terminal_has_short_names_that_stay_unique(
    tmp_path, capsys, monkeypatch
) -> None:
    """A parameter is named by its last part, unless that is the name of another column; its path
    would be folded.
    """
    rows = [
        {
            "trial": n,
            "step": step,
            "loss": 1 + n + 1 / (step + 1),
            "params.a.very.long.path": n,
            "params.other.state": n,
        }
        for n in range(3)
        for step in range(30)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["iolaus", "rank", str(tmp_path / "runs.csv")])
    with pytest.raises(SystemExit, match="0"):
        main()
    heading = capsys.readouterr().out.splitlines()[0].split()
    assert heading[-4:] == ["best", "why", "path", "other.state"]


def test_texts_about_one_trial_stand_left(tmp_path, capsys, monkeypatch) -> None:
    """`show` has texts as long as the page is wide: to the right of it their beginnings would be
    sought.
    """
    rows = [{"trial": 0, "step": step, "loss": 1 / (step + 1)} for step in range(30)]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["iolaus", "show", str(tmp_path / "runs.csv"), "0"])
    with pytest.raises(SystemExit, match="0"):
        main()
    heading, *lines = capsys.readouterr().out.partition("\n(")[0].splitlines()
    assert all(line[heading.index("value")] != " " for line in lines)
