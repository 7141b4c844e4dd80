"""Handlers of signals for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["handled"]


@contextmanager
def handled(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Within, `handler` gets these signals; afterwards who got them before.

    A SIGHUP that is ignored stays so: nohup. Outside the main thread nothing changes, as Python
    lets no other one handle signals: there they are someone else's business.
    """
    before: dict[int, Any] = {}
    with suppress(ValueError):  # not the main thread
        for number in numbers:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
