"""K models as one: their weights, optimizer states and settings in rows of a few large tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from iolaus.trainer.clipping import gradient_norms, total_norm
from iolaus.trainer.data import Examples
from iolaus.trainer.dropout import KEY, streams
from iolaus.trainer.lanes._rules import per_weight, rows_of
from iolaus.trainer.lanes.kind import Kind
from iolaus.trainer.loop import augmented, autocast, float_type, with_l1
from iolaus.trainer.optim import param_groups
from iolaus.trainer.settings import Settings

__all__ = ["Stack", "sum_of"]

# Validation takes so many lanes at a time, and of long validation sets no more than so many
# examples of all lanes, so that its memory does not grow with the stack.
EVAL_LANES = 64
EVAL_EXAMPLES = 2**16
# Numbers of its own that each lane's loss and clipping take.
OWN = ("n_examples", "threshold", "flood", "l1")


class Stack:
    """n lanes of one kind: all there is of lane k is row k of every tensor in `rows`.

    rows: "weights" [n, n_weights] (the trained parameters, flat, in the model's order), the
    optimizer's moments, "decay" and "scale" of the same shape, one number per lane for other
    settings and for the size of its batch, "n_examples", and "buffer/NAME" for each buffer or
    parameter that is not trained. kept: the weights,
    moments and buffers of each lane's best weights so far. The model given is the template; it and
    the run say what is alike in all lanes.
    """

    def __init__(self, kind: Kind, run: Settings, model: nn.Module) -> None:
        self.kind = kind
        self.template = copy.deepcopy(model)
        self._run = run
        self._params = {
            name: param.shape for name, param in model.named_parameters() if param.requires_grad
        }
        self._sizes = {name: shape.numel() for name, shape in self._params.items()}
        self._dropouts = streams(self.template)
        self._keys = [name for name, _ in model.named_buffers() if name.rpartition(".")[2] == KEY]
        self._buffers = [name for name in _untrained(model) if name not in self._keys]
        self.rows: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.resize([], 0)

    @property
    def names(self) -> list[str]:
        """The trained parameters, in the order of the norms that `step` returns."""
        return list(self._params)

    @property
    def n_lanes(self) -> int:
        """Lanes, empty ones included."""
        return len(self.rows["weights"])

    @property
    def n_weights(self) -> int:
        """Trained weights of one lane."""
        return sum(self._sizes.values())

    def resize(self, lanes: Sequence[int], n_lanes: int) -> None:
        """Make the stack n_lanes wide: lanes[i] becomes lane i, the others are empty (all 0)."""
        example = self._row(self.template, None, self._run)
        for tensors in (self.rows, self.kept):
            for name, value in example.items():
                if tensors is self.kept and not self._is_state(name):
                    continue
                new = torch.zeros((n_lanes, *value.shape), dtype=value.dtype, device=value.device)
                if lanes:
                    new[: len(lanes)] = tensors[name][torch.tensor(lanes, device=value.device)]
                tensors[name] = new
        self.rows["n_examples"][len(lanes) :] = 1  # it is divided by, in empty lanes too

    def write(
        self,
        lane: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        run: Settings,
        n_examples: int,
    ) -> None:
        """Put a run into a lane: the weights and optimizer state it has, and its settings.

        n_examples: of its batches; the first so many of each that `step` is given count.
        """
        for name, value in self._row(model, optimizer, run).items():
            self.rows[name][lane] = value
            if name in self.kept:
                self.kept[name][lane] = value
        self.rows["n_examples"][lane] = n_examples

    def state_of(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, run: Settings
    ) -> dict[str, Tensor]:
        """What `snapshot` would give of a lane with this model and optimizer."""
        row = self._row(model, optimizer, run)
        return {name: value for name, value in row.items() if self._is_state(name)}

    def snapshot(self, lane: int) -> dict[str, Tensor]:
        """A copy of a lane's state: weights, moments, buffers."""
        return {
            name: rows[lane].clone() for name, rows in self.rows.items() if self._is_state(name)
        }

    def keep(self, lanes: Sequence[int]) -> None:
        """Note these lanes' states as their best."""
        if lanes:
            index = torch.tensor(lanes, device=self.rows["weights"].device)
            for name, kept in self.kept.items():
                kept[index] = self.rows[name][index]

    def keep_state(self, lane: int, state: Mapping[str, Tensor]) -> None:
        """Note a state (of `snapshot` or `kept_state`) as a lane's best; nothing if it is empty."""
        for name, value in state.items():
            self.kept[name][lane] = value

    def kept_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of a lane's best state."""
        return {name: kept[lane].clone() for name, kept in self.kept.items()}

    def rewind(self, lane: int) -> None:
        """Go back to the lane's best state."""
        for name, kept in self.kept.items():
            self.rows[name][lane] = kept[lane]

    def read(
        self,
        state: Mapping[str, Tensor],
        n_updates: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write a state (of `snapshot` or `kept_state`) into a solo model and its optimizer.

        n_updates: made by the optimizer, for Adam's step count.
        """
        values = self._views(state["weights"])
        moments = {name: self._views(state[name]) for name in self.kind.rule.moments if n_updates}
        buffers = _untrained(model)
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name in values:
                    param.copy_(values[name])
                    if moments:
                        optimizer.state[param] = {
                            m: views[name].clone() for m, views in moments.items()
                        }
                        if self.kind.rule.kind != "sgd":
                            optimizer.state[param]["step"] = torch.tensor(float(n_updates))
            for name in self._buffers:
                buffers[name].copy_(state[f"buffer/{name}"])

    def step(
        self,
        inputs: Tensor,
        targets: Tensor,
        keys: Tensor,
        coefficients: Tensor,
        rows: dict[str, Tensor],
    ) -> Tensor:
        """One update of every lane, in place in `rows`; what it measured, [3 + n_params, n].

        inputs, targets: [n, batch, ...], of which each lane's first "n_examples" count. keys:
        (seed, step) of each lane's dropout, int64 [n, 2]. coefficients: of `Rule.coefficients`,
        [3, n]. Measured: mean loss per example, whether it was clipped (0 or 1), norm of the
        gradient and of each parameter's, before clipping.
        """
        for dropout in self._dropouts:
            dropout.n_calls = 0
        buffers = {name: rows[f"buffer/{name}"] for name in self._buffers}
        own = {name: rows[name] for name in OWN}
        grads, measured = vmap(self._lane)(rows["weights"], buffers, keys, inputs, targets, own)
        self.kind.rule.apply(rows, grads, coefficients)
        result: Tensor = measured.T
        return result

    def evaluate(
        self, weights: Tensor, buffers: Mapping[str, Tensor], examples: Examples, split: str
    ) -> list[dict[str, float]]:
        """The task's measures for each row of weights [m, n_weights] and buffers.

        As `iolaus.trainer.loop.evaluate`.
        """
        names: list[str] = []

        def one(row: Tensor, of_lane: dict[str, Tensor]) -> Tensor:
            measures = self.kind.task.measures(self._model(self._views(row), of_lane), examples)
            names[:] = measures
            return torch.stack([values.double().mean() for values in measures.values()])

        n_lanes = max(1, min(EVAL_LANES, EVAL_EXAMPLES // max(len(examples), 1)))
        self.template.eval()
        with torch.no_grad(), autocast(self._run):
            chunks = [
                vmap(one)(
                    weights[i : i + n_lanes], {n: b[i : i + n_lanes] for n, b in buffers.items()}
                )
                for i in range(0, len(weights), n_lanes)
            ]
        self.template.train()
        return [
            {f"{split}_{n}": v for n, v in zip(names, row, strict=True)}
            for row in torch.cat(chunks).tolist()
        ]

    def buffers_of(
        self, rows: Mapping[str, Tensor], lanes: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """The model's buffers among rows, by their names in it, of these lanes or of all."""
        found = {name: rows[f"buffer/{name}"] for name in self._buffers}
        return (
            found
            if lanes is None
            else {name: buffer[list(lanes)] for name, buffer in found.items()}
        )

    def _lane(
        self,
        weights: Tensor,
        buffers: dict[str, Tensor],
        key: Tensor,
        inputs: Tensor,
        targets: Tensor,
        own_numbers: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Gradients [n_weights] and what was measured [3 + n_params] of one lane.

        As `iolaus.trainer.loop.update`.
        """
        n_examples = own_numbers["n_examples"]
        counts = torch.arange(len(targets), device=targets.device) < n_examples
        if self.kind.task.n_draws:
            batch = augmented(self.kind.task, Examples(inputs, targets), key)
            inputs, targets = batch.inputs, batch.targets
        params = self._views(weights)
        own = {**buffers, **dict.fromkeys(self._keys, key)}

        # Buffers go in as arguments: what a transform captures, nothing inside it may write to.
        def objective(
            params: dict[str, Tensor],
            own: dict[str, Tensor],
            inputs: Tensor,
            targets: Tensor,
            counts: Tensor,
        ) -> tuple[Tensor, Tensor]:
            part = Examples(inputs, targets)
            with autocast(self._run):
                losses = self.kind.task.loss(self._model(params, own), part)
            losses = torch.where(counts, losses, torch.zeros_like(losses))
            total = losses.sum()
            return (
                total if self.kind.reduction == "sum" else total / n_examples
            ), losses.detach().sum() / n_examples

        n_parts = self.kind.n_accumulate
        parts = zip(*(of_all.chunk(n_parts) for of_all in (inputs, targets, counts)), strict=True)
        of_parts = [grad(objective, has_aux=True)(params, own, *part) for part in parts]
        grads = [sum_of([g[name] for g, _ in of_parts]) for name in self._params]
        loss = sum_of([mean for _, mean in of_parts])
        if self.kind.is_flooded:
            sign = torch.sign(loss - own_numbers["flood"])
            grads = [g * sign for g in grads]
        if self.kind.is_penalised:
            grads = with_l1(list(params.values()), grads, own_numbers["l1"])
        norms = gradient_norms(grads)
        clip = self.kind.clip.with_threshold(own_numbers["threshold"])
        grads, clipped = clip(list(params.values()), grads, norms)
        measured = torch.cat(
            [torch.stack([loss, clipped.to(loss.dtype), total_norm(norms)]), norms]
        )
        return torch.cat([g.reshape(-1) for g in grads]), measured

    def _model(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Any:
        """Something to call like the model, with these values in it."""
        values = {**params, **buffers}
        return lambda *args, **kwargs: functional_call(self.template, values, args, kwargs)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(flat, list(self._sizes.values()))
        return {
            name: piece.view(shape)
            for piece, (name, shape) in zip(pieces, self._params.items(), strict=True)
        }

    def _is_state(self, name: str) -> bool:
        return name == "weights" or name in self.kind.rule.moments or name.startswith("buffer/")

    def _row(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, run: Settings
    ) -> dict[str, Tensor]:
        """What one lane holds for a run with this model and optimizer state."""
        params = [param for param in model.parameters() if param.requires_grad]

        def own(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value, dtype=float_type(run), device=run.device)

        groups = param_groups(model, run.optim)
        row = {
            "n_examples": own(1.0),
            "weights": own(torch.cat([param.detach().reshape(-1) for param in params])),
            "threshold": own(float(getattr(run.clip, "threshold", 1.0))),
            "flood": own(run.loss.flood or 0.0),
            "l1": own(run.loss.l1),
            "decay": own(per_weight(groups, self._sizes, "weight_decay")),
            "scale": own(per_weight(groups, self._sizes, "lr_scale")),
        }
        row |= {name: own(value) for name, value in rows_of(run.optim).items()}
        for name in self.kind.rule.moments:
            saved = [
                optimizer.state[p].get(name) if optimizer is not None else None for p in params
            ]
            known = [
                torch.zeros_like(p) if s is None else s for p, s in zip(params, saved, strict=True)
            ]
            row[name] = own(torch.cat([value.detach().reshape(-1) for value in known]))
        buffers = _untrained(model)
        return row | {f"buffer/{name}": buffers[name].detach() for name in self._buffers}


def _untrained(model: nn.Module) -> dict[str, Tensor]:
    """Buffers, and parameters that take no gradient."""
    fixed = {name: param for name, param in model.named_parameters() if not param.requires_grad}
    return {**fixed, **dict(model.named_buffers())}


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Their sum, in order, without adding to 0."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
