"""The checkpoints that a trial has reported, in its own folder: whole, checked, and few.

`checkpoints/step_000000400/` holds what the task has written, and `manifest.json`: the step, the
trial's seconds, what it had reported last, and a checksum of each file. A checkpoint is put beside
and renamed into place, so that a crash leaves the one before it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKPOINTS",
    "STAYS",
    "Checkpoint",
    "Watched",
    "adopt",
    "before_rebound",
    "before_rebounds",
    "copied",
    "forget",
    "keep_newest",
    "newest",
    "parse_bytes",
    "wholes",
]

log = logging.getLogger("sweeps")

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
# The newest, and the one before it in case that is damaged.
N_KEPT = 2
BEFORE_REBOUND = "_before_rebound_"
# A checkpoint with a file of this name in it stays beside them, the newest of its kind.
STAYS = "stays"


@dataclass(frozen=True, slots=True)
class Watched:
    """What a trial has said of the watched metric so far.

    first_step: of its first report. lowest, highest: (value, step) of finite ones; None before any.
    """

    first_step: int | None = None
    lowest: tuple[float, int] | None = None
    highest: tuple[float, int] | None = None

    def after(self, step: int, value: float) -> Watched:
        """The same after one more report. A NaN or infinity is neither lowest nor highest."""
        first = step if self.first_step is None else self.first_step
        if not math.isfinite(value):
            return Watched(first, self.lowest, self.highest)
        lowest, highest = self.lowest, self.highest
        if lowest is None or value < lowest[0]:
            lowest = (value, step)
        if highest is None or value > highest[0]:
            highest = (value, step)
        return Watched(first, lowest, highest)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a trial can go on.

    path: of the folder. step, seconds: of the trial when it was made. rows: its last reports before
    that, (step, seconds, metrics), which may not have reached the sweep's curves. watched: see
    `Watched`. setting: the overrides of the trial that made it. n_bytes: of its files.
    """

    path: Path
    step: int
    seconds: float
    rows: Sequence[tuple[int, float, Mapping[str, float]]] = ()
    watched: Watched = field(default_factory=Watched)
    setting: Sequence[str] = ()
    n_bytes: int = 0


def before_rebound(best: Path, step: int) -> Path:
    """The file beside a task's best weights for those of a step before the loss rebounded."""
    return best.with_name(f"{best.stem}{BEFORE_REBOUND}{step}.pt")


def before_rebounds(best: Path) -> dict[int, Path]:
    """Those of these files that are there, by step, in its order."""
    begin = f"{best.stem}{BEFORE_REBOUND}"
    steps = [path.stem.removeprefix(begin) for path in best.parent.glob(f"{begin}*.pt")]
    return {n: before_rebound(best, n) for n in sorted(int(s) for s in steps if s.isdecimal())}


def adopt(
    folder: Path,
    trial_folder: Path,
    step: int,
    seconds: float,
    rows: Sequence[tuple[int, float, Mapping[str, float]]] = (),
    watched: Watched | None = None,
    setting: Sequence[str] = (),
) -> Checkpoint:
    """Move what is in a folder to a trial's checkpoints; the folder stays, empty.

    The newest two are kept, and the newest in which there is a file called `stays`. Raises OSError
    where it cannot be written, in which case those before it are there, NotADirectoryError if the
    folder is none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"checkpoint={folder} is no folder: write it, then report it")
    watched = watched or Watched()
    place = trial_folder / CHECKPOINTS / f"step_{step:09d}"
    beside = place.with_name(place.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for item in folder.iterdir():
            shutil.move(item, beside / item.name)
        manifest = {
            "step": step,
            "seconds": seconds,
            "rows": [[at, s, dict(metrics)] for at, s, metrics in rows],
            "watched": [watched.first_step, watched.lowest, watched.highest],
            "setting": [*setting],
            "sha256": {str(name): _digest(beside / name) for name in _files(beside)},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        _to_disk(beside)
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
        _sync(place.parent)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    # Those of later steps are damaged, or of a course that was given up: this is the newest.
    earlier = [one for one in _all(trial_folder) if one.name <= place.name]
    stay = [one for one in earlier if (one / STAYS).is_file()]
    for other in {*_all(trial_folder)} - {*earlier[:N_KEPT], *stay[:1]}:
        shutil.rmtree(other, ignore_errors=True)
    return Checkpoint(place, step, seconds, rows, watched, (*setting,), _n_bytes(place))


def newest(trial_folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none.

    One that is damaged is named in a warning, with what is wrong, and left out.
    """
    return next(wholes(trial_folder), None)


def wholes(trial_folder: Path) -> Iterator[Checkpoint]:
    """All checkpoints of a trial that are whole, newest first; damaged ones are named."""
    for place in _all(trial_folder):
        if (found := _whole(place, "an older one is taken")) is not None:
            yield found


def copied(place: Path, trial_folder: Path, setting: Sequence[str]) -> Checkpoint | None:
    """Another trial's checkpoint as one of this trial, whose setting is this.

    None for one that is gone or damaged, which is named in a warning. Raises OSError where it
    cannot be written.
    """
    if (other := _whole(place, "the trial begins anew")) is None:
        return None
    own = trial_folder / CHECKPOINTS / place.name
    shutil.copytree(place, own)
    manifest = json.loads((own / MANIFEST).read_text(encoding="utf-8"))
    (own / MANIFEST).write_text(json.dumps(manifest | {"setting": [*setting]}), encoding="utf-8")
    return replace(other, path=own, setting=(*setting,))


def forget(trial_folder: Path) -> None:
    """Delete all checkpoints of a trial; who looks meanwhile finds all of them or none."""
    gone = trial_folder / f"{CHECKPOINTS}.deleted"
    shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed
    with suppress(OSError):  # there are none
        (trial_folder / CHECKPOINTS).rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def keep_newest(trial_folder: Path) -> None:
    """Delete all checkpoints of a trial but the newest: it is paused, and others need the space."""
    for other in _all(trial_folder)[1:]:
        shutil.rmtree(other, ignore_errors=True)


UNITS_BYTES = {
    "": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def parse_bytes(value: Any) -> int:
    """A number of bytes, or a text such as 500MB, 2GB, 1.5 TiB; 0 is one.

    Raises ValueError for anything else.

    >>> parse_bytes("2GB"), parse_bytes("1.5 MB"), parse_bytes(0)
    (2000000000, 1500000, 0)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kMGT]?B|[KMGT]iB)?\s*", value)
        if match:
            return round(float(match[1]) * UNITS_BYTES[match[2] or ""])
    raise ValueError(f"{value!r} is no size: give bytes, or a text such as 500MB, 2GB")


def _whole(place: Path, instead: str) -> Checkpoint | None:
    try:
        return _read(place)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("the checkpoint %s is damaged (%s); %s", place, error, instead)
        return None


def _all(trial_folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    places = (trial_folder / CHECKPOINTS).glob("step_*")
    return sorted((p for p in places if not p.name.endswith(".writing")), reverse=True)


def _read(place: Path) -> Checkpoint:
    about: Any = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    found = {str(name) for name in _files(place)}
    for name, digest in about["sha256"].items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if _digest(place / name) != digest:
            raise ValueError(f"{name} has changed since it was written")
    first, lowest, highest = about["watched"]
    return Checkpoint(
        place,
        int(about["step"]),
        float(about["seconds"]),
        [(int(step), float(seconds), metrics) for step, seconds, metrics in about["rows"]],
        Watched(first, lowest and (lowest[0], lowest[1]), highest and (highest[0], highest[1])),
        tuple(about["setting"]),
        _n_bytes(place),
    )


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            yield path.relative_to(folder)


def _n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(folder: Path) -> None:
    """Wait until all of a folder is on disk: a rename may get there before what it names."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
