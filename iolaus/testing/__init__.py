"""Contracts for what you add: subclass one in a test file, say how your part is made, run pytest.

`PrunerContract`, `ScheduleContract`, `TaskContract` and `StorageContract` hold what everything of
their kind promises; our own pruners, schedules, tasks and storage are tested with them.
docs/extending.md has an example of each. They need pytest; schedules and tasks need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iolaus.testing.pruners import PrunerContract
    from iolaus.testing.schedules import ScheduleContract
    from iolaus.testing.storages import StorageContract
    from iolaus.testing.tasks import TaskContract

__all__ = ["PrunerContract", "ScheduleContract", "StorageContract", "TaskContract"]

_MODULES = {
    "PrunerContract": "pruners",
    "ScheduleContract": "schedules",
    "StorageContract": "storages",
    "TaskContract": "tasks",
}


def __getattr__(name: str) -> Any:
    """Import a contract when it is first used: a test of a pruner needs no torch."""
    if name not in _MODULES:
        raise AttributeError(f"iolaus.testing has no {name}: it has {', '.join(__all__)}")
    return getattr(import_module(f"iolaus.testing.{_MODULES[name]}"), name)
