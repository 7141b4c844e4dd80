"""Racing for first place: which seeds are run, and that they really are."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.next_trials import continuing
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.analysis.ranking.top_up import contenders, plan_top_up, run_top_up
from iolaus.sweeps.study.folder import read_study

APP = Path(__file__).parents[2] / "apps" / "conditional.py"


def run(*arguments: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def ranking(tier: list[int | None], source: str, n_seeds: int = 3) -> Ranking:
    table = pd.DataFrame(
        {
            "setting": range(10, 10 + len(tier)),
            "state": "complete",
            "tier": pd.array(tier, dtype="Int64"),
            "level": 1.0,
            "n_seeds": n_seeds,
        }
    )
    return Ranking(table, "objective", False, 0.1, source, "", 0.3, 0.3, 3, ())  # type: ignore[arg-type]


def test_which_settings_are_topped_up() -> None:
    """The tied of the first tier, at most the best eight; without repeats the best four; none once
    first place is settled, which one seed cannot do.
    """
    assert contenders(ranking([1, 1, 2, 2, None], "seeds")) == [10, 11]
    assert contenders(ranking([1, 2, 2], "seeds")) == []
    assert contenders(ranking([1, 2, 2], "seeds", n_seeds=1)) == [10, 11]
    assert contenders(ranking([1] * 20, "seeds")) == list(range(10, 18))
    assert contenders(ranking([1] * 20, "none")) == [10, 11, 12, 13]
    assert contenders(ranking([1], "alike")) == []
    assert contenders(ranking([None, None], "none")) == []


def test_a_top_up_runs_just_the_seeds_that_tell(tmp_path: Path) -> None:
    """The command adds seeds to the settings that tie, nothing else, counting on from the config's
    own seed.
    """
    folder = tmp_path / "sweep"
    run(
        str(APP),
        "--multirun",
        "hydra.sweeper.n_trials=5",
        "hydra/sweeper/sampler=grid",
        cwd=tmp_path,
    )
    before = load(folder)
    assert rank(before).noise_source != "seeds"
    top_up = plan_top_up(folder, rank(before), n_seeds=2)
    assert {(number, seed) for _, number, seed in top_up.repeats} == {(1, 4), (2, 5)}
    command = [sys.executable, "-m", "iolaus.cli", "top-up", "sweep", "--seeds", "2", "--json"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert done.stderr.rstrip().endswith("hydra.sweeper.n_trials=5")
    assert "pruner=none" not in done.stderr.splitlines()[-1]
    assert document["noise_source"] == "seeds"
    after = load(folder).trials
    assert f"[{len(after)}/{len(after)} trials" in done.stderr
    added = after.drop(index=before.trials.index)
    assert sorted(zip(added["setting"], added["seed"], strict=True)) == sorted(
        (n, s) for n, _, s in top_up.repeats
    )
    assert (added["state"] == "complete").all()
    lines = (tmp_path / "runs.txt").read_text().splitlines()[len(before.trials) :]
    assert sorted(int(line.split()[0]) for line in lines) == sorted(
        seed for _, _, seed in top_up.repeats
    )
    more = plan_top_up(folder, rank(before), n_seeds=1).repeats  # numbers go on, none comes twice
    assert {(number, seed) for _, number, seed in more} == {(3, 6)}


@pytest.mark.slow
def test_a_top_up_leaves_no_options_behind(tmp_path: Path) -> None:
    """After a top-up, finished or failed, the sweep describes and continues itself as before; its
    session is kept.
    """
    folder = tmp_path / "sweep"
    run(
        str(APP),
        "--multirun",
        "hydra.sweeper.n_trials=5",
        "hydra/sweeper/sampler=grid",
        cwd=tmp_path,
    )
    before, described = load(folder), OmegaConf.load(folder / "sweep.yaml")
    on = continuing(folder, before)
    top_up = plan_top_up(folder, rank(before), n_seeds=1)
    run_top_up(folder, top_up)
    after, now = load(folder), OmegaConf.load(folder / "sweep.yaml")
    assert {**now, "sessions": 0} == {**described, "sessions": 0}
    assert [session.get("top_up", False) for session in after.provenance] == [False, True]
    assert list(now.sessions) == list(after.provenance)
    assert after.config == before.config
    assert continuing(folder, after) == on
    with pytest.raises(subprocess.CalledProcessError):
        run_top_up(folder, replace(top_up, repeats=(), command=("false",)))
    assert OmegaConf.load(folder / "sweep.yaml") == now


def test_a_sweep_without_seed_cannot_be_topped_up(tmp_path: Path) -> None:
    """Where the config has no seed to change, the error names the option that says where it is."""
    app = APP.with_name("parabola.py")
    options = ["hydra/sweeper=iolaus", "hydra/sweeper/sampler=grid", "hydra.sweeper.report=null"]
    run(
        str(app),
        "--multirun",
        *options,
        "lr=choice(0.1, 0.2)",
        f"hydra.sweep.dir={tmp_path / 's'}",
        cwd=tmp_path,
    )
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.seed_key=KEY"):
        plan_top_up(tmp_path / "s", rank(load(tmp_path / "s")))


def test_what_else_is_queued_is_not_run_by_a_top_up(tmp_path: Path) -> None:
    """A top-up refuses while other settings wait, names them and the command that runs them; seeds
    that wait are its own.

    Without it they would run unasked, and without the sweep's pruner.
    """
    folder = tmp_path / "sweep"
    run(
        str(APP),
        "--multirun",
        "hydra.sweeper.n_trials=5",
        "hydra/sweeper/sampler=grid",
        cwd=tmp_path,
    )
    made, study = rank(load(folder)), read_study(folder)
    leader = made.first[0]
    study.enqueue_trial(
        study.trials[leader].params, user_attrs={"repeat_of": leader, "repeat": 1, "seed": 4}
    )
    assert plan_top_up(folder, made, n_seeds=1).repeats
    study.enqueue_trial({"clip": "none", "lr": 0.2})
    with pytest.raises(
        ValueError, match=rf"trials {len(study.trials) - 1}\b.*\n.*conditional.py .*n_trials=6"
    ):
        plan_top_up(folder, made, n_seeds=1)
    assert not plan_top_up(folder, replace(made, table=made.table.head(1))).repeats


@pytest.mark.slow
def test_a_sweep_of_failures_is_not_settled(tmp_path: Path) -> None:
    """Where no setting has completed there is nothing to top up, which is no first place."""
    failing = [
        sys.executable,
        str(APP),
        "--multirun",
        "hydra.sweeper.n_trials=2",
        "runs=no/such/folder",
    ]
    subprocess.run(failing, cwd=tmp_path, check=False, capture_output=True)
    command = [sys.executable, "-m", "iolaus.cli", "top-up", "sweep"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "no setting has completed: nothing to repeat" in done.stderr
    assert "settled" not in done.stderr
