"""Names, counts and times as a reader wants them, the same in every table, sentence and figure."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

__all__ = [
    "counted",
    "duration",
    "ordinal",
    "parse_seconds",
    "quoted",
    "short_names",
    "size",
    "to_install",
]

DISTRIBUTION = "hydra-iolaus"

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key's last part, with as much before it as tells it from the others.

    >>> short_names(["optim.lr", "model.a.size", "model.b.size"])
    {'optim.lr': 'lr', 'model.a.size': 'a.size', 'model.b.size': 'b.size'}
    """
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        names[key] = next(
            (end for end in ends if sum(k == end or k.endswith(f".{end}") for k in keys) == 1), key
        )
    return names


def to_install(extras: str) -> str:
    """The command that installs what extras of this package bring, by the packages' own names.

    extras: one, or several with commas between. Where this package was never installed, so that it
    has no metadata, by the extras.
    """
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return f"pip install '{DISTRIBUTION}[{extras}]'"
    wanted, names = extras.split(","), list[str]()
    for extra in wanted:  # one may bring others
        for one in declared:
            if one.marker is None or not one.marker.evaluate({"extra": extra}):
                continue
            if one.name == DISTRIBUTION:
                wanted += sorted(one.extras)
            else:
                extra_text = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
                names.append(f"{one.name}{extra_text}{one.specifier}")
    return f"pip install {shlex.join(dict.fromkeys(names))}"


def counted(n: int, what: str) -> str:
    """How many of a thing whose plural ends in s.

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def ordinal(n: int) -> str:
    """A place in an order.

    >>> [ordinal(n) for n in (1, 2, 11, 23, 112)]
    ['1st', '2nd', '11th', '23rd', '112th']
    """
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def duration(seconds: float) -> str:
    """Seconds in words of one or two units: 12 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: float) -> str:
    """Bytes in the binary unit in which they are 1 or more.

    >>> size(0), size(1536), size(700 * 2**20), size(79.6 * 2**30)
    ('0 bytes', '1.5 KiB', '700 MiB', '79.6 GiB')
    """
    power = min(int(math.log2(max(n_bytes, 1)) // 10), len(UNITS) - 1)
    return f"{n_bytes / 2 ** (10 * power):.3g} {UNITS[power]}"


def parse_seconds(value: Any) -> float:
    """A number of seconds, or a text such as 90s, 30min, 2h, 1.5d.

    Raises ValueError for anything else, and for what is not above 0 and finite.

    >>> parse_seconds("30min"), parse_seconds("2 h"), parse_seconds(10)
    (1800.0, 7200.0, 10.0)
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|min|h|d)?\s*", value)
        if match:
            seconds = float(match[1]) * UNITS_S[match[2] or "s"]
    if not 0 < seconds < math.inf:
        raise ValueError(f"{value!r} is no time: give seconds above 0, or a text such as 30min, 2h")
    return seconds


def quoted(value: str) -> str:
    """A value as the grammar of Hydra's overrides reads it.

    >>> quoted("multirun/a b")
    "'multirun/a b'"
    """
    if re.fullmatch(r"[\w./+-]+|\[\]", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
