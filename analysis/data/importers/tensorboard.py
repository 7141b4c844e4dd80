"""Folders of TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from iolaus.analysis.data.importers.rows import Found
from iolaus.analysis.data.importers.steps import in_order

__all__ = ["runs"]

# Writers of one run that has one for each split of its data.
SPLITS = ("train", "training", "validation", "valid", "val", "eval", "test")


def runs(folder: Path) -> Found | None:
    """Each folder with event files as a run; None if no scalar is in them.

    Scalars and hyperparameters are read, with `tensorboard` installed (else ValueError). A folder
    of hyperparameters and at most one value of each scalar, as `SummaryWriter.add_hparams` makes it
    within a run's, belongs to that run; so does one that `add_scalars` has made, and one of a split
    (`train`, `validation`) that lies beside another split's.
    """
    places = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if not places:
        return None
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ValueError("to read TensorBoard's event files: pip install tensorboard") from error
    rows: list[tuple[Any, ...]] = []
    params: dict[str, dict[str, Any]] = {}
    with_scalars: set[Path] = set()  # a folder comes before those in it
    for place in places:
        events = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        found = _hyperparameters(events)
        scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        scalars |= {tag: _scalars_of(events.Tensors(tag)) for tag in events.Tags()["tensors"]}
        is_curve = any(len(reports) > 1 for reports in scalars.values())
        owner, prefix = place, ""
        if found and not is_curve and place.parent in with_scalars:
            owner = place.parent
        elif len(scalars) == 1 and place.parent in places:
            (tag,) = scalars
            head = tag.replace("/", "_") + "_"
            if place.name.startswith(head):  # add_scalars(tag, {part: value})
                owner, scalars = (
                    place.parent,
                    {f"{tag}/{place.name.removeprefix(head)}": scalars[tag]},
                )
        elif place.name in SPLITS and _has_other_split(place, places):
            owner, prefix = place.parent, f"{place.name}/"
        name = str(owner.relative_to(folder)) if owner != folder else folder.name
        params.setdefault(name, {}).update(found)
        if owner != place and found and not is_curve:
            continue  # its scalars only repeat the results
        rows += [
            (name, e.step, prefix + tag, e.value, e.wall_time)
            for tag, reports in scalars.items()
            for e in reports
        ]
        if any(scalars.values()):
            with_scalars.add(place)
    if not rows:
        return None
    frame = pd.DataFrame(rows, columns=["trial", "step", "metric", "value", "timestamp"])
    about = pd.DataFrame.from_dict(params, orient="index").add_prefix("params.")
    reports, notes = in_order(frame)
    return Found(reports, about, None, notes)


def _has_other_split(place: Path, places: Iterable[Path]) -> bool:
    return any(p != place and p.parent == place.parent and p.name in SPLITS for p in places)


def _hyperparameters(events: Any) -> dict[str, Any]:
    """What a run's events say of its hyperparameters, by name."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    known = events.summary_metadata.get("_hparams_/session_start_info")
    if known is None:
        return {}
    hparams = HParamsPluginData.FromString(known.plugin_data.content).session_start_info.hparams
    return {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in hparams.items()
        if value.WhichOneof("kind")
    }


class _Report(NamedTuple):
    """A scalar event."""

    wall_time: float
    step: int
    value: float


def _scalars_of(tensors: Iterable[Any]) -> list[_Report]:
    """The scalars of TensorFlow 2, which are tensors."""
    from tensorboard.util.tensor_util import make_ndarray

    known = [(e, make_ndarray(e.tensor_proto)) for e in tensors]
    return [
        _Report(e.wall_time, e.step, float(value))
        for e, value in known
        if value.ndim == 0 and np.issubdtype(value.dtype, np.number)
    ]
