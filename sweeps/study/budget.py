"""What a sweep has cost, and what it may cost: time, and what its slots held meanwhile.

Each session keeps its cost in the study, under a key of its own, so that it adds up over sessions
and machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from iolaus.sweeps.text import duration, parse_seconds

__all__ = ["Budget", "Cost", "cost_of_others", "cost_text", "session_key"]

KEY = "iolaus:cost:"
Resource = Literal["wall", "core", "gpu"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What sessions have cost, in seconds, each >= 0.

    wall_s: from begin to end, those of sessions at the same time added up. core_s, gpu_s: the same
    times the cores and the GPUs of the slots that had a trial; a GPU that slots share counts once.
    """

    wall_s: float = 0.0
    core_s: float = 0.0
    gpu_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.wall_s + other.wall_s, self.core_s + other.core_s, self.gpu_s + other.gpu_s
        )

    def of(self, resource: Resource) -> float:
        """The seconds of one of these."""
        return {"wall": self.wall_s, "core": self.core_s, "gpu": self.gpu_s}[resource]

    def to_attr(self) -> dict[str, float]:
        """As the study keeps it."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Budget:
    """What all sessions of a sweep may cost together: so many seconds, > 0, of a resource.

    text: as it was given.
    """

    seconds: float
    resource: Resource
    text: str

    @classmethod
    def parse(cls, value: Any) -> Budget:
        """A budget such as 2h of wall time, "500 gpu-min" or "30 core-min".

        Units are s, min, h and d. Raises ValueError for anything else: a number alone says neither
        its unit nor what it is of.

        >>> Budget.parse("2h")
        Budget(seconds=7200.0, resource='wall', text='2h')
        >>> Budget.parse("500 gpu-min").seconds
        30000.0
        """
        match = re.fullmatch(r"\s*([\d.]+)\s*(?:(core|gpu)-)?(s|min|h|d)\s*", str(value))
        if match is None:
            raise ValueError(
                "give a wall time such as 90min or 2h, or a compute time such as '500 gpu-min' "
                "or '8 core-h'"
            )
        number, resource, unit = match.groups()
        known: dict[str | None, Resource] = {None: "wall", "core": "core", "gpu": "gpu"}
        return cls(parse_seconds(number + unit), known[resource], str(value).strip())

    def is_spent(self, cost: Cost) -> bool:
        """Whether sessions that have cost this may do nothing more."""
        return cost.of(self.resource) >= self.seconds

    def twice(self) -> str:
        """A budget of twice as much, as it would be given.

        >>> Budget.parse("1.5 core-h").twice()
        '3 core-h'
        """
        return re.sub(r"[\d.]+", lambda number: f"{2 * float(number[0]):g}", self.text, count=1)


def session_key(session: str) -> str:
    """The study's attribute for a session's cost; session: a name that no other one has."""
    return KEY + session


def cost_of_others(attrs: Mapping[str, Any], session: str) -> Cost:
    """What the other sessions have cost, by the study's attributes, which anyone may have written.

    Of one that was killed the last seconds are missing.
    """
    total = Cost()
    for key, value in attrs.items():
        if key.startswith(KEY) and key != session_key(session) and isinstance(value, Mapping):
            known = {f.name: value.get(f.name) for f in fields(Cost)}
            total += Cost(
                **{n: float(v) for n, v in known.items() if isinstance(v, int | float) and v >= 0}
            )
    return total


def cost_text(cost: Cost) -> str:
    """A cost in words: 12 min of wall time, 24 min of cores."""
    parts = [f"{duration(cost.wall_s)} of wall time"]
    parts += [f"{duration(cost.core_s)} of cores"] if cost.core_s else []
    parts += [f"{duration(cost.gpu_s)} of GPUs"] if cost.gpu_s else []
    return ", ".join(parts)
