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
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except FileNotFoundError as error:
        sys.exit(f"analysis: {error}")


def _report(arguments: argparse.Namespace) -> None:
    from analysis.report import write_report

    for path in write_report(arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
