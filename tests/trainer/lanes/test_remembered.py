"""The lanes that pay are measured once for a kind of run on a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from iolaus.trainer.lanes._remembered import remembered
from iolaus.trainer.lanes._width import Width
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]
MEASURED = Width(16, 4, 5000.0, 1000.0)


def test_a_width_is_measured_once_for_its_kind(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another bound, batch size or kind is measured anew; a file that is damaged or deleted too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    n_measured = 0

    def measure() -> Width:
        nonlocal n_measured
        n_measured += 1
        return MEASURED

    run, larger = read(compose("task=digits")), read(compose("task=digits", "batch_size=17"))
    assert remembered(run, "mlp", 32, measure) == MEASURED
    assert remembered(run, "mlp", 32, measure) == dataclasses.replace(MEASURED, is_remembered=True)
    assert n_measured == 1
    for one, kind, most in ((run, "mlp", 16), (larger, "mlp", 32), (run, "cnn", 32)):
        assert remembered(one, kind, most, measure) == MEASURED
    assert n_measured == 4
    for file in (tmp_path / "iolaus" / "lanes").iterdir():
        file.write_text("{")
    assert remembered(run, "mlp", 32, measure) == MEASURED
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # where nothing can be written
    assert remembered(run, "mlp", 32, measure) == MEASURED
    assert n_measured == 6
