"""What several commands take, and what they need installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from iolaus.sweeps.errors import SweepError
from iolaus.sweeps.text import to_install

__all__ = [
    "AsJson",
    "Direction",
    "Folder",
    "Metric",
    "Overrides",
    "Run",
    "Setting",
    "Source",
    "Sources",
    "Step",
    "needs",
]

_SWEEP = "a sweep's folder, such as multirun/quickstart, finished or running"
_RUNS = f"{_SWEEP}; or runs of other tools"

Folder = Annotated[Path, typer.Argument(metavar="DIR", help=_SWEEP, show_default=False)]
Source = Annotated[Path, typer.Argument(metavar="DIR", help=_RUNS, show_default=False)]
Sources = Annotated[list[Path], typer.Argument(metavar="DIR", help=_RUNS, show_default=False)]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="what is watched, in runs of other tools (default: the loss)"
    ),
]
Step = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="the column of steps, in tables of other tools"),
]
Run = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="the column that names the run, in tables of other tools"),
]
Direction = Annotated[
    Literal["minimize", "maximize"] | None,
    typer.Option(help="of that metric (default: what its name says)"),
]
AsJson = Annotated[bool, typer.Option("--json", help="for machines: JSON on standard output")]


def _overrides(words: list[str] | None) -> list[str]:
    for word in words or []:
        if "=" not in word and not word.startswith("~"):
            raise typer.BadParameter(f"{word} is none: KEY=VALUE, +KEY=VALUE or ~KEY")
    return words or []


Setting = Annotated[
    list[str],
    typer.Argument(
        callback=_overrides,
        metavar="KEY=VALUE...",
        help="values of parameters that are searched; the sampler chooses the rest",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        callback=_overrides,
        metavar="OVERRIDE",
        help="Hydra overrides, as for `python -m iolaus.trainer`: KEY=VALUE, +sweep=NAME, ~KEY",
        show_default=False,
    ),
]


@contextmanager
def needs(extras: str) -> Iterator[None]:
    """For a command that imports what only these extras bring.

    Raises SweepError, naming that, where it is missing; a module of our own that is missing is no
    such case.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "iolaus":
            raise
        raise SweepError(
            f"this needs {error.name}, which is not installed: {to_install(extras)}"
        ) from error
