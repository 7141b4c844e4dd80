"""Names and counts as a reader wants them, the same in every table, sentence and figure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["counted", "ordinal", "short_names"]


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
