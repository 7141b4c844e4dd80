"""The report: one page that needs nothing else, and the same in Markdown."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna_dashboard import get_note

import iolaus.analysis.report.notes as review_module
import iolaus.analysis.report.report as report_module
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.ranking.rank import rank
from iolaus.analysis.report._document import (
    Document,
    Items,
    Picture,
    Section,
    Table,
    as_html,
    as_markdown,
)
from iolaus.analysis.report._explorer import Explorer
from iolaus.analysis.report.report import report
from iolaus.cli import main

Make = Callable[..., Sweep]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what a browser would fetch, the texts,
    and the cells.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href")]
        self.ids += [given["id"] or ""] if "id" in given else []
        assert tag != "img" or given.get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(document: Document) -> str:
    return as_html(document, {picture.name: picture.png() for picture in document.pictures})


AWKWARD = {
    "one trial": {"n_trials": 1, "n_reports": 1},
    "all pruned": {"state": "pruned"},
    "all running": {"state": "running"},
    "all paused": {"state": "paused"},
    "nothing finite": {"finite": False},
    "repeats, held_out, larger is better": {"n_seeds": 3, "holdout": True, "direction": "maximize"},
}


COMMON = ("all paused", "nothing finite", "repeats, held_out, larger is better")  # in CI


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(given, id=name, marks=[] if name in COMMON else [pytest.mark.slow])
        for name, given in AWKWARD.items()
    ],
)
def test_a_report_needs_nothing_else(given: dict[str, object], made_sweep: Make) -> None:
    """Whatever the sweep, the page is whole, fetches nothing, and its links lead to sections;
    Markdown has the same.
    """
    document = report(made_sweep(**given))
    page = Page(page_of(document))
    links = [target for target in page.fetched if target.startswith("#")]
    assert [target[1:] for target in links] == page.ids
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in page.fetched)
    shown = "".join(page.texts).replace("\n", " ")
    assert all(part in shown for part in document.lead.replace("`", "").split("\n\n"))
    text = as_markdown(document)
    assert document.lead in text
    for section in document.sections:
        assert f"## {section.title}" in text
    assert re.findall(r"!\[.*?\]\((.*?)\.png\)", text) == [
        picture.name for picture in document.pictures
    ]


def test_a_report_before_the_first_trial(made_sweep: Make) -> None:
    """A sweep without trials has a report that says so."""
    what = made_sweep(1)
    document = report(dataclasses.replace(what, trials=pd.DataFrame(), curves=what.curves.iloc[:0]))
    assert "No trial of made has begun." in "".join(Page(page_of(document)).texts)


def test_trials_that_only_return_a_result_have_no_empty_figures(made_sweep: Make) -> None:
    """Without a curve there is none to draw and no shape; the map is coloured by the objective."""
    what = made_sweep(12, state="complete")
    what = dataclasses.replace(
        what, trials=what.trials.assign(final=float("nan")), curves=what.curves.iloc[:0]
    )
    document = report(what)
    assert not {"curves", "shapes"} & {picture.name for picture in document.pictures}
    figure = Figure()
    next(picture for picture in document.pictures if picture.name == "map").draw(figure)
    assert "objective" in {ax.get_ylabel() for ax in figure.axes}
    assert "no curve (12)" in {text.get_text() for text in figure.axes[0].get_legend().get_texts()}


def test_runs_of_other_tools_have_a_report_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of a file lies beside it, or where it was asked for; nothing else is written, no
    command told.
    """
    rows = [
        {"trial": n, "step": step, "acc": 1 - (1 + n) / (step + 2)}
        for n in range(3)
        for step in range(20)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    for more, where in (([], "runs_report"), (["--out", str(tmp_path / "a" / "b")], "a/b")):
        monkeypatch.setattr(sys, "argv", ["iolaus", "report", str(tmp_path / "runs.csv"), *more])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert "3 trials of runs" in (tmp_path / where / "index.html").read_text()
        assert "`iolaus " not in (tmp_path / where / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "runs.csv", "runs_report"]


@pytest.mark.slow
def test_500_trials_stay_below_5_mb(made_sweep: Make) -> None:
    """The page of 500 trials of 100 reports, with six metrics each, is smaller than 5 MB."""
    assert len(page_of(report(made_sweep(500, 100, holdout=True))).encode()) < 5e6


def test_what_users_name_is_text_not_markup() -> None:
    """Names and reasons with <, & or | come out as they are, in HTML and in Markdown."""
    frame = pd.DataFrame({"<b>": ["a|b & <script>"], "n": [0.123456789]})
    document = Document(
        "<t>",
        "x & y",
        "a `<code>` b",
        [Section("A & B", ["p <i>", Items(["<li>"]), Table("<c>", frame)])],
    )
    page = Page(as_html(document, {}))
    assert {"<t>", "x & y", "<code>", "p <i>", "<li>", "<c>", "<b>", "a|b & <script>"} <= set(
        page.texts
    )
    assert "0.1235" in page.texts
    assert "| a\\|b & <script> | 0.1235 |" in as_markdown(document)


def test_pictures_are_drawn_as_asked() -> None:
    """A picture is a PNG of the size asked for, whatever the reader's own matplotlib settings."""
    png = Picture("p", "c", lambda figure: figure.subplots().plot([1, 2]), (2.0, 1.0)).png()
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (240, 120)


def test_the_command_writes_the_report(tmp_path: Path) -> None:
    """`iolaus report DIR` on a real sweep writes page, Markdown and pictures, and
    prints their paths.
    """
    app = Path(__file__).parents[2] / "apps" / "parabola.py"
    sweep = [
        sys.executable,
        str(app),
        "--multirun",
        "hydra/sweeper=iolaus",
        "lr=tag(log, interval(1e-3, 2))",
        "hydra.sweeper.n_trials=4",
    ]
    where = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.sweeper.report=null"]
    subprocess.run([*sweep, *where], check=True, capture_output=True, cwd=tmp_path, timeout=100)
    command = [sys.executable, "-m", "iolaus.cli", "report", str(tmp_path / "sweep"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    paths = json.loads(done.stdout)
    assert "4 trials" in Path(paths["html"]).read_text()
    text = Path(paths["markdown"]).read_text()
    for name in re.findall(r"\]\((.*?\.png)\)", text):
        assert (Path(paths["markdown"]).parent / name).stat().st_size > 1000


def test_a_report_judges_the_sweep_once(
    tmp_path: Path, made_sweep: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page, Markdown and notes come from one ranking and one diagnosis."""
    sweep, judged = made_sweep(6), []
    study = optuna.create_study(study_name="made", storage=f"sqlite:///{tmp_path / 'study.db'}")
    for module in (report_module, review_module):
        monkeypatch.setattr(module, "rank", lambda sweep: judged.append("rank") or rank(sweep))
        monkeypatch.setattr(
            module, "diagnose", lambda *given: judged.append("diagnose") or diagnose(*given)
        )
    monkeypatch.setattr(report_module, "load", lambda folder: sweep)
    monkeypatch.setattr(review_module, "read_study", lambda folder: study)
    (tmp_path / "sweep.yaml").touch()
    report_module.write_report(tmp_path)
    assert judged == ["rank", "diagnose"]
    assert "which setting is better is not known" in get_note(study)


def test_tables_sort_in_a_browser(made_sweep: Make, tmp_path: Path, browser: Any) -> None:
    """A click on a heading sorts a table by numbers, a second one turns it; nothing is fetched, no
    error is logged.
    """
    page_file = tmp_path / "index.html"
    page_file.write_text(page_of(report(made_sweep(12))))
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on(
        "request",
        lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None,
    )
    page.goto(page_file.as_uri())
    table = page.locator("#all-trials table")
    column = table.locator("th").all_text_contents().index("objective") + 1
    orders = []
    for _ in range(2):
        table.locator(f"th:nth-child({column}) button").click()
        cells = table.locator(f"td:nth-child({column})").all_text_contents()
        known = [float(cell) for cell in cells if cell]
        assert cells[len(known) :] == [""] * (len(cells) - len(known))
        orders.append(known)
    assert orders == [sorted(orders[0]), sorted(orders[0], reverse=True)]
    assert not troubles


def test_the_page_can_be_explored(made_sweep: Make, tmp_path: Path, browser: Any) -> None:
    """Pointing at a line names its trial, a click isolates it in both drawings and tells of it, the
    buttons hide states and shapes, a field filters rows, a number in a table leads to its trial;
    nothing is fetched and no error is logged. On paper there are the drawn pictures and all rows.
    """
    sweep = made_sweep(24)
    page_file = tmp_path / "index.html"
    page_file.write_text(page_of(report(sweep)))
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None,
    )
    page.goto(page_file.as_uri())
    curves = page.locator(".explorer svg").first
    lines = curves.locator("polyline")
    assert lines.count() == len(sweep.trials)
    best = curves.locator("polyline.best")
    number = best.get_attribute("data-trial")
    assert number == str(rank(sweep).winner)
    curves.scroll_into_view_if_needed()
    frame = curves.bounding_box()
    x, y = map(float, best.get_attribute("points").split()[-1].split(","))
    place = frame["x"] + x * frame["width"] / 960, frame["y"] + y * frame["width"] / 960
    page.mouse.move(*place)
    tip = page.locator(".explorer .tip")
    assert f"trial {number}:" in tip.text_content()
    page.mouse.click(*place)
    assert page.locator("polyline.chosen").count() == 2
    assert sweep.trials["why"][int(number)] in page.locator(".about-trial").text_content()
    page.get_by_role("button", name="ended early").click()
    n_pruned = int(sweep.trials["state"].eq("pruned").sum())
    assert lines.count() == len(sweep.trials) - n_pruned
    page.get_by_role("button", name="ended early").click()
    page.get_by_label("filter the rows of: 24 trials").fill("pruned")
    rows = page.locator("#all-trials tbody tr")
    assert sum(row.is_visible() for row in rows.all()) == n_pruned
    page.get_by_label("filter the rows of: 24 trials").fill("")
    page.locator("#all-trials").get_by_label("what is known of trial 5", exact=True).click()
    assert page.locator(".about-trial strong").text_content() == "trial 5"
    assert not page.locator("#curves img").first.is_visible()
    page.emulate_media(media="print")
    assert page.locator("#curves img").first.is_visible()
    assert not curves.is_visible()
    box = page.locator("#all-trials .table")
    assert box.evaluate("e => e.scrollHeight <= e.clientHeight")
    assert not troubles


@pytest.mark.slow
def test_the_page_is_for_everybody(made_sweep: Make, tmp_path: Path, browser: Any) -> None:
    """On a phone and a desk, by day and by night: axe finds nothing serious, the page is no wider
    than the screen, and the letters of the drawings are not shrunk.
    """
    axe = pytest.importorskip("axe_core_python.sync_playwright").Axe()
    page_file = tmp_path / "index.html"
    page_file.write_text(page_of(report(made_sweep(24))))
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        screen = {"width": width, "height": 844}
        page = browser.new_context(viewport=screen, color_scheme=scheme).new_page()
        page.goto(page_file.as_uri())
        found = axe.run(page)["violations"]
        assert [v["help"] for v in found if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        curves = page.locator(".explorer svg").first
        drawn_width = float(curves.get_attribute("viewBox").split()[2])
        assert curves.bounding_box()["width"] >= 0.9 * drawn_width


def test_what_users_name_ends_no_script() -> None:
    """A name with markup stays a text among the numbers of the page."""
    held = Explorer("", {"name": "</script><b>"}).json()
    assert "<" not in held
    assert json.loads(held) == {"name": "</script><b>"}
