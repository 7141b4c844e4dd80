"""Trial-steps per second of lanes, and of all a solo loop can do on the same cores or card."""

import multiprocessing
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lanes_sides import alone, auto_width, flops, in_lanes, products, replayed, work

WORKLOADS = {
    "rnn": ["task=digit_sum", "model=rnn"],
    "mlp": ["task=digits", "model=mlp"],
    "lstm": ["task=digit_sum", "model=lstm"],
    "cnn": ["task=digits", "model=cnn"],
    "transformer": ["task=digit_sum", "model=transformer"],
}
WIDTHS = (4, 8, 16, 32, 64)
# A side is timed from report to report, which for wide stacks of these would take half a minute.
WIDTHS_OF = {"cnn": (4, 8, 16), "transformer": (4, 8)}
N_GPU_PROCESSES = 8
# Longest that a side may take to be ready: compiling, or thousands of lanes.
SETUP_S = 300.0

# Everything that a process would load first, so that it is loaded once for all of them.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lanes_sides", "torch._dynamo", "sklearn.datasets"])


class Crew:
    """Equal processes, started when first needed, one after the other."""

    def __init__(self, n_processes: int, side: Callable[..., None], *arguments: Any) -> None:
        self._members = []
        self.notes: list[dict[str, float]] = []
        for _ in range(n_processes):
            ours, theirs = PROCESSES.Pipe()
            process = PROCESSES.Process(target=work, args=(theirs, side, arguments))
            process.start()
            theirs.close()
            self._members.append((process, ours))
            if not ours.poll(SETUP_S):
                raise RuntimeError(
                    f"{side.__name__}{arguments} was not ready after {SETUP_S:.0f} s"
                )
            self.notes.append(ours.recv())
        name = f"{side.__name__} {' '.join(map(str, arguments))}"
        print(f"ready after {self.notes[0]['setup_s']:.1f} s: {name}", file=sys.stderr, flush=True)

    def rate(self, n_processes: int, n_threads: int, seconds: float) -> float:
        """Units a second of the first n_processes together."""
        at_work = [pipe for _, pipe in self._members[:n_processes]]
        for pipe in at_work:
            pipe.send((seconds, n_threads))
        return sum(n / elapsed for n, elapsed in [pipe.recv() for pipe in at_work])

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._members:
            pipe.send(None)
            process.join()


@dataclass
class Side:
    """One line of a table.

    kind: solo, lanes, auto (the lanes that a sweep would take), reference or limit.
    """

    name: str
    kind: str
    crew: Crew
    n_processes: int
    n_threads: int = 1
    note: str = ""
    rates: list[float] = field(default_factory=list)


def compare(
    names: list[str],
    rounds: int,
    seconds: float,
    *,
    on_gpu: bool,
    gpu_widths: list[int],
    overrides: list[str],
) -> None:
    """Print a table for each workload, of runs with these overrides."""
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit(
            "lanes.py: --gpu needs a CUDA device, and torch finds none here; "
            "without it the CPU is measured"
        )
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
            cache  # compiling is timed, so nothing of an earlier run may be found
        )
        where = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores"
        print(
            f"{where}, torch {torch.__version__}; {rounds} rounds in random order, "
            f"{seconds} s of each side in each\n"
        )
        limits = _matrix_rates(on_gpu)
        _measure(limits, rounds, seconds)
        for limit in limits:
            print(f"{limit.name}: {statistics.median(limit.rates) / 1e9:,.0f} GFLOP/s", flush=True)
        for name in names:
            workload = [*WORKLOADS[name], *overrides]
            sides = _gpu_sides(workload, gpu_widths) if on_gpu else _cpu_sides(name, workload)
            _measure(sides, rounds, seconds)
            print(f"\n**{' '.join([name, *overrides])}**\n")
            _print_table(sides, flops(WORKLOADS[name]), limits)


def _matrix_rates(on_gpu: bool) -> list[Side]:
    device, n, large, n_processes = ("cuda", 4096, 8192, 1) if on_gpu else ("cpu", 16, 1024, 2)
    return [
        Side(
            f"products of 64 x 64, {n} at a time",
            "limit",
            Crew(n_processes, products, n, 64, device),
            n_processes,
        ),
        Side(
            f"products of {large} x {large}",
            "limit",
            Crew(n_processes, products, 1, large, device),
            n_processes,
        ),
    ]


def _cpu_sides(name: str, workload: list[str]) -> list[Side]:
    solo, compiled = Crew(2, alone, workload), Crew(2, alone, workload, True)
    stepped = Crew(2, in_lanes, workload, 1, True)
    model_s, step_s = (
        f"ready after {crew.notes[0]['setup_s']:.0f} s" for crew in (compiled, stepped)
    )
    sides = [
        Side("solo, 1 thread", "solo", solo, 1),
        Side("solo, 2 threads", "solo", solo, 1, 2),
        Side("solo, 2 processes", "solo", solo, 2),
        Side("solo, model compiled", "solo", compiled, 1, 1, model_s),
        Side("solo, model compiled, 2 processes", "solo", compiled, 2, 1, model_s),
        Side("solo, whole step compiled (1 lane), 2 processes", "solo", stepped, 2, 1, step_s),
    ]
    if "model=lstm" in workload:
        library = Crew(2, alone, [*workload, "model._target_=lanes_sides.TorchLSTM"])
        sides.append(Side("for reference: solo, nn.LSTM, 2 processes", "reference", library, 2))
    sides += [
        Side(f"{width} lanes", "lanes", Crew(2, in_lanes, workload, width, False), 2)
        for width in WIDTHS_OF.get(name, WIDTHS)
    ]
    auto = _auto_width(workload)
    if auto == 1:
        return [
            *sides,
            Side(
                "lanes=auto: solo, 2 processes", "auto", solo, 2, 1, "lanes do not pay, says auto"
            ),
        ]
    stacked, compiled = (
        Crew(2, in_lanes, workload, auto, False),
        Crew(2, in_lanes, workload, auto, True),
    )
    ready = f"ready after {compiled.notes[0]['setup_s']:.0f} s"
    return [
        *sides,
        Side(f"lanes=auto: {auto} lanes", "auto", stacked, 2),
        Side(f"lanes=auto: {auto} lanes, compiled", "auto", compiled, 2, 1, ready),
    ]


def _gpu_sides(workload: list[str], widths: list[int]) -> list[Side]:
    workload = [*workload, "device=cuda"]
    solo = Crew(N_GPU_PROCESSES, alone, workload)
    sides = [
        Side("solo, eager", "solo", solo, 1),
        Side(f"solo, eager, {N_GPU_PROCESSES} processes", "solo", solo, N_GPU_PROCESSES),
        Side("solo, CUDA graph", "solo", Crew(1, replayed, workload), 1),
    ]
    for width in widths:
        crew = Crew(1, in_lanes, workload, width, False)
        note = f"{crew.notes[0]['memory'] / 2**20 / width:,.2f} MiB a lane"
        sides.append(Side(f"{width} lanes", "lanes", crew, 1, 1, note))
    return sides


def _auto_width(workload: list[str]) -> int:
    """The lanes that a worker takes by itself; measured in a process of its own."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=auto_width, args=(theirs, workload, max(WIDTHS)))
    process.start()
    width: int = ours.recv().n_lanes
    process.join()
    return width


def _measure(sides: list[Side], rounds: int, seconds: float) -> None:
    for seed in range(rounds):
        for side in random.Random(seed).sample(sides, len(sides)):
            side.rates.append(side.crew.rate(side.n_processes, side.n_threads, seconds))
    for crew in {id(side.crew): side.crew for side in sides}.values():
        crew.close()


def _print_table(sides: list[Side], n_flops: int, limits: list[Side]) -> None:
    """Rates beside the best of the solo sides (by its median), round by round.

    And what would be possible at most.
    """
    best = max(
        (side for side in sides if side.kind == "solo"),
        key=lambda side: statistics.median(side.rates),
    )
    print("| side | trial-steps/s | to the best solo side: min | median | max | GFLOP/s | note |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for side in sides:
        ratios = [rate / reference for rate, reference in zip(side.rates, best.rates, strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        name = f"**{side.name}**" if side is best else side.name
        rate = statistics.median(side.rates)
        row = (
            name,
            f"{rate:,.0f}",
            *(f"{r:.2f}" for r in (low, middle, high)),
            f"{rate * n_flops / 1e9:,.1f}",
            side.note,
        )
        print(f"| {' | '.join(row)} |")
    print()
    for limit in limits:
        rate = statistics.median(limit.rates) / n_flops
        ratio = rate / statistics.median(best.rates)
        print(
            f"At the rate of {limit.name}: {rate:,.0f} trial-steps/s, "
            f"{ratio:.1f} times the best solo side."
        )
    spread = max(
        max(s.rates) / min(s.rates) - 1 for s in (best, *(s for s in sides if s.kind == "auto"))
    )
    print(
        f"{n_flops / 1e6:.2f} MFLOP a trial-step. The best solo side and auto vary by up to "
        f"{100 * spread:.0f} % over the rounds: smaller differences are unseen.",
        flush=True,
    )
