"""`python -m analysis COMMAND ...`: what a sweep says, in the terminal and in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="write report/ into a sweep's folder")
    report.add_argument("folder", type=Path, help="a sweep's folder, such as multirun/quickstart")
    report.set_defaults(run=_report)
    _add_replay(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")


def _report(arguments: argparse.Namespace) -> None:
    from analysis.report import write_report

    for path in write_report(arguments.folder):
        print(path)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = commands.add_parser("replay", help="what would each pruner have done on curves known to their end?")
    replay.add_argument(
        "curves", type=Path, help="a sweep's folder, a Parquet or CSV file: trial, step, loss [lr, task]"
    )
    replay.add_argument(
        "--pruner", nargs="+", action="extend", metavar="NAME", help="one or more of those compared (default: all)"
    )
    replay.add_argument("--workers", type=_at_least_one, default=8, help="trials that run at the same time (8)")
    replay.add_argument("--seeds", type=_at_least_one, default=5, help="random orders of the trials (5)")
    replay.add_argument("--json", action="store_true", help="for machines; draws only with --figure")
    replay.add_argument(
        "--rank-agreement", action="store_true", help="how early the order of the trials is that of the end"
    )
    replay.add_argument("--figure", type=Path, help="where to draw compute against quality (replay.png)")
    replay.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> None:
    from analysis import replay
    from analysis.replay_rules import RULES

    figure = arguments.figure
    if figure is None and not arguments.json:
        figure = arguments.curves / "report" / "replay.png" if arguments.curves.is_dir() else Path("replay.png")
    for text in replay.main(
        arguments.curves,
        arguments.pruner or list(RULES),
        n_workers=arguments.workers,
        n_seeds=arguments.seeds,
        as_json=arguments.json,
        agreement=arguments.rank_agreement,
        figure=figure,
        tell=lambda name: print(f"replaying {name}", file=sys.stderr),
    ):
        print(text)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: give at least 1")
    return number


if __name__ == "__main__":
    main()
