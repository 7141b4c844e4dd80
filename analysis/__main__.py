"""`python -m analysis COMMAND ...`: what a sweep says, in the terminal and in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.data.sweep import Sweep
    from iolaus.analysis.ranking.rank import Ranking


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_report(commands)
    _add_replay(commands)
    _add_rank(commands)
    _add_race(commands)
    _add_compare(commands)
    _add_importance(commands)
    _add_diagnose(commands)
    _add_convergence(commands)
    _add_next(commands)
    _add_show(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")


def _add_source(command: argparse.ArgumentParser, several: bool = False) -> None:
    """What every command that reads runs is told of them; `_loaded` reads them."""
    which = (
        "a sweep's folder, such as multirun/quickstart, finished or running; or runs of other tools"
    )
    if several:
        command.add_argument("folders", type=Path, nargs="+", metavar="folder", help=which)
    else:
        command.add_argument("folder", type=Path, help=which)
    command.add_argument(
        "--metric",
        metavar="NAME",
        help="what is watched, in runs of other tools (default: the loss)",
    )
    command.add_argument(
        "--direction",
        choices=("minimize", "maximize"),
        help="of that metric (default: what its name says)",
    )


def _loaded(arguments: argparse.Namespace, source: Path | None = None) -> Sweep:
    from iolaus.analysis.data.sweep import is_sweep, load

    source = source or arguments.folder
    sweep = load(source, arguments.metric, arguments.direction)
    if arguments.direction is None and sweep.directions[0] == "maximize" and not is_sweep(source):
        print(
            f"{sweep.metric} is taken to be better when it is higher (else: --direction minimize)",
            file=sys.stderr,
        )
    return sweep


def _named(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The rows of trials, as columns.

    Beside each number the name of the run, where other tools gave it one.
    """
    table = table.reset_index()
    if "name" in sweep.trials:
        table.insert(1, "name", table["trial"].map(sweep.trials["name"]))
    return table


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report", help="write a sweep's report: one HTML page, and Markdown"
    )
    _add_source(report)
    report.add_argument(
        "--out",
        type=Path,
        help="the folder to write to (report/ in a sweep's folder, NAME_report/ beside other runs)",
    )
    report.add_argument("--json", action="store_true", help="print the paths for machines")
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    import json

    from iolaus.analysis.report.report import write_report

    page, text = write_report(arguments.folder, _loaded(arguments), arguments.out)
    print(
        json.dumps({"html": str(page), "markdown": str(text)})
        if arguments.json
        else f"{page}\n{text}"
    )


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = commands.add_parser(
        "replay", help="what would each pruner have done on curves known to their end?"
    )
    replay.add_argument(
        "curves",
        type=Path,
        help="a sweep's folder, a Parquet or CSV file: trial, step, loss [lr, task]",
    )
    replay.add_argument(
        "--pruner",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="one or more of those compared (default: all)",
    )
    replay.add_argument(
        "--workers", type=_at_least_one, default=8, help="trials that run at the same time (8)"
    )
    replay.add_argument(
        "--seeds", type=_at_least_one, default=5, help="random orders of the trials (5)"
    )
    replay.add_argument(
        "--json", action="store_true", help="for machines; draws only with --figure"
    )
    replay.add_argument(
        "--rank-agreement",
        action="store_true",
        help="how early the order of the trials is that of the end",
    )
    replay.add_argument(
        "--forecast",
        action="store_true",
        help="how well a quarter of the run tells that nothing more will come",
    )
    replay.add_argument(
        "--figure", type=Path, help="where to draw compute against quality (replay.png)"
    )
    replay.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> None:
    from iolaus.analysis.replay import comparison as replay
    from iolaus.analysis.replay.rules import RULES

    figure = arguments.figure
    if figure is None and not arguments.json:
        figure = (
            arguments.curves / "report" / "replay.png"
            if arguments.curves.is_dir()
            else Path("replay.png")
        )
    for text in replay.main(
        arguments.curves,
        arguments.pruner or list(RULES),
        n_workers=arguments.workers,
        n_seeds=arguments.seeds,
        as_json=arguments.json,
        agreement=arguments.rank_agreement,
        forecast=arguments.forecast,
        figure=figure,
        tell=lambda name: print(f"replaying {name}", file=sys.stderr),
    ):
        print(text)


def _add_rank(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "rank", help="which settings are truly better, in tiers of those that tie"
    )
    _add_source(command)
    command.add_argument(
        "--pareto",
        action="store_true",
        help="by all objectives at once; if there is one, by speed and so on, too",
    )
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_rank)


def _rank(arguments: argparse.Namespace) -> None:
    import json

    from iolaus.analysis.ranking.pareto import pareto, shown
    from iolaus.analysis.ranking.rank import rank

    sweep = _loaded(arguments)
    if not arguments.pareto:
        _print_ranking(rank(sweep), arguments.json)
        return
    found = pareto(sweep)
    if arguments.json:
        print(json.dumps(_plain(found.attrs) | {"settings": _plain(found)}))
    else:
        _print_frame(shown(found), as_json=False)


def _add_race(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("race", help="run just the seeds that would settle first place")
    command.add_argument("folder", type=Path, help="a sweep's folder")
    command.add_argument(
        "--seeds",
        type=_at_least_one,
        help="for each setting of the first tier (default: as needed)",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be run")
    command.add_argument("--json", action="store_true", help="for machines: the ranking afterwards")
    command.set_defaults(run=_race)


def _race(arguments: argparse.Namespace) -> None:
    import subprocess

    from iolaus.analysis.data.sweep import load
    from iolaus.analysis.diagnosis.next_trials import continuing
    from iolaus.analysis.ranking.rank import rank
    from iolaus.analysis.ranking.top_up import plan_top_up, run_top_up

    ranking = rank(load(arguments.folder))
    race = plan_top_up(arguments.folder, ranking, arguments.seeds)
    for leader, _, seed in race.repeats:
        print(f"setting {leader} with seed {seed}", file=sys.stderr)
    if not race.repeats:
        settled = "first place is settled: nothing to run"
        print(
            settled if ranking.first else "no setting has completed: nothing to race",
            file=sys.stderr,
        )
    elif arguments.dry_run:
        print(f"in {race.working_dir}: {race}", file=sys.stderr)
    else:
        try:
            ranking = run_top_up(
                arguments.folder, race, output=sys.stderr.fileno() if arguments.json else None
            )
        except subprocess.CalledProcessError as error:
            sys.exit(f"analysis: the sweep's command failed ({error.returncode}): {race}")
        # What the race printed of continuing is its own command.
        own = continuing(arguments.folder, load(arguments.folder))
        print(
            f"to go on with the sweep, raise n_trials in its own command:\n  {own}", file=sys.stderr
        )
    _print_ranking(ranking, arguments.json)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("compare", help="the settings of several sweeps in one ranking")
    _add_source(command, several=True)
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from iolaus.analysis.ranking.rank import compare

    _print_ranking(
        compare([_loaded(arguments, folder) for folder in arguments.folders]), arguments.json
    )


def _add_importance(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "importance", help="which parameters mattered, for the result and for each shape"
    )
    _add_source(command)
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_importance)


def _importance(arguments: argparse.Namespace) -> None:
    import json

    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.importance import CHANCE, importance, in_words, interactions, shares
    from iolaus.analysis.report.terminal import as_table, terminal

    sweep = _loaded(arguments)
    mattered = importance(sweep)
    found = {
        "importance": mattered.reset_index(),
        "interactions": interactions(sweep),
        "shares": shares(sweep, diagnose(sweep)),
    }
    if arguments.json:
        print(
            json.dumps(
                {name: json.loads(frame.to_json(orient="records")) for name, frame in found.items()}
            )
        )
        return
    console = terminal()
    console.print(
        "What separates the best trials from the rest:", as_table(found["importance"]), sep="\n"
    )
    console.print(in_words(mattered), markup=False, highlight=False)
    together = found["interactions"][found["interactions"]["p"] < CHANCE]
    pairs = as_table(together) if len(together) else "none, as far as these trials can tell"
    console.print("\nPairs of parameters whose effects do not just add up:", pairs, sep="\n")
    rules = found["shares"]["sentence"].tolist() or [
        "nowhere in particular, as far as these trials can tell"
    ]
    console.print("\nWhere the shapes of the curves live:", *rules, sep="\n", markup=False)


def _add_diagnose(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "diagnose", help="the shape of each trial's loss, why, and what to do about it"
    )
    _add_source(command)
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> None:
    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.diagnosis.shapes import shape_name

    sweep = _loaded(arguments)
    table = _named(diagnose(sweep), sweep)
    if not arguments.json:
        table = table.assign(fix=table["fix"].map(" ".join), shape=table["shape"].map(shape_name))
        table = table.drop(columns=["parameter", "advice"])
    if table.empty and not arguments.json:
        print(f"No trial has a curve of {sweep.metric} that could be judged.")
        return
    _print_frame(table, arguments.json)


def _add_convergence(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("convergence", help="how each trial converged, in numbers")
    _add_source(command)
    command.add_argument(
        "--axis", choices=("step", "examples", "seconds"), default="step", help="of places (step)"
    )
    command.add_argument(
        "--target", type=float, help="a loss to reach (default: what half of the trials reach)"
    )
    command.add_argument("--json", action="store_true", help="for machines, with all columns")
    command.set_defaults(run=_convergence)


def _convergence(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from iolaus.analysis.diagnosis.convergence import SHOWN, convergence, time_to_target
    from iolaus.analysis.report.terminal import as_table, terminal

    sweep = _loaded(arguments)
    found = convergence(sweep, arguments.axis, arguments.target)
    table = _named(found, sweep)
    time = time_to_target(found) if found["n_reports"].gt(0).any() else None
    if arguments.json:
        about = {"target": found.attrs["target"], "time_to_target": time and asdict(time)}
        print(json.dumps(_plain(about) | {"trials": _plain(table)}))
        return
    console = terminal()
    if table["last"].notna().any():
        console.print(as_table(table[[c for c in ("trial", "name", *SHOWN) if c in table]]))
    nothing = f"No trial has a finite report of {sweep.metric}, so there is nothing to measure."
    console.print(time.sentence() if time else nothing, markup=False, highlight=False)


def _add_next(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "next",
        help="what to try next: the suggested fixes of trials with problems, the most promising first",
    )
    _add_source(command)
    command.add_argument("--n", type=_at_least_one, default=8, help="at most so many (8)")
    command.add_argument(
        "--enqueue",
        action="store_true",
        help="put those of the search space into the study's queue",
    )
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_next)


def _next(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.diagnosis.next_trials import as_frame, continuing, enqueue, next_trials
    from iolaus.analysis.report.terminal import as_table, terminal

    sweep = _loaded(arguments)
    trials = next_trials(sweep, diagnose(sweep))[: arguments.n]
    queued = enqueue(arguments.folder, trials) if arguments.enqueue else []
    if arguments.json:
        print(json.dumps([asdict(trial) | {"queued": trial in queued} for trial in trials]))
        return
    console = terminal()
    if not trials:
        console.print("No trial has a problem with a suggested fix.")
        return
    console.print(as_table(as_frame(trials)))
    for trial in trials:
        if trial.command and trial.outside:
            outside = f"\nOutside of the search space ({trial.outside}):\n  {trial.command}"
            console.print(outside, markup=False, soft_wrap=True)
    if not arguments.enqueue and any(trial.params for trial in trials):
        console.print(
            "\n--enqueue puts those of the search space into the sweep's queue.", markup=False
        )
    if queued:
        command = continuing(arguments.folder, sweep)
        console.print(
            f"\n{len(queued)} queued. To run them:\n  {command}", markup=False, soft_wrap=True
        )


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("show", help="one trial: its setting, shape, convergence and fix")
    _add_source(command)
    command.add_argument("trial", type=int, help="its number")
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> None:
    import pandas as pd

    from iolaus.analysis.diagnosis.shapes import shape_name
    from iolaus.analysis.report.terminal import as_table, cell, terminal
    from iolaus.analysis.report.trial import described

    sweep = _loaded(arguments)
    about = described(sweep, arguments.trial)
    if "name" in sweep.trials:
        about = pd.concat([pd.Series({"name": sweep.trials["name"][arguments.trial]}), about])
    if arguments.json:
        print(about.to_json())
        return
    shown = about.map(
        lambda value: cell(" ".join(value) if isinstance(value, tuple) else value)
    )  # texts stand left
    shown = shown[shown != ""]
    if "shape" in shown:
        shown["shape"] = shape_name(shown["shape"])
    terminal().print(as_table(shown.rename("value").rename_axis("of this trial").reset_index()))


def _print_ranking(ranking: Ranking, as_json: bool) -> None:
    import json

    from iolaus.analysis.ranking.rank import as_document
    from iolaus.analysis.report.terminal import as_table, terminal
    from iolaus.sweeps.text import short_names

    if as_json:
        print(json.dumps(as_document(ranking)))
        return
    console = terminal()
    table = ranking.shown()
    params = [
        c.removeprefix("params.")
        for c in map(str, ranking.table.columns)
        if c.startswith("params.")
    ]
    names = short_names([name for name in params if name in table])
    console.print(
        as_table(
            table.rename(columns={key: name for key, name in names.items() if name not in table})
        )
    )
    for sentence in ranking.sentences():
        console.print(sentence, markup=False, highlight=False)


def _print_frame(frame: pd.DataFrame, as_json: bool) -> None:
    from iolaus.analysis.report.terminal import as_table, terminal

    print(frame.to_json(orient="records")) if as_json else terminal().print(as_table(frame))


def _plain(what: pd.DataFrame | Mapping[Any, Any]) -> Any:
    """The rows of a frame as records, or a mapping, as plain data for JSON.

    NaN and infinity become None.
    """
    import json

    import pandas as pd

    frame = what if isinstance(what, pd.DataFrame) else pd.DataFrame([what])
    rows = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows if isinstance(what, pd.DataFrame) else rows[0]


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: give at least 1")
    return number


if __name__ == "__main__":
    main()
