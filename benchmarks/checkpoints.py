"""What a checkpoint of the trainer costs: bytes, milliseconds, steps, and share of the time.

python benchmarks/checkpoints.py
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import hydra
import numpy as np
import torch
from omegaconf import DictConfig

from iolaus.trainer.checkpoint import FILE
from iolaus.trainer.course import Hooks
from iolaus.trainer.lanes.serve import Lanes
from iolaus.trainer.loop import train
from iolaus.trainer.settings import CONF, read
from iolaus.trainer.standalone import Standalone

N_STEPS, EVERY, DEFAULT_S = 60, 3, 60.0
LARGE = ("model.n_features=256", "model.n_hidden=1024", "model.n_layers=6", "batch_size=16")
RUNS = {
    "MLP (digits, batch 32)": ("task=digits", "batch_size=32"),
    "Transformer (digit sum, batch 64)": ("task=digit_sum", "model=transformer"),
    "Transformer, 6 layers of 256": ("task=digit_sum", "model=transformer", *LARGE),
}


def composed(*words: str) -> DictConfig:
    """The config of a short run that saves often."""
    common = (f"steps={N_STEPS}", "report_every=10", f"eval_every={N_STEPS}", "task.n_val=100")
    every = (f"checkpoint.every_steps={EVERY}", "checkpoint.every_seconds=null")
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose("config", [*common, *every, *words])


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def alone(*words: str) -> tuple[float, float, int, int]:
    """Seconds of a step and of a checkpoint (medians), its bytes, and the model's parameters."""
    run = read(composed(*words, "optim=adam", "optim.lr=0.001"))
    stamps: list[tuple[float, bool]] = []  # when a step was begun or a checkpoint handed over
    bytes_of: list[int] = []
    with TemporaryDirectory() as name:
        own = Standalone(Path(name), goes_on=False)

        def asked() -> bool:  # once after each step, just before what is due is written
            stamps.append((time.perf_counter(), False))
            return False

        def report(step: int, *, checkpoint: Path | None = None, **_metrics: float) -> None:
            if checkpoint is not None:
                bytes_of.append((checkpoint / FILE).stat().st_size)
                own.report(step, checkpoint=checkpoint)
                stamps.append((time.perf_counter(), True))

        train(run, report=report, folder=Path(name), should_checkpoint=asked, keep=None)
    pairs = list(pairwise(stamps))
    saves = [b - a for (a, _), (b, saved) in pairs if saved]
    steps = [b - a for (a, _), (b, saved) in pairs if not saved]
    model = run.task.build_model(run.node)
    n_params = sum(param.numel() for param in model.parameters())
    return float(np.median(steps)), float(np.median(saves)), bytes_of[-1], n_params


def in_lanes(n_lanes: int, *words: str) -> tuple[float, float]:
    """Seconds that a run of so many lanes takes without checkpoints, and one checkpoint of all."""
    took = []
    for every in ("null", str(N_STEPS // 4)):
        lanes = Lanes()
        with TemporaryDirectory() as name:
            for i in range(n_lanes):
                folder = Path(name) / str(i)
                folder.mkdir()
                own = Standalone(folder, goes_on=False)
                hooks = Hooks(report=own.report)
                every_steps = f"checkpoint.every_steps={every}"
                run = read(composed(*words, "optim=adam", every_steps, f"seed={i}"))
                lanes.admit(run, hooks, None, lambda _: None, folder)

            def blocks(lanes: Lanes = lanes) -> None:
                while lanes.n_lane_runs:
                    lanes.run_block()

            took.append(seconds_of(blocks))
    return took[0], (took[1] - took[0]) / 3


def main() -> None:
    """Print the table."""
    logging.disable()
    torch.set_num_threads(1)
    print("| run | parameters | size | a step | a checkpoint | in steps | share at 60 s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, words in RUNS.items():
        step_s, save_s, size, n_params = alone(*words)
        print(
            f"| {name} | {n_params:,} | {size / 1e6:.1f} MB | {step_s * 1e3:.2f} ms "
            f"| {save_s * 1e3:.1f} ms | {save_s / step_s:.1f} | {save_s / DEFAULT_S:.3%} |"
        )
    for n_lanes in (16, 64):
        _, save_s = in_lanes(n_lanes, "task=digits", "batch_size=32")
        print(
            f"| {n_lanes} lanes of the MLP | | | | {save_s * 1e3:.0f} ms, all of them | "
            f"| {save_s / DEFAULT_S:.3%} |"
        )


if __name__ == "__main__":
    main()
