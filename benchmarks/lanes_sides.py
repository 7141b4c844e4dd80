"""What one process of a side of lanes_throughput.py does.

Train, and be timed from report to report by its `Gate`.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from iolaus.trainer.course import Hooks
from iolaus.trainer.data import Batches, Examples
from iolaus.trainer.lanes._group import Group
from iolaus.trainer.lanes._lane_run import begin_lane_run
from iolaus.trainer.lanes._width import best_width
from iolaus.trainer.lanes.kind import kind_of
from iolaus.trainer.loop import State, seeded, start, train, update
from iolaus.trainer.settings import CONF, Settings, read
from iolaus.trainer.tasks.base import Task

REPORT_EVERY = 50  # steps
# The runs never end while they are measured; validation is left out on all sides.
N_STEPS = 50_000
FIXED = [
    f"steps={N_STEPS}",
    f"report_every={REPORT_EVERY}",
    "eval_every=1000000",
    "clip=norm",
    "optim.lr=1e-4",
]


class Gate:
    """Lets a process work only while it is timed.

    The first call says that the process is ready, and after how many seconds. A message (seconds,
    n_threads) opens a window; at the first call after its end, the units of work done and the
    seconds go back. None ends the process.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._window_s: float | None = None
        self._n = 0.0
        self._began = time.perf_counter()

    def __call__(self, n: float) -> None:
        """So many units have been done since the last call."""
        now = time.perf_counter()
        self._n += n
        if self._window_s is None:
            self._wait({"setup_s": now - self._began, **_card_memory()})
        elif now - self._began >= self._window_s:
            self._wait((self._n, now - self._began))

    def _wait(self, message: Any) -> None:
        self._pipe.send(message)
        order = self._pipe.recv()
        if order is None:
            raise SystemExit
        self._window_s, n_threads = order
        torch.set_num_threads(n_threads)
        self._n, self._began = 0.0, time.perf_counter()


def work(pipe: Connection, side: Callable[..., None], arguments: Sequence[Any]) -> None:
    """The target of a process: a side with its gate."""
    torch.set_num_threads(1)
    side(Gate(pipe), *arguments)


def settings(overrides: Sequence[str]) -> Settings:
    """A run that lasts as long as it is measured."""
    with initialize_config_dir(str(CONF), version_base=None, job_name="lanes"):
        return read(compose("config", [*overrides, *FIXED]))


def alone(gate: Gate, overrides: Sequence[str], is_compiled: bool = False) -> None:
    """The solo loop."""
    run = settings(overrides)
    if is_compiled:
        run = dataclasses.replace(
            run, task=Compiled(task=run.task, compiled=torch.compile(run.task.loss))
        )
    train(
        run,
        report=lambda *_, **__: gate(REPORT_EVERY),
        should_stop=lambda: False,
        plan=lambda *_: None,
        ask_intervention=lambda: None,
    )


def in_lanes(gate: Gate, overrides: Sequence[str], n_lanes: int, is_compiled: bool) -> None:
    """A stack of lanes, traced or compiled."""
    run = settings(overrides)
    hooks = Hooks(
        report=lambda *_, **__: None,
        should_stop=lambda: False,
        plan=lambda *_: None,
        ask_intervention=_no_intervention,
    )
    lane_runs = []
    for seed in range(n_lanes):
        with seeded(seed, run.device):
            own = dataclasses.replace(run, seed=seed)
            lane_runs.append(begin_lane_run(own, start(own), hooks, None, _over))
    model = lane_runs[0].state.model
    group = Group(kind_of(run, model, run.batches.at(0)), run, model, is_compiled)
    group.admit(lane_runs)
    group.traced_step()()
    gate(0)
    while True:
        group.run_block()
        gate(REPORT_EVERY * n_lanes)


def replayed(gate: Gate, overrides: Sequence[str]) -> None:
    """The solo loop's update as a CUDA graph, captured once.

    What one writes to be rid of launches without lanes.
    """
    run = settings(overrides)
    with seeded(run.seed, run.device):
        state = start(run)
    for group in state.optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    batches = Batches(run.splits.train.to(run.device), run.seed)
    size = run.batches.at(0)
    place = batches.at(0, size)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            update(run, state, place, run.optim.lr)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        measured = update(run, state, place, run.optim.lr)
    gate(0)
    step = 0
    while True:
        window = []
        for _ in range(REPORT_EVERY):
            batch = batches.at(step * size, size)
            place.inputs.copy_(batch.inputs)
            place.targets.copy_(batch.targets)
            graph.replay()
            window.append(torch.cat([torch.stack([measured.loss, measured.norm]), measured.norms]))
            step += 1
        torch.stack(window).mean(0).tolist()
        gate(REPORT_EVERY)


def products(gate: Gate, n: int, size: int, device: str) -> None:
    """N matrix products at a time, size x size each; the units are floating-point operations."""
    a = torch.randn(n, size, size, device=device)
    b, out = torch.randn_like(a), torch.empty_like(a)
    n_calls = max(1, round(2e8 / (n * size**3)))
    while True:
        gate(2.0 * n * size**3 * n_calls)
        for _ in range(n_calls):
            torch.bmm(a, b, out=out)
        if out.is_cuda:
            torch.cuda.synchronize()


def auto_width(pipe: Connection, overrides: Sequence[str], most: int) -> None:
    """Send how many lanes `hydra.sweeper.lanes=auto` takes."""
    torch.set_num_threads(1)
    pipe.send(best_width(settings(overrides), most))


def flops(overrides: Sequence[str]) -> int:
    """Floating-point operations of the matrix products of one update, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    run = settings([*overrides, "device=cpu"])
    with seeded(run.seed, run.device):
        state = start(run)
    batch = Batches(run.splits.train, run.seed).at(0, run.batches.at(0))
    with FlopCounterMode(display=False) as counter:
        update(run, State(state.model, state.optimizer, state.scaler), batch, run.optim.lr)
    return int(counter.get_total_flops())


@dataclass(frozen=True, kw_only=True)
class Compiled(Task):
    """Another task with model and loss, forward and backward, compiled by torch.compile."""

    task: Task
    compiled: Callable[..., Tensor]

    def data(self) -> Any:
        """The other task's."""
        return self.task.data()

    def build_model(self, cfg: Any) -> nn.Module:
        """The other task's."""
        return self.task.build_model(cfg)

    def loss(self, model: nn.Module, batch: Examples) -> Tensor:
        """The other task's, compiled."""
        return self.compiled(model, batch)

    def measures(self, model: nn.Module, batch: Examples) -> dict[str, Tensor]:
        """The other task's; not compiled, and not timed."""
        return self.task.measures(model, batch)


class TorchLSTM(nn.Module):
    """model=lstm with torch's own nn.LSTM, which lanes cannot stack: what the solo loop may use."""

    def __init__(
        self, n_symbols: int, n_classes: int, n_embedding: int, n_hidden: int, n_layers: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, n_embedding)
        self.lstm = nn.LSTM(n_embedding, n_hidden, n_layers)
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """As `iolaus.trainer.models.lstm.LSTM`."""
        logits: Tensor = self.output(self.lstm(self.embedding(tokens.t()))[0][-1])
        return logits


def _card_memory() -> dict[str, int]:
    """What this process has reserved on the card, in bytes."""
    return {"memory": torch.cuda.max_memory_reserved()} if torch.cuda.is_initialized() else {}


def _over(outcome: Any) -> None:
    raise RuntimeError(f"a run ended while it was measured, raise N_STEPS: {outcome}")


def _no_intervention() -> None:
    return None
