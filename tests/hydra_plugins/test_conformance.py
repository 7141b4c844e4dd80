"""Hydra's own conformance suites for sweepers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

from hydra_plugins.iolaus.sweeper import IolausSweeper

# The suites expect every combination, once, in Hydra's order: that is a grid. Some of their tasks
# return no number, which fails a trial; some run twice in one folder, which would continue a study
# that was kept.
GRID = [
    "hydra/sweeper=iolaus",
    "hydra/sweeper/sampler=grid",
    "hydra.sweeper.n_jobs=2",
    "hydra.sweeper.report=null",
    "hydra.sweeper.max_failure_rate=1",
    "hydra.sweeper.storage='sqlite://'",
]

# The suites use Hydra's defaults from before 1.2, about which Hydra itself warns.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_discovery() -> None:
    """Hydra finds the sweeper."""
    assert IolausSweeper.__name__ in [
        plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)
    ]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", GRID)])
class TestLauncherSuite(LauncherTestSuite):
    """Jobs, their overrides, configs and folders are what Hydra's basic sweeper would make."""

    # Of Hydra 1.4. A trial's exception stays in its worker: what it said is raised, and its
    # traceback is in the trial's log.
    test_failure_preserves_task_traceback = None


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", GRID)])
class TestBatchedSuite(BatchedSweeperTestSuite):
    """Results come in rows of one per slot."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", *GRID])],
)
class TestIntegrationSuite(IntegrationTestSuite):
    """Names, folders and working directories of jobs of a real app, started from a shell."""


@pytest.fixture(autouse=True)
def _fresh_overrides(request: pytest.FixtureRequest) -> Any:
    # The suites append to the list they are given.
    if "overrides" in request.fixturenames:
        kept = list(GRID)
        yield
        GRID[:] = kept
    else:
        yield


def test_a_sweep_that_was_called_is_continued_by_the_call(
    hydra_sweep_runner: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no command line asked for it (hydra-zen's `launch`), none is named at its end."""
    sweep = hydra_sweep_runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        task_function=lambda cfg: cfg.foo,
        config_path="configs",
        config_name="compose.yaml",
        overrides=["hydra/sweeper=iolaus", "hydra.sweeper.report=null", "foo=1,2"],
        temp_dir=str(tmp_path),
    )
    with sweep:
        pass
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "continue" in line]
    call = "the same call again, with the overrides hydra.sweep.dir="
    assert line.split(maxsplit=1)[1] == f"{call}{tmp_path} hydra.sweeper.n_trials=40"


def test_the_plugin_costs_a_hydra_app_next_to_nothing() -> None:
    """Hydra imports both modules whenever any app starts; they bring nothing that Hydra has not."""
    script = (
        "import sys, hydra, hydra.core.plugins, hydra.plugins.sweeper; before = set(sys.modules);"
        "import hydra_plugins.iolaus.config, hydra_plugins.iolaus.sweeper;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert {*done.stdout.split()} <= {"hydra_plugins", "__future__"}
