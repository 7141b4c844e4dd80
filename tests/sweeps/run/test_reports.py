"""The report of a sweep is found by name among what installed packages offer."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from hydra_plugins.iolaus.config import IolausSweeperConf
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run import _reports as reports
from iolaus.sweeps.run._reports import GROUP, find_report, write_report

HERE = "os.listdir"


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Have these be all the entry points of reports."""
    found = EntryPoints(EntryPoint(name, value, GROUP) for name, value in points.items())
    monkeypatch.setattr(reports, "entry_points", lambda group: found.select(group=group))


def test_an_entry_point_is_imported_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A report whose packages are missing is found, and costs one line at the end."""
    offer(monkeypatch, html="os:listdir", broken="no_such_package_here.report:write")
    (tmp_path / "made.html").touch()
    html, broken = find_report("html"), find_report("broken")
    assert html is not None
    assert broken is not None
    assert write_report(html, tmp_path) == ["made.html"]
    with caplog.at_level(logging.INFO):
        assert write_report(broken, tmp_path) == ()
    (line,) = caplog.records
    assert line.message.startswith("no report: No module named 'no_such_package_here'")


def test_the_report_of_this_package_is_there() -> None:
    """What pyproject.toml declares, and the sweeper names by default, is a function."""
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    declared = tomllib.loads(pyproject.read_text())["project"]["entry-points"][GROUP]
    assert IolausSweeperConf.report in declared
    for name, value in declared.items():
        assert callable(EntryPoint(name, value, GROUP).load())


def test_a_dotted_name_is_a_function_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a dot is looked up at once, whatever packages offer; null is no report."""
    offer(monkeypatch)
    assert find_report(HERE) is os.listdir
    assert find_report(None) is None
    with pytest.raises(BadInputError, match=r"hydra\.sweeper\.report=os\.no_such"):
        find_report("os.no_such")


def test_an_unknown_name_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything runs; but where nothing is installed, the default name only has no report."""
    offer(monkeypatch, html="os:listdir", pdf="os:listdir")
    with pytest.raises(BadInputError, match="report=htlm: choose from html, pdf"):
        find_report("htlm")
    offer(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert find_report("html") is None
    assert GROUP in caplog.text


def test_a_report_that_raises_does_not_harm_the_sweep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged, and nothing was made."""

    def report(folder: Path) -> Sequence[Path]:
        raise ZeroDivisionError(f"in {folder}")

    assert write_report(report, tmp_path) == ()
    assert "ZeroDivisionError" in caplog.text


def test_one_who_does_not_wait_for_the_report_is_let_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C while it is made is a line that says how to make it later, and no traceback."""

    def report(folder: Path) -> Sequence[Path]:
        raise KeyboardInterrupt

    with caplog.at_level(logging.INFO):
        assert write_report(report, tmp_path) == ()
    assert f"interrupted; iolaus report {tmp_path} makes it" in caplog.text
