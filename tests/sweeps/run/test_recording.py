"""A run outside a sweep leaves a folder that reads like that of a sweep of one trial."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import iolaus
from iolaus.sweeps.study.folder import own_command, read_study
from iolaus.sweeps.study.record import record_of

ROOT = Path(__file__).parents[3]
APP = """
import hydra, iolaus
from hydra.core.config_store import ConfigStore

record = {"_target_": "iolaus.Recorder", "metric": "val_loss"}
hydra_node = {"callbacks": {"record": record}, "sweeper": {"n_trials": 2}}
defaults = [{"override hydra/sweeper": "iolaus"}]
node = {"defaults": defaults, "lr": 0.1, "seed": 7, "hydra": hydra_node}
ConfigStore.instance().store(name="cfg", node=node)

@hydra.main(version_base=None, config_path=None, config_name="cfg")
def main(cfg):
    for step in range(20):
        iolaus.report(step, val_loss=cfg.lr / (step + 1), loss=1.0)
    return cfg.lr

main()
"""


def test_a_run_reads_like_a_sweep_of_one_trial(tmp_path: Path) -> None:
    """Its curve, settings, seed and result are there, and what ranks, diagnoses and compares reads
    them; no command of its is taken for a sweep's.
    """
    with iolaus.record(tmp_path / "a", {"lr": 0.1, "kind": "sgd"}, seed=3) as run:
        iolaus.plan(n_steps=100)
        for step in range(100):
            iolaus.report(step, loss=math.exp(-step / 10), val_loss=2.0)
        run.result = 2.5
    sweep = iolaus.load(tmp_path / "a")
    trial = sweep.trials.loc[0]
    assert (trial["state"], trial["objective"], trial["seed"]) == ("complete", 2.5, 3)
    assert (trial["params.lr"], trial["params.kind"], trial["n_steps"]) == (0.1, "sgd", 100)
    assert trial["steps"] == 99
    assert trial["best"] == pytest.approx(math.exp(-9.9))
    assert set(sweep.curves["metric"]) == {"loss", "val_loss"}
    assert len(sweep.curves) == 200
    assert own_command(sweep.provenance) == []
    assert iolaus.rank(sweep).winner == 0
    assert len(iolaus.diagnose(sweep)) == 1
    with iolaus.record(tmp_path / "b", {"lr": 0.2, "kind": "sgd"}):
        iolaus.report(0, loss=1.0)
    both = iolaus.compare([sweep, iolaus.load(tmp_path / "b")])
    assert sorted(both.table["params.lr"]) == [0.1, 0.2]


def test_an_end_that_cannot_be_recorded_is_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A study that is damaged meanwhile costs the run neither its result nor its own error."""

    def damage(name: str, error: Exception | None = None) -> None:
        (tmp_path / name / "study.db").write_bytes(b"x" * 5000)
        if error is not None:
            raise error

    with iolaus.record(tmp_path / "a"):
        damage("a")
    with pytest.raises(RuntimeError, match="boom"), iolaus.record(tmp_path / "b"):
        damage("b", RuntimeError("boom"))
    said = [r.getMessage() for r in caplog.records if "end is not recorded" in r.getMessage()]
    assert [str(tmp_path / name) in line for name, line in zip("ab", said, strict=True)] == [
        True,
        True,
    ]


def test_nothing_recorded_ends_a_run(tmp_path: Path) -> None:
    """NaN goes on, and is what the run came to; a raised error is its reason, and flies on; one
    that was cut off goes on as the same trial, and others are trials of their own.
    """
    with iolaus.record(tmp_path, {"lr": 9}):
        for value in (1.0, math.nan, math.nan):
            iolaus.report(1, loss=value)
        assert not iolaus.should_stop()
    with pytest.raises(RuntimeError, match="boom"), iolaus.record(tmp_path, {"lr": 8}):
        raise RuntimeError("boom")
    for last in (KeyboardInterrupt, None):
        try:
            with iolaus.record(tmp_path, {"lr": 7, "kind": True}):
                iolaus.report(5, loss=1.0)
                if last is not None:
                    raise last
        except KeyboardInterrupt:
            pass
    iolaus.report(6, loss=1.0)  # outside, nobody listens
    trials = read_study(tmp_path).get_trials()
    assert [t.state.name for t in trials] == ["PRUNED", "FAIL", "COMPLETE"]
    assert record_of(trials[1]).why == "failed: RuntimeError: boom"
    assert record_of(trials[2]).interruptions == ("cut off",)
    curves = iolaus.load(tmp_path).curves
    assert list(curves.loc[curves["trial"] == 2, "value"]) == [1.0]


@pytest.mark.slow
def test_a_line_in_the_config_of_an_app_records_its_single_runs(tmp_path: Path) -> None:
    """With its overrides as settings, and what it returns as the objective; a sweep is as ever."""
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*words: str) -> None:
        command = [sys.executable, "app.py", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=200)

    run("lr=0.3", "hydra.run.dir=one")
    sweep = iolaus.load(tmp_path / "one")
    trial = sweep.trials.loc[0]
    assert (sweep.metric, trial["objective"], trial["params.lr"]) == ("val_loss", 0.3, 0.3)
    assert trial["seed"] == 7
    assert len(sweep.curves) == 40
    run("--multirun", "lr=interval(0.1,0.2)", "hydra.sweep.dir=many", "hydra.sweeper.report=null")
    assert len(iolaus.load(tmp_path / "many").trials) == 2
    assert not list((tmp_path / "many").glob("*/study.db"))
    both = iolaus.compare([iolaus.load(tmp_path / "many"), sweep])
    assert len(both.table) == 3
    assert both.table["params.lr"].notna().all()
