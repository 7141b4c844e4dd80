"""One sweep of the trainer with 1, 2, 4, 8 and `auto` trials on the GPU: how long each takes.

    python benchmarks/gpu_sharing.py [--trials 12] [--steps 400] [--mps] [KEY=VALUE ...]

Each row is the same sweep, in a folder of its own, with nothing but trials_per_gpu changed; what
follows the options overrides the trainer's config. --mps: 8 and auto once more under NVIDIA's MPS,
where nvidia-cuda-mps-control is installed. Ends within two minutes: rows for which no time is left
are named and left out.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna

from iolaus.sweeps.run.devices import list_devices
from iolaus.sweeps.text import size

WIDTHS = ("1", "2", "4", "8", "auto")
MOST_S = 115.0


@dataclass
class Row:
    """span_s: from the first trial's beginning to the last one's end. learned: lines of the log."""

    name: str
    wall_s: float
    span_s: float
    n_completed: int
    peak_bytes: int
    utilisation: float
    learned: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--mps", action="store_true")
    options, overrides = parser.parse_known_args()
    devices = list_devices()
    if not devices:
        raise SystemExit("gpu_sharing.py: no GPU is visible (nvidia-smi, NVML)")
    began_s = time.monotonic()
    print(
        f"{devices[0].model}, {size(devices[0].total_bytes or 0)}; {os.cpu_count()} cores; ", end=""
    )
    print(f"{options.trials} trials of {options.steps} steps each", flush=True)
    given = [f"steps={options.steps}", f"hydra.sweeper.n_trials={options.trials}", *overrides]
    print("\n| trials_per_gpu | command s | trials s | to one at a time | peak of a trial | busy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    first: Row | None = None
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in WIDTHS:
            row = _try(name, given, Path(folder, name), began_s, first, rows)
            first = first or row
        if options.mps:
            with _mps(Path(folder)) as is_there:
                for name in ("8", "auto") if is_there else ():
                    _try(name, given, Path(folder, f"mps-{name}"), began_s, first, rows, "MPS, ")
    for row in rows:
        for line in row.learned:
            print(f"{row.name}: {line}")


def _try(
    name: str,
    given: Sequence[str],
    folder: Path,
    began_s: float,
    first: Row | None,
    rows: list[Row],
    prefix: str = "",
) -> Row | None:
    left_s = MOST_S - (time.monotonic() - began_s)
    try:
        row = _run(name, given, folder, left_s, prefix)
    except subprocess.TimeoutExpired:
        print(f"| {prefix}{name} | no time was left ({left_s:.0f} s) | | | | |", flush=True)
        return None
    rows.append(row)
    ratio = "" if first is None else f"{row.span_s / first.span_s:.2f}"
    held, busy = size(row.peak_bytes), f"{100 * row.utilisation:.0f} %"
    print(
        f"| {row.name} | {row.wall_s:.1f} | {row.span_s:.1f} | {ratio} | {held} | {busy} |",
        flush=True,
    )
    return row


def _run(name: str, given: Sequence[str], folder: Path, left_s: float, prefix: str) -> Row:
    command = [
        *(sys.executable, "-m", "iolaus.trainer", "--multirun", *given),
        *("optim.lr=tag(log,interval(1e-3,1e-1))", "hydra.sweeper.lanes=1"),
        *(f"hydra.sweeper.trials_per_gpu={name}", f"hydra.sweep.dir={folder}"),
        *("hydra.sweeper.report=null", "hydra/sweeper/pruner=none", "report_every=20"),
        *("eval_every=200", "hydra.sweeper.sampler.seed=0", "keep_best=false"),
    ]
    began_s = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=max(left_s, 1.0), check=False
    )
    wall_s = time.monotonic() - began_s
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        raise SystemExit(f"gpu_sharing.py: the sweep with trials_per_gpu={name} ended by an error")
    trials = _trials(folder)
    held = [trial.user_attrs.get("memory", {}).get("gpu_bytes", 0) for trial in trials]
    n_completed = sum(trial.state is optuna.trial.TrialState.COMPLETE for trial in trials)
    if n_completed < len(trials):
        print(f"{prefix}{name}: {n_completed} of {len(trials)} trials completed", file=sys.stderr)
    text = done.stdout + done.stderr
    learned = [
        line.split("] ", 1)[-1]
        for line in text.splitlines()
        if re.search(r"\bGPU\b.*(:|;)", line) and "trials left" not in line
    ]
    busy = _utilisation(folder / "slots.csv")
    return Row(f"{prefix}{name}", wall_s, _span_s(folder), n_completed, max(held), busy, learned)


def _trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder / 'study.db'}"
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).trials


def _span_s(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    begun = [line["t"] for line in lines if "Proposed" in line]
    ended = [line["t"] for line in lines if "Ended" in line]
    return float(max(ended) - min(begun))


def _utilisation(path: Path) -> float:
    """The mean over the rows of a sweep; 0 where there are none."""
    if not path.exists():
        return 0.0
    with path.open(newline="") as file:
        shares = [float(row["utilisation"]) for row in csv.DictReader(file) if row["utilisation"]]
    return sum(shares) / max(len(shares), 1)


@contextmanager
def _mps(folder: Path) -> Iterator[bool]:
    """NVIDIA's MPS, for the commands run meanwhile; False where it cannot be started."""
    tool = shutil.which("nvidia-cuda-mps-control")
    if tool is None:
        print("| MPS | nvidia-cuda-mps-control is not installed | | | | |")
        yield False
        return
    os.environ["CUDA_MPS_PIPE_DIRECTORY"] = str(folder / "mps")
    os.environ["CUDA_MPS_LOG_DIRECTORY"] = str(folder / "mps-log")
    for name in ("mps", "mps-log"):
        (folder / name).mkdir()
    started = subprocess.run([tool, "-d"], capture_output=True, text=True, timeout=20, check=False)
    try:
        if started.returncode:
            print(f"| MPS | {started.stderr.strip() or 'did not start'} | | | | |")
        yield not started.returncode
    finally:
        subprocess.run([tool], input="quit\n", text=True, timeout=20, check=False)
        del os.environ["CUDA_MPS_PIPE_DIRECTORY"], os.environ["CUDA_MPS_LOG_DIRECTORY"]


if __name__ == "__main__":
    main()
