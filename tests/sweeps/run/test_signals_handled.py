"""Handlers of signals for a while."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from iolaus.sweeps.run._signals import handled

HANDLED = (signal.SIGTERM, signal.SIGHUP)


def test_they_come_within_and_are_given_back() -> None:
    """But a SIGHUP that nohup has ignored, and in no other thread."""
    came: list[int] = []

    def take(number: int, _: FrameType | None) -> None:
        came.append(number)

    def elsewhere() -> None:
        with handled(HANDLED, take):
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    term, hup = (signal.getsignal(number) for number in HANDLED)
    with handled(HANDLED, take):
        for number in HANDLED:
            os.kill(os.getpid(), number)
    assert came == list(HANDLED)
    assert [signal.getsignal(number) for number in HANDLED] == [term, hup]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled(HANDLED, take):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, hup)
    assert came == list(HANDLED)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [term]
