"""`python -m sweeps COMMAND DIR`: look at a sweep's study."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import optuna
from rich.console import Console

from iolaus.sweeps.errors import SweepError
from iolaus.sweeps.study import summary
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.folder import describe_sweep


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sweeps", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "show", help="print the ranked table of a sweep, finished or running"
    )
    show.set_defaults(run=_show)
    dashboard = commands.add_parser("dashboard", help="open optuna-dashboard on a sweep")
    dashboard.add_argument("--port", type=int, default=8080, help="(8080; 0 for any that is free)")
    dashboard.set_defaults(run=_dashboard)
    for command in (show, dashboard):
        command.add_argument(
            "folder", type=Path, help="a sweep's folder, such as multirun/quickstart"
        )
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (SweepError, FileNotFoundError) as error:
        sys.exit(f"sweeps: {error}")


def _show(arguments: argparse.Namespace) -> None:
    about = describe_sweep(arguments.folder)
    study = optuna.load_study(
        study_name=about.study_name, storage=open_backend(about.storage, only_reads=True)
    )
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(summary.table(summary.rank(study), about.metric, len(study.directions)))


def _dashboard(arguments: argparse.Namespace) -> None:
    describe_sweep(arguments.folder)
    try:  # by name: nothing of sweeps depends on analysis
        serve = importlib.import_module("iolaus.analysis.report.dashboard").serve
    except ImportError as error:
        sys.exit(f"sweeps: no dashboard: {error}; pip install 'hydra-iolaus[analysis,dashboard]'")
    serve(arguments.folder, arguments.port)


if __name__ == "__main__":
    main()
