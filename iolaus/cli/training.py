"""Commands of the reference trainer: what a config would do, before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iolaus.cli.options import AsJson, Overrides, needs
from iolaus.cli.output import print_json

__all__ = ["gallery", "lanes_check", "lint"]


@needs("trainer")
def lint(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What is wrong with a run, or a search space, before training.

    Prints the planned learning rate and the findings, and draws lint.png.
    """
    import optuna

    from iolaus.trainer.lint_command import lint_command

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(lint_command(overrides or [], as_json))


@needs("trainer")
def lanes_check(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Whether a task can be trained in lanes, and is faster so."""
    from iolaus.trainer.lanes.check import check_command

    print(check_command(overrides or [], as_json))


@needs("trainer")
def gallery(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="where to draw")] = Path(
        "schedules.png"
    ),
    as_json: AsJson = False,
) -> None:
    """Draw all shipped learning-rate schedules."""
    from iolaus.trainer.gallery import draw

    draw(path)
    print_json({"figure": path}) if as_json else print(path)
