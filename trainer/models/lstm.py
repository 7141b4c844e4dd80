"""The long short-term memory, written out: torch's own fused one cannot be stacked by vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iolaus.trainer.models._gated import GatedLayer, SequenceClassifier

__all__ = ["LSTM", "LSTMLayer"]

sigmoid_backward = torch.ops.aten.sigmoid_backward  # (gradient, sigmoid(x)) to that of x
tanh_backward = torch.ops.aten.tanh_backward


class LSTMLayer(GatedLayer):
    """One layer of `nn.LSTM`: the same function of the same four parameters.

    Their rows are input gate, forget gate, candidate, output gate. That one bias would do is known;
    two are kept since optimizers move their sum twice as far. Source: Hochreiter and Schmidhuber,
    Neural Computation 9 (1997), with the forget gate of Gers et al. (2000), as written in the
    documentation of `nn.LSTM`.
    """

    def __init__(self, n_inputs: int, n_hidden: int) -> None:
        super().__init__(n_inputs, n_hidden, n_gates=4)

    @property
    def bias(self) -> Tensor:
        """What is added to the product with the inputs."""
        return self.bias_ih + self.bias_hh

    def recur(self, from_inputs: Tensor) -> Tensor:
        """The h of each time step; see `GatedLayer`."""
        weight_hh = self.weight_hh.to(from_inputs.dtype)  # under autocast
        hidden: Tensor = _Recurrence.apply(  # type: ignore[no-untyped-call]
            from_inputs[:, None], weight_hh[None], torch.is_grad_enabled()
        )[0]
        return hidden[:, 0]


class LSTM(SequenceClassifier):
    """Embedding, n_layers of LSTM over the sequence, and a linear layer on the last h."""

    def __init__(
        self,
        n_symbols: int,
        n_classes: int,
        n_embedding: int = 32,
        n_hidden: int = 32,
        n_layers: int = 1,
    ) -> None:
        super().__init__(LSTMLayer, n_symbols, n_classes, n_embedding, n_hidden, n_layers)


class _Recurrence(torch.autograd.Function):
    """h of n layers side by side, with its gradient by hand: in half of autograd's operations.

    from_inputs [length, n, n_examples, 4 n_hidden] and weight_hh [n, 4 n_hidden, n_hidden] give h
    [length, n, n_examples, n_hidden] and, for the gradient, the cells, tanh of them, of the same
    shape, and the gates. Of the last two only the last step's where is_kept is False, to save
    memory. vmap makes n larger.
    """

    @staticmethod
    def forward(
        from_inputs: Tensor, weight_hh: Tensor, is_kept: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        length, *shape, n_gates = from_inputs.shape
        hidden = from_inputs.new_zeros(length, *shape, weight_hh.shape[-1])
        cells = torch.zeros_like(hidden)
        n_kept = length if is_kept else 1
        squashed = hidden.new_empty(n_kept, *hidden.shape[1:])
        gates = hidden.new_empty(n_kept, *shape, n_gates)
        for t in range(length):
            of_step = gates[t % n_kept].copy_(from_inputs[t])
            if t > 0:
                of_step.baddbmm_(hidden[t - 1], weight_hh.mT)
            write, keep, candidate, show = _by_gate(of_step).unbind(-2)
            of_step[..., : n_gates // 2].sigmoid_()  # write and keep
            candidate.tanh_()
            show.sigmoid_()
            cells[t].addcmul_(write, candidate)
            if t > 0:
                cells[t].addcmul_(keep, cells[t - 1])
            hidden[t].addcmul_(show, squashed[t % n_kept].copy_(cells[t]).tanh_())
        return hidden, cells, squashed, gates

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output, inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return (*_Gradient.apply(grads[0], *ctx.saved_tensors), None)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, from_inputs: Tensor, weight_hh: Tensor, is_kept: bool
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        n = info.batch_size
        outputs = _Recurrence.apply(  # type: ignore[no-untyped-call]
            _merged(from_inputs, in_dims[0], 1, n), _merged(weight_hh, in_dims[1], 0, n), is_kept
        )
        return tuple(output.unflatten(1, (n, -1)) for output in outputs), (1, 1, 1, 1)


class _Gradient(torch.autograd.Function):
    """The gradients of from_inputs and weight_hh, given that of h; shapes as in `_Recurrence`."""

    @staticmethod
    def forward(
        grad_hidden: Tensor,
        hidden: Tensor,
        cells: Tensor,
        squashed: Tensor,
        gates: Tensor,
        weight_hh: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates = _by_gate(gates)
        from_inputs, of_weight = torch.zeros_like(gates), torch.zeros_like(weight_hh)
        grad, grad_cell = grad_hidden[-1], torch.zeros_like(cells[0])
        for t in reversed(range(len(cells))):
            write, keep, candidate, show = gates[t].unbind(-2)
            before = cells[t - 1] if t > 0 else torch.zeros_like(grad_cell)
            grad_cell.addcmul_(grad, tanh_backward(show, squashed[t]))
            to_write, to_keep, to_candidate, to_show = from_inputs[t].unbind(-2)
            to_write.addcmul_(sigmoid_backward(candidate, write), grad_cell)
            to_keep.addcmul_(sigmoid_backward(before, keep), grad_cell)
            to_candidate.addcmul_(tanh_backward(write, candidate), grad_cell)
            to_show.addcmul_(sigmoid_backward(squashed[t], show), grad)
            if t > 0:
                grad_cell.mul_(keep)
                of_step = from_inputs[t].flatten(-2)
                grad = torch.baddbmm(grad_hidden[t - 1], of_step, weight_hh)
                of_weight.baddbmm_(of_step.mT, hidden[t - 1])
        return from_inputs.flatten(-2), of_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("model=lstm has no second derivative: its first is by hand")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *tensors: Tensor) -> tuple[tuple[Tensor, Tensor], Any]:
        n, places = info.batch_size, (1, 1, 1, 1, 1, 0)
        merged = [
            _merged(tensor, dim, at, n)
            for tensor, dim, at in zip(tensors, in_dims, places, strict=True)
        ]
        from_inputs, weight_hh = _Gradient.apply(*merged)  # type: ignore[no-untyped-call]
        return (from_inputs.unflatten(1, (n, -1)), weight_hh.unflatten(0, (n, -1))), (1, 0)


def _by_gate(rows: Tensor) -> Tensor:
    """[..., 4 n_hidden] as [..., 4, n_hidden]."""
    return rows.view(*rows.shape[:-1], 4, -1)


def _merged(tensor: Tensor, dim: int | None, at: int, n: int) -> Tensor:
    """With vmap's n, at dimension dim (None: nowhere), as part of the dimension `at`."""
    if dim is None:
        shape = [-1] * (tensor.dim() + 1)
        shape[at] = n
        moved = tensor.unsqueeze(at).expand(shape)
    else:
        moved = tensor.movedim(dim, at)
    return moved.flatten(at, at + 1)
