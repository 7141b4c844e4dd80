"""One update of a stack, made ever cheaper the longer it is used: plain calls, a traced graph, compiled, a CUDA graph.

All of them do the same operations on the same tensors; what falls away is the work of finding out which.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.lanes.stack import Stack

log = logging.getLogger("trainer")

# Tracing costs about this many plain steps; a stack resized sooner than that is better left alone.
TRACE_AFTER = 50
# Compiling costs about this long per operation of the traced graph (measured: 128 of them 3 s, 710 of them 16 s), and
# pays if the steps to come take this many times as long.
COMPILE_S_PER_NODE = 0.023
COMPILE_PAYS = 10

Step = Callable[..., Tensor]


class Stepper:
    """Makes updates of a stack. compile: True, False, or None for where it pays. After a resize, make another one."""

    def __init__(self, stack: Stack, compile: bool | None = None) -> None:  # noqa: A002 (torch's word)
        self._stack = stack
        self._names = list(stack.rows)
        self._compile = compile
        self._n_steps = 0
        self._step: Step = self._plain
        self._is_final = False

    def __call__(self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor) -> Tensor:
        """One update of every lane; see `Stack.step`. The result is the caller's until the next call."""
        if self._n_steps == TRACE_AFTER:
            self.trace(inputs, targets, keys, coefficients)
        self._n_steps += 1
        return self._step(inputs, targets, keys, coefficients, *self._rows())

    def trace(self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor) -> None:
        """Replace the plain calls by a graph; nothing is updated. The arguments serve as examples."""
        self._n_steps = max(self._n_steps, TRACE_AFTER + 1)
        arguments = (inputs, targets, keys, coefficients, *(row.clone() for row in self._rows()))
        graph = make_fx(self._plain)(*arguments)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        self._step = graph
        if self._compile:
            self._step = _compiled(graph, arguments)
        if inputs.is_cuda:
            try:
                self._step = CudaGraph(self._step, (inputs, targets, keys, coefficients), self._rows())
            except RuntimeError as error:
                log.warning("lanes: no CUDA graph, going on without: %s", str(error).splitlines()[0])

    def compile_if_it_pays(self, seconds_to_come: float, *arguments: Tensor) -> None:
        """Compile a traced step if what is to come takes long enough."""
        graph = self._step
        if self._compile is None and isinstance(graph, torch.fx.GraphModule):
            cost_s = COMPILE_S_PER_NODE * len(graph.graph.nodes)
            if seconds_to_come > COMPILE_PAYS * cost_s:
                began = time.perf_counter()
                self._step = _compiled(graph, (*arguments, *(row.clone() for row in self._rows())))
                log.info("lanes: step compiled in %.0f s", time.perf_counter() - began)
            self._compile = False

    def _rows(self) -> list[Tensor]:
        return [self._stack.rows[name] for name in self._names]

    def _plain(self, inputs: Tensor, targets: Tensor, keys: Tensor, coefficients: Tensor, *rows: Tensor) -> Tensor:
        return self._stack.step(inputs, targets, keys, coefficients, dict(zip(self._names, rows, strict=True)))


def _compiled(graph: torch.fx.GraphModule, arguments: tuple[Tensor, ...]) -> Step:
    """The graph through torch.compile, or as it is where that fails."""
    try:
        compiled: Step = torch.compile(graph, dynamic=False)
        compiled(*arguments)  # on copies: this is a real update
    except Exception as error:  # a missing C++ compiler, an operation without a lowering: of many types
        log.warning("lanes: torch.compile failed, going on without: %s", str(error).strip().splitlines()[0])
        return graph
    return compiled


class CudaGraph:
    """A step captured once and replayed: its arguments are copied into the places it was captured with."""

    def __init__(self, step: Step, arguments: tuple[Tensor, ...], rows: list[Tensor]) -> None:
        self._arguments = tuple(argument.clone() for argument in arguments)
        self._graph = torch.cuda.CUDAGraph()
        before = [row.clone() for row in rows]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # torch's documentation of CUDA graphs asks for warm-up on a side stream
            for _ in range(3):
                step(*self._arguments, *rows)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._result = step(*self._arguments, *rows)
        for row, was in zip(rows, before, strict=True):
            row.copy_(was)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """One replay. The rows are those of the capture, whatever is given for them."""
        for place, argument in zip(self._arguments, arguments, strict=False):
            place.copy_(argument, non_blocking=True)
        self._graph.replay()
        return self._result.clone()
