"""Where the child processes of a trial report: a socket of the process that runs it.

The other end is `iolaus.sweeps.child`, which says who may speak for a trial.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import optuna

from iolaus.sweeps.child import CHILD_REPORTS_VARIABLE
from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.types import Finding, Plan

__all__ = ["Children"]


class Children:
    """Takes what the children of one trial after the other report, in threads of their own.

    Of the user's processes alone, and of one that speaks for the trial: the first of rank 0, or
    without a rank, that reports. Another may once that one has ended. Where the trial's own process
    reports, none is needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trial = -1
        self._reporter: Reporter | None = None
        self._speaker: object = None
        self._has_spoken = False
        self._refused: set[object] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._address = f"iolaus-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener.bind(f"\0{self._address}")  # not in the file system, and gone with us
        self._listener.listen()
        # A child that outlives us would keep it open, and others waiting.
        os.register_at_fork(after_in_child=self._listener.close)
        threading.Thread(target=self._accept, name="iolaus-children", daemon=True).start()

    def begin(self, trial: int, reporter: Reporter) -> Mapping[str, str]:
        """From here on children report to this trial; what they find in their environment."""
        with self._lock:
            self._trial, self._reporter = trial, reporter
            self._speaker, self._has_spoken, self._refused = None, False, set()
        return {CHILD_REPORTS_VARIABLE: f"{trial}@{self._address}"}

    def end(self) -> tuple[Finding, ...]:
        """The trial is over; what there is to say of its children."""
        with self._lock:
            self._reporter, n_refused = None, len(self._refused)
        if not n_refused:
            return ()
        text = (
            f"{n_refused + 1} processes of the trial reported, and only what the first did was "
            "taken: report from one of them (of distributed training: initialize it first, then "
            "that is rank 0)"
        )
        return (Finding("child_reports", 0, text),)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer a child, request by request, until it is gone."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iII", credentials)
        with connection, suppress(OSError, ValueError):
            if uid != os.getuid():
                return
            with connection.makefile("rwb") as stream:
                for line in stream:
                    answer = self._answer(json.loads(line), connection)
                    stream.write(json.dumps(answer).encode() + b"\n")
                    stream.flush()
        with self._lock:
            self._speaker = None if self._speaker is connection else self._speaker

    def _answer(self, request: Mapping[str, Any], who: object) -> dict[str, Any]:
        call, may_speak = request["call"], request["rank"] in (0, None)
        with self._lock:
            reporter = self._reporter if request["trial"] == self._trial else None
            if reporter is None:
                return {"is_over": True}
            if call == "report" and may_speak:
                if reporter.has_reported and not self._has_spoken:
                    may_speak = False  # the trial's own process does
                elif self._speaker in (None, who):
                    self._speaker, self._has_spoken = who, True
                else:
                    self._refused.add(who)
            speaks = may_speak and self._speaker in (None, who)
        if call == "get_checkpoint":
            path = reporter.get_checkpoint()
            return {"value": None if path is None else str(path)}
        if speaks:
            return _passed_on(reporter, request)
        verdict = reporter.verdict if reporter.acknowledged else None
        if verdict is None:
            return {}
        return {"stop": verdict.reason, "value": True if call == "should_stop" else None}


def _passed_on(reporter: Reporter, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the trial's reporter answers to the one who speaks for it."""
    match request["call"]:
        case "report":
            try:
                reporter.report(request["step"], request["metrics"], request["checkpoint"])
            except optuna.TrialPruned as pruned:
                return {"stop": str(pruned)}
            except NotADirectoryError as error:
                return {"error": str(error)}
            if request["checkpoint"] is not None:
                reporter.await_end()
        case "should_stop":
            return {"value": reporter.should_stop()}
        case "should_checkpoint":
            return {"value": reporter.should_checkpoint()}
        case "intervention":
            given = reporter.intervention()
            return {"value": None if given is None else asdict(given)}
        case "plan":
            corners = tuple((int(step), float(rate)) for step, rate in request["lr"])
            reporter.plan(Plan(request["n_steps"], corners))
    return {}
