from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main

STEPS = np.arange(1, 61)


@pytest.fixture
def runs(tmp_path):
    """A file of three runs: good, slow, not finite."""
    courses = (np.exp(-STEPS / 10), 1 - 0.2 * STEPS / 60, np.where(STEPS < 50, 1.0, np.nan))
    frames = [
        pd.DataFrame({"trial": n, "step": STEPS, "loss": c, "params.lr": 0.1 / (n + 1)}) for n, c in enumerate(courses)
    ]
    pd.concat(frames).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


def said(capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["analysis", *arguments])
    main()
    return capsys.readouterr().out


def test_diagnose_prints_a_row_per_trial(runs, capsys, monkeypatch):
    """A table for people, records for machines."""
    text = said(capsys, monkeypatch, "diagnose", runs)
    assert "exploded" in text
    assert "lr=0.15" in text
    records = json.loads(said(capsys, monkeypatch, "diagnose", runs, "--json"))
    assert [r["shape"] for r in records] == ["converged", "slow", "exploded"]
    assert records[1]["cure"] == ["lr=0.15"]


def test_a_shape_has_one_name_wherever_a_person_reads_it(capsys, monkeypatch, tmp_path):
    """Terminal and figures say "fast, then flat"; machines get the identifier."""
    courses = (np.exp(-STEPS / 30), 0.6 + 0.4 * np.exp(-STEPS / 2))
    frames = [pd.DataFrame({"trial": n, "step": STEPS, "loss": c, "params.lr": 0.1}) for n, c in enumerate(courses)]
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
    assert "1 of 3 trials reached 0.5; fewer than half ever do" in text
    records = json.loads(said(capsys, monkeypatch, "convergence", runs, "--json"))
    assert {"trial", "half_way", "exploded_parameter"} <= records[0].keys()


def test_next_lists_cures_and_where_they_can_be_run(runs, capsys, monkeypatch):
    """Of a file nothing is searched, so nothing can be queued."""
    assert "lr is not searched" in said(capsys, monkeypatch, "next", runs)
    records = json.loads(said(capsys, monkeypatch, "next", runs, "--json", "--n", "1"))
    assert len(records) == 1
    assert records[0]["queued"] is False


def test_show_tells_all_of_one_trial(runs, capsys, monkeypatch):
    """Setting, shape, numbers and cure of one; a number that is none is refused with those there are."""
    about = json.loads(said(capsys, monkeypatch, "show", runs, "1", "--json"))
    assert (about["lr"], about["shape"], about["cure"]) == (0.05, "slow", ["lr=0.15"])
    assert "slow" in said(capsys, monkeypatch, "show", runs, "1")
    with pytest.raises(SystemExit, match="no trial 7"):
        said(capsys, monkeypatch, "show", runs, "7")
