"""How a child process of a trial reports: to the trial's own process, which its environment names.

A rank of `torchrun`, of `torch.multiprocessing`, of a `subprocess`. One of them speaks for the
trial: rank 0, or where there are no ranks the first that reports. The other end is
`iolaus.sweeps.run._children`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iolaus.sweeps.types import Intervention, Plan, Verdict

__all__ = ["CHILD_REPORTS_VARIABLE", "RANK_VARIABLES", "ChildReporter", "rank"]

# In the environment of a trial: its number, and the socket at which its process listens to those
# that it starts.
CHILD_REPORTS_VARIABLE = "IOLAUS_CHILD_REPORTS"
# torch.distributed's own names; Lightning's launcher sets the second, torchrun both.
RANK_VARIABLES = ("RANK", "LOCAL_RANK")
# An answer takes as long as the sweep needs to end the trial (`reporting.HOLD_S`); longer than this
# is none.
ANSWER_S = 120.0


def rank(environ: Mapping[str, str]) -> int | None:
    """The rank of this process in distributed training; None if it is in none.

    torch.distributed knows it once it is initialized; before that, the environment may.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    given = [environ[name] for name in RANK_VARIABLES if environ.get(name, "").isdecimal()]
    return int(given[0]) if given else None


class ChildReporter:
    """What `iolaus.report` and its companions speak to in a child process of a trial.

    As a trial's own (`iolaus.sweeps.reporting.Reporter`), but for a rank other than 0: what that
    reports is left out, it is given no intervention and asked for no checkpoint, and it is ended
    once rank 0 has been told to end.
    """

    def __init__(self, trial: int, address: str) -> None:
        self._trial, self._address = trial, address
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._socket: Any = None
        self._is_over = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> ChildReporter | None:
        """That of a process with this environment; None if no trial has started it."""
        trial, _, address = environ.get(CHILD_REPORTS_VARIABLE, "").partition("@")
        return cls(int(trial), address) if trial.isdecimal() and address else None

    @property
    def is_here(self) -> bool:
        """Whether it was made in this process, and not in the one that this was forked from."""
        return os.getpid() == self._pid

    def report(
        self, step: int, metrics: Mapping[str, float], checkpoint: str | Path | None = None
    ) -> None:
        """See `Reporter.report`; step and metrics have been checked.

        The answer comes when the trial is to go on.
        """
        folder = None if checkpoint is None else str(Path(checkpoint).absolute())
        answer = self._ask("report", step=step, metrics=dict(metrics), checkpoint=folder)
        if answer.get("error"):
            raise NotADirectoryError(answer["error"])
        if (reason := answer.get("stop")) is not None:
            import optuna  # only now: a script that trains alone never pays for it

            raise optuna.TrialPruned(reason)

    def should_stop(self) -> bool:
        """See `Reporter.should_stop`."""
        return bool(self._ask("should_stop").get("value"))

    def should_checkpoint(self) -> bool:
        """See `Reporter.should_checkpoint`."""
        return bool(self._ask("should_checkpoint").get("value"))

    def get_checkpoint(self) -> Path | None:
        """See `Reporter.get_checkpoint`; the same on all ranks."""
        path = self._ask("get_checkpoint").get("value")
        return Path(path) if path else None

    def intervention(self) -> Intervention | None:
        """See `Reporter.intervention`."""
        given = self._ask("intervention").get("value")
        if given is None:
            return None
        return Intervention(**{**given, "verdict": Verdict(**given["verdict"])})

    def plan(self, plan: Plan) -> None:
        """See `Reporter.plan`."""
        self._ask("plan", n_steps=plan.n_steps, lr=plan.lr)

    def _ask(self, call: str, **arguments: Any) -> Mapping[str, Any]:
        """The answer of the trial's process; an empty one when the trial is over.

        Where that process has died meanwhile there is nobody left to train for: whoever asks is to
        stop.
        """
        if self._is_over:
            return {}
        request = {"trial": self._trial, "rank": rank(os.environ), "call": call, **arguments}
        with self._lock:
            was_connected = self._socket is not None
            try:
                line = self._exchange(json.dumps(request).encode() + b"\n")
            except OSError:
                line = b""
        answer: dict[str, Any] = json.loads(line) if line else {"is_over": True}
        self._is_over = bool(answer.get("is_over"))
        if not line and was_connected:
            answer |= {"stop": "the trial's process is gone", "value": call == "should_stop"}
        return answer

    def _exchange(self, line: bytes) -> bytes:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(ANSWER_S)
            connection.connect(f"\0{self._address}")
            self._socket = connection.makefile("rwb")
        self._socket.write(line)
        self._socket.flush()
        return bytes(self._socket.readline())
