"""The report of a sweep: `python -m analysis report DIR`, and at the end of every sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures import draw_curves
from analysis.load import Sweep, load, open_study
from sweeps.summary import Result, rank


def write_report(folder: Path) -> Sequence[Path]:
    """Write report/report.md and report/curves.png into a sweep's folder; returns their paths.

    Works on a sweep that still runs. Raises FileNotFoundError if the folder is no sweep.
    """
    sweep = load(folder)
    report = folder / "report"
    report.mkdir(exist_ok=True)
    figure_path, text_path = report / "curves.png", report / "report.md"
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw_curves(figure.subplots(), sweep)
        figure.savefig(figure_path, dpi=150)
    results = rank(open_study(folder))
    text_path.write_text(_text(sweep, results), encoding="utf-8")
    return [figure_path, text_path]


def _text(sweep: Sweep, results: Sequence[Result]) -> str:
    states = ", ".join(f"{n} {state}" for state, n in Counter(r.state for r in results).most_common())
    lines = [f"# {sweep.name}", "", f"{len(results)} trials ({states}).", "", "![All curves](curves.png)", ""]
    keys = list(dict.fromkeys(key for r in results for key in r.params))
    head = ["trial", "state", "objective", f"best {sweep.metric}", f"final {sweep.metric}", "steps", "why it ended"]
    lines += [_row([*head, *keys]), _row(["---"] * (len(head) + len(keys)))]
    for r in results:
        values = " ".join(f"{v:.5g}" for v in r.values)
        curve = ["" if np.isnan(v) else f"{v:.5g}" for v in (r.best, r.final)]
        steps = "" if r.n_steps is None else str(r.n_steps)
        params = [f"{v:.4g}" if isinstance(v := r.params.get(key, ""), float) else str(v) for key in keys]
        lines.append(_row([str(r.number), r.state, values, *curve, steps, r.why, *params]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
