"""The report of a sweep: `iolaus report DIR`, and at the end of every sweep."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from iolaus.analysis import figures
from iolaus.analysis.data.curves import lines_of, planned_rates
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep, is_sweep, load
from iolaus.analysis.diagnosis._features import Features, gather, loss_metrics
from iolaus.analysis.diagnosis.decays import Decays, by_batch, decays
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.explosions import Explosions, explosions
from iolaus.analysis.diagnosis.idle_clipping import clipping_sentences
from iolaus.analysis.diagnosis.next_trials import as_frame, next_trials
from iolaus.analysis.diagnosis.run_ends import run_end_sentences
from iolaus.analysis.diagnosis.shapes import WELL, shape_name
from iolaus.analysis.diagnosis.tried_fixes import tried_fixes, tried_sentences
from iolaus.analysis.figures._style import smoothing_text
from iolaus.analysis.figures.map import N_CHOICES
from iolaus.analysis.importance import CHANCE, importance, in_words, interactions, shares
from iolaus.analysis.memory import memory_sentences
from iolaus.analysis.ranking.level import objective_source
from iolaus.analysis.ranking.pareto import pareto, shown
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.analysis.ranking.scores import end_scores, scores
from iolaus.analysis.replay.holdout import pruning
from iolaus.analysis.report import summary as words
from iolaus.analysis.report._document import (
    Block,
    Document,
    Items,
    Picture,
    Section,
    Table,
    as_html,
    as_markdown,
)
from iolaus.analysis.report._explorer import explorer
from iolaus.analysis.report.notes import COLUMNS, write_notes
from iolaus.analysis.single_changes import single_changes
from iolaus.sweeps.study.findings import lint_sentences
from iolaus.sweeps.study.fingerprint import RAN_WITH, differences
from iolaus.sweeps.text import counted, duration, short_names

__all__ = ["report", "write_report"]

# Trials whose steps are worth numbers of examples further apart than this are compared on examples.
EXAMPLES_APART = 1.05
N_NEXT = 10  # fixes shown; `iolaus next` has all


def write_report(
    source: str | Path,
    sweep: Sweep | None = None,
    out: str | Path | None = None,
    smooth: float | None = None,
) -> Sequence[Path]:
    """Write index.html, report.md and the pictures of the latter: what there is to say of a sweep.

    source: its folder, or the runs of other tools. sweep: of `load(source)`, where it has been read
    before. out: the folder to write to; left out, it is report/ in a sweep's folder and
    NAME_report/ beside runs of other tools. smooth: how curves are drawn, from 0 (as reported) up
    and below 1 with a weight for what came before, from 2 up over so many reports; left out, over a
    twentieth of each; ValueError for another. Returns the paths of the two. The notes for
    optuna-dashboard go into the study, if there is one
    (`iolaus.analysis.report.notes.write_notes`). Works on a sweep that still runs. Takes about 3 s
    for 32 trials and 7 s for 500 on one core, besides a second to import what it needs. Raises what
    `load` raises.

    >>> page, text = iolaus.write_report("runs.csv")
    >>> str(page)
    'runs_report/index.html'
    """
    source = Path(source)
    smoothing_text(smooth)  # before anything is read
    sweep = load(source) if sweep is None else sweep
    features = gather(sweep)
    ranking, diagnosis = rank(sweep), diagnose(sweep, features)
    document = report(sweep, ranking, diagnosis, smooth, features)
    pictures = {picture.name: picture.png() for picture in document.pictures}
    target = _beside(source) if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        (target / f"{name}.png").write_bytes(png)
    page, text = target / "index.html", target / "report.md"
    folder = Path(os.path.relpath(source.resolve(), target.resolve())).as_posix()
    page.write_text(as_html(document, pictures, folder), encoding="utf-8")
    text.write_text(as_markdown(document), encoding="utf-8")
    if is_sweep(source):
        write_notes(source, sweep, ranking, diagnosis)
    return [page, text]


def _beside(source: Path) -> Path:
    if is_sweep(source):
        return source / "report"
    path = source if source.name else source.resolve()  # `.` has no name
    return path.with_name(f"{path.name if path.is_dir() else path.stem}_report")


def report(
    sweep: Sweep,
    ranking: Ranking | None = None,
    diagnosis: pd.DataFrame | None = None,
    smooth: float | None = None,
    features: Mapping[int, Features] | None = None,
) -> Document:
    """What there is to say of a sweep; figures are drawn only when the document is written.

    ranking, diagnosis, features: of `rank`, of `diagnose` and of each trial, where they have been
    made before. smooth: as in `write_report`.
    """
    if sweep.trials.empty:
        return Document(sweep.name, _about(sweep), words.searched(sweep), [])
    ranking = rank(sweep) if ranking is None else ranking
    features = gather(sweep) if features is None else features
    diagnosis = diagnose(sweep, features) if diagnosis is None else diagnosis
    sections = [
        _curves(sweep, ranking, diagnosis, smooth),
        _ranking(sweep, ranking),
        _scores(sweep),
        _shapes(sweep, diagnosis, smooth),
        _tried(sweep, ranking, diagnosis),
        _next(sweep, diagnosis),
        _parameters(sweep, ranking, diagnosis),
        _schedules(sweep, ranking, decays(sweep, diagnosis, features), smooth),
        _gradients(sweep),
        _explosions(sweep, explosions(sweep, features)),
        _pruning(sweep),
        _machine(sweep, ranking),
        _trials(sweep, diagnosis),
        _origin(sweep),
    ]
    return Document(
        title=sweep.name,
        about=_about(sweep),
        lead=words.paragraph(sweep, ranking, diagnosis),
        sections=[section for section in sections if section.blocks],
    )


def _about(sweep: Sweep) -> str:
    """When, with which code, for how long."""
    trials, said = sweep.trials, []
    sessions = sweep.provenance
    if sessions:
        said.append(f"begun {str(sessions[0]['started'])[:16].replace('T', ' ')} UTC")
    if len(trials):
        said.append(f"{duration(float(trials['seconds'].astype(float).sum()))} of training")
        versions = trials["code"].dropna().astype(str)
        said += (
            [f"code {', '.join(dict.fromkeys(v for v in versions if v))}"] if versions.any() else []
        )
    return " · ".join(said)


def _ranking(sweep: Sweep, ranking: Ranking) -> Section:
    table = ranking.table[ranking.table["state"].eq("complete")]
    params = varied(table)
    names = short_names(list(params))
    completed = replace(ranking, table=table).shown()
    columns = [c for c in ("setting", *COLUMNS, *params) if c in completed]
    frame = completed[columns].rename(columns=names)
    height = 1.2 + 0.22 * min(len(table), figures.ranking.N_SHOWN)
    intervals = (
        "its 95 % interval. Settings of one tier cannot be told apart"
        if ranking.is_repeated
        else "where that run's own curve ends (95 %). With one seed each no setting is known to be "
        "better"
    )
    picture = Picture(
        "ranking",
        "Settings, named by their first trial, best on top: a stroke at the objective, a mark at "
        f"the {ranking.of} with {intervals}.",
        lambda figure: figures.draw_ranking(figure.subplots(), ranking),
        (8.0, height),
        words.ranking_seen(ranking),
    )
    if table.empty:
        return Section("Ranking", [])
    front = pareto(sweep, ranking)
    front = shown(front[front["on_front"]].drop(columns="on_front"))
    first = "tier" if ranking.is_repeated else "objective"
    what = f"{first}, speed, noise and seconds"
    what = "all objectives" if len(sweep.directions) > 1 else what
    also = f"the {ranking.of} and " if "level" in frame else ""
    completed_ones = f"Completed settings by the objective, with {also}the best {sweep.metric}"
    who = "Finalists" if ranking.n_others else "Settings"
    unbeaten = f"{who} that no other beats in {what} at once"
    tables = [Table(completed_ones, frame), Table(unbeaten, front)]
    more = ranking.sentences()[1:]
    return Section("Ranking", [picture, *([Items(more)] if more else []), *tables])


def _scores(sweep: Sweep) -> Section:
    """What was measured once, at the end of every trial."""
    names = end_scores(sweep)
    if not names:
        return Section("Scores", [])
    found = scores(sweep, names)
    about = list(varied(sweep.trials))
    short = short_names(about)
    called = {
        int(row["setting"]): " ".join(
            f"{short[key]}={row[key]}" for key in about if key in row and not pd.isna(row[key])
        )
        or str(row["setting"])
        for row in found.table.to_dict("records")
    }
    picture = Picture(
        "scores",
        "Each score of the completed settings: a grey dot per seed, the mean with its 95 % "
        "interval in blue.",
        lambda figure: figures.draw_scores(figure, sweep, found, called),
        (10.0, 1.2 + 0.3 * min(len(found.table), figures.ranking.N_SHOWN)),
    )
    table = Table(
        "Mean over the seeds, half its 95 % interval (±) and tier, of each score",
        found.table.rename(columns=short),
    )
    return Section("Scores", [picture, Items(found.sentences()), table])


def _curves(
    sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame, smooth: float | None
) -> Section:
    """The metric that settings are ranked by first, then the watched one, if it is another."""
    axis = _axis(sweep)

    def picture(metric: str) -> Picture:
        def draw(figure: Figure) -> None:
            has_rates = metric == sweep.metric and bool(lines_of(sweep, "lr", axis))
            curves, rates = (
                figure.subplots(2, 1, height_ratios=[4, 1])
                if has_rates
                else (figure.subplots(), None)
            )
            figures.draw_curves(
                curves,
                sweep,
                metric,
                diagnosis=diagnosis if metric == sweep.metric else None,
                ranking=ranking,
                axis=axis,
                rate_ax=rates,
                smooth=smooth,
            )

        ranks = ", by which settings are ranked" if metric == ranked_by else ""
        caption = (
            f"Every trial's {metric}{ranks}, {smoothing_text(smooth)}, on one axis of "
            f"{'steps' if axis == 'step' else axis}."
        )
        name = "curves" if metric == sweep.metric else "ranked_curves"
        size_in = (9.0, 5.5 if metric == sweep.metric else 4.5)
        return Picture(name, caption, draw, size_in, words.curves_seen(sweep, metric), True)

    ranked_by = _ranked_by(sweep)
    metrics = [m for m in dict.fromkeys([ranked_by, sweep.metric]) if lines_of(sweep, m)]
    explored = explorer(sweep, ranking, diagnosis, metrics, axis, smooth)
    return Section("Curves", [*([explored] if explored else []), *map(picture, metrics)])


def _ranked_by(sweep: Sweep) -> str:
    """The metric whose end or best is the objective; where it is none, the validation's."""
    done = sweep.trials[sweep.trials["state"].eq("complete") & sweep.trials["objective"].notna()]
    source = objective_source(sweep, done) if len(done) else None
    return source[0] if source else loss_metrics(sweep)[1] or sweep.metric


def _axis(sweep: Sweep) -> str:
    """The axis on which trials compare.

    It is examples where a step is not worth the same number of them for all, else steps.
    """
    if sweep.trials.empty:
        return "step"
    worth = (sweep.trials["examples"].astype(float) / sweep.trials["steps"].astype(float)).dropna()
    return "examples" if len(worth) > 1 and worth.max() > EXAMPLES_APART * worth.min() else "step"


def _shapes(sweep: Sweep, diagnosis: pd.DataFrame, smooth: float | None) -> Section:
    if diagnosis.empty:
        return Section("Shapes", [])
    counts = diagnosis["shape"].value_counts()
    rows = []
    for shape, n in counts.items():
        own = diagnosis[diagnosis["shape"] == shape]
        rows.append(
            (shape_name(str(shape)), n, f"{n / len(diagnosis):.0%}", _counted(own["advice"]))
        )
    summary = pd.DataFrame(rows, columns=["shape", "trials", "share", "what helps"])
    problems = diagnosis[~diagnosis["shape"].isin(WELL)]
    told = pd.DataFrame(
        {
            "trial": problems.index,
            **_setting_and_seed(sweep.trials.loc[problems.index], sweep.trials),
            "shape": problems["shape"].map(shape_name),
            "since step": problems["since"],
            "why": problems["reason"],
            "fix": [" ".join(fix) for fix in problems["fix"]],
        }
    )
    n_rows = -(-len(counts) // 4)
    picture = Picture(
        "shapes",
        "One panel per shape, on the same axes; the other trials faint behind. Marks: where it "
        "began.",
        lambda figure: figures.draw_by_shape(
            figure, sweep, diagnosis, axis=_axis(sweep), smooth=smooth
        ),
        (9.0, 0.8 + 2.0 * n_rows),
        f"Curves by shape: {', '.join(f'{n} {name}' for name, n, *_ in rows)}.",
    )
    blocks: list[Block] = [picture] if lines_of(sweep, sweep.metric) else []
    blocks += [Table("How the trials converged", summary)]
    key = figures.choice_to_show(sweep)
    if key is not None:
        draw = lambda figure: figures.draw_shapes_by(figure.subplots(), sweep, diagnosis, key)  # noqa: E731
        height = 1.5 + 0.28 * sweep.trials[f"params.{key}"].nunique()
        blocks.append(Picture("shapes_by", f"Which shapes each {key} led to.", draw, (7.5, height)))
    where = shares(sweep, diagnosis)["sentence"].tolist()
    blocks += (
        ["Where in the search space (the best rule of one or two parameters for each shape):"]
        if where
        else []
    )
    blocks += [Items(where)] if where else []
    blocks += (
        [Table("What went wrong, trial by trial, and what would help", told)] if len(told) else []
    )
    return Section("How they converged", blocks)


def _counted(advice: pd.Series) -> str:
    """Each advice once, the most frequent first, with its number of trials if there are several."""
    counts = advice[advice != ""].value_counts()
    return "; ".join(
        f"{text} ({n})" if len(counts) > 1 else str(text) for text, n in counts.items()
    )


def _tried(sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame) -> Section:
    tried = tried_fixes(sweep, diagnosis)
    if tried.empty:
        return Section("Fixes that were run", [])
    draw = lambda figure: figures.draw_fixes(figure.subplots(), tried, ranking.of)  # noqa: E731
    picture = Picture(
        "fixes",
        "The mean objective of each setting with a problem, and of the same with its fix.",
        draw,
        (8.0, 1.3 + 0.28 * len(tried)),
    )
    shown = tried.drop(columns="is_better").rename(columns={"low": "95 % low", "high": "95 % high"})
    return Section(
        "Fixes that were run",
        [
            Items(tried_sentences(tried)),
            picture,
            Table("Each fix; intervals of after - before", shown),
        ],
    )


def _next(sweep: Sweep, diagnosis: pd.DataFrame) -> Section:
    trials = next_trials(sweep, diagnosis)[:N_NEXT]
    if not trials:
        return Section("What to try next", [])
    how = [
        f"`iolaus next {sweep.argument} --run` runs them in the study, those outside of its space "
        "marked."
    ]
    commands = [f"`{trial.command}`" for trial in trials if trial.outside and trial.command]
    blocks: list[Block] = [
        *(how if sweep.space else []),
        Table("Suggested fixes, the most promising first", as_frame(trials)),
    ]
    return Section("What to try next", [*blocks, Items(commands)] if commands else blocks)


def _parameters(sweep: Sweep, ranking: Ranking, diagnosis: pd.DataFrame) -> Section:
    mattered = importance(sweep)
    blocks: list[Block] = []
    beyond = (
        [str(name) for name in mattered.index[mattered["beyond_chance"].astype(bool)]]
        if len(mattered)
        else []
    )
    pair = list(dict.fromkeys([*beyond, *_mappable(sweep.trials)]))[:2]
    if len(pair) == 2:
        x, y = pair
        caption = (
            f"{x} and {y}{': the two that mattered most' if len(beyond) > 1 else ''}. Dark is good."
        )
        draw = lambda figure: figures.draw_map(  # noqa: E731
            figure.subplots(), sweep, x, y, diagnosis, ranking=ranking
        )
        blocks.append(
            Picture("map", caption, draw, (7.5, 5.0), words.map_seen(sweep, x, y, ranking))
        )
    if len(mattered):
        frame = mattered.reset_index()
        frame["beyond_chance"] = frame["beyond_chance"].map({True: "yes", False: "no"})
        names_shown = {"chance": "by chance", "beyond_chance": "beyond chance"}
        caption = "Which parameters separate the best tenth of the trials from the rest (PED-ANOVA)"
        blocks += [in_words(mattered), Table(caption, frame.rename(columns=names_shown))]
    together = interactions(sweep)
    together = together[together["p"] < CHANCE]
    if len(together):
        blocks.append(
            Table("Pairs of parameters whose effects do not just add up (F test, Holm)", together)
        )
    if changes := single_changes(sweep):
        blocks += ["What a single change costs, all else equal:", Items(changes)]
    return Section("What mattered", blocks)


def _mappable(trials: pd.DataFrame) -> list[str]:
    """The parameters that vary, those first that make a map.

    A map is made by numbers, not a few choices, which most trials have.
    """

    def place(item: tuple[str, str]) -> tuple[bool, int]:
        values = trials[item[1]]
        return values.nunique() <= N_CHOICES, -int(values.notna().sum())

    return [name for name, _ in sorted(varied(trials).items(), key=place)]


def _schedules(sweep: Sweep, ranking: Ranking, how: Decays, smooth: float | None) -> Section:
    if not lines_of(sweep, "lr") and not planned_rates(sweep):
        return Section("Learning rates", [])
    caption = "Learning rates as they were, and where each trial ended."
    draw = lambda figure: figures.draw_schedules(figure.subplots(), sweep, ranking=ranking)  # noqa: E731
    found = lint_sentences(sweep.findings)
    blocks: list[Block] = [Items(found)] if found else []
    if how.sentences:
        caption_of_both = (
            "Learning rates, and losses "
            f"({smoothing_text(smooth)}), by how the rate went: one line per setting."
        )
        draw_both = lambda figure: figures.draw_decays(figure, sweep, how, smooth)  # noqa: E731
        blocks = [
            Items(how.sentences),
            Picture("decays", caption_of_both, draw_both, (10.0, 4.2), " ".join(how.sentences)),
            *blocks,
        ]
    if n_panels := min(len(by_batch(how)), figures.batches.N_PANELS):
        of_batches = (
            "Losses of settings that differ in their batch alone; rings: the batch changes."
        )
        draw_batches = lambda figure: figures.draw_batches(figure, sweep, how, smooth)  # noqa: E731
        size_in = (3.0 + 3.5 * n_panels, 3.8)
        blocks.insert(2, Picture("batches", of_batches, draw_batches, size_in))
    return Section("Learning rates", [*blocks, Picture("schedules", caption, draw)])


def _gradients(sweep: Sweep) -> Section:
    said = clipping_sentences(sweep)
    if not sweep.curves["metric"].str.startswith(figures.gradients.PREFIX).any():
        return Section("Gradients", [*said])
    caption = (
        "Norms of the gradients in the first steps, on the same axes: trials that were clipped "
        "and that were not."
    )
    draw = lambda figure: figures.draw_gradients(figure, sweep)  # noqa: E731
    return Section("Gradients", [*said, Picture("gradients", caption, draw, (9.0, 4.5))])


def _explosions(sweep: Sweep, found: Explosions) -> Section:
    if not found.sentences:
        return Section("Explosions", [])
    blocks: list[Block] = [Items(found.sentences)]
    if len(found.shares) and found.rule is not None:
        caption = (
            "Norms of the gradients, step by step, of a trial that died and of one that differs in "
            "its clipping alone; the share of seeds that explode, with 95 % intervals."
        )
        draw = lambda figure: figures.draw_explosions(figure, sweep, found)  # noqa: E731
        blocks.append(Picture("explosions", caption, draw, (10.0, 4.2)))
        blocks.append(Table("How often each setting explodes", found.shares))
    return Section("Explosions", blocks)


def _pruning(sweep: Sweep) -> Section:
    found = pruning(sweep)
    blocks: list[Block] = [" ".join(found.sentences())] if found.sentences() else []
    if found.holdout.finished:
        caption = "Trials that the pruner would have ended, among all that completed."
        draw = lambda figure: figures.draw_holdout(figure.subplots(), sweep, found)  # noqa: E731
        blocks.append(Picture("holdout", caption, draw, (7.0, 3.5), found.holdout.sentence()))
    return Section("Trials ended early", blocks)


def _machine(sweep: Sweep, ranking: Ranking) -> Section:
    n_slots = sweep.trials["slot"].nunique() if len(sweep.trials) else 0
    if not n_slots:
        return Section("Time", [])
    draw = lambda figure: figures.draw_timeline(figure.subplots(), sweep, ranking=ranking)  # noqa: E731
    picture = Picture(
        "timeline",
        "Which trial ran when, on which slot.",
        draw,
        (9.0, 1.2 + 0.4 * n_slots),
        f"{counted(len(sweep.trials), 'trial')} on {counted(n_slots, 'slot')}, a bar for each time "
        "that one ran.",
    )
    blocks: list[Block] = [picture, *memory_sentences(sweep)]
    if ends := run_end_sentences(sweep):
        blocks.append(Items(ends))
    if len(sweep.slots) and sweep.slots["device_used_bytes"].notna().any():
        drawn = lambda figure: figures.draw_devices(figure.subplots(), sweep)  # noqa: E731
        blocks.append(Picture("devices", "How the GPUs were used.", drawn, (9.0, 2.6)))
    return Section("Time", blocks)


def _trials(sweep: Sweep, diagnosis: pd.DataFrame) -> Section:
    trials = sweep.trials
    if trials.empty:
        return Section("All trials", [])
    params = [c for c in map(str, trials.columns) if c.startswith("params.")]
    names = short_names([c.removeprefix("params.") for c in params])
    frame = pd.DataFrame(
        {
            "trial": trials.index,
            **_setting_and_seed(trials, trials),
            "state": trials["state"],
            "shape": diagnosis["shape"].reindex(trials.index).fillna("").map(shape_name),
            "objective": trials["objective"],
            f"best {sweep.metric}": trials["best"],
            "steps": trials["steps"],
            "seconds": trials["seconds"],
            **({RAN_WITH: trials["ran_with"]} if _differ(trials) else {}),
            **{names[c.removeprefix("params.")]: trials[c] for c in params},
            "why it ended": trials["why"],
        }
    )
    caption = f"{counted(len(frame), 'trial')}; a click on a heading sorts"
    return Section("All trials", [words.searched(sweep), Table(caption, frame)])


def _setting_and_seed(shown: pd.DataFrame, trials: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns that tell which of the shown are of one setting, where any trials are."""
    if not trials["setting"].duplicated().any():
        return {}
    return {"setting": shown["setting"], "seed": shown["seed"]}


def _differ(trials: pd.DataFrame) -> bool:
    """Whether some trials ran with other settings, code or versions than others."""
    return "ran_with" in trials and bool(trials["ran_with"].any())


def _origin(sweep: Sweep) -> Section:
    sessions = [
        f"{s['started']}: {shlex.join(s['command'])} (commit {s['code']['commit'] or 'unknown'}"
        f"{', with changes' if s['code']['dirty'] else ''}){change}"
        for s, change in zip(sweep.provenance, _changes(sweep), strict=True)
    ]
    return Section("Where this comes from", [Items(sessions)] if sessions else [])


def _changes(sweep: Sweep) -> list[str]:
    """For each session in what it differed from the one before, if that is known."""
    known = [sweep.fingerprints.get(str(s.get("fingerprint", ""))) for s in sweep.provenance]
    said = [
        "; ".join(differences(was, now)) if was is not None and now is not None else ""
        for was, now in itertools.pairwise(known)
    ]
    return ["", *(f": {change}" if change else "" for change in said)] if known else []
