"""A document of paragraphs, tables and pictures, as one self-contained HTML file or Markdown."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iolaus.analysis.report import _explorer
from iolaus.analysis.report._explorer import Explorer
from iolaus.analysis.report.terminal import cell, holds_numbers

__all__ = ["Block", "Document", "Items", "Picture", "Section", "Table", "as_html", "as_markdown"]

DPI = 120


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A frame's columns (the index is not shown), under a caption."""

    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that `draw` makes on an empty one.

    name: of its file, without ending. size_in: width and height, inches.
    caption: what to see. seen: what is seen, with numbers, for those who do not see it; left out,
        the caption. is_explored: whether a page that runs scripts shows an Explorer in its place.
    """

    name: str
    caption: str
    draw: Callable[[Figure], None]
    size_in: tuple[float, float] = (9.0, 4.5)
    seen: str = ""
    is_explored: bool = False

    def png(self) -> bytes:
        """The figure, drawn."""
        with mpl.rc_context({"font.size": 9}):
            figure = Figure(figsize=self.size_in, dpi=DPI, layout="constrained")
            canvas, file = FigureCanvasAgg(figure), BytesIO()
            self.draw(figure)
            canvas.print_png(file)  # type: ignore[no-untyped-call]  # `savefig` draws twice
        return file.getvalue()


Block = str | Items | Table | Picture | Explorer  # a str is a paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """A title, a line about it, what to read if no more is read, and sections.

    lead: short paragraphs, an empty line between them.
    """

    title: str
    about: str
    lead: str
    sections: Sequence[Section]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        return [
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Picture)
        ]


def as_markdown(document: Document) -> str:
    """The document in Markdown; pictures are files NAME.png beside it."""
    parts = [f"# {document.title}", document.about, document.lead]
    for section in document.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, Items):
                parts.append("\n".join(f"- {text}" for text in block.texts))
            elif isinstance(block, Explorer):
                continue  # of pages alone
            elif isinstance(block, Picture):
                parts += [f"![{block.seen or block.name}]({block.name}.png)", f"*{block.caption}*"]
            else:
                parts += [f"**{block.caption}**", _markdown_table(block.frame)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(frame: pd.DataFrame) -> str:
    rows = [list(map(str, frame.columns)), ["---"] * len(frame.columns)]
    rows += [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows
    )


def as_html(document: Document, pictures: Mapping[str, bytes], folder: str = "..") -> str:
    """The document as one HTML file, light or dark as the reader's system is.

    Tables sort by a click on a heading.
    pictures: name to PNG. folder: of the sweep, as seen from the file; links to trials begin there.
    """
    parts = [_section(section, pictures) for section in document.sections]
    links = " · ".join(
        f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in document.sections
    )
    # One that is read in a hurry is read a sentence at a time.
    lead = "".join(f'<p class="lead">{_inline(s)}</p>' for s in document.lead.split("\n\n"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(document.title)}</title>
<style>{CSS}{_explorer.CSS}</style>
</head>
<body data-folder="{html.escape(folder)}">
<main>
<header>
<h1>{html.escape(document.title)}</h1>
<p class="about">{html.escape(document.about)}</p>
{lead}
<nav>{links}</nav>
</header>
{"".join(parts)}</main>
<script>{JS}{_explorer.JS}</script>
</body>
</html>
"""


def _section(section: Section, pictures: Mapping[str, bytes]) -> str:
    anchor = _anchor(section.title)
    blocks = "".join(_block(block, pictures) for block in section.blocks)
    return f'<section id="{anchor}">\n<h2>{html.escape(section.title)}</h2>\n{blocks}</section>\n'


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _block(block: Block, pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, str):
        return f"<p>{_inline(block)}</p>\n"
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{_inline(text)}</li>" for text in block.texts) + "</ul>\n"
    if isinstance(block, Picture):
        caption = html.escape(block.caption)
        data = base64.b64encode(pictures[block.name]).decode("ascii")
        seen = html.escape(block.seen) or caption
        image = (
            f'<img src="data:image/png;base64,{data}" alt="{seen}" '
            f'style="max-width:{block.size_in[0]:g}in">'
        )
        kind = " class=drawn" if block.is_explored else ""
        # One that is wider than a phone is scrolled, not shrunk until nobody can read it.
        return f"<figure{kind} tabindex=0>{image}<figcaption>{caption}</figcaption></figure>\n"
    if isinstance(block, Explorer):
        return (
            f'<div class="explorer"><p class="about">{html.escape(block.caption)}</p>'
            f'<script type="application/json">{block.json()}</script></div>\n'
        )
    numbers = [holds_numbers(column) for _, column in block.frame.items()]
    head = "".join(map(_th, block.frame.columns, numbers))
    rows = "".join(
        f"<tr>{''.join(map(_td, row, numbers))}</tr>\n"
        for row in block.frame.itertuples(index=False)
    )
    named = html.escape(block.caption)
    caption = f"<caption>{named}</caption>"
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{named}">'
        f"<table>{caption}<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _inline(text: str) -> str:
    """Text with what stands between backticks as code, as in Markdown."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _th(name: Any, is_number: bool) -> str:
    kind = " class=n" if is_number else ""
    return f'<th scope="col"{kind}><button>{html.escape(str(name))}</button></th>'


def _td(value: Any, is_number: bool) -> str:
    """A cell. is_number: whether its column is one of numbers."""
    text = html.escape(cell(value))
    if not text or isinstance(value, bool | str) or not isinstance(value, int | float | np.number):
        kind = " class=n" if is_number and text else " class=long" if len(text) > 40 else ""
        return f"<td{kind}>{text}</td>"
    number = float(value)
    return (
        f'<td class=n data-v="{number:.9g}">{text}</td>'
        if math.isfinite(number)
        else f"<td class=n>{text}</td>"
    )


CSS = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5c5c5c; --line: #d9d9d9; --paper: #fdfdfc; --band: #f2f1ee; --link: #0060a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e4df; --soft: #a3a09a; --line: #3c3b39; --paper: #191918; --band: #252423; --link: #7cbcf2; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; font-size: 1.8rem; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
p, li { max-width: 48rem; overflow-wrap: anywhere; }
code { font-size: .9em; background: var(--band); padding: 0 .2em; border-radius: 3px; }
a { color: var(--link); }
.about, nav, figcaption, caption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.1rem; margin: .5rem 0; }
figure { margin: 1rem 0; }
img { width: 100%; height: auto; background: #fff; border-radius: 4px; }
@media (prefers-color-scheme: dark) { img { filter: invert(.9) hue-rotate(180deg); } }
.table { overflow: auto; max-height: 32rem; margin: 1rem 0; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; font-size: .85rem; min-width: 100%; }
caption { text-align: left; padding: .4rem .6rem; }
th { position: sticky; top: 0; background: var(--band); text-align: left; padding: 0; }
th button { all: unset; cursor: pointer; padding: .3rem .6rem; font-weight: 600; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td { padding: .2rem .6rem; border-top: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
td.n, th.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; }
td.long { white-space: normal; min-width: 22rem; }
@media screen and (max-width: 40rem) { figure { overflow-x: auto; } figure img { min-width: 40rem; } }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --band: #f2f1ee; --link: #000; }
  main { max-width: none; padding: 0; }
  .table { overflow: visible; max-height: none; border: none; }
  table { font-size: .6rem; }
  th { position: static; }
  th button { white-space: normal; padding: .1rem .3rem; }
  td { white-space: normal; padding: .1rem .3rem; }
  td.long { min-width: 14rem; }
  tr, figure { break-inside: avoid; }
  img { filter: none; max-height: 90vh; object-fit: contain; }
}
"""  # noqa: E501

# A click on a head sorts by its column, a second one the other way round; empty cells stay below.
JS = """
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const th = button.parentElement, body = th.closest("table").tBodies[0];
  const up = th.getAttribute("aria-sort") !== "ascending";
  th.parentElement.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const cell = row => row.cells[th.cellIndex];
  const key = row => cell(row).dataset.v ? Number(cell(row).dataset.v) : cell(row).textContent;
  const order = (a, b) => (a === "") - (b === "") ||
    (up ? 1 : -1) * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  [...body.rows].map(row => [key(row), row]).sort((a, b) => order(a[0], b[0])).forEach(([, row]) => body.append(row));
}));
"""  # noqa: E501
