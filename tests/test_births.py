"""Workers come to the user's code, whatever the app's module has started before there are any."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

ROOT, APPS = Path(__file__).parent.parent, Path(__file__).parent / "apps"
GIVEN = ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "+x=interval(0, 1)"]
SPAWNED = "workers are spawned, each imports the app again: "


@pytest.mark.parametrize(
    "of", ["openmp", pytest.param("scikit_learn", marks=pytest.mark.slow), "pool_of_threads"]
)
def test_threads_at_module_level_hang_no_worker(of: str, sweep: Any, study: Any) -> None:
    """Each worker is a fresh interpreter, with threads of its own; the reason is said once."""
    pytest.importorskip({"openmp": "torch", "scikit_learn": "sklearn"}.get(of, "sys"))
    run = sweep("threaded.py", *GIVEN, THREADS=of, OMP_NUM_THREADS="2").ok()
    assert run.out.count(SPAWNED) == 1
    assert "a worker takes about" in run.out
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3


@pytest.mark.gpu
def test_cuda_at_module_level_is_no_matter(sweep: Any, study: Any) -> None:
    """Workers are spawned, and use the GPU themselves."""
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no GPU")
    run = sweep("threaded.py", *GIVEN, THREADS="cuda").ok()
    assert f"{SPAWNED}CUDA is in use in this process" in run.out
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3


def test_a_module_without_threads_is_forked(sweep: Any) -> None:
    """Numpy's at module level are none: it sets them up again. The module is imported once."""
    run = sweep("threaded.py", *GIVEN, THREADS="blas").ok()
    assert "spawned" not in run.out
    assert run.out.count("the module of blas is imported") == 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_worker_that_hangs_is_ended_and_the_next_is_spawned(
    n_jobs: int, sweep: Any, study: Any
) -> None:
    """It is named, with its slot and the limit, and the sweep completes."""
    given = ("hydra.sweeper.start_timeout=2", f"hydra.sweeper.n_jobs={n_jobs}")
    run = sweep("threaded.py", *GIVEN, *given, THREADS="hangs_in_workers").ok()
    ended = r"slot 0: its worker process \d+ did not come to its first line of user code in 2"
    assert re.search(ended, run.out)
    assert "workers are spawned from now on" in run.out
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3


def test_workers_that_hang_where_forks_are_asked_for_end_the_sweep(sweep: Any) -> None:
    """After as many starts as any worker gets, with the reason and what to do."""
    given = ("hydra.sweeper.start_timeout=0.5", "hydra.sweeper.start_method=fork")
    run = sweep("threaded.py", *GIVEN, *given, THREADS="hangs_in_workers").wait()
    assert run.code == 1
    assert "does not stay up: its worker process" in run.err
    assert "try hydra.sweeper.start_method=spawn" in run.err


@pytest.mark.parametrize(
    ("of", "method"), [("hangs_in_workers", "auto"), ("hangs_when_imported_again", "spawn")]
)
def test_ctrl_c_ends_a_sweep_whose_worker_hangs(
    of: str, method: str, sweep: Any, eventually: Any
) -> None:
    """The first one, at once: there is nothing to wait for."""
    run = sweep("threaded.py", *GIVEN, f"hydra.sweeper.start_method={method}", THREADS=of)
    said = run.folder / "stdout"
    eventually(lambda: said.is_file() and "study threaded in" in said.read_text())
    eventually(lambda: len(run.descendants()) == 2)
    run.signal(signal.SIGINT)
    eventually((run.folder / "code").is_file, timeout_s=10)
    assert run.code == 130


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_exit_handlers_and_the_trials_folder(method: str, sweep: Any, tmp_path: Path) -> None:
    """Handlers run once for each worker's trial, chdir is obeyed, and a trial's prints are its own;
    only the module's are seen, once for each time that it is imported.
    """
    diary = tmp_path / "diary"
    diary.mkdir()
    given = (f"hydra.sweeper.start_method={method}", "hydra.job.chdir=true")
    run = sweep("threaded.py", *GIVEN, *given, THREADS="blas", DIARY=str(diary)).ok()
    (handled,) = diary.iterdir()  # one worker, whose trials all wrote this file at its end
    assert int(handled.name) != run.pid()
    assert handled.read_text() == str(tmp_path / "study" / "0")  # the last to run, the first made
    assert run.out.count("the module of blas is imported") == (2 if method == "spawn" else 1)
    assert "in a trial" not in run.out
    assert (tmp_path / "study" / "0" / "output.log").read_text() == "in a trial\n"


def launched(how: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A sweep of the app in a package, as a command of its own."""
    (package := tmp_path / "pkg").mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text((APPS / "threaded.py").read_text())
    (tmp_path / "entry").write_text("from pkg.app import main\nif __name__ == '__main__': main()\n")
    (package / "__main__.py").write_text((APPS / "threaded.py").read_text())
    commands = {
        "module": ["-m", "pkg.app"],
        "package": ["-m", "pkg"],
        "console entry": ["entry"],
    }
    command = commands.get(how, ["pkg/app.py"])
    given = ["hydra/sweeper=iolaus", "hydra.sweeper.report=null", f"hydra.sweep.dir={tmp_path}/s"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return subprocess.run(
        [sys.executable, *command, "--multirun", *GIVEN, *given],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "THREADS": "pool_of_threads", "TASK": how},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "how",
    [
        "script",
        "closure",
        *(pytest.param(h, marks=pytest.mark.slow) for h in ("module", "package", "console entry")),
    ],
)
def test_every_kind_of_app_can_be_spawned(how: str, tmp_path: Path) -> None:
    """Its task function is found by name, also behind Hydra's decorator; a closure is sent."""
    if how == "closure":
        pytest.importorskip("cloudpickle")
    done = launched(how, tmp_path)
    assert done.returncode == 0, done.stderr
    assert SPAWNED in done.stdout
    assert done.stdout.count(" completed ") >= 3


def test_a_closure_without_cloudpickle_is_refused(tmp_path: Path) -> None:
    """Before anything runs, with the reason and what can be done."""
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('not installed')")
    done = launched("closure", tmp_path)
    assert done.returncode == 1
    assert "install cloudpickle" in done.stderr
    assert "because this process has a thread" in done.stderr
    assert not (tmp_path / "s" / "study.db").exists()


def test_an_app_that_starts_its_sweep_when_imported_is_told(tmp_path: Path, sweep: Any) -> None:
    """A worker that imports it does not begin another sweep."""
    app = tmp_path / "unguarded.py"
    app.write_text(
        (APPS / "threaded.py").read_text().replace('if __name__ == "__main__":', "if True:")
    )
    run = sweep(str(app), *GIVEN, "hydra.sweeper.start_method=spawn", THREADS="blas").wait()
    assert run.code == 1
    assert '`if __name__ == "__main__":`' in run.err


def test_lanes_in_spawned_workers(sweep: Any, study: Any) -> None:
    """The lane runner is found again by its name, and all goes as in forked ones."""
    lanes = ["lane_runner=lanes.run_lanes", "lanes=2", "n_jobs=1", "start_method=spawn"]
    options = [f"hydra.sweeper.{option}" for option in lanes]
    run = sweep("lanes.py", "hydra/sweeper/sampler=grid", *options, "x=choice(1, 2, 3)").ok()
    assert "2 lanes" in run.out
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 3
