"""One update of a stack, made ever cheaper the longer it is used.

First by plain calls, then as a traced graph, as TorchScript, compiled, as a CUDA graph. All of them
do the same operations on the same tensors; what falls away is the work of finding out which.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx

from iolaus.trainer.lanes._stack import Stack

__all__ = ["N_STEPS", "CudaGraph", "Stepper", "fastest_s"]

log = logging.getLogger("trainer")

# Tracing costs (0.05 to 0.4 s) about what it saves over half as many steps.
TRACE_PAYS_STEPS = 60
# Compiling costs about this long per operation of the traced graph (measured: 128 of them 3 s, 710
# of them 16 s), and pays if the steps to come take this many times as long: beside TorchScript it
# takes a third off a step of the RNN, a sixth of the MLP and the CNN, of the LSTM now more, now
# nothing; so what it has brought is looked at.
COMPILE_S_PER_NODE = 0.023
COMPILE_PAYS = 6
# Steps that are timed to know how long one takes; the fastest counts.
N_STEPS = 4
# On a machine that is busy with other things it takes longer, as tracing did, of which it takes
# some such multiple.
COMPILE_S_PER_TRACE_S = 75

Step = Callable[..., Tensor]


class Stepper:
    """Makes updates of a stack. compile: True, False, or None for where it pays.

    What was found out about a width is kept for when the stack has it again; a CUDA graph is not,
    since it knows the very tensors it was captured with.
    """

    def __init__(
        self,
        stack: Stack,
        compile: bool | None = None,  # noqa: A002 (torch's word)
    ) -> None:
        self._stack = stack
        self._names = list(stack.rows)
        self._compile = compile
        self._n_steps: Counter[int] = Counter()  # by width
        self._graphs: dict[int, Step] = {}
        self._scripts: dict[int, Step] = {}  # of graphs, where they have any
        self._traced_s: dict[int, float] = {}  # what tracing alone took
        self._compiled: set[int] = set()  # widths for which that was tried
        self._captured: CudaGraph | None = None
        self._may_capture = True
        self.trace_s = 0.0  # the last trace took

    def __call__(
        self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor
    ) -> Tensor:
        """One update of every lane; see `Stack.step`."""
        width = self._stack.n_lanes
        self._n_steps[width] += 1
        traced = self._scripts.get(width) or self._graphs.get(width, self._plain)
        return (self._captured or traced)(inputs, targets, keys, coefficients, *self._rows())

    def prepare(
        self, n_to_come: int, step_s: float | None, arguments: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> bool:
        """Make the step cheaper if that pays for the steps to come; returns whether it was.

        No lane is updated. step_s: what a step takes as it is now; None if that is not known.
        arguments: those of a step, as examples.
        """
        width, graph = self._stack.n_lanes, self._graphs.get(self._stack.n_lanes)
        if graph is None:
            if self._n_steps[width] + n_to_come < TRACE_PAYS_STEPS:
                return False
            self.trace(*arguments)
            return True
        if arguments[0].is_cuda and not self._captured and self._may_capture:
            self._capture(graph, arguments)
            return True
        if (
            self._compile is not None
            or arguments[0].is_cuda
            or width in self._compiled
            or not isinstance(graph, torch.fx.GraphModule)
        ):
            return False
        compile_s = max(
            COMPILE_S_PER_NODE * len(graph.graph.nodes),
            COMPILE_S_PER_TRACE_S * self._traced_s[width],
        )
        if (step_s or 0.0) * n_to_come < COMPILE_PAYS * compile_s:
            return False
        began = time.perf_counter()
        copies = (*arguments, *(row.clone() for row in self._rows()))
        compiled, traced = _compiled(graph, copies), self._scripts.get(width, graph)
        took_s = time.perf_counter() - began
        self._compiled.add(width)
        device = arguments[0].device
        compiled_s, traced_s = (
            fastest_s(partial(step, *copies), device) for step in (compiled, traced)
        )
        share = compiled_s / traced_s
        if share < 1:
            self._graphs[width] = compiled
            self._scripts.pop(width, None)
        log.warning(
            "lanes: step of %d lanes compiled in %.0f s: it takes %.2f of the time%s",
            *(width, took_s, share, "" if share < 1 else ", and is not used"),
        )
        return True

    def width_for(self, least: int, most: int) -> int:
        """The narrowest of these widths that need not be traced again, or the least."""
        return min((width for width in self._graphs if least <= width <= most), default=least)

    def resized(self) -> None:
        """The stack has other tensors now."""
        self._captured = None

    def trace(self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor) -> None:
        """Replace the plain calls by a graph of them on these arguments; no lane is updated."""
        width = self._stack.n_lanes
        if width not in self._graphs:
            began = time.perf_counter()
            arguments = (
                inputs,
                targets,
                keys,
                coefficients,
                *(row.clone() for row in self._rows()),
            )
            graph = self._graphs[width] = self._traced(arguments)
            self._traced_s[width] = time.perf_counter() - began
            if isinstance(graph, torch.fx.GraphModule) and inputs.device.type == "cpu":
                self._scripts[width] = _scripted(graph, arguments)
            self.trace_s = time.perf_counter() - began
        if inputs.is_cuda:
            self._capture(self._graphs[width], (inputs, targets, keys, coefficients))

    def _traced(self, arguments: tuple[Tensor, ...]) -> Step:
        try:
            with _without_examples():
                graph = make_fx(self._plain)(*arguments)
        except Exception as error:  # of many types: what vmap takes tracing may not
            log.warning(
                "lanes: the step cannot be traced, going on without: %s",
                str(error).strip().splitlines()[0],
            )
            return self._plain
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return _compiled(graph, arguments) if self._compile else graph

    def _capture(self, step: Step, arguments: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        if not self._may_capture:
            return
        try:
            # Streams and graphs are those of the current device.
            with torch.cuda.device(arguments[0].device):
                self._captured = CudaGraph(step, arguments, self._rows())
        except RuntimeError as error:
            self._may_capture = False  # it would fail before every block
            log.warning("lanes: no CUDA graph, going on without: %s", str(error).splitlines()[0])

    def _rows(self) -> list[Tensor]:
        return [self._stack.rows[name] for name in self._names]

    def _plain(
        self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor, *rows: Tensor
    ) -> Tensor:
        return self._stack.step(
            inputs, targets, keys, coefficients, dict(zip(self._names, rows, strict=True))
        )


def _scripted(graph: torch.fx.GraphModule, arguments: tuple[Tensor, ...]) -> Step:
    """The graph as TorchScript, or as it is where that cannot be had.

    The same operations in the same order, called by C++ instead of Python: on a CPU a step of small
    models takes two thirds of the time.
    """
    try:
        with warnings.catch_warnings():  # it is deprecated, and has no successor that is so quick
            warnings.simplefilter("ignore")
            copies = tuple(argument.clone() for argument in arguments)
            script = torch.jit.trace(graph, copies, check_trace=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # of many types
        log.debug("lanes: no TorchScript of the step: %s", error)
        return graph

    def step(*arguments: Tensor) -> Tensor:
        # Optimized it would fuse, which rounds differently.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            result: Tensor = script(*arguments)
        return result

    return step


@contextmanager
def _without_examples() -> Iterator[None]:
    """Have tracing leave out the example of each operation's result, which nobody reads here.

    It takes two fifths of the time so. Relies on the name of a private function of torch,
    `proxy_tensor.extract_val`, which makes the examples.
    """
    with patch.object(proxy_tensor, "extract_val", lambda *_, **__: None):
        yield


def _compiled(graph: torch.fx.GraphModule, arguments: tuple[Tensor, ...]) -> Step:
    """The graph through torch.compile, or as it is where that fails."""
    try:
        compiled: Step = torch.compile(graph, dynamic=False)
        compiled(*arguments)  # on copies: this is a real update
    except Exception as error:  # a missing compiler, an operation without a lowering: many types
        log.warning(
            "lanes: torch.compile failed, going on without: %s", str(error).strip().splitlines()[0]
        )
        return graph.forward  # not the module: it is not to be tried again
    return compiled


def fastest_s(
    step: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of the fastest of a few calls, after one to warm up."""

    def timed() -> float:
        began = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    step()
    return min(timed() for _ in range(N_STEPS))


class CudaGraph:
    """A step captured once and replayed, its arguments copied to where the captured ones are."""

    def __init__(self, step: Step, arguments: tuple[Tensor, ...], rows: list[Tensor]) -> None:
        self._arguments = tuple(argument.clone() for argument in arguments)
        self._graph = torch.cuda.CUDAGraph()
        before = [row.clone() for row in rows]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        try:
            # Torch's documentation of CUDA graphs asks for warm-up on a side stream.
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(*self._arguments, *rows)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self._graph):
                self._result = step(*self._arguments, *rows)
        finally:  # also where it fails: the warm-up has made real updates
            for row, was in zip(rows, before, strict=True):
                row.copy_(was)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """One replay. The rows are those of the capture, whatever is given for them."""
        for place, argument in zip(self._arguments, arguments, strict=False):
            place.copy_(argument, non_blocking=True)
        with torch.cuda.device(self._result.device):
            self._graph.replay()
        return self._result.clone()
