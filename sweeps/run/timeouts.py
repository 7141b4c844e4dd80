"""How long a trial may run, and how long it may be silent, before it is ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iolaus.sweeps.text import duration

__all__ = ["AwakeClock", "Timeouts"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What a trial is allowed, in seconds; None: as long as it likes.

    trial_s: from its start to its end. stall_s: from its start, or its last report, to the next.
    checkpoint_s: to make a checkpoint, if it makes any, when it is about to be cut off. start_s: a
    worker, from its start to the user's code; the wait for a trial does not count.
    """

    trial_s: float | None = None
    stall_s: float | None = None
    checkpoint_s: float | None = 10.0
    start_s: float | None = 60.0

    @property
    def are_set(self) -> bool:
        """Whether any trial can ever be overdue."""
        return self.trial_s is not None or self.stall_s is not None

    def overdue(self, ran_s: float, silent_s: float) -> str | None:
        """Why a trial is to be ended that has run, and has not reported, for so long; or None."""
        if self.trial_s is not None and ran_s > self.trial_s:
            return f"timed out after {_text(ran_s)}: trial_timeout is {_text(self.trial_s)}"
        if self.stall_s is not None and silent_s > self.stall_s:
            return (
                f"timed out after {_text(silent_s)} without a report: "
                f"stall_timeout is {_text(self.stall_s)}"
            )
        return None

    def unborn(self, seconds: float, n_before: int = 0) -> str | None:
        """Why a worker is to be ended that has tried for so long to get to the user's code.

        n_before: earlier starts after which this one is given more time, each time twice as much: a
        slow machine or disk delays a sweep and does not end it.
        """
        if self.start_s is None or seconds <= (limit_s := self.start_s * 2**n_before):
            return None
        return (
            f"did not come to its first line of user code in {_text(seconds)} "
            f"(start_timeout is {_text(self.start_s)}"
            f"{f', {_text(limit_s)} for this start' if n_before else ''})"
        )


class AwakeClock:
    """A clock that counts only time in which its owner looks at it.

    Where the driver itself was held up, by a locked database, a suspended job or a laptop that
    slept, its trials may have been too, and their reports wait to be read: of such a gap no more
    than `most_s` seconds count. clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float], most_s: float) -> None:
        self._clock = clock
        self._most_s = most_s
        self._last_s = clock()
        self._awake_s = 0.0

    def __call__(self) -> float:
        """Seconds since the first look, without long gaps between looks."""
        now_s = self._clock()
        self._awake_s += min(now_s - self._last_s, self._most_s)
        self._last_s = now_s
        return self._awake_s


def _text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else duration(seconds)
