"""The `iolaus` command.

Each function of `reading`, `running`, `training` and `mcp` is a command; here they get their names,
and their errors one sentence. Everything heavy is imported inside the commands, so that help is
immediate.
"""

from __future__ import annotations

import sys

import typer

from iolaus.cli import mcp, reading, running, training
from iolaus.sweeps.errors import SweepError

__all__ = ["app", "main"]

app = typer.Typer(
    help="What a sweep says: its ranking, report and diagnosis, and what to run next.",
    epilog="A sweep is run by its own app: python train.py --multirun hydra/sweeper=iolaus ...",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("show")(reading.show)
app.command("report")(reading.report)
app.command("rank")(reading.rank)
app.command("top-up")(reading.top_up)
app.command("race", hidden=True)(reading.top_up)  # what top-up was called
app.command("diagnose")(reading.diagnose)
app.command("next")(reading.next_)
app.command("importance")(reading.importance)
app.command("compare")(reading.compare)
app.command("diff")(reading.diff)
app.command("convergence")(reading.convergence)
app.command("status")(running.status)
app.command("preview")(running.preview)
app.command("retry")(running.retry)
app.command("join")(running.join)
app.command("enqueue")(running.enqueue)
app.command("extend")(running.extend)
app.command("stop")(running.stop)
app.command("wait")(running.wait)
app.command("log")(running.log)
app.command("replay")(reading.replay)
app.command("dashboard")(reading.dashboard)
app.command("mcp")(mcp.mcp)
app.command("lint")(training.lint)
app.command("lanes-check")(training.lanes_check)
app.command("gallery")(training.gallery)


def main() -> None:
    """Run the command of `sys.argv`.

    Exit code 0; 1 with one sentence on stderr for what cannot be done; 2 for a command that cannot
    be understood. `stop` and `wait` have more.
    """
    try:
        app(prog_name="iolaus")
    except (OSError, ValueError, SweepError) as error:
        sys.exit(f"iolaus: {error}")
