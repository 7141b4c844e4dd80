"""Several drivers of one study, started by Slurm, Ray and this machine, or joined by hand.

docs/machines.md shows what is run here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.study.folder import curves_folders
from iolaus.sweeps.study.record import record_of
from tests.postgres import PASSWORD
from tests.slurm import Cluster, running_cluster, slurm_programs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
N_STEPS, EVERY = 20, 10
APP = ("counting.py", "x=interval(0, 1)", f"n_steps={N_STEPS}", f"every={EVERY}")
END_S = 240


def of(url: str, n_trials: int, tmp_path: Path, *more: str) -> list[str]:
    """The arguments of a sweep whose study is in a database."""
    return [
        *(
            *APP,
            f"diary={tmp_path / 'diary'}",
            f"hydra.sweeper.storage={url}",
            "hydra.sweeper.study_name=s",
        ),
        *(f"hydra.sweeper.n_trials={n_trials}", "hydra.sweeper.n_jobs=1"),
        *("hydra.sweeper.grace_period=5s", *more),
    ]


@contextmanager
def opened(url: str) -> Iterator[optuna.Study | None]:
    """The study; None before there is one."""
    storage = optuna.storages.RDBStorage(url)
    names = [known.study_name for known in storage.get_all_studies()]
    yield optuna.load_study(study_name="s", storage=storage) if names else None
    storage.remove_session()
    storage.engine.dispose()


def trials_of(url: str) -> list[optuna.trial.FrozenTrial]:
    with opened(url) as study:
        return [] if study is None else study.trials


def assert_whole(url: str, n_trials: int, *folders: Path) -> None:
    """Each trial has completed once, with its whole curve, and there are exactly so many."""
    trials = trials_of(url)
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: n_trials}
    rows = [read_curves(folder / "curves").to_pandas() for folder in folders]
    reported = Counter[int]()
    for table in rows:
        steps = table[table["metric"] == "loss"].groupby("trial")["step"]
        reported.update(steps.nunique().to_dict())
    assert {t.number: reported[t.number] for t in trials} == dict.fromkeys(range(n_trials), N_STEPS)


@pytest.fixture
def database(postgres: Any) -> str:
    return str(postgres.new_database())


@pytest.fixture
def slurm() -> Iterator[Cluster]:
    """Without Slurm the test skips; it fails where IOLAUS_REQUIRE_SLURM is set, as in CI."""
    if not slurm_programs() or importlib.util.find_spec("submitit") is None:
        missing = pytest.fail if os.environ.get("IOLAUS_REQUIRE_SLURM") else pytest.skip
        missing("no Slurm: as root, `apt-get install munge slurmctld slurmd slurm-client`")
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def env() -> dict[str, str]:
    """Drivers are started afresh, and find the code that is tested."""
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.timeout(2 * END_S)
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_drivers_of_this_machine(
    launcher: str, sweep: Any, env: dict[str, str], tmp_path: Path
) -> None:
    """Two share a folder; the first process shows how they stand, and tells the end."""
    url = f"sqlite:///{tmp_path}/shared.db"
    given = (f"hydra/launcher={launcher}", "hydra.sweeper.n_nodes=2")
    run = sweep(*of(url, 12, tmp_path, *given), **env).ok(END_S)
    assert_whole(url, 12, tmp_path / "study")
    assert len({record_of(t).run.session for t in trials_of(url)}) <= 2
    assert f"2 drivers by {launcher}: " in run.out + run.err
    assert re.search(r"\d+/12 trials · \d running, [12] drivers?", run.out)
    assert "12 trials in study s, this session took" in run.out
    again = sweep(*of(url, 12, tmp_path, *given), **env).ok(END_S)
    assert "has reached its 12 trials; nothing was run" in again.out


@pytest.mark.timeout(2 * END_S)
def test_a_slurm_array_with_a_preempted_job(
    slurm: Cluster, database: str, sweep: Any, env: dict[str, str], eventually: Any, tmp_path: Path
) -> None:
    """What a preempted driver has begun goes on; it is requeued, and begins again by itself."""
    given = ("hydra/launcher=submitit_slurm", "hydra.sweeper.n_nodes=2", "step_s=0.1")
    run = sweep(*of(database, 40, tmp_path, *given), **env, **slurm.environment)
    eventually(lambda: len(_begun(tmp_path)) == 2, END_S)
    slurm.run("sbatch", "--partition=urgent", "--ntasks=3", "--output=/dev/null", "--wrap=sleep 1")
    eventually(lambda: "PENDING" in slurm.run("squeue", "--noheader", "--format=%T"), END_S)
    run.ok(END_S)
    assert_whole(database, 40, tmp_path / "study")
    assert "2 drivers by submitit_slurm: job 1_0, job 1_1" in run.out + run.err
    files = [path for path in (tmp_path / "study").rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    logs = [path.read_text() for path in (tmp_path / "study").glob("driver-*.log")]
    assert sum("no new trials: SIGTERM" in log for log in logs) >= 1
    n_taken = len((tmp_path / "diary").read_text().splitlines())
    assert n_taken - 40 * N_STEPS <= EVERY  # no more is made again than a checkpoint has not


def _begun(tmp_path: Path) -> list[Path]:
    """The logs of drivers that have completed a trial."""
    logs = (tmp_path / "study").glob("driver-*.log")
    return [log for log in logs if " completed " in log.read_text()]


@pytest.mark.timeout(2 * END_S)
def test_ray_with_two_workers(
    database: str, sweep: Any, env: dict[str, str], tmp_path: Path
) -> None:
    """Each runs a driver, and both fill one study."""
    if importlib.util.find_spec("ray") is None or not _has_launcher("ray"):
        missing = pytest.fail if os.environ.get("IOLAUS_REQUIRE_RAY") else pytest.skip
        missing("no Ray: pip install ray, and hydra-ray-launcher with --no-deps")
    env["RAY_worker_niceness"] = "0"  # 15 by default, which tests side by side would starve
    given = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
    run = sweep(*of(database, 12, tmp_path, *given, "hydra.sweeper.n_nodes=2"), **env).ok(END_S)
    assert_whole(database, 12, tmp_path / "study")
    assert "2 drivers by ray: task " in run.out + run.err


def _has_launcher(name: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher") is not None


@pytest.mark.timeout(2 * END_S)
def test_three_drivers_one_killed_and_the_server_restarted(
    postgres: Any, database: str, sweep: Any, cli: Any, eventually: Any, tmp_path: Path
) -> None:
    """Two in one folder and one with its own: nothing is lost, twice or exceeded."""
    given = of(database, 30, tmp_path, "step_s=0.05")
    runs = [sweep(*given), sweep(*given), sweep(*given, folder=tmp_path / "own")]
    eventually(lambda: sum(t.state.is_finished() for t in trials_of(database)) >= 4, END_S)
    runs[0].signal(signal.SIGKILL)
    eventually(lambda: sum(t.state.is_finished() for t in trials_of(database)) >= 8, END_S)
    postgres.stop()
    postgres.start()
    for run in runs[1:]:
        run.ok(END_S)
    assert_whole(database, 30, tmp_path / "study", tmp_path / "own")


@pytest.mark.timeout(2 * END_S)
def test_a_sweep_is_joined(
    database: str, sweep: Any, cli: Any, eventually: Any, tmp_path: Path
) -> None:
    """By its folder or by its database, without its command; the total stays what it was."""
    run = sweep(*of(database, 30, tmp_path, "step_s=0.1"))
    eventually(lambda: any(t.state.is_finished() for t in trials_of(database)), END_S)
    joined = cli("join", tmp_path / "study", timeout_s=END_S, IOLAUS_STORAGE=database)
    assert joined.code == 0, joined.err
    assert run.ok(END_S)
    assert_whole(database, 30, tmp_path / "study")
    drivers = {record_of(t).run.session for t in trials_of(database)}
    assert len(drivers) == 2
    more = ("hydra.sweeper.n_trials=34", f"hydra.sweep.dir={tmp_path}/own")
    own = cli("join", "--storage", database, *more, timeout_s=END_S)
    assert own.code == 0, own.err
    assert_whole(database, 34, tmp_path / "study", tmp_path / "own")
    with opened(database) as study:
        assert study is not None
        places = curves_folders(tmp_path / "study", "s", study.user_attrs["provenance"])
    assert {*read_curves(*places)["trial"].to_pylist()} == {*range(34)}  # whoever reads has all


@pytest.mark.timeout(2 * END_S)
def test_a_stop_reaches_all_drivers(
    sweep: Any, env: dict[str, str], eventually: Any, tmp_path: Path
) -> None:
    """Ctrl-C twice: what runs is put back, and the exit code says by what; the same goes on."""
    url = f"sqlite:///{tmp_path}/shared.db"
    given = ("hydra/launcher=joblib", "hydra.sweeper.n_nodes=2")
    run = sweep(*of(url, 6, tmp_path, *given), **env, STEP_S="1")
    eventually(lambda: any(t.state is TrialState.RUNNING for t in trials_of(url)), END_S)
    for _ in range(2):
        run.signal(signal.SIGINT)
    assert run.wait(END_S).code == 130
    assert "no new trials: every driver is asked to stop" in run.out
    assert not [t for t in trials_of(url) if t.state is TrialState.RUNNING]
    sweep(*of(url, 6, tmp_path, *given), **env).ok(END_S)
    assert_whole(url, 6, tmp_path / "study")
