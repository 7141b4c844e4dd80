"""The repeats of earlier sweeps: which sweeps are of the same task, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from iolaus.analysis.data.earlier import repeats_of_earlier
from iolaus.analysis.data.sweep import load
from iolaus.analysis.ranking.rank import rank
from iolaus.sweeps.study.fingerprint import Fingerprint, note_fingerprint


def made(
    folder: Path, n_seeds: int, fixed: dict[str, str], direction: str = "minimize"
) -> optuna.Study:
    """A sweep's folder with four settings of a rate, each run with n_seeds that differ by 0.1."""
    (folder / "curves").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(
        f"study_name: s\nstorage: null\ndirections: [{direction}]\nmetric: loss\nobjective: final\n"
    )
    url = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=url, direction=direction)
    known = Fingerprint(fixed)
    note_fingerprint(study, known)
    study.set_user_attr("provenance", [{"fingerprint": known.id, "command": ["app"]}])
    study.set_user_attr("search_space", {"lr": {}})
    rng = np.random.default_rng(0)
    for number in range(4 * n_seeds):
        setting = number // n_seeds * n_seeds
        repeat = {"repeat_of": setting, "repeat": number - setting} if number != setting else {}
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=setting + rng.normal(0, 0.1),
            user_attrs={"seed": number - setting, **repeat},
            params={"lr": 0.1 + setting},
            distributions={"lr": FloatDistribution(0, 100)},
        )
        study.add_trial(trial)
    return study


FIXED = {"task": "digits", "seed": "0", "epochs": "5"}


@pytest.mark.parametrize("where", ["multirun/b", "multirun/monday/09-00-00"])
def test_the_repeats_of_an_earlier_sweep_of_the_task_are_found(tmp_path: Path, where: str) -> None:
    """Beside the folder, or in a neighbour of the one it lies in; seeds and what is searched may
    differ. The ranking says what seeds differ by, and whence it is known.
    """
    made(tmp_path / where, 3, {**FIXED, "seed": "7", "lr": "0.1"})
    folder = tmp_path / ("multirun/a" if where.count("/") == 1 else "multirun/tuesday/10-00-00")
    study = made(folder, 1, FIXED)
    (found,) = repeats_of_earlier(folder, study)
    assert found.name == Path(where).name
    assert [len(values) for values in found.settings] == [3, 3, 3, 3]
    ranking = rank(load(folder))
    assert ranking.noise_source == "earlier"
    assert ranking.noise == pytest.approx(0.1, rel=0.5)
    assert f"4 repeated settings of the earlier sweep {found.name}" in ranking.headline()


def test_another_task_says_nothing(tmp_path: Path) -> None:
    """Other fixed settings, another direction, no repeats, or what is no sweep any more."""
    study = made(tmp_path / "a", 1, FIXED)
    made(tmp_path / "b", 3, {**FIXED, "epochs": "40"})
    made(tmp_path / "c", 3, FIXED, direction="maximize")
    made(tmp_path / "d", 1, FIXED)
    made(tmp_path / "e", 3, FIXED)
    (tmp_path / "e" / "study.db").write_bytes(b"no database")
    assert repeats_of_earlier(tmp_path / "a", study) == ()
    assert rank(load(tmp_path / "a")).noise_source == "none"
