"""`iolaus mcp`: sweeps for agents, over the Model Context Protocol.

Each tool is a command of `iolaus` with `--json`, run as a process of its own: what a shell can ask,
an agent can, in the same words, and standard output is left to the protocol.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iolaus.cli.options import needs
from iolaus.sweeps.errors import BadInputError, SweepError

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["mcp", "server"]

TIMEOUT_S = 120.0
ABOUT = (
    "Hyperparameter sweeps of Hydra apps on this machine. Begin with list_sweeps; every other tool "
    "takes one of its names. `metric_goal` says which way a metric is better."
)


@needs("mcp")
def mcp(
    root: Annotated[
        Path, typer.Argument(metavar="DIR", help="the folder whose sweeps are offered")
    ] = Path("multirun"),
    allow_write: Annotated[
        bool, typer.Option("--allow-write", help="offer enqueue, retry and stop too")
    ] = False,
) -> None:
    """Serve sweeps to an agent (Model Context Protocol) on standard input and output.

    Read-only, unless --allow-write is given.
    """
    server(root, allow_write).run()


def server(root: Path, allow_write: bool) -> MCPServer:
    """The server; root: the folder outside which nothing is read or written."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations

    made = MCPServer("iolaus", instructions=ABOUT, log_level="WARNING")
    reads, writes = (ToolAnnotations(read_only_hint=is_read) for is_read in (True, False))

    def ask(command: str, sweep: str, *words: str) -> Any:
        try:
            return _asked(command, str(_inside(root, sweep)), *words)
        except SweepError as error:
            raise ToolError(str(error)) from error

    @made.tool(annotations=reads)
    def list_sweeps() -> list[dict[str, Any]]:
        """The sweeps there are, newest first: name, metric, metric_goal, n_trials."""
        return _sweeps(root)

    @made.tool(annotations=reads)
    def status(sweep: str) -> dict[str, Any]:
        """Where a sweep stands: trials by state, the best, what runs, how long the rest takes."""
        return dict(ask("status", sweep))

    @made.tool(annotations=reads)
    def ranking(sweep: str) -> dict[str, Any]:
        """Which settings are truly better, in tiers of those that tie, and what is known of it."""
        return dict(ask("rank", sweep))

    @made.tool(annotations=reads)
    def diagnose(sweep: str) -> dict[str, Any]:
        """How each trial's loss went (converged, stalled, diverged, ...), and what may fix it."""
        return {"trials": ask("diagnose", sweep)}

    @made.tool(annotations=reads)
    def trial(sweep: str, number: int) -> dict[str, Any]:
        """All that is known of one trial."""
        return dict(ask("show", sweep, str(number)))

    if not allow_write:
        return made

    @made.tool(annotations=writes)
    def enqueue(sweep: str, setting: dict[str, Any]) -> dict[str, Any]:
        """Queue a setting to be run next: values of some or all searched parameters, by key."""
        words = (f"{key}={json.dumps(value)}" for key, value in setting.items())
        return dict(ask("enqueue", sweep, *words))

    @made.tool(annotations=writes)
    def retry_failed(sweep: str) -> dict[str, Any]:
        """Queue the settings of all failed trials again."""
        return dict(ask("retry", sweep, "--failed"))

    @made.tool(annotations=writes)
    def stop(sweep: str, finish: bool = False) -> dict[str, Any]:
        """End a sweep that runs, to go on later; finish: let its running trials finish first."""
        return dict(ask("stop", sweep, *(["--finish"] if finish else [])))

    return made


def _sweeps(root: Path) -> list[dict[str, Any]]:
    from iolaus.sweeps.study.folder import SWEEP_FILE, describe_sweep

    found = sorted(root.rglob(SWEEP_FILE), key=lambda path: path.stat().st_mtime, reverse=True)
    sweeps = []
    for path in found:
        name = str(path.parent.relative_to(root))
        try:
            about = describe_sweep(path.parent)
        except (OSError, SweepError) as error:
            sweeps.append({"sweep": name, "problem": str(error)})
            continue
        known = {key: about.get(key) for key in ("metric", "metric_goal", "n_trials")}
        sweeps.append({"sweep": name, **known})
    return sweeps


def _inside(root: Path, sweep: str) -> Path:
    folder = (root / sweep).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise BadInputError(f"{sweep} lies outside {root}, whose sweeps are offered here")
    return folder


def _asked(command: str, *words: str) -> Any:
    """What a command of `iolaus` says in JSON. Raises SweepError with its own sentence."""
    argv = [sys.executable, "-m", "iolaus.cli", command, "--json", "--", *words]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SweepError(f"iolaus {command} took longer than {TIMEOUT_S:g} s") from error
    if not done.stdout.strip():
        said = done.stderr.strip().removeprefix("iolaus: ")
        raise SweepError(said or f"iolaus {command} ended with {done.returncode}")
    return json.loads(done.stdout)
