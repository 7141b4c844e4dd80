"""Sweeps whose trials run out of memory: for real on the machine, and on a GPU if it has one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.run.events import replay_events
from iolaus.sweeps.run.scheduler import Renewed
from iolaus.sweeps.study.record import TrialRecord, record_of

GRID = ("hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=none")
FAKE_CARD = "0, GPU-a, A card, 81920, 0"


def by_value(study: Any, name: str) -> dict[Any, FrozenTrial]:
    return {trial.params[name]: trial for trial in study.trials}


def records(study: Any, name: str) -> dict[Any, TrialRecord]:
    return {value: record_of(trial) for value, trial in by_value(study, name).items()}


def test_what_has_no_room_alone_is_infeasible(sweep: Any, study: Callable[[], Any]) -> None:
    """A trial that is refused memory is run once more with nothing beside it; then numbers are
    recorded and the sampler is told. Its neighbours are not harmed.
    """
    arguments = (*GRID, "how=ask", "batch_size=1,8,2", "hydra.sweeper.n_trials=3")
    run = sweep("memory.py", *arguments, "hydra.sweeper.n_jobs=2").ok()
    assert run.out.count("it is run once more, alone on the whole machine") == 1
    trials, known = by_value(study(), "batch_size"), records(study(), "batch_size")
    assert {value: trial.state for value, trial in trials.items()} == {
        1: TrialState.COMPLETE,
        8: TrialState.PRUNED,
        2: TrialState.COMPLETE,
    }
    assert trials[8].constraints["out_of_memory"] > 0
    assert known[8].memory.requested_bytes == 2**50
    assert known[8].memory.capacity_bytes is not None
    assert known[8].why.startswith("infeasible: out of memory: asked for 1 PiB and held")
    assert not known[1].interruptions
    assert known[1].memory.ram_bytes is not None


@pytest.mark.slow
def test_more_than_a_slot_may_hold_is_held_alone(sweep: Any, study: Callable[[], Any]) -> None:
    """A trial above memory_per_slot is ended while it grows, and completes by itself."""
    arguments = (*GRID, "mib=50", "wait_s=0.3", "batch_size=1,16", "hydra.sweeper.n_trials=2")
    sweep("memory.py", *arguments, "hydra.sweeper.memory_per_slot=400MiB").ok()
    known = records(study(), "batch_size")
    assert known[16].alone == "ram"
    assert "of 400 MiB; it is run once more" in known[16].interruptions[0]
    assert (known[16].memory.ram_bytes or 0) > 800 * 2**20
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 2


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_is_out_of_memory(
    sweep: Any, study: Callable[[], Any], eventually: Any, tmp_path: Path
) -> None:
    """Where a limit is set, SIGKILL is the kernel's: its trial is run again, alone."""
    arguments = ("wait_s=1", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1")
    run = sweep("memory.py", *arguments, "lr=interval(0.1,1)", "hydra.sweeper.memory_per_slot=4GiB")
    eventually(lambda: (tmp_path / "study" / "0").is_dir())
    os.kill(run.descendants()[1], signal.SIGKILL)
    run.ok()
    assert "it is run once more" in run.out
    (trial,) = study().trials
    assert trial.state is TrialState.COMPLETE
    assert record_of(trial).alone == "ram"


@pytest.mark.slow
def test_a_full_card_is_had_alone(sweep: Any, study: Callable[[], Any], tmp_path: Path) -> None:
    """trials_per_gpu is honoured against what nvidia-smi lists. A trial that its card refuses is
    run again when nothing runs there, by a fresh worker, and idle ones make way.
    """
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{FAKE_CARD}'\n")
    tool.chmod(0o755)
    arguments = (*GRID, "how=gpu", "wait_s=0.2", "batch_size=1,2,8,3,4", "hydra.sweeper.n_trials=5")
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    run = sweep("memory.py", *arguments, "hydra.sweeper.trials_per_gpu=3", **path).ok()
    assert "3 slots" in run.out
    trials, known = by_value(study(), "batch_size"), records(study(), "batch_size")
    assert known[8].alone == "gpu"
    assert known[8].memory.capacity_bytes == 80 * 2**30
    assert trials[8].constraints["out_of_memory"] > 0
    assert [t.state for n, t in trials.items() if n < 8] == [TrialState.COMPLETE] * 4
    events = [event for event, _ in replay_events(tmp_path / "study" / "events.jsonl")]
    assert any(isinstance(event, Renewed) for event in events)


GPU_GRID = (*GRID, "share=0.1,0.2,0.7,1.5", "hydra.sweeper.n_trials=4")


@pytest.mark.gpu
@pytest.mark.parametrize("n", ["2", "auto"])
def test_real_cards_are_shared_within_their_caps(
    n: str, sweep: Any, study: Callable[[], Any], tmp_path: Path
) -> None:
    """What half a card refuses is run alone and completes; what the whole refuses is infeasible;
    the others do not notice. Each worker sees one GPU.
    """
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    run = sweep("gpu_memory.py", *GPU_GRID, f"hydra.sweeper.trials_per_gpu={n}").ok(180)
    trials, known = by_value(study(), "share"), records(study(), "share")
    states = {share: trial.state for share, trial in trials.items()}
    assert states == {
        0.1: TrialState.COMPLETE,
        0.2: TrialState.COMPLETE,
        0.7: TrialState.COMPLETE,
        1.5: TrialState.PRUNED,
    }, run.out
    total = torch.cuda.get_device_properties(0).total_memory
    if n == "2":
        assert known[0.7].alone == "gpu", run.out
    assert trials[1.5].constraints["out_of_memory"] > 0.4
    assert (known[1.5].memory.requested_bytes or 0) > 1.4 * total
    assert not known[0.1].interruptions
    assert (known[0.2].memory.gpu_bytes or 0) >= 0.2 * total * 0.99
    rows = read_curves(tmp_path / "study" / "curves").to_pylist()
    assert {row["value"] for row in rows if row["metric"] == "n_gpus"} == {1.0}
