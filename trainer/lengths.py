"""Lengths in steps, epochs, examples or shares of the run, turned into optimizer steps.

A schedule that is written in steps alone dies early when a search makes the batch larger and the
run shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

__all__ = [
    "UNITS",
    "BatchSizes",
    "Every",
    "batch_sizes",
    "every",
    "in_steps",
    "steps_of",
    "stretched",
]

UNITS = ("steps", "epochs", "examples", "run", "rest")


@dataclass(frozen=True)
class BatchSizes:
    """The batch size over a run: `sizes[i]` examples per step from step `starts[i]` on.

    starts: rising steps, the first one 0. sizes: at least 1 each, as many as starts.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.sizes) or not self.starts or self.starts[0] != 0:
            raise ValueError(
                f"batch sizes need one start per size and a first start of 0; got {self}"
            )
        if list(self.starts) != sorted(set(self.starts)):
            raise ValueError(
                f"the points at which the batch size changes must rise; got {list(self.starts)}"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"a batch holds at least 1 example; got {list(self.sizes)}")

    def at(self, step: int) -> int:
        """Examples in the batch of this step."""
        return next(
            size
            for start, size in zip(self.starts[::-1], self.sizes[::-1], strict=True)
            if step >= start
        )

    def examples(self, step: int) -> int:
        """Examples seen before this step."""
        return sum(
            size * max(0, min(step, end) - start) for start, end, size in self._segments(step)
        )

    def steps(self, n_examples: float) -> float:
        """Steps, whole or not, after which so many examples are seen; the inverse of `examples`."""
        for start, end, size in self._segments(math.inf):
            if n_examples <= size * (end - start):
                return start + n_examples / size
            n_examples -= size * (end - start)
        raise AssertionError("the last segment has no end")

    def _segments(self, end: float) -> list[tuple[int, Any, int]]:
        return list(zip(self.starts, (*self.starts[1:], end), self.sizes, strict=True))


@dataclass(frozen=True)
class Every:
    """What recurs in a run: after each `interval` of steps, or of examples if `sizes` are given.

    interval: above 0, whole or not. A step that reaches it, or goes beyond it, is when it is due;
    one that reaches it several times over counts once.
    """

    interval: int | Fraction
    sizes: BatchSizes | None = None

    def times(self, step: int) -> int:
        """How often the interval has been reached after so many updates."""
        return int((step if self.sizes is None else self.sizes.examples(step)) // self.interval)

    def is_due(self, step: int) -> bool:
        """Whether it is due after so many updates; never after 0."""
        return self.times(step) > self.times(step - 1) if step > 0 else False

    def next(self, step: int) -> int:
        """The first step after this one at which it is due."""
        return self._step_of(self.times(step) + 1)

    def last(self, step: int) -> int:
        """The last step up to this one at which it was due; 0 if there is none."""
        return self._step_of(self.times(step))

    def _step_of(self, times: int) -> int:
        if self.sizes is None:
            return math.ceil(times * self.interval)
        step = math.ceil(self.sizes.steps(float(times * self.interval)))
        # By rounding the step found may be one off.
        return step + 1 if self.sizes.examples(step) < times * self.interval else step


def every(length: int | str, name: str, sizes: BatchSizes, n_train: int) -> Every:
    """What recurs after each `length`: a number of steps, or such as "1 epochs", "5000 examples".

    name: of the setting, for messages. Raises ValueError for what is no such length, or 0.
    """
    number, _, unit = str(length).strip().partition(" ")
    unit = unit.strip() or "steps"
    try:
        value = Fraction(number)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if isinstance(length, bool) or value <= 0 or unit not in UNITS[:3]:
        raise ValueError(
            f"{name} must be a number above 0, of steps, or followed by epochs or examples, such "
            f"as '1 epochs'; got {length!r}"
        )
    if unit == "epochs":
        value *= n_train
    whole = int(value) if value.denominator == 1 else value
    if unit == "steps" and not isinstance(whole, int):
        raise ValueError(f"{name} must be a whole number of steps; got {length!r}")
    return Every(whole, None if unit == "steps" else sizes)


def steps_of(
    length: float | str,
    unit: str,
    sizes: BatchSizes,
    n_train: int,
    n_steps: int = 0,
    n_rest: float = 0,
) -> float:
    """Steps in `length`, not rounded.

    length: a number of `unit`s, or a string that names its own unit, such as "3 epochs" or "0.1
    run".
    unit: "steps"; "epochs" (of n_train examples); "examples"; "run" (shares of n_steps); "rest"
    (shares of n_rest, the steps that warm-up leaves). The last two are refused while n_steps is 0:
    the run's length is still unknown.
    """
    number, _, own_unit = str(length).strip().partition(" ")
    unit = own_unit.strip() or unit
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    allowed = UNITS if n_steps else UNITS[:3]
    if not math.isfinite(value) or value < 0 or unit not in allowed:
        raise ValueError(
            f"a length is a number from 0 up, alone or followed by one of {', '.join(allowed)}; "
            f"got {length!r} ({unit})"
        )
    match unit:
        case "epochs":
            return sizes.steps(value * n_train)
        case "examples":
            return sizes.steps(value)
        case "run":
            return value * n_steps
        case "rest":
            return value * n_rest
        case _:
            return value


def stretched(n_steps: int, stretch: float) -> int:
    """So many times as many steps, rounded down where that is no whole number."""
    return math.floor(n_steps * stretch + 1e-6)


def batch_sizes(
    batch_size: int, schedule: Sequence[Sequence[Any]], unit: str, n_train: int
) -> BatchSizes:
    """The batch sizes of a run: `batch_size` throughout, or those of `schedule`.

    schedule: a list of [point, size], with points in `unit`. A point inside a step takes effect at
    the next one. A schedule that does not begin at 0 begins with batch_size.
    """
    sizes = BatchSizes((0,), (batch_size,))
    for i, (point, size) in enumerate(schedule):
        start = math.ceil(steps_of(point, unit, sizes, n_train))
        if i == 0 and start == 0:
            sizes = BatchSizes((0,), (int(size),))
        else:
            sizes = BatchSizes((*sizes.starts, start), (*sizes.sizes, int(size)))
    return sizes


def in_steps(
    node: Mapping[str, Any], sizes: BatchSizes, n_train: int, n_steps: int, stretch: float = 1
) -> dict[str, Any]:
    """A schedule's settings with every length in steps and its `unit` taken out.

    n_steps: of the run as it is written. stretch: the run, and every length but warm-up, which
    stays as it is, become so many times as long.

    Every setting whose name ends in `_steps` is a length, also inside lists and their mappings.
    Warm-up is found first, since "rest" is what it leaves of the run. With `rounding: down`, taken
    out too, lengths are cut to whole steps, as programs do that call int(). Raises ValueError for
    another rounding, and what `steps_of` refuses.
    """
    unit, rounding = node.get("unit", "steps"), node.get("rounding")
    if rounding not in (None, "down"):
        raise ValueError(f"schedule.rounding is down, or null for none; got {rounding!r}")

    def rounded(steps: float) -> float:
        return float(math.floor(steps)) if rounding == "down" else steps

    warmup = rounded(steps_of(node.get("warmup_steps", 0), unit, sizes, n_train, n_steps))
    # A warm-up that fills the run is the lint's to find, not an error.
    n_all = stretched(n_steps, stretch)
    n_rest = max(n_all - warmup, 1.0)

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(key, inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return tuple(convert(name, inner) for inner in value)
        if name == "warmup_steps":
            return warmup
        if name.endswith("_steps") and name != "stage_steps":  # it says what steps are counted from
            own_unit = str(value).strip().partition(" ")[2].strip() or unit
            factor = 1 if own_unit in ("run", "rest") else stretch  # shares stretch by themselves
            return rounded(factor * steps_of(value, unit, sizes, n_train, n_all, n_rest))
        return value

    own = {name: value for name, value in node.items() if name not in ("unit", "rounding")}
    return {name: convert(name, value) for name, value in own.items()}
