"""Commands that read a sweep: its table, report, ranking, diagnosis, and what to run next."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iolaus.cli.options import AsJson, Direction, Folder, Metric, Run, Source, Sources, Step, needs
from iolaus.cli.output import print_columns, print_frame, print_json, print_ranking
from iolaus.sweeps.errors import BadInputError, SweepError

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.data.sweep import Sweep
    from iolaus.analysis.ranking.seed_noise import SeedNoise

__all__ = [
    "compare",
    "convergence",
    "dashboard",
    "diagnose",
    "diff",
    "importance",
    "next_",
    "rank",
    "replay",
    "report",
    "show",
    "top_up",
]

# Of what was assumed of other tools' runs; each run may have its own.
MOST_NOTES = 5
# What the columns of `replay` are, in shares where it is not said.
REPLAY_COLUMNS = {
    "compute": "reports made, of all",
    "kept": "of the true best tenth (10 at most), ran to its end",
    "kept checkpoint": "of these, had shown its best",
    "regret": "best found above the true best, in distances of the median trial from it",
    "best after": "when the best had finished, of the time of all",
    "false prune": "of the stopped, those of the best tenth",
    "precision": "of the stopped, would not have improved",
    "recall": "of those that no longer improved, stopped",
}

# What the numbers of a trial's convergence are.
CONVERGENCE_COLUMNS = {
    "censored": "whether it ended before its run was over",
    "start": "the loss before training",
    "level": "where the curve ends, as the ranking measures it",
    "to_target": "first at the target",
    "area": "mean of the log of the loss",
    "half_way": "when half of its fall was done",
    "late_slope": "per step, of the last half",
    "noise": "of one report",
    "stalled_since": "from when on nothing was gained beyond noise",
    "rebound": "how far it has climbed back",
    "amplitude": "of its swings",
    "val_gap": "validation above training at the end",
    "clipped": "share of steps",
    "exploded_at": "where a gradient is above 10 times its median, which may pass",
}


@needs("analysis")
def show(
    folder: Source,
    trial: Annotated[
        int | None, typer.Argument(metavar="TRIAL", help="its number", show_default=False)
    ] = None,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """The ranked table of a sweep, or all that is known of one TRIAL."""
    if trial is None:
        _show_table(folder, as_json)
    else:
        _show_trial(_loaded(folder, metric, direction, step, run), trial, as_json)


def _show_table(folder: Path, as_json: bool) -> None:
    """The table of the end; needs none of what the analysis needs."""
    from rich.console import Console

    from iolaus.sweeps.study import summary
    from iolaus.sweeps.study.findings import lint_sentences
    from iolaus.sweeps.study.folder import describe_sweep, read_study
    from iolaus.sweeps.study.record import record_of

    study = read_study(folder)
    results = summary.rank(study)
    if as_json:
        print_json(results)
        return
    console = Console() if sys.stdout.isatty() else Console(width=200)
    metric = describe_sweep(folder).metric
    table = summary.table(results, metric, len(study.directions))
    console.print(table)
    print_columns([title for title, _ in table.columns], _shown_columns(metric))
    if text := summary.holdout_text(study):
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    findings = {
        trial.number: record_of(trial).findings for trial in study.get_trials(deepcopy=False)
    }
    for sentence in lint_sentences(findings):
        console.print(sentence, markup=False)


def _shown_columns(metric: str) -> dict[str, str]:
    """What the columns of the table are."""
    return {
        "trial": "or the first of a setting's",
        "objective": "what the sweep optimises, of completed trials",
        "± sd": "between the seeds of a setting",
        f"best {metric}": "on the curve",
        "steps": "the last step reported",
        "pauses": "how often it was paused",
    }


def _show_trial(sweep: Sweep, trial: int, as_json: bool) -> None:
    import pandas as pd

    from iolaus.analysis.diagnosis.shapes import shape_name
    from iolaus.analysis.report.terminal import as_table, cell, terminal
    from iolaus.analysis.report.trial import described

    about = described(sweep, trial)
    if "name" in sweep.trials:
        about = pd.concat([pd.Series({"name": sweep.trials["name"][trial]}), about])
    if as_json:
        print_json(about)
        return
    shown = about.map(
        lambda value: cell(" ".join(value) if isinstance(value, tuple) else value)
    )  # texts stand left
    shown = shown[shown != ""]
    if "shape" in shown:
        shown["shape"] = shape_name(shown["shape"])
    terminal().print(as_table(shown.rename("value").rename_axis("of this trial").reset_index()))
    print_columns(shown.index, CONVERGENCE_COLUMNS)


@needs("analysis")
def report(
    folder: Source,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="the folder to write to (default: report/ in a sweep's folder, "
            "NAME_report/ beside other runs)",
        ),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="how curves are drawn: 0 as reported; below 1, such as 0.9, the weight of what "
            "came before; from 2 up, over so many reports (default: a twentieth of the curve)",
            show_default=False,
        ),
    ] = None,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Write a sweep's report: one HTML page, and Markdown."""
    from iolaus.analysis.report.report import write_report

    page, text = write_report(folder, _loaded(folder, metric, direction, step, run), out, smooth)
    if as_json:
        print_json({"html": page, "markdown": text})
    else:
        print(page, text, sep="\n")


@needs("analysis")
def rank(
    folder: Source,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto", help="by all objectives at once; if there is one, by speed and so on, too"
        ),
    ] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="by the last value of this score; may be given several times"
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="SD|DIR",
            help="how much seeds of one setting differ, where each ran with one: a standard "
            "deviation, or a sweep that has measured it",
        ),
    ] = None,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Which settings are truly better, in tiers of those that tie."""
    from iolaus.analysis.data.sweep import is_sweep
    from iolaus.analysis.ranking import pareto as fronts
    from iolaus.analysis.ranking.rank import rank as ranked
    from iolaus.analysis.ranking.scores import scores

    if by and metric is None and not is_sweep(folder):
        metric = by[0]  # a table of several scores asks which to watch
    sweep = _loaded(folder, metric, direction, step, run)
    if by:
        several = scores(sweep, by, _noise(noise, by))
        if as_json:
            print_json({"sentences": several.sentences(), "settings": several.table})
            return
        print_frame(several.table, as_json=False)
        for sentence in several.sentences():
            print(sentence)
        return
    if not pareto:
        print_ranking(ranked(sweep, _noise(noise, [sweep.metric]).get(sweep.metric)), as_json)
        return
    found = fronts.pareto(sweep)
    if as_json:
        print_json({**found.attrs, "settings": found})
    else:
        print_frame(fronts.shown(found), as_json=False)


@needs("analysis")
def top_up(
    folder: Folder,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="for each setting of the first tier (default: as needed)"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be run")] = False,
    as_json: AsJson = False,
) -> None:
    """Run just the seeds that would settle first place."""
    import subprocess

    from iolaus.analysis.data.sweep import load
    from iolaus.analysis.diagnosis.next_trials import continuing
    from iolaus.analysis.ranking.rank import rank
    from iolaus.analysis.ranking.top_up import plan_top_up, run_top_up

    ranking = rank(load(folder))
    planned = plan_top_up(folder, ranking, seeds)
    for leader, _, seed in planned.repeats:
        _note(f"setting {leader} with seed {seed}")
    if not planned.repeats:
        _note(
            "first place is settled: nothing to run"
            if ranking.first
            else "no setting has completed: nothing to repeat"
        )
    elif dry_run:
        _note(f"in {planned.working_dir}: {planned}")
    else:
        output = sys.stderr.fileno() if as_json else None
        try:
            ranking = run_top_up(folder, planned, output=output)
        except subprocess.CalledProcessError as error:
            raise SweepError(
                f"the sweep's command failed ({error.returncode}): {planned}"
            ) from error
        # What the sweep printed of continuing is the command of these seeds alone.
        own = continuing(folder, load(folder))
        _note(f"to go on with the sweep, raise n_trials in its own command:\n  {own}")
    print_ranking(ranking, as_json)


@needs("analysis")
def compare(
    folders: Sources,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """The settings of several sweeps in one ranking."""
    from iolaus.analysis.ranking.rank import compare as compared

    print_ranking(
        compared([_loaded(folder, metric, direction, step, run) for folder in folders]), as_json
    )


@needs("analysis")
def diff(
    one: Annotated[
        str,
        typer.Argument(metavar="DIR[:TRIAL]", help="a sweep's folder and a trial, such as out:3"),
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="DIR[:TRIAL]", help="what to compare it with", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Where the curves of two runs part, and what differs in settings and code.

    With a DIR alone: which of its trials are identical in all their reports.
    """
    from iolaus.analysis.data.sweep import load
    from iolaus.analysis.difference import diff as compared
    from iolaus.analysis.difference import identical

    (folder, trial), of_other = _one_run(one), other and _one_run(other)
    sweep = load(folder)
    if not of_other:
        groups = identical(sweep)
        if as_json:
            print_json(groups)
            return
        for group in groups:
            print(f"trials {', '.join(map(str, group))} are identical in all their reports")
        if not groups:
            print("no two trials are identical in all their reports")
        return
    beside = sweep if of_other[0] == folder else load(of_other[0])
    found = compared(sweep, _the_run(sweep, trial), beside, _the_run(beside, of_other[1]))
    if as_json:
        print_json({"identical": found.identical, **vars(found)})
        return
    print(*found.sentences(), sep="\n")
    if len(found.curves):
        print_frame(found.curves, as_json=False)


def _one_run(word: str) -> tuple[Path, int | None]:
    """A folder and the number of a trial behind a colon, None if none is given."""
    folder, colon, number = word.rpartition(":")
    return (Path(folder), int(number)) if colon and number.isdecimal() else (Path(word), None)


def _the_run(sweep: Sweep, trial: int | None) -> int:
    if trial is not None:
        return trial
    if len(sweep.trials) != 1:
        raise SweepError(f"{sweep.name} has {len(sweep.trials)} trials: say which one, as in DIR:3")
    return int(sweep.trials.index[0])


@needs("analysis")
def importance(
    folder: Source,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Which parameters mattered, for the result and for each shape."""
    from iolaus.analysis import importance as analysed
    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.report.terminal import as_table, terminal
    from iolaus.analysis.single_changes import single_changes

    sweep = _loaded(folder, metric, direction, step, run)
    mattered = analysed.importance(sweep)
    interactions = analysed.interactions(sweep)
    shares = analysed.shares(sweep, diagnose(sweep))
    if as_json:
        found = mattered.reset_index()
        print_json({"importance": found, "interactions": interactions, "shares": shares})
        return
    console = terminal()
    console.print(
        "What separates the best trials from the rest:", as_table(mattered.reset_index()), sep="\n"
    )
    console.print(analysed.in_words(mattered), markup=False, highlight=False)
    together = interactions[interactions["p"] < analysed.CHANCE]
    pairs = as_table(together) if len(together) else "none, as far as these trials can tell"
    console.print("\nPairs of parameters whose effects do not just add up:", pairs, sep="\n")
    rules = shares["sentence"].tolist() or [
        "nowhere in particular, as far as these trials can tell"
    ]
    console.print("\nWhere the shapes of the curves live:", *rules, sep="\n", markup=False)
    if changes := single_changes(sweep):
        print("", "What a single change costs, all else equal:", *changes, sep="\n")


@needs("analysis")
def diagnose(
    folder: Source,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """The shape of each trial's loss, why, and what to do about it."""
    from iolaus.analysis.diagnosis.decays import decays
    from iolaus.analysis.diagnosis.diagnose import diagnose as diagnosed
    from iolaus.analysis.diagnosis.explosions import explosions
    from iolaus.analysis.diagnosis.idle_clipping import clipping_sentences
    from iolaus.analysis.diagnosis.shapes import shape_name
    from iolaus.sweeps.study.findings import lint_sentences

    sweep = _loaded(folder, metric, direction, step, run)
    table = _named(diagnosed(sweep), sweep)
    if not as_json:
        table = table.assign(fix=table["fix"].map(" ".join), shape=table["shape"].map(shape_name))
        table = table.drop(columns=["parameter", "advice"])
    if table.empty and not as_json:
        print(f"No trial has a curve of {sweep.metric} that could be judged.")
        return
    print_frame(table, as_json)
    if not as_json:
        found = (
            lint_sentences(sweep.findings),
            decays(sweep).sentences,
            explosions(sweep).sentences,
            clipping_sentences(sweep),
        )
        for sentences in filter(None, found):
            print("", *sentences, sep="\n")


@needs("analysis")
def convergence(
    folder: Source,
    axis: Annotated[
        Literal["step", "examples", "seconds"], typer.Option(help="of places")
    ] = "step",
    target: Annotated[
        float | None,
        typer.Option(help="a loss to reach (default: what half of the trials reach)"),
    ] = None,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """How each trial converged, in numbers; --json has all columns."""
    from iolaus.analysis.diagnosis import convergence as converging
    from iolaus.analysis.report.terminal import as_table, terminal

    sweep = _loaded(folder, metric, direction, step, run)
    found = converging.convergence(sweep, axis, target)
    table = _named(found, sweep)
    time = converging.time_to_target(found) if found["n_reports"].gt(0).any() else None
    if as_json:
        print_json({"target": found.attrs["target"], "time_to_target": time, "trials": table})
        return
    console = terminal()
    if table["last"].notna().any():
        columns = [
            c
            for c in ("trial", "name", "setting", "seed", "ran_with", *converging.SHOWN)
            if c in table
        ]
        console.print(as_table(table[columns]))
        print_columns(columns, CONVERGENCE_COLUMNS)
    nothing = f"No trial has a finite report of {sweep.metric}, so there is nothing to measure."
    console.print(time.sentence() if time else nothing, markup=False, highlight=False)


@needs("analysis")
def next_(
    folder: Source,
    n: Annotated[int, typer.Option(min=1, help="at most so many")] = 8,
    enqueue: Annotated[
        bool,
        typer.Option(
            "--enqueue", help="put those of the search space, or the nearest, into the queue"
        ),
    ] = False,
    run_all: Annotated[
        bool,
        typer.Option("--run", help="run them in the study, those outside of its space too"),
    ] = False,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Annotated[
        str | None, typer.Option("--run-column", help="of a table: the column that names the run")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What to try next: the suggested fixes, most promising first.

    With --run they are run, as trials of the sweep that say which trial they fix. One outside of
    the search space says so in every table, and teaches the sampler nothing.
    """
    from dataclasses import asdict

    from iolaus.analysis.diagnosis import next_trials as following
    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.report.terminal import as_table, terminal

    sweep = _loaded(folder, metric, direction, step, run)
    trials = following.next_trials(sweep, diagnose(sweep))[:n]
    can_queue = enqueue or run_all
    queued = following.enqueue(folder, trials, beyond=run_all) if can_queue else []
    if as_json:
        print_json([asdict(trial) | {"queued": trial in queued} for trial in trials])
        if run_all and queued:
            following.run_queued(folder, sweep, output=sys.stderr.fileno())
        return
    console = terminal()
    if not trials:
        console.print("No trial has a problem with a suggested fix.")
        return
    console.print(as_table(following.as_frame(trials)))
    for trial in trials:
        if trial.outside and (nearest := trial.nearest_text()):
            text = f"Of {' '.join(trial.overrides)} the nearest in the search space: {nearest}"
            console.print(text, markup=False, soft_wrap=True)
        if trial.outside and trial.command and not run_all:
            console.print(f"By itself:\n  {trial.command}", markup=False, soft_wrap=True)
    if run_all:
        if not queued:
            console.print("All of them have been queued before.")
        elif (code := following.run_queued(folder, sweep)) != 0:
            raise SweepError(f"the sweep's command failed ({code}); what is queued stays so")
        return
    if not enqueue and sweep.provenance:
        console.print(
            "\n--run runs them in the study; --enqueue puts those of the search space, or the "
            "nearest there, into its queue.",
            markup=False,
            soft_wrap=True,
        )
    if queued:
        command = following.continuing(folder, sweep)
        console.print(
            f"\n{len(queued)} queued. To run them:\n  {command}", markup=False, soft_wrap=True
        )


@needs("analysis")
def replay(
    curves: Annotated[
        Path,
        typer.Argument(
            metavar="CURVES",
            help="a sweep's folder, a table of trial, step, loss [lr, task], or runs of other "
            "tools",
            show_default=False,
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRUNER", help="more of those compared", show_default=False),
    ] = None,
    pruner: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME...", help="those compared (default: all)"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="trials that run at the same time")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="random orders of the trials")] = 5,
    rank_agreement: Annotated[
        bool,
        typer.Option(
            "--rank-agreement", help="how early the order of the trials is that of the end"
        ),
    ] = False,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast", help="how well a quarter of the run tells that nothing more will come"
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="where to draw compute against quality (default: replay.png, "
            "in a sweep's report/; none with --json)",
        ),
    ] = None,
    metric: Metric = None,
    direction: Direction = None,
    step: Step = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """What each pruner would have done, on finished curves."""
    from iolaus.analysis.replay import command
    from iolaus.analysis.replay._curves import read
    from iolaus.analysis.replay.rules import RULES

    if figure is None and not as_json:
        figure = curves / "report" / "replay.png" if curves.is_dir() else Path("replay.png")
    for text in command.main(
        read(curves, metric, direction, step, run),
        [*(pruner or []), *(more or [])] or list(RULES),
        n_workers=workers,
        n_seeds=seeds,
        as_json=as_json,
        agreement=rank_agreement,
        forecast=forecast,
        figure=figure,
        tell=lambda name: _note(f"replaying {name}"),
    ):
        print(text)
    if not as_json:
        print_columns(REPLAY_COLUMNS, REPLAY_COLUMNS)


@needs("analysis,dashboard")
def dashboard(
    folder: Folder,
    port: Annotated[int, typer.Option(help="0 for any that is free")] = 8080,
) -> None:
    """Open optuna-dashboard on a sweep, with diagnosis and notes."""
    from iolaus.sweeps.study.folder import describe_sweep

    describe_sweep(folder)
    from iolaus.analysis.report.dashboard import serve

    serve(folder, port)


def _noise(said: str | None, names: Sequence[str]) -> Mapping[str, SeedNoise]:
    """What `--noise` says of each of these scores: one number for all, or what a sweep measured."""
    from iolaus.analysis.data.sweep import load
    from iolaus.analysis.ranking.scores import scores
    from iolaus.analysis.ranking.seed_noise import SeedNoise

    if said is None:
        return {}
    try:
        number = float(said)
    except ValueError:
        sweep = load(Path(said))
        found = {}
        for name, ranking in scores(sweep, names).rankings.items():
            if not ranking.is_repeated:
                raise BadInputError(
                    f"{said} says nothing of the noise of seeds: it has repeated no setting"
                ) from None
            evidence = f"repeated settings of the sweep {sweep.name}"
            found[name] = SeedNoise(ranking.noise, ranking.noise_df, "given", evidence)
        return found
    if not number > 0:
        raise BadInputError(f"--noise is a standard deviation above 0, or a folder; got {said}")
    return {name: SeedNoise(number, math.inf, "given", "what --noise says") for name in names}


def _loaded(
    source: Path, metric: str | None, direction: str | None, step: str | None, run: str | None
) -> Sweep:
    from iolaus.analysis.data.sweep import is_sweep, load

    sweep = load(source, metric, direction, step, run)
    for note in sweep.notes[:MOST_NOTES]:
        _note(note)
    if len(sweep.notes) > MOST_NOTES:
        _note(f"and {len(sweep.notes) - MOST_NOTES} more such notes")
    if direction is None and sweep.directions[0] == "maximize" and not is_sweep(source):
        _note(
            f"{sweep.metric} is taken to be better when it is higher (else: --direction minimize)"
        )
    return sweep


def _named(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The rows of trials, as columns.

    Beside each number the name of the run, where other tools gave it one, what it ran with, where
    trials differ in it, and its setting and seed, where settings were repeated.
    """
    table = table.reset_index()
    if sweep.trials["setting"].duplicated().any():
        for column in ("seed", "setting"):
            table.insert(1, column, table["trial"].map(sweep.trials[column]))
    if "ran_with" in sweep.trials and sweep.trials["ran_with"].any():
        table.insert(1, "ran_with", table["trial"].map(sweep.trials["ran_with"]))
    if "name" in sweep.trials:
        table.insert(1, "name", table["trial"].map(sweep.trials["name"]))
    return table


def _note(text: str) -> None:
    """Say what is not the result: on stderr, where it does not mix with it."""
    print(text, file=sys.stderr)
