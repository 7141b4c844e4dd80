"""Sweeps driven by program: the page's snippets, what can be queued, and the tools of an agent."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import optuna
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from optuna.distributions import CategoricalDistribution, FloatDistribution

from iolaus.cli import app
from iolaus.cli.mcp import server
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.space import signature
from iolaus.sweeps.study.queueing import queue_setting

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/automation.md").read_text()
SNIPPETS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
READS = {"list_sweeps", "status", "ranking", "diagnose", "trial"}
WRITES = {"enqueue", "retry_failed", "stop"}


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, Any]:
    """How a process of a reader's shell is started: the app is there, and `iolaus` is a command."""
    shutil.copy(ROOT / "tests/apps/parabola.py", tmp_path)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "iolaus"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m iolaus.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"cwd": tmp_path, "env": {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}}


def test_every_command_has_json() -> None:
    """But for those that serve until they are ended, and the one that becomes a sweep."""
    without = {
        command.name
        for command in app.registered_commands
        if command.callback is not None and "as_json" not in command.callback.__annotations__
    }
    assert without == {"dashboard", "join", "mcp"}


@pytest.mark.slow
def test_the_pages_snippets_run(shell: dict[str, Any]) -> None:
    """One after the other, in one folder; what they print in JSON can be read."""
    printed = []
    for language, text in SNIPPETS:
        argv = ["sh", "-ec", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            argv, **shell, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed += done.stdout.splitlines()
    said = [json.loads(line) for line in printed if line.startswith("{")]
    assert said[0] == {"standing": "done"}
    assert said[-1]["lr"] == 0.3
    assert said[-1]["state"] == "complete"


def test_what_is_queued_is_checked() -> None:
    """Against what the study searches; the rest of the setting is the sampler's."""
    study = optuna.create_study()
    space = {"+lr": FloatDistribution(0.0, 1.0), "opt": CategoricalDistribution(["sgd", "adam"])}
    study.set_user_attr("search_space", signature(space))
    assert queue_setting(study, {"lr": 0.5}) == {"+lr": 0.5}
    assert study.trials[0].system_attrs["fixed_params"] == {"+lr": 0.5}
    for setting, why in (
        ({"lr": 2.0}, r"\+lr=2.0 lies outside \+lr=0.0 to 1.0"),
        ({"opt": "lion"}, "opt=lion lies outside opt=sgd, adam"),
        ({"wd": 1.0}, r"wd is not searched; the space has \+lr, opt"),
        ({}, r"name at least one parameter: \+lr, opt"),
    ):
        with pytest.raises(BadInputError, match=why):
            queue_setting(study, setting)
    assert len(study.trials) == 1


@pytest.mark.parametrize("allow_write", [False, True])
def test_an_agent_gets_no_tool_that_writes_unless_told(allow_write: bool, tmp_path: Path) -> None:
    """And nothing outside the folder that is served; a refusal is a sentence."""

    async def speak() -> None:
        async with Client(server(tmp_path, allow_write)) as client:
            tools = (await client.list_tools()).tools
            writes = {t.name for t in tools if not (t.annotations and t.annotations.read_only_hint)}
            assert {tool.name for tool in tools} - writes == READS
            assert writes == (WRITES if allow_write else set())
            assert all(tool.description for tool in tools)
            refused = await client.call_tool("status", {"sweep": "../other"})
            assert refused.is_error
            assert "../other lies outside" in refused.content[0].text  # type: ignore[union-attr]

    anyio.run(speak)


@pytest.mark.slow
def test_an_agent_reads_a_sweep_and_queues_a_setting(sweep: Any, tmp_path: Path) -> None:
    """Over standard input and output, through the library's own client."""
    sweep("parabola.py", "lr=interval(0.01, 0.5)", "hydra.sweeper.n_trials=3").ok()
    argv = ["-m", "iolaus.cli", "mcp", str(tmp_path), "--allow-write"]
    process = StdioServerParameters(
        command=sys.executable, args=argv, env={"PYTHONPATH": str(ROOT), **os.environ}
    )

    async def speak() -> dict[str, Any]:
        said: dict[str, Any] = {}
        async with Client(stdio_client(process)) as client:
            for tool, given in (
                ("list_sweeps", {}),
                *((tool, {"sweep": "study"}) for tool in ("status", "ranking", "diagnose")),
                ("trial", {"sweep": "study", "number": 1}),
                ("enqueue", {"sweep": "study", "setting": {"lr": 0.25}}),
            ):
                answer = await client.call_tool(tool, given)
                assert not answer.is_error, answer.content
                said[tool] = answer.structured_content
            wrong = await client.call_tool("enqueue", {"sweep": "study", "setting": {"lr": 7}})
            assert wrong.is_error
            assert "lr=7 lies outside" in wrong.content[0].text  # type: ignore[union-attr]
        return said

    said = anyio.run(speak)
    assert [one["sweep"] for one in said["list_sweeps"]["result"]] == ["study"]
    assert said["status"]["n_by_state"] == {"complete": 3}
    assert len(said["ranking"]["settings"]) == len(said["diagnose"]["trials"]) == 3
    assert said["trial"]["state"] == "complete"
    assert said["enqueue"]["queued"] == {"lr": 0.25}
