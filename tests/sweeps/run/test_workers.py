"""Real worker processes: what they send, how they die, and that none is left behind."""

from __future__ import annotations

import atexit
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from iolaus import report, should_stop
from iolaus.sweeps.errors import SweepFailedError
from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.run import _fork_server
from iolaus.sweeps.run._channel import Channel
from iolaus.sweeps.run._fork_server import ForkServer, Worker, drain, wait
from iolaus.sweeps.run._messages import Assignment, Finished, Ready, Reported, Stopped, WorkerSpec
from iolaus.sweeps.run._start_method import Process
from iolaus.sweeps.run._worker import OneAtATime, Server
from iolaus.sweeps.types import Ending, Outcome, Verdict

PATIENCE_S = 20.0
VERDICT = Verdict("Rule", 2, "enough", {"loss": 1.0})


def runner(task: Callable[[], Any]) -> Server:
    def run(assignment: Assignment, reporter: Reporter) -> Outcome:
        try:
            return Outcome(Ending.COMPLETED, returned=task())
        except optuna.TrialPruned as stop:
            return Outcome(Ending.PRUNED, reason=str(stop), verdict=reporter.verdict)

    return OneAtATime(run)


@contextmanager
def worker_for(task: Callable[[], Any], **spec: Any) -> Iterator[tuple[ForkServer, Worker]]:
    with ForkServer(runner(task), "loss") as fork_server:
        yield fork_server, fork_server.start(WorkerSpec(0, **spec))


@dataclass
class Loading:
    """A server that has something to load before its workers are forked."""

    serve: Server
    load: Callable[[], Any]

    def __call__(self, channel: Channel) -> None:
        self.serve(channel)


def listen(worker: Worker, until: Callable[[list[Any]], bool]) -> tuple[list[Any], bool]:
    """What a worker says until it has said enough or has ended, and whether it has."""
    said: list[Any] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        wait([worker], 1.0)
        messages, ended = drain(worker)
        said += messages
        if ended or until(said):
            return said, ended
    raise AssertionError(f"the worker said only {said}")


def finished(said: list[Any]) -> bool:
    return any(isinstance(message, Finished) for message in said)


def run(worker: Worker, trial: int = 0) -> list[Any]:
    worker.pipe.send(Assignment(trial, ()))
    said, ended = listen(worker, finished)
    assert not ended
    return said


def result(task: Callable[[], Any], **spec: Any) -> Any:
    """What a task returns from a worker."""
    with worker_for(task, **spec) as (_, worker):
        outcome = run(worker)[-1].outcome
        worker.close()
    return outcome.returned


def gone(pid: int) -> bool:
    """Whether a process ends within our patience; one that nobody has reaped yet has ended."""
    for _ in range(int(PATIENCE_S / 0.02)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver is; here torch may have started some for another test."""
    monkeypatch.setattr(_fork_server, "look", lambda: Process((), (), has_cuda=False))


@pytest.mark.usefixtures("without_threads")
def test_what_a_server_loads_is_loaded_once_for_all_workers() -> None:
    """It is loaded by the process that forks them, and not by the driver."""
    loaded: list[int] = []
    serve = Loading(runner(lambda: (loaded, os.getppid())), lambda: loaded.append(os.getpid()))
    with ForkServer(serve, "loss") as fork_server:
        workers = [fork_server.start(WorkerSpec(slot)) for slot in range(2)]
        for worker in workers:
            by, parent = run(worker)[-1].outcome.returned
            assert by == [parent]
            worker.close()
    assert loaded == []


@pytest.mark.usefixtures("without_threads")
def test_a_load_that_fails_or_is_of_no_use_holds_up_nobody() -> None:
    """After one that fails workers are started all the same; one under way ends with the driver."""
    failing = Loading(runner(lambda: 1), lambda: 1 / 0)
    with ForkServer(failing, "loss") as fork_server:
        worker = fork_server.start(WorkerSpec(0))
        assert run(worker)[-1].outcome.returned == 1
        worker.close()
    began_s = time.monotonic()
    with ForkServer(Loading(runner(lambda: 1), lambda: time.sleep(PATIENCE_S)), "loss"):
        pass
    assert time.monotonic() - began_s < PATIENCE_S / 2


def test_reports_arrive_in_order_and_before_the_end() -> None:
    """Every report is sent once, in its order, in far fewer messages than reports, and all before
    Finished.
    """
    n = 3000

    def task() -> None:
        for step in range(n):
            report(step, loss=1.0 / (step + 1), other=step)
            if step % 1000 == 0:
                time.sleep(0.15)

    with worker_for(task) as (_, worker):
        for trial in (4, 5):
            said = run(worker, trial)
            batches = [m for m in said if isinstance(m, Reported)]
            assert isinstance(said[-1], Finished)
            assert {m.trial for m in [*batches, said[-1]]} == {trial}
            rows = [row for message in batches for row in message.batch.rows]
            assert [row.step for row in rows] == list(range(n))
            assert [row.metrics["other"] for row in rows] == list(range(n))
            assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)
            assert 1 < len(batches) < n / 50


@pytest.mark.parametrize("looks", [True, False])
def test_a_stopped_trial_ends_at_its_next_report(looks: bool) -> None:
    """The order to stop reaches a trial between two reports, whether it reports or asks; another
    trial's does not.
    """

    def task() -> None:
        step = 0
        while not (looks and should_stop()):
            if not looks or step == 0:
                report(step, loss=1.0)
            step += 1
            time.sleep(0.001)

    with worker_for(task) as (_, worker):
        worker.pipe.send(Assignment(7, ()))
        listen(worker, lambda said: any(isinstance(m, Reported) for m in said))
        worker.pipe.send(Stopped(6, Verdict("Rule", 2, "for another trial", {})))
        worker.pipe.send(Stopped(7, VERDICT))
        said, _ = listen(worker, finished)
        outcome = said[-1].outcome
        assert outcome.ending is (Ending.COMPLETED if looks else Ending.PRUNED)
        assert outcome.verdict == (None if looks else VERDICT)


def die(how: str) -> None:
    report(0, loss=1.0)
    match how:
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "SIGSEGV":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "_exit":
            os._exit(3)
        case "exit":
            sys.exit(4)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGKILL", "SIGKILL|signal 9"),
        ("SIGSEGV", "SIGSEGV|signal 11"),
        ("_exit", "3"),
        ("exit", "1"),
    ],
)
def test_each_death_has_its_words_and_a_successor(how: str, words: str, tmp_path: Path) -> None:
    """A worker that is killed, crashes or exits is noticed at once and told apart; the next one in
    its slot works.
    """
    marker = tmp_path / "first"
    marker.touch()

    def task() -> str:
        if marker.exists():
            marker.unlink()
            die(how)
        return "alive"

    with worker_for(task) as (fork_server, worker):
        worker.pipe.send(Assignment(0, ()))
        began_s = time.monotonic()
        said, ended = listen(worker, finished)
        assert ended
        assert not finished(said)
        assert re.search(words, cause := fork_server.cause_of_death(worker)[0]), cause
        assert time.monotonic() - began_s < PATIENCE_S / 2
        worker.close()
        successor = fork_server.start(WorkerSpec(0))
        assert run(successor)[-1].outcome.returned == "alive"


def test_a_worker_says_that_it_is_ready_first() -> None:
    """The first word of a worker is Ready, before it is given anything."""
    with worker_for(lambda: None) as (_, worker):
        assert listen(worker, bool)[0] == [Ready()]
        assert [type(m) for m in run(worker)] == [Finished]


def test_random_numbers_differ_between_workers() -> None:
    """Workers are forks of one process, and yet trials that seed nothing draw different numbers."""
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")

    def task() -> tuple[float, ...]:
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    with ForkServer(runner(task), "loss") as fork_server:
        drawn = [run(fork_server.start(WorkerSpec(slot)))[-1].outcome.returned for slot in range(3)]
    for numbers in zip(
        *drawn, (random.random(), float(numpy.random.rand()), float(torch.rand(()))), strict=True
    ):
        assert len(set(numbers)) == 4


def threads() -> tuple[int, set[int], str]:
    import torch
    from threadpoolctl import threadpool_info

    return (
        torch.get_num_threads(),
        {pool["num_threads"] for pool in threadpool_info()},
        os.environ["OMP_NUM_THREADS"],
    )


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("2", "2"), ("1,2", "1"), ("", "1")])
def test_a_worker_keeps_to_its_threads(
    own: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch and the BLAS get the slot's number of threads, unless the user's OMP_NUM_THREADS says
    otherwise.
    """
    pytest.importorskip("torch")
    if own is None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    in_torch, in_pools, _ = result(threads, n_threads=1)
    assert in_torch == int(expected)
    assert in_pools == {int(expected)}


def test_a_worker_gets_its_environment() -> None:
    """Variables of the slot are set in the worker and not in the driver; it reads nothing from the
    terminal.
    """

    def task() -> tuple[str, bytes]:
        return os.environ["IOLAUS_TEST"], os.read(0, 1)

    assert result(task, environment=(("IOLAUS_TEST", "3"),)) == ("3", b"")
    assert "IOLAUS_TEST" not in os.environ


def test_no_process_outlives_the_fork_server() -> None:
    """Workers end with the fork server, busy, idle or let go; one that is let go ends by itself."""
    with ForkServer(runner(lambda: time.sleep(600)), "loss") as fork_server:
        busy, idle, let_go = (fork_server.start(WorkerSpec(slot)) for slot in range(3))
        busy.pipe.send(Assignment(0, ()))
        listen(let_go, bool)
        let_go.close()
        assert gone(let_go.pid)
        assert not Path(f"/proc/{busy.pid}/stat").read_text().endswith("Z")
        fork_server_pid = fork_server._pid
    for pid in (busy.pid, idle.pid, let_go.pid, fork_server_pid):
        assert gone(pid)


def test_exit_handlers_of_the_task_run_when_its_worker_is_let_go(tmp_path: Path) -> None:
    """Once, at the end of the worker, the last first; those of the driver are the driver's."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    def write(path: Path, text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def task() -> None:
        atexit.register(write, theirs, "first registered\n")
        atexit.register(lambda: 1 / 0)
        atexit.register(write, theirs, "last registered\n")
        atexit.register(time.sleep, 0.3)

    atexit.register(write, ours, "x")
    try:
        with ForkServer(runner(task), "loss") as fork_server:
            worker = fork_server.start(WorkerSpec(0))
            run(worker)
            assert not theirs.exists()
            fork_server.release(worker)
        assert theirs.read_text() == "last registered\nfirst registered\n"
        assert not ours.exists()
    finally:
        atexit.unregister(write)


def test_exit_handlers_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs holds up the end of the sweep for so long and no longer."""
    for module in ("_worker", "_channel", "_fork_server"):
        monkeypatch.setattr(f"iolaus.sweeps.run.{module}.EXIT_S", 0.5)
    with ForkServer(runner(lambda: atexit.register(time.sleep, 600)), "loss") as fork_server:
        worker = fork_server.start(WorkerSpec(0))
        run(worker)
        fork_server.release(worker)
        began_s = time.monotonic()
    assert gone(worker.pid)
    assert time.monotonic() - began_s < 5


def test_a_killed_worker_is_killed() -> None:
    """ForkServer.kill ends a worker whatever it does, and once more does no harm."""
    with worker_for(lambda: time.sleep(600)) as (fork_server, worker):
        worker.pipe.send(Assignment(0, ()))
        fork_server.kill(worker)
        assert listen(worker, finished)[1]
        assert "SIGKILL" in fork_server.cause_of_death(worker)[0]
        fork_server.kill(worker)


def test_signals_to_a_job_are_for_the_driver_alone() -> None:
    """The fork server stays where a scheduler ends all processes; what tasks start knows signals as
    ever, forked or not.
    """

    def task() -> list[Any]:
        forked = os.fork()
        if forked == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        code = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        of_int = signal.getsignal(signal.SIGINT) == before
        return [of_int, out.strip() == b"True", os.waitpid(forked, 0)[1] == signal.SIGTERM]

    before = signal.getsignal(signal.SIGINT)
    with worker_for(task) as (fork_server, worker):
        listen(worker, bool)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(fork_server._pid, number)
        assert run(worker)[-1].outcome.returned == [True] * 3


def test_without_a_fork_server_a_sweep_says_so() -> None:
    """When the process that starts workers is gone, the sentence says so and what to do."""
    with ForkServer(runner(lambda: None), "loss") as fork_server:
        os.kill(fork_server._pid, signal.SIGKILL)
        with pytest.raises(SweepFailedError, match="process that starts workers is gone"):
            fork_server.start(WorkerSpec(0))


def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    """When the driver gets SIGKILL, the fork server and its workers end, also in the middle of a
    trial.
    """
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from iolaus.sweeps.run._fork_server import ForkServer
            from iolaus.sweeps.run._messages import Assignment, WorkerSpec
            fork_server = ForkServer(lambda line: time.sleep(600), "loss")
            busy, idle = fork_server.start(WorkerSpec(0)), fork_server.start(WorkerSpec(1))
            busy.pipe.send(Assignment(0, ()))
            sys.stdout.write(f"{fork_server._pid} {busy.pid} {idle.pid}\\n")
            sys.stdout.flush()
            time.sleep(600)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.3)
        driver.kill()
    assert all(gone(pid) for pid in pids)


def test_a_child_of_a_trial_may_report_in_vain() -> None:
    """A forked child that calls iolaus.report neither doubles nor breaks anything; it cannot be
    heard.
    """

    def task() -> int:
        report(0, loss=1.0)
        child = os.fork()
        if child == 0:
            report(1, loss=float("nan"))
            os._exit(0 if not should_stop() else 1)
        status = os.waitpid(child, 0)[1]
        report(2, loss=0.5)
        return status

    with worker_for(task) as (_, worker):
        said = run(worker)
    outcome = replace(said[-1].outcome, memory=None)
    assert outcome == Outcome(Ending.COMPLETED, returned=0)
    assert [row.step for m in said if isinstance(m, Reported) for row in m.batch.rows] == [0, 2]


def test_a_child_that_outlives_its_worker_does_not_hide_its_death() -> None:
    """A worker's death is noticed though a child of its trial still holds the pipe."""

    def task() -> None:
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os._exit(3)

    with worker_for(task) as (fork_server, worker):
        began_s = time.monotonic()
        worker.pipe.send(Assignment(0, ()))
        assert listen(worker, finished)[1]
        assert time.monotonic() - began_s < 2
        assert "3" in fork_server.cause_of_death(worker)[0]


@pytest.mark.parametrize("how", ["killed", "dead", "let go", "without a fork server's word"])
def test_children_of_a_trial_end_with_its_worker(how: str) -> None:
    """However a worker ends, no process that its trials have started is left behind."""

    def task() -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    with worker_for(task) as (fork_server, worker):
        child = run(worker)[-1].outcome.returned
        match how:
            case "killed":
                fork_server.kill(worker)
            case "dead":
                os.kill(worker.pid, signal.SIGTERM)
                assert fork_server.cause_of_death(worker)[1] == signal.SIGTERM
            case "let go":
                fork_server.release(worker)
    assert gone(child)


def test_a_breakpoint_says_that_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence with what to do; PYTHONBREAKPOINT is obeyed as ever."""

    def task() -> str:
        try:
            breakpoint()
        except RuntimeError as error:
            return str(error)
        return "passed over"

    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)  # pytest has its own
    assert "set hydra.sweeper.n_jobs=0, and trials run in the foreground" in result(task)
    assert result(task, environment=(("PYTHONBREAKPOINT", "0"),)) == "passed over"


def test_a_verdict_without_numbers_can_be_sent() -> None:
    """Every verdict can go to a worker and come back."""
    verdict = Verdict("Rule", 2, "enough")
    assert pickle.loads(pickle.dumps(verdict)) == verdict
