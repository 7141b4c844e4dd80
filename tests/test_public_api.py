"""`import iolaus` is the public API: immediate, complete, each name with an example that runs."""

import doctest
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

import iolaus

HEAVY = ("torch", "pandas", "numpy", "optuna", "hydra", "omegaconf", "matplotlib", "pyarrow")


@pytest.fixture
def runs_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the examples, in the folder they run in: 12 runs, the slower the lower their
    learning rate.
    """
    steps = np.arange(1, 61)
    frames = [
        pd.DataFrame({"trial": n, "step": steps, "loss": np.exp(-steps * lr), "params.lr": lr})
        for n, lr in enumerate(0.5**k for k in range(12))
    ]
    pd.concat(frames).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("runs_csv")
@pytest.mark.parametrize("name", iolaus.__all__)
def test_every_public_name_has_an_example_that_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The docstring of the name itself, not of its methods, is what an editor shows."""
    optuna.logging.set_verbosity(logging.WARNING)
    found = doctest.DocTestFinder(recurse=False).find(
        getattr(iolaus, name), name, globs={"iolaus": iolaus, "optuna": optuna}
    )
    assert [test for test in found if test.examples], f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_importing_loads_nothing_heavy() -> None:
    """A training script that only reports pays for no library it does not use itself."""
    script = f"""
import sys, iolaus
iolaus.report(0, loss=1.0)
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_names_are_listed_and_others_refused() -> None:
    """`dir` has every name before it is used; one that does not exist is an AttributeError that
    names those that do.
    """
    assert set(iolaus.__all__) <= set(dir(iolaus))
    assert sorted(iolaus.__all__) == iolaus.__all__
    with pytest.raises(AttributeError, match=r"no attribute 'rnak'; it has .*rank"):
        iolaus.rnak  # noqa: B018
