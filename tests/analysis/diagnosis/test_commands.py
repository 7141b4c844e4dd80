from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from iolaus.cli import main

STEPS = np.arange(1, 61)


@pytest.fixture
def runs(tmp_path):
    """A file of three runs: good, slow, not finite."""
    courses = (np.exp(-STEPS / 10), 1 - 0.2 * STEPS / 60, np.where(STEPS < 50, 1.0, np.nan))
    frames = [
        pd.DataFrame({"trial": n, "step": STEPS, "loss": c, "params.lr": 0.1 / (n + 1)})
        for n, c in enumerate(courses)
    ]
    pd.concat(frames).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


def run(monkeypatch, *arguments: str) -> None:
    """The command in this process; what it refuses stays the SystemExit that it is."""
    monkeypatch.setattr(sys, "argv", ["iolaus", *arguments])
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def said(capsys, monkeypatch, *arguments: str) -> str:
    run(monkeypatch, *arguments)
    return capsys.readouterr().out


def test_diagnose_prints_a_row_per_trial(runs, capsys, monkeypatch):
    """A table for people, records for machines."""
    text = said(capsys, monkeypatch, "diagnose", runs)
    assert "exploded" in text
    assert "lr=0.15" in text
    records = json.loads(said(capsys, monkeypatch, "diagnose", runs, "--json"))
    assert [r["shape"] for r in records] == ["converged", "slow", "exploded"]
    assert records[1]["fix"] == ["lr=0.15"]


def test_a_shape_has_one_name_wherever_a_person_reads_it(capsys, monkeypatch, tmp_path):
    """Terminal and figures say "fast, then flat"; machines get the identifier."""
    courses = (np.exp(-STEPS / 30), 0.6 + 0.4 * np.exp(-STEPS / 2))
    frames = [
        pd.DataFrame({"trial": n, "step": STEPS, "loss": c, "params.lr": 0.1})
        for n, c in enumerate(courses)
    ]
    pd.concat(frames).to_csv(tmp_path / "runs.csv", index=False)
    told = "diagnose", str(tmp_path / "runs.csv")
    assert json.loads(said(capsys, monkeypatch, *told, "--json"))[1]["shape"] == "fast_then_flat"
    for command in (told, ("show", told[1], "1"), ("next", told[1])):
        text = said(capsys, monkeypatch, *command)
        assert "fast, then flat" in text
        assert "fast_then_flat" not in text


def test_convergence_prints_numbers_and_the_time_to_a_target(runs, capsys, monkeypatch):
    """The sentence counts the trials that did not arrive."""
    text = said(capsys, monkeypatch, "convergence", runs, "--target", "0.5")
    assert "1 of 3 trials reached 0.5; fewer than half do within 60 steps" in text
    found = json.loads(said(capsys, monkeypatch, "convergence", runs, "--json", "--target", "0.5"))
    assert {"trial", "half_way", "exploded_parameter"} <= found["trials"][0].keys()
    assert (
        found["target"],
        found["time_to_target"]["n_reached"],
        found["time_to_target"]["median"],
    ) == (0.5, 1, None)


def test_convergence_of_runs_without_a_finite_report_says_so(tmp_path, capsys, monkeypatch):
    """There is nothing to estimate, which is no error: in words for people, null for machines."""
    pd.DataFrame({"trial": 0, "step": STEPS, "loss": np.nan}).to_csv(
        tmp_path / "n.csv", index=False
    )
    path = str(tmp_path / "n.csv")
    assert "No trial has a finite report of loss" in said(capsys, monkeypatch, "convergence", path)
    found = json.loads(said(capsys, monkeypatch, "convergence", path, "--json"))
    assert (found["target"], found["time_to_target"], len(found["trials"])) == (None, None, 1)


def test_a_front_for_machines_names_what_its_numbers_are_of(runs, capsys, monkeypatch):
    """`steps_to_target` cannot be read without target and metric."""
    found = json.loads(said(capsys, monkeypatch, "rank", runs, "--pareto", "--json"))
    assert found["metric"] == "loss"
    assert found["target"] > 0
    assert [row["setting"] for row in found["settings"]] == [0, 1]


def test_next_lists_cures_and_where_they_can_be_run(runs, capsys, monkeypatch):
    """Of runs of other tools nothing is searched and no command known: only the changes are
    told.
    """
    text = said(capsys, monkeypatch, "next", runs)
    assert "lr=0.15" in text
    assert not any(words in text for words in ("see below", "search space", "--enqueue"))
    records = json.loads(said(capsys, monkeypatch, "next", runs, "--json", "--n", "1"))
    assert len(records) == 1
    assert records[0]["queued"] is False


def test_show_tells_all_of_one_trial(runs, capsys, monkeypatch):
    """Setting, shape, numbers and fix of one; a number that is none is refused with those there
    are.
    """
    about = json.loads(said(capsys, monkeypatch, "show", runs, "1", "--json"))
    assert (about["lr"], about["shape"], about["fix"]) == (0.05, "slow", ["lr=0.15"])
    text = said(capsys, monkeypatch, "show", runs, "1")
    assert "slow" in text
    assert "late_slope: per step, of the last half" in text  # a word is explained where it stands
    assert "half_way: when half" in said(capsys, monkeypatch, "convergence", runs)
    with pytest.raises(SystemExit, match="no trial 7"):
        said(capsys, monkeypatch, "show", runs, "7")


@pytest.fixture
def named(tmp_path):
    """A file of two runs that have names, a good and a bad one, by an accuracy."""
    frames = [
        pd.DataFrame({"run": name, "step": STEPS, "accuracy": end * (1 - np.exp(-STEPS / 10))})
        for name, end in (("a,b", 0.5), ("日本", 0.9))
    ]
    pd.concat(frames).to_csv(tmp_path / "named.csv", index=False)
    return str(tmp_path / "named.csv")


@pytest.mark.parametrize(
    "command", [["rank"], ["compare"], ["diagnose"], ["convergence"], ["show"]]
)
def test_runs_are_shown_by_their_names(named, capsys, monkeypatch, command):
    """The numbers are ours; who has named runs finds them by their names."""
    text = said(capsys, monkeypatch, *command, named, *(["1"] if command == ["show"] else []))
    assert "日本" in text


def test_accuracies_are_maximised_and_that_is_said(named, capsys, monkeypatch):
    """The command line says on stderr what it took for better, unless it was told; told otherwise,
    it does that.
    """
    command = ["rank", named, "--json"]
    run(monkeypatch, *command)
    ours = capsys.readouterr()
    assert "accuracy is taken to be better when it is higher" in ours.err
    assert json.loads(ours.out)["settings"][0]["name"] == "日本"
    run(monkeypatch, *command, "--metric", "accuracy", "--direction", "minimize")
    theirs = capsys.readouterr()
    assert not theirs.err
    assert json.loads(theirs.out)["settings"][0]["name"] == "a,b"


def test_the_ranking_of_other_tools_runs_does_not_send_them_to_top_up(named, capsys, monkeypatch):
    """`top-up` runs a sweep's own command, of which there is none: what would tell is named
    instead.
    """
    text = " ".join(said(capsys, monkeypatch, "rank", named).split())
    assert "top-up" not in text
    assert "column `setting`" in text
