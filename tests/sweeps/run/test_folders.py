"""Two trials never share a folder, and no subdir that keeps them apart is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_folders_of_trials(sweep: Any, tmp_path: Path) -> None:
    """A subdir that does not tell a parameter's values, or repeats' seeds, apart is refused."""
    xy = ["x=interval(0, 1)", "pause_s=choice(0.0, 0.001)"]
    repeats = ["hydra.sweeper.repeats=2", "+seed=1"]
    three = "hydra.sweeper.n_trials=3"
    refused = [
        (xy, "same", "x"),
        (xy, "x${x}", "pause_s"),
        ([*xy, *repeats], "${x}_${pause_s}", "seed"),
        (["x=choice(1, 2)"], "run_${hydra.sweeper.n_trials}", "x"),
    ]
    for i, (options, subdir, what) in enumerate(refused):
        folder = tmp_path / f"refused{i}"
        run = sweep("trouble.py", *options, three, f"hydra.sweep.subdir='{subdir}'", folder=folder)
        assert run.wait().code == 1, subdir
        assert f"trials that differ in {what} one folder" in run.err, run.err
        assert not folder.exists()
    taken = [
        (xy, "${hydra.job.num}"),
        (xy, "${hydra:job.num}"),
        (xy, "a/${hydra.job.id}-b"),
        (xy, "${hydra.job.override_dirname}"),
        ([*xy, *repeats], "${hydra.job.override_dirname}"),
        (xy, "${x}_${pause_s}"),
        ([*xy, *repeats], "${seed}-${x}_${pause_s}"),
    ]
    runs = [
        sweep(
            "trouble.py",
            *options,
            three,
            f"hydra.sweep.subdir='{subdir}'",
            folder=tmp_path / f"taken{i}",
        )
        for i, (options, subdir) in enumerate(taken)
    ]
    one = sweep(
        *("trouble.py", "x=interval(0, 1)", "hydra.sweeper.n_trials=1"),
        "hydra.sweep.subdir=same",
        folder=tmp_path / "one",
    )
    for run in (*runs, one):
        run.ok()
    for i, (options, _) in enumerate(taken):
        n = 6 if "+seed=1" in options else 3
        assert len(list((tmp_path / f"taken{i}").rglob(".hydra"))) == n
