"""The loop of a sweep with real workers and a real study, and no Hydra."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from bdb import BdbQuit
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from iolaus import intervention, report
from iolaus.sweeps.curves import CurveWriter, read_curves
from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._channel import Channel
from iolaus.sweeps.run._foreground import Foreground
from iolaus.sweeps.run._fork_server import ForkServer
from iolaus.sweeps.run._messages import Assignment, Held, WorkerSpec
from iolaus.sweeps.run._objective import Objective
from iolaus.sweeps.run._worker import OneAtATime, Server
from iolaus.sweeps.run._workers import Workers
from iolaus.sweeps.run.driver import Driver, Records, Rules
from iolaus.sweeps.run.events import EventLog, Session, replay_events
from iolaus.sweeps.run.scheduler import Action, Event, Scheduler, Stop, Tell
from iolaus.sweeps.run.timeouts import Timeouts
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome

LOSS = Metric("loss")
UNLOGGED = OmegaConf.create({"hydra": {"hydra_logging": {"root": None}, "verbose": False}})

SPACE = parse_space(
    {}, ["x=interval(0.0, 1.0)"], OverridesParser.create().parse_overrides, lambda key: False
)


class Starts(str):
    """Equal to every text that starts with it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(self[:])

    __hash__ = str.__hash__


class Silent:
    """A watcher that shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def drive(
    task: Callable[[int], Any],
    folder: Path,
    n_trials: int = 4,
    pruner: optuna.pruners.BasePruner | None = None,
    objective: str | None = None,
    failure: str | None = None,
    timeouts: Timeouts | None = None,
    is_foreground: bool = False,
    server: Callable[[Any], Server] = OneAtATime,
) -> tuple[Driver, optuna.Study]:
    """Run trials of a task, which is given its trial's number, in two slots or in this process."""

    def run(assignment: Assignment, reporter: Reporter) -> Outcome:
        try:
            returned = task(assignment.trial)
        except optuna.TrialPruned as stop:
            return Outcome(Ending.PRUNED, reason=str(stop), verdict=reporter.verdict)
        except ValueError as error:
            return Outcome(Ending.FAILED, reason=str(error))
        values = () if returned is None else (float(returned),)
        return Outcome(Ending.COMPLETED, values=values, returned=returned)

    slots = (WorkerSpec(0),) if is_foreground else (WorkerSpec(0), WorkerSpec(1))
    with ExitStack() as stack:
        workers: Workers | Foreground = (
            Foreground(run, "loss", slots, UNLOGGED)
            if is_foreground
            else Workers(stack.enter_context(ForkServer(server(run), "loss")), slots)
        )
        storage = LiveStorage(open_backend(f"sqlite:///{folder}/study.db"))
        sampler = optuna.samplers.RandomSampler(seed=0)
        opened = open_study(
            storage, "s", ["minimize"], sampler, pruner or optuna.pruners.NopPruner(), SPACE
        )
        study = SweepStudy(opened, storage, SPACE, Plans(n_trials), LOSS, None)
        session = Session(len(slots), study.n_to_ask, 1.0)
        records = Records(
            folder,
            0,
            CurveWriter(folder / "curves", "s", clock=time.monotonic),
            EventLog(folder / "events.jsonl", session, clock=time.monotonic),
        )
        rules = Rules(SPACE, "seed", Objective(objective, LOSS), 1.0, timeouts or Timeouts())
        driver = Driver(
            study,
            workers,
            rules,
            records,
            Silent(),  # type: ignore[arg-type] # any method is there
            time.monotonic,
        )
        if isinstance(workers, Foreground):
            workers.hear = driver.hear
        assert driver.run() == failure
        storage.close()
    return driver, optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")


def bare(action: Action) -> Action:
    """An action without what the event log leaves out."""
    match action:
        case Stop(verdict=verdict):
            kept = dataclasses.replace(verdict, numbers={})
            return dataclasses.replace(action, verdict=kept)
        case Tell(outcome=outcome):
            return dataclasses.replace(action, outcome=Outcome(outcome.ending))
    return action


def test_the_event_log_replays_to_the_same_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep in which trials complete, fail, are pruned and lose their worker is in its log."""
    decided: list[list[Action]] = []
    handle, start = Scheduler.handle, Scheduler.start

    def noted(scheduler: Scheduler, event: Event) -> list[Action]:
        decided.append([])
        place = decided[-1]  # an action may bring on the next event before the others are done
        place += (actions := handle(scheduler, event))
        return actions

    def begun(scheduler: Scheduler) -> list[Action]:
        decided.append(actions := start(scheduler))
        return actions

    monkeypatch.setattr(Scheduler, "handle", noted)
    monkeypatch.setattr(Scheduler, "start", begun)

    def task(trial: int) -> float:
        match trial:
            case 1:
                raise ValueError("no")
            case 2:
                import os

                os._exit(3)
            case 3:
                for step in range(2000):
                    report(step, loss=100.0)
                    time.sleep(0.01)
        report(0, loss=1.0)
        return 0.5

    _, study = drive(task, tmp_path, 6, optuna.pruners.ThresholdPruner(upper=50.0))
    assert [t.state.name for t in study.trials] == [
        "COMPLETE", "FAIL", "FAIL", "PRUNED", "COMPLETE", "COMPLETE",
    ]  # fmt: skip
    monkeypatch.undo()
    replayed = replay_events(tmp_path / "events.jsonl")
    assert [[bare(a) for a in actions] for _, actions in replayed] == [
        [bare(a) for a in actions] for actions in decided
    ]
    assert sum(type(event).__name__ == "Judged" for event, _ in replayed) == 1


def test_a_users_metric_named_like_an_intervention_keeps_its_row(tmp_path: Path) -> None:
    """A row with a metric `intervention/...` of the task's own counts, its loss included."""

    def task(trial: int) -> None:
        report(0, loss=3.0, **{"intervention/decay": 0.5})
        report(1, loss=2.0, **{"intervention/of_mine": 1.0})
        assert intervention() is None

    driver, study = drive(task, tmp_path, n_trials=1, objective="best")
    assert study.trials[0].value == 2.0
    assert driver.trials[0].outcome is not None
    assert driver.trials[0].outcome.values == ()  # the task's own, with no objective
    assert read_curves(tmp_path / "curves").num_rows == 4


def test_a_step_that_is_shown_is_the_one_that_counts(tmp_path: Path) -> None:
    """Where a task's steps begin again, a trial's own goes on from the last, as for its pruner."""

    def task(trial: int) -> float:
        for step in (0, 1, 2, 0, 1, 2):
            report(step, loss=1.0)
        return 0.5

    driver, study = drive(task, tmp_path, n_trials=1)
    assert driver.trials[0].step == max(study.trials[0].intermediate_values) == 5


def test_a_broken_storage_stops_the_sweep_gently_and_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs may finish; nothing new is started; the event log does not grow meanwhile."""

    def broken(study: SweepStudy) -> None:
        raise StorageError("the disk is full")

    def task(trial: int) -> float:
        time.sleep(1.0)
        return 0.5

    monkeypatch.setattr(SweepStudy, "check_storage", broken)
    driver, _ = drive(task, tmp_path, failure="the disk is full")
    assert len(driver.trials) <= 2
    assert (tmp_path / "events.jsonl").read_text().count("Halted") == 1


@pytest.mark.parametrize("timeouts", [Timeouts(trial_s=2.0), Timeouts(stall_s=1.0)])
def test_a_trial_that_hangs_is_ended_by_name(timeouts: Timeouts, tmp_path: Path) -> None:
    """It fails with the time it took, its slot runs others, and one that reports is let be."""

    def task(trial: int) -> float:
        report(0, loss=1.0)
        if trial == 0:
            time.sleep(600)
        for step in range(1, 13):
            time.sleep(0.12)
            report(step, loss=1.0)
        return 0.5

    began_s = time.monotonic()
    driver, study = drive(task, tmp_path, n_trials=4, timeouts=timeouts)
    assert time.monotonic() - began_s < 15
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert "timed out after" in study.trials[0].user_attrs["why"]
    assert study.trials[0].user_attrs["run"]["slot"] in {driver.trials[n].slot for n in (2, 3)}
    replayed = replay_events(tmp_path / "events.jsonl")
    assert sum(type(event).__name__ == "TimedOut" for event, _ in replayed) == 1


def test_a_worker_that_gets_stuck_with_its_first_trial_is_ended_by_name(tmp_path: Path) -> None:
    """It has neither made the trial's folder nor reported; one that has may be silent."""

    def task(trial: int) -> float:
        if trial == 0:
            time.sleep(600)
        report(0, loss=1.0)
        time.sleep(2.0)
        return 0.5

    _, study = drive(task, tmp_path, n_trials=3, timeouts=Timeouts(start_s=1.0))
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    why = study.trials[0].user_attrs["why"]
    assert "did not come to its first line of user code in 1" in why
    assert "hydra.sweeper.start_method=spawn" in why


def test_a_pause_of_the_driver_is_no_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time in which the driver was held up, as where a whole job is suspended, does not count."""
    held_up = []

    def check(study: SweepStudy) -> None:
        if not held_up and len(study.study.trials) == 2:
            held_up.append(time.sleep(4.0))

    monkeypatch.setattr(SweepStudy, "check_storage", check)
    monkeypatch.setattr("iolaus.sweeps.run.driver.MOST_GAP_S", 1.0)

    def task(trial: int) -> float:
        time.sleep(5.0)
        return 0.5

    _, study = drive(task, tmp_path, n_trials=2, timeouts=Timeouts(3.0, 3.0))
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 2


def holding(run: Callable[[Assignment, Reporter], Outcome]) -> Server:
    """A server whose trials wait for a second before they begin, and say so."""

    def serve(channel: Channel) -> None:
        channel.open()
        while (taken := channel.take()) is not None:
            assignment, reporter = taken
            channel.send(Held(assignment.trial, True))
            time.sleep(1.0)
            channel.send(Held(assignment.trial, False))
            with reporting_to(reporter):
                channel.finish(assignment.trial, run(assignment, reporter))

    return serve


def test_a_trial_that_waits_in_its_worker_is_not_late(tmp_path: Path) -> None:
    """While it waits no timeout counts for it; from its start on both do."""

    def task(trial: int) -> float:
        time.sleep(0.2 if trial == 0 else 600)
        return 0.5

    timeouts = Timeouts(0.6, 0.6)
    _, study = drive(task, tmp_path, n_trials=2, timeouts=timeouts, server=holding)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL"]


class Faulty(optuna.pruners.BasePruner):
    """A user's pruner with a fault that shows at the third report of a trial."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step == 2 and bool(1 / 0)


def test_an_error_in_the_driver_ends_the_sweep_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What runs is queued again, the reason is returned, and the traceback is in the log."""

    def task(trial: int) -> None:
        for step in range(600):
            report(step, loss=1.0)
            time.sleep(0.1)

    why = "the sweep cannot go on: ZeroDivisionError: division by zero (test_driver.py:"
    with caplog.at_level("ERROR"):
        driver, study = drive(task, tmp_path, pruner=Faulty(), failure=Starts(why))
    assert "1 / 0" in caplog.text
    assert {t.state.name for t in study.trials} == {"WAITING"}
    assert {*study.trials[0].user_attrs["interruptions"]} == {"the sweep was stopped while it ran"}
    assert {run.slot for run in driver.trials.values()} == {0, 1}


def test_trials_in_the_foreground_are_judged_as_others_are(tmp_path: Path) -> None:
    """In this process, in order: what a trial reports is judged before its next report, its curve
    is kept, and one that fails or is pruned ends alone.
    """
    pids, reached = [], {}

    def task(trial: int) -> float:
        pids.append(os.getpid())
        for step in range(5):
            report(step, loss=9.0 if trial == 1 else 1.0)
            reached[trial] = step
        if trial == 2:
            raise ValueError("told to")
        return float(trial)

    pruner = optuna.pruners.ThresholdPruner(upper=5.0, n_warmup_steps=2)
    _, study = drive(task, tmp_path, pruner=pruner, is_foreground=True)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert reached == {0: 4, 1: 2, 2: 4, 3: 4}
    assert set(pids) == {os.getpid()}
    assert len(read_curves(tmp_path / "curves")) == 5 + 4 + 5 + 5


@pytest.mark.parametrize("quits", [BdbQuit(), signal.SIGINT, signal.SIGTERM], ids=str)
def test_quitting_in_the_foreground_ends_the_sweep(quits: Any, tmp_path: Path) -> None:
    """Ctrl-C, a signal, and `q` in pdb: the trial waits to go on, and no other begins."""

    def task(trial: int) -> float:
        if trial == 1:
            if isinstance(quits, BdbQuit):
                raise quits
            signal.raise_signal(quits)
            time.sleep(10)
        return 1.0

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    driver, study = drive(task, tmp_path, is_foreground=True)
    assert driver.stopped_by == (signal.SIGINT if isinstance(quits, BdbQuit) else quits)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "WAITING"]
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_what_is_wrong_with_the_driver_is_not_the_foreground_tasks_to_catch(tmp_path: Path) -> None:
    """A pruner that raises ends the sweep with its reason, whatever the task catches."""

    class Broken(optuna.pruners.NopPruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            raise ZeroDivisionError("by nothing")

    def task(_: int) -> float:
        try:
            report(0, loss=1.0)
        except Exception:
            return 0.0
        return 1.0

    failure = Starts("the sweep cannot go on: ZeroDivisionError: by nothing")
    _, study = drive(task, tmp_path, pruner=Broken(), failure=failure, is_foreground=True)
    assert [trial.state.name for trial in study.trials] == ["WAITING"]
