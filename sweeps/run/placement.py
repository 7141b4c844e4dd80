"""Which trial may start on which GPU, and when.

Decided from a table of devices, and from what trials on them were measured to hold and to do. Pure:
no clock, no I/O.

With `trials_per_gpu=auto` a trial is admitted beside others where its shape, measured on the first
trial that had it, fits; more are tried for as long as that raises the rate of steps that all on the
card make together. Nothing is predicted: an unknown shape holds all memory that is free on its card
until it is measured, and no second one starts beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from iolaus.sweeps.run.devices import Device
from iolaus.sweeps.text import size

__all__ = ["CONTEXT_BYTES", "Admitted", "Placement", "Rates", "Shape", "room_for", "shape_of"]

Shape = tuple[tuple[str, object], ...]

# What a process holds of a GPU beside torch's own memory: CUDA's context and kernels. Of 0.5 GiB on
# an H100 with torch 2.11, and some more for cuBLAS and cuDNN.
CONTEXT_BYTES = 700 * 2**20
# What a measured trial may take beyond its peak so far before its memory is capped: a validation
# later on, or a longer batch.
MARGIN, LEAST_MARGIN_BYTES = 0.2, 256 * 2**20
# A peak of a shape that is so much higher than was known is said again.
WORTH_A_LINE = 1.05
# After so many reports a trial has made whole steps, and its peak is that of its training.
N_REPORTS_TO_MEASURE = 3
# More side by side are worth it if all together make so much more steps. Below, the noise of rates
# would fill the card for nothing.
LEAST_GAIN = 1.05
# A task that uses torch has said so by then.
SETTLED_S = 5.0
# Of each trial on the card, before its rates are believed.
WINDOW_S = 1.0


def shape_of(values: Mapping[str, object], but: Collection[str] = ()) -> Shape:
    """What a trial's memory and speed depend on: its searched values that are no fractions.

    Batch sizes, widths, models and optimizers are whole numbers or names; learning rates, decays
    and other fractions scale what is computed and size nothing. but: keys that never do, as seeds.
    """
    return tuple(
        sorted(
            (key, value)
            for key, value in values.items()
            if not isinstance(value, float) and key not in but
        )
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """A trial that may start now.

    gpu_share: of its card's memory; None: no cap. renew: slots whose workers run nothing and hold
    memory of its card, which it wants for itself.
    """

    trial: int
    slot: int
    gpu_share: float | None = None
    renew: tuple[int, ...] = ()


@dataclass
class Rates:
    """Step rates of trials on one card, by how many were on it.

    solo: of each shape, by itself: steps and seconds. beside: by number side by side, the steps
    made in units of what their shape makes in a second by itself, and seconds of trials.
    """

    solo: dict[Shape, tuple[float, float]] = field(default_factory=dict)
    beside: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add(self, shape: Shape, n: int, steps: float, seconds: float) -> None:
        """Steps that a trial has made while n were on the card."""
        if n == 1:
            done, took_s = self.solo.get(shape, (0.0, 0.0))
            self.solo[shape] = done + steps, took_s + seconds
        elif (rate := self.solo_rate(shape)) is not None:
            done, took_s = self.beside.get(n, (0.0, 0.0))
            self.beside[n] = done + steps / rate, took_s + seconds

    def solo_rate(self, shape: Shape) -> float | None:
        """Steps per second of a shape by itself; None while that is not known."""
        steps, seconds = self.solo.get(shape, (0.0, 0.0))
        return steps / seconds if steps > 0 and seconds >= WINDOW_S else None

    def total(self, n: int) -> float | None:
        """What n trials on the card do together, one by itself being 1; None while unknown."""
        if n == 1:
            return 1.0 if any(self.solo_rate(shape) for shape in self.solo) else None
        done, seconds = self.beside.get(n, (0.0, 0.0))
        return n * done / seconds if seconds >= n * WINDOW_S else None

    def width(self, most: int) -> int:
        """How many to admit: doubled as long as it was worth it, never above most."""
        width = 1
        while width < most and (now := self.total(width)) is not None:
            wider = min(2 * width, most)
            then = self.total(wider)
            if then is not None and then < LEAST_GAIN * now:
                return width
            width = wider
        return width


@dataclass
class _Trial:
    slot: int
    shape: Shape
    alone: str
    grant: int = 0  # bytes that nobody else on the card gets
    is_measured: bool = False
    n_reports: int = 0
    last: tuple[int, float] | None = None  # report: its step and when
    peak: int | None = None
    is_torch: bool = False


@dataclass
class _Card:
    device: Device
    most: int
    rates: Rates = field(default_factory=Rates)
    since_s: float = 0.0  # as many as now are on it

    @property
    def free_at_start(self) -> int | None:
        if self.device.total_bytes is None:
            return None
        return self.device.total_bytes - (self.device.used_bytes or 0)


class Placement:
    """Where the trials of a driver may run.

    slots: each with the name of its device, "" for none. devices: of the slots, by that name.
    trials_per_gpu: "auto", or a number; with more than one, each worker's share is capped.
    """

    def __init__(
        self, slots: Mapping[int, str], devices: Sequence[Device], trials_per_gpu: int | str = 1
    ) -> None:
        known = {device.name: device for device in devices}
        names = list(slots.values())
        self._slots = slots
        self._is_auto = trials_per_gpu == "auto"
        self._is_capped = self._is_auto or (isinstance(trials_per_gpu, int) and trials_per_gpu > 1)
        self._cards = {n: _Card(known.get(n, Device(n)), names.count(n)) for n in set(names)}
        self._waiting: list[tuple[int, int, Shape, str]] = []
        self._running: dict[int, _Trial] = {}
        self._used: set[int] = set()  # slots whose worker has had a trial
        self._peaks: dict[Shape, int] = {}
        self._news: list[str] = []
        self._caps: dict[int, float] = {}

    def may_ask(self, slot: int) -> bool:
        """Whether this slot may be given a trial, whatever it is."""
        name = self._slots[slot]
        if any(alone == "ram" or self._slots[s] == name for _, s, _, alone in self._waiting):
            return False
        if not name or not self._is_auto:
            return True
        card, n = self._cards[name], len(self._on(name))
        return n < card.rates.width(card.most) and (n == 0 or self._free(name) > 0)

    def wait(self, trial: int, slot: int, shape: Shape, alone: str = "") -> None:
        """Have a trial start in its slot as soon as it may; see `admit`."""
        self._waiting.append((trial, slot, shape, alone))

    def withdraw(self, trial: int) -> int | None:
        """Have a waiting trial not start; returns its slot, None if it does not wait."""
        found = next((one for one in self._waiting if one[0] == trial), None)
        if found is None:
            return None
        self._waiting.remove(found)
        return found[1]

    @property
    def waiting(self) -> list[int]:
        """The trials that wait, in their order."""
        return [trial for trial, *_ in self._waiting]

    def admit(self, now_s: float) -> list[Admitted]:
        """The trials that start now. On one card none starts before another that waited longer."""
        admitted, blocked = [], set[str]()
        for one in list(self._waiting):
            trial, slot, shape, alone = one
            name = self._slots[slot]
            grant = None if name in blocked else self._grant(name, shape, alone)
            if grant is None:
                blocked |= set(self._cards) if alone == "ram" else {name}
                continue
            self._waiting.remove(one)
            self._running[trial] = _Trial(slot, shape, alone, grant, shape in self._peaks)
            self._cards[name].since_s = now_s
            idle = tuple(self._idle(name) - {slot}) if alone == "gpu" else ()
            self._used -= set(idle)
            self._used.add(slot)
            admitted.append(Admitted(trial, slot, self._share(name, grant, alone), idle))
        return admitted

    def reported(self, trial: int, step: int, now_s: float) -> None:
        """A running trial has reported."""
        if not self._is_auto or (run := self._running.get(trial)) is None:
            return
        name = self._slots[run.slot]
        others, card = self._on(name), self._cards[name]
        run.n_reports += 1
        is_steady = all(other.n_reports > 1 for other in others)
        if run.last is not None and step > run.last[0] and is_steady:
            last_step, last_s = run.last
            if last_s >= card.since_s and now_s > last_s:
                before = card.rates.width(card.most)
                card.rates.add(run.shape, len(others), step - last_step, now_s - last_s)
                self._say_width(card, before)
        run.last = step, now_s
        self._learn(run)

    def measured(self, trial: int, gpu_bytes: int | None) -> None:
        """A running trial holds so much at most so far."""
        if self._is_auto and gpu_bytes is not None and (run := self._running.get(trial)):
            run.peak, run.is_torch = max(run.peak or 0, gpu_bytes), True
            self._learn(run)

    def device_used(self, name: str, used_bytes: int | None, now_s: float) -> None:
        """All processes together hold so much of a card now.

        The memory of a task that does not use torch is read from this, while it runs by itself.
        """
        runs, card = self._on(name), self._cards.get(name)
        if not self._is_auto or card is None or used_bytes is None or len(runs) != 1:
            return
        (run,) = runs
        if not run.is_torch and now_s - card.since_s >= SETTLED_S:
            grown = used_bytes - (card.device.used_bytes or 0) - CONTEXT_BYTES
            run.peak = max(run.peak or 0, grown, 0)
            self._learn(run)

    def ended(self, trial: int, gpu_bytes: int | None, ran_out: bool, now_s: float) -> None:
        """A trial runs no more.

        gpu_bytes: its peak, if that is known. ran_out: whether its card had no more memory for it.
        """
        if (run := self._running.pop(trial, None)) is None:
            return
        self._caps.pop(run.slot, None)
        if gpu_bytes is not None:
            run.peak = max(run.peak or 0, gpu_bytes)
        self._cards[self._slots[run.slot]].since_s = now_s
        if ran_out and not run.alone:  # what was known of its shape is too little
            self._peaks.pop(run.shape, None)
        elif run.peak is not None and not ran_out:
            self._note(run.peak, run)

    def let_go(self, slot: int) -> None:
        """The worker of a slot holds nothing any more."""
        self._used.discard(slot)

    def capacity_bytes(self, slot: int) -> int | None:
        """The memory of a slot's card in all; None: it has none, or nobody knows."""
        return self._cards[self._slots[slot]].device.total_bytes

    def take_caps(self) -> dict[int, float]:
        """New shares of running workers, by slot, since the last call."""
        caps, self._caps = self._caps, {}
        return caps

    def take_news(self) -> list[str]:
        """What was learned since the last call, a sentence each."""
        news, self._news = self._news, []
        return news

    def _on(self, name: str) -> list[_Trial]:
        return [run for run in self._running.values() if self._slots[run.slot] == name]

    def _idle(self, name: str) -> set[int]:
        """The slots of a card that run nothing, and whose workers still hold a context there."""
        busy = {run.slot for run in self._running.values()}
        return {slot for slot in self._used - busy if self._slots[slot] == name}

    def _free(self, name: str) -> int:
        free = self._cards[name].free_at_start
        if free is None:
            return 0
        granted = sum(run.grant for run in self._on(name))
        return free - granted - CONTEXT_BYTES * len(self._idle(name))

    def _grant(self, name: str, shape: Shape, alone: str) -> int | None:
        """The bytes a trial would get of its card, 0 where nobody counts; None: it must wait."""
        there = list(self._running.values()) if alone == "ram" else self._on(name)
        if alone:
            return None if there else self._cards[name].free_at_start or 0
        if any(run.alone == "ram" for run in self._running.values()):
            return None
        if any(run.alone for run in there):
            return None
        if not name or not self._is_auto:
            return 0
        free, needed = self._free(name), self._needed(shape)
        if not there:
            return max(free if needed is None else min(needed, free), 0)
        if needed is None:
            # It is tried where the largest known would have room.
            known = max((room_for(peak) for peak in self._peaks.values()), default=None)
            return None if known is None or free < known else free
        return needed if needed <= free else None

    def _needed(self, shape: Shape) -> int | None:
        peak = self._peaks.get(shape)
        return None if peak is None else room_for(peak)

    def _share(self, name: str, grant: int, alone: str) -> float | None:
        """The share of a card's memory for torch; None: no cap."""
        card = self._cards[name]
        if not name or not self._is_capped:
            return None
        total, free = card.device.total_bytes, card.free_at_start
        if alone or (self._is_auto and total is None):
            return 1.0
        if total is None or free is None:
            return 1 / card.most
        own = grant if self._is_auto else free // card.most
        return max(own - CONTEXT_BYTES, 0) / total

    def _learn(self, run: _Trial) -> None:
        """Take a running trial's peak as its shape's, and leave the rest of its card to others."""
        if run.peak is None or run.n_reports < N_REPORTS_TO_MEASURE or run.alone:
            return
        is_larger = self._note(run.peak, run)
        if is_larger or not run.is_measured:
            run.is_measured = True
            name = self._slots[run.slot]
            run.grant = min(room_for(self._peaks[run.shape]), self._free(name) + run.grant)
            if (share := self._share(name, run.grant, "")) is not None:
                self._caps[run.slot] = share

    def _note(self, peak: int, run: _Trial) -> bool:
        """Whether this is the largest peak of the shape so far, which is said where it is new."""
        known = self._peaks.get(run.shape)
        if known is not None and peak <= known:
            return False
        self._peaks[run.shape] = peak
        name = self._slots[run.slot]
        if self._is_auto and name and (known is None or peak > WORTH_A_LINE * known):
            self._news.append(self._sentence(name, run.shape, peak))
        return True

    def _sentence(self, name: str, shape: Shape, peak: int) -> str:
        what = ", ".join(f"{key}={value}" for key, value in shape) or "a trial"
        free = self._cards[name].free_at_start
        fit = "" if free is None else f"; {max(1, free // room_for(peak))} fit on a card"
        return f"{what} holds {size(peak + CONTEXT_BYTES)} of a GPU{fit}"

    def _say_width(self, card: _Card, before: int) -> None:
        """What the rates have just decided."""
        now, rates = card.rates.width(card.most), card.rates
        if now == before or not self._is_auto:
            return
        # Which has decided it: 1, 2, 4, ... and the most there may be are tried.
        tried = min(2 * now, card.most) if now < before else 1 << (now - 1).bit_length() - 1
        made = f"{tried} together make {rates.total(tried) or 0:.2f} times the steps of one"
        if now < before:
            made += f", {now} make {rates.total(now) or 0:.2f} times: "
            made += f"{now} run side by side from now on"
        else:
            made = "it has run one alone" if tried == 1 else made
            made += f": up to {now} are tried"
        self._news.append(f"GPU {card.device.name}: {made}")


def room_for(peak: int) -> int:
    """What is set aside on a card for a trial of this peak: a margin, and CUDA's own part."""
    return peak + max(round(MARGIN * peak), LEAST_MARGIN_BYTES) + CONTEXT_BYTES
