"""Sweeps whose processes are killed at random moments: nothing recorded is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.study.record import record_of

END_S = 900  # a long sweep may have most of its trials before it when the last kill is over
ALL = ("driver", "fork server", "worker", "all")
BY_NUMBER = "+hydra.sweeper.sampler={_target_:by_number.ByNumber}"
X, LR = "x=interval(0, 1)", "optim.lr=interval(0.01, 0.1)"
TRAINER = (
    *("train.py", "task=digits", "model=mlp", "steps=600", "report_every=10"),
    *("eval_every=100", "checkpoint.every_steps=100", "keep_best=false", LR),
)
# Each trial but the first is paused, and goes on as soon as a slot is free.
PAUSED = ("hydra.sweeper.pruner._target_=pausing.PauseAll", "+hydra.sweeper.pruner.file=/")
# What a sweep runs, and the steps that each of its trials reports.
KINDS: dict[str, tuple[Sequence[str], Sequence[int]]] = {
    "an app": (("trouble.py", X, "do=report", "n_steps=20", "step_s=0.02"), range(20)),
    "lanes of an app": (
        (
            *("lanes.py", X, "n_steps=20", "step_s=0.007"),
            *("hydra.sweeper.lane_runner=lanes.run_lanes", "hydra.sweeper.lanes=3"),
        ),
        range(20),
    ),
    "the trainer": (TRAINER, range(10, 601, 10)),
    "lanes of the trainer": (
        (
            *TRAINER,
            *(
                "hydra.sweeper.lane_runner=iolaus.trainer.lanes.serve.run_lanes",
                "hydra.sweeper.lanes=3",
            ),
        ),
        range(10, 601, 10),
    ),
    "a paused app": (
        (
            *("trouble.py", X, "do=report", "n_steps=20", "step_s=0.02"),
            *PAUSED,
            "+hydra.sweeper.pruner.at=5",
        ),
        range(20),
    ),
    "paused lanes of the trainer": (
        (
            *(*TRAINER, *PAUSED, "+hydra.sweeper.pruner.at=200"),
            *(
                "hydra.sweeper.lane_runner=iolaus.trainer.lanes.serve.run_lanes",
                "hydra.sweeper.lanes=3",
            ),
        ),
        range(10, 601, 10),
    ),
}


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(driver: int, victim: str, chance: random.Random) -> bool:
    """End a process of a sweep, or all of them, driver first or last; False if there was none."""
    servers = children(driver)
    workers = [worker for server in servers for worker in children(server)]
    everybody = [driver, *servers, *workers]
    victims = {
        "driver": [driver],
        "fork server": servers,
        "worker": workers and [chance.choice(workers)],
        "all": everybody if chance.random() < 0.5 else everybody[::-1],
    }[victim]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(victims)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "an app" else [pytest.mark.slow]) for kind in KINDS],
)
@pytest.mark.parametrize(
    ("n_kills", "n_trials"), [(6, 24), pytest.param(50, 330, marks=pytest.mark.slow)]
)
def test_nothing_is_lost_or_doubled(
    kind: str,
    n_kills: int,
    n_trials: int,
    sweep: Any,
    study: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """However often what is killed: each trial ends once, with its whole curve; the total is exact.

    The settings are those of a sweep that nobody disturbs, and nothing stays running.
    """
    chance = random.Random(n_kills)
    app, steps = KINDS[kind]
    n_trials = n_trials // 3 if LR in app and n_trials > 100 else n_trials  # each takes longer
    options = [
        *app,
        *("hydra.sweeper.n_jobs=4", f"hydra.sweeper.n_trials={n_trials}"),
        *("hydra.sweeper.max_failure_rate=1", BY_NUMBER),
    ]

    killed = Counter[str]()
    run = sweep(*options)
    while killed.total() < n_kills:
        deadline_s = time.monotonic() + 1.5  # without a fork server it is not seen
        while not (is_up(run) or is_over(run)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.1, 0.8))
        if is_over(run):
            if run.code == 0:
                break
            run = sweep(*options)
            continue
        victim = chance.choice(ALL if is_up(run) else ("driver", "all"))
        killed[victim] += kill(run.pid(), victim, chance)
        if victim in ("driver", "all"):  # without its fork server a sweep goes on with its workers
            run.wait(END_S)
            if (tmp_path / "study" / "0").is_dir():  # a trial has begun
                assert_whole(study(), tmp_path / "study" / "curves", steps)
            run = sweep(*options)
    run.wait(END_S)
    # A worker that dies without a fork server cannot be replaced.
    assert run.code == 0 or "the process that starts workers is gone" in run.out + run.err, run.err
    sweep(*options).ok(END_S)
    assert killed.total() >= n_kills // 2, killed
    trials = study().trials
    assert_whole(study(), tmp_path / "study" / "curves", steps)
    assert len(trials) == n_trials
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    failed = [t for t in trials if t.state is TrialState.FAIL]
    assert len(failed) <= killed["worker"] * (3 if "lanes" in kind else 1)
    assert all("was killed by SIGKILL" in record_of(t).why for t in failed)
    name, low, high = ("optim.lr", 0.01, 0.1) if LR in app else ("x", 0, 1)
    undisturbed = [random.Random(f"{i} {name}").uniform(low, high) for i in range(n_trials)]
    assert [t.params[name] for t in trials] == undisturbed


def is_up(run: Any) -> bool:
    """Whether a sweep has workers."""
    return any(children(server) for server in children(run.pid()))


def is_over(run: Any) -> bool:
    return (run.folder / "code").is_file()


def assert_whole(study: Any, curves: Path, steps: Sequence[int]) -> None:
    """Each completed trial has the rows that it reported, each once."""
    done = [t.number for t in study.trials if t.state is TrialState.COMPLETE]
    table = read_curves(curves).to_pandas()
    reported = table[table["metric"] == "loss"].groupby("trial")["step"].agg(list).to_dict()
    short = {n: reported.get(n) for n in done if reported.get(n) != [*steps]}
    assert not short, f"completed trials without all of their rows: {short}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("n_kills", "n_trials", "kind", "folders"),
    [
        pytest.param(4, 12, "an app", ("one", "two"), marks=pytest.mark.slow),
        pytest.param(6, 16, "a paused app", ("one", "two"), marks=pytest.mark.slow),
        pytest.param(50, 300, "an app", ("one", "two"), marks=pytest.mark.slow),
        pytest.param(50, 300, "an app", ("both", "both"), marks=pytest.mark.slow),
    ],
)
def test_two_drivers_of_one_study(
    n_kills: int,
    n_trials: int,
    kind: str,
    folders: Sequence[str],
    sweep: Any,
    postgres: Any,
    tmp_path: Path,
) -> None:
    """On PostgreSQL, however often one, or what it has started, is killed: the total is exact, each
    trial has ended once with its whole curve, and nothing stays running. With folders of their own,
    and with one.
    """
    chance = random.Random(n_kills)
    url = postgres.new_database()
    app, steps = KINDS[kind]
    options = [
        *app,
        *("hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_trials={n_trials}"),
        *("hydra.sweeper.max_failure_rate=1", BY_NUMBER),
        *(f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=s"),
        *("hydra.sweeper.grace_period=5s", "step_s=0.1"),
    ]
    runs = [sweep(*options, folder=tmp_path / name) for name in folders]
    killed = Counter[str]()
    while killed.total() < n_kills:
        n, victim = chance.choice(range(len(runs))), chance.choice(ALL)
        deadline_s = time.monotonic() + 5  # without a fork server, and amid an end, it is not seen
        while not (is_up(runs[n]) or is_over(runs[n])) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.1, 0.8))
        if is_over(runs[n]):
            if runs[n].code == 0:
                break
            runs[n] = sweep(*options, folder=tmp_path / folders[n])
            continue
        killed[victim] += kill(runs[n].pid(), victim, chance)
        if victim in ("driver", "all"):
            runs[n].wait(END_S)
            runs[n] = sweep(*options, folder=tmp_path / folders[n])
    for n, run in enumerate(runs):
        run.wait(END_S)
        assert run.code == 0 or "the process that starts workers is gone" in run.err + run.out, (
            folders[n],
            run.out[-2000:] + run.err[-2000:],
        )
    sweep(*options, folder=tmp_path / folders[0]).ok(END_S)
    assert killed.total() >= n_kills // 2, killed
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name="s", storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    states = Counter(trial.state for trial in trials)
    assert len(trials) == n_trials
    assert {*states} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert states[TrialState.FAIL] <= killed["worker"] + killed["all"]
    print(f"{n_kills} kills: {dict(killed)}, {dict(states)}")
    done = [t.number for t in trials if t.state is TrialState.COMPLETE]
    table = read_curves(*(tmp_path / name / "curves" for name in {*folders})).to_pandas()
    reported = table[table["metric"] == "loss"].groupby("trial")["step"].agg(list).to_dict()
    short = {n: reported.get(n) for n in done if reported.get(n) != [*steps]}
    assert not short, f"completed trials without all of their rows: {short}"
