"""How many lanes pay, remembered from one sweep to the next: one small file for each kind.

The files lie in `$XDG_CACHE_HOME/iolaus/lanes` (`~/.cache` without it) and can be deleted
at any time. What a width depends on is in a file's name, versions and machine included; one that
cannot be read or written is as good as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

import torch

from iolaus.trainer.lanes._width import Width
from iolaus.trainer.settings import Settings

__all__ = ["remembered"]


def remembered(run: Settings, kind: Hashable, most: int, measure: Callable[[], Width]) -> Width:
    """The width that was measured for such runs on this machine, or is now.

    kind: what the runs have in common, described by its `repr`. most: see `best_width`.
    """
    file = _folder() / f"{_digest(run, kind, most)}.json"
    with suppress(OSError, ValueError, TypeError):
        return dataclasses.replace(Width(**json.loads(file.read_text())), is_remembered=True)
    width = measure()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")  # whole at any moment
        new.write_text(json.dumps(dataclasses.asdict(width)))
        new.replace(file)
    return width


def _folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "iolaus" / "lanes"


def _digest(run: Settings, kind: Hashable, most: int) -> str:
    on_gpu = run.device.type == "cuda"
    machine = [
        platform.node(),
        platform.machine(),
        os.cpu_count(),
        torch.cuda.get_device_name(run.device) if on_gpu else torch.get_num_threads(),
    ]
    versions = [torch.__version__, importlib.metadata.version("hydra-iolaus")]
    about = [repr(kind), run.batches.at(0), run.n_accumulate, str(run.device), most]
    return hashlib.sha256(json.dumps([about, machine, versions]).encode()).hexdigest()[:20]
