"""`iolaus replay CURVES`: pruners and the trivial baseline on curves, a table and a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iolaus.analysis.replay._curves import Curve
from iolaus.analysis.replay._forecast import judge
from iolaus.analysis.replay.baseline import baseline_front
from iolaus.analysis.replay.comparison import (
    BASELINE,
    draw_pareto,
    rank_agreement,
    replay,
    summary,
    table,
)
from iolaus.sweeps.text import counted

__all__ = ["main"]


def main(
    tasks: Mapping[str, Sequence[Curve]],
    rules: Sequence[str],
    n_workers: int,
    n_seeds: int,
    as_json: bool,
    agreement: bool,
    forecast: bool,
    figure: Path | None,
    tell: Callable[[str], None],
) -> Iterator[str]:
    """The command: what to print, piece by piece; draws the figure if a path for it is given.

    tasks: the curves of each.
    """
    found = summary(replay(tasks, rules, n_workers, n_seeds, tell))
    front = baseline_front(tasks)
    ranks = rank_agreement(tasks) if agreement else None
    judged = judge(tasks, 0.25, n_workers, n_seeds) if forecast else None
    if figure is not None:
        picture = Figure(figsize=(7, 5), layout="constrained")
        FigureCanvasAgg(picture)
        draw_pareto(picture.subplots(), found, [(p.compute, p.kept) for p in front])
        figure.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(figure, dpi=150)
    if as_json:
        document: dict[str, object] = {
            "rules": found,
            "baseline": [asdict(p) for p in front],
        }
        if ranks is not None:
            document["rank_agreement"] = json.loads(ranks.to_json(orient="index"))
        if judged is not None:
            document["forecast"] = asdict(judged)
        yield json.dumps(document)
        return
    n_trials = sum(map(len, tasks.values()))
    yield (
        f"{counted(n_trials, 'trial')} in {counted(len(tasks), 'task')}, "
        f"{counted(n_workers, 'worker')}, {counted(n_seeds, 'random order')}"
        + ("; ± 95 % over orders" if n_seeds > 1 else "")
    )
    yield table(found)
    yield f"\n{BASELINE}, its front (stop, continued: compute, kept)\n" + "\n".join(
        f"{p.stop:.0%}, {p.continued:.0%}: {p.compute:.3f}, {p.kept:.3f}" for p in front
    )
    if ranks is not None:
        yield "\nrank correlation with the end (Spearman)\n" + ranks.to_string(float_format="%.2f")
    if judged is not None:
        yield f"\n{judged}"
    if figure is not None:
        yield f"\n{figure}"
