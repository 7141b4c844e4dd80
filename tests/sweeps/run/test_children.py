"""What the child processes of a trial report: taken from the one that speaks for it."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iolaus import get_checkpoint, intervention, plan, report, should_checkpoint, should_stop
from iolaus.sweeps.child import CHILD_REPORTS_VARIABLE, RANK_VARIABLES
from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._children import Children
from iolaus.sweeps.types import Intervention, Plan, Verdict

VERDICT = Verdict("Rule", 1, "enough")


class Trial:
    """A trial in this process, whose children find it in their environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reporter = Reporter("loss", clock=lambda: 0.0)
        self.children = Children()
        for name, value in self.children.begin(3, self.reporter).items():
            monkeypatch.setenv(name, value)

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        batch = self.reporter.take()
        return [] if batch is None else [(row.step, dict(row.metrics)) for row in batch.rows]


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Any:
    trial = Trial(monkeypatch)
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with reporting_to(trial.reporter):
        yield trial
    trial.children.end()


def child(act: Callable[[], Any], **env: str) -> str:
    """What came of a call in a forked child: its value, or the error that ended it."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.environ.update(env)
            text = repr(act())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as file:
        return file.read()


def test_a_child_speaks_as_the_trial_would(trial: Trial, tmp_path: Path) -> None:
    """Reports, plan, interventions, the question whether to stop: the trial's own, with its
    answers. One child after the other may speak, forked or started anew.
    """
    child(lambda: (plan(4, lr=[(0, 0.1)]), report(0, loss=1), report(1, **{"grad/norm": 2.0})))
    fresh = "import iolaus; iolaus.report(2, loss=0.5)"
    subprocess.run([sys.executable, "-c", fresh], check=True)
    batch = trial.reporter.take()
    assert batch is not None
    assert batch.plan == Plan(4, ((0, 0.1),))
    assert [dict(row.metrics) for row in batch.rows] == [
        *({"loss": 1.0}, {"grad/norm": 2.0}, {"loss": 0.5}),
    ]
    wanted = Intervention("decay", 0.5, VERDICT)
    trial.reporter.offer(wanted)
    assert child(intervention) == repr(wanted)
    assert child(intervention) == "None"
    assert child(get_checkpoint) == "None"
    assert child(should_checkpoint) == child(should_stop) == "False"
    assert "TypeError: iolaus.report: metrics are single numbers" in child(
        lambda: report(0, loss="x")
    )
    assert child(lambda: report(3, loss=math.nan)) == "TrialPruned: loss became nan at step 3"
    assert child(should_stop) == "True"
    assert trial.reporter.acknowledged


def test_a_checkpoint_of_a_child_is_the_trials(trial: Trial, tmp_path: Path) -> None:
    """A relative folder too: it is moved into the trial's, and the next child may go on from it."""
    trial.reporter.place(str(tmp_path / "trial"))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "step").write_text("5")

    def act(folder: str) -> None:
        os.chdir(tmp_path)
        report(5, checkpoint=folder)

    assert child(lambda: act("made")) == "None"
    assert trial.reporter.saves
    assert len(list((tmp_path / "trial").rglob("step"))) == 1
    assert "NotADirectoryError" in child(lambda: act("nothing"))


def test_rank_0_speaks_and_the_others_end_with_it(trial: Trial) -> None:
    """What other ranks report is left out; they are told to end once rank 0 has been."""
    assert child(lambda: report(0, loss=9), RANK="1") == "None"
    trial.reporter.stop(VERDICT)
    assert child(lambda: report(1, loss=9), RANK="1") == "None"
    assert child(should_checkpoint, LOCAL_RANK="1") == "False"
    assert child(lambda: report(1, loss=2), RANK="0") == "TrialPruned: enough"
    assert child(lambda: report(1, loss=9), RANK="1") == "TrialPruned: enough"
    assert child(should_stop, RANK="1") == "True"
    assert child(intervention, RANK="1") == "None"
    assert trial.rows() == [(1, {"loss": 2.0})]
    assert trial.children.end() == ()


def test_one_process_speaks_at_a_time(trial: Trial) -> None:
    """Another that reports meanwhile is not taken, and the trial says so at its end."""

    def first() -> str:
        report(0, loss=1)
        return child(lambda: report(7, loss=7))  # it is there while its parent is

    assert child(first) == "'None'"
    (finding,) = trial.children.end()
    assert finding.text.startswith("2 processes of the trial reported, and only what the first did")
    assert trial.rows() == [(0, {"loss": 1.0})]


def test_none_speaks_where_the_trial_does(trial: Trial) -> None:
    """The trial's own reports stay alone, and nothing is said."""
    report(0, loss=1)
    assert child(lambda: report(7, loss=7)) == "None"
    assert trial.children.end() == ()
    assert trial.rows() == [(0, {"loss": 1.0})]


@pytest.mark.parametrize("known", [None, "4@{}", "3@iolaus-nobody", "nonsense"])
def test_a_child_of_no_trial_reports_nothing(trial: Trial, known: str | None) -> None:
    """One that outlives its trial, one of another trial, one that finds nobody: it trains on."""
    address = os.environ[CHILD_REPORTS_VARIABLE]
    if known is None:
        trial.children.end()
    given = address if known is None else known.format(address.partition("@")[2])
    env = {CHILD_REPORTS_VARIABLE: given}
    assert child(lambda: (report(0, loss=1), should_stop(), get_checkpoint()), **env) == (
        "(None, False, None)"
    )
    assert trial.rows() == []


def test_a_child_whose_trial_dies_is_to_stop() -> None:
    """There is nobody left to train for, and no other process that would end it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0iolaus-test-dies")
        listener.listen()

        def act() -> str:
            os.environ[CHILD_REPORTS_VARIABLE] = "3@iolaus-test-dies"
            report(0, loss=1)
            try:
                report(1, loss=1)
            finally:
                assert should_stop() is False  # said once; then it is as outside a sweep
            return "went on"

        def trial() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.readline()
                stream.write(b"{}\n")

        answering = threading.Thread(target=trial)
        answering.start()
        assert child(act) == "TrialPruned: the trial's process is gone"
        answering.join()
