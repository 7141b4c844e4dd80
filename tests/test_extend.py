"""`iolaus extend`: the best trials of a sweep go on for longer, in a sweep of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from iolaus.analysis.data.sweep import load
from iolaus.sweeps.checkpoints import CHECKPOINTS, MANIFEST
from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.extending import Length, length_of
from iolaus.sweeps.study.record import record_of

sys.path.insert(0, str(Path(__file__).parent / "apps"))
from counting import next_state

N_STEPS = 20
XS = (0.4, 0.1, 0.3, 0.2, 0.5, 0.6)


def extend(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "iolaus.cli", "extend", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


def counting(sweep: Any, tmp_path: Path, *more: str) -> Any:
    """Six settings, whose results are in the order of x."""
    given = (f"x=choice({','.join(map(str, XS))})", f"n_steps={N_STEPS}", "every=5", "step_s=0")
    queue = ",".join(f"{{x:{x}}}" for x in XS)
    return sweep(
        *("counting.py", *given, f"diary={tmp_path / 'diary'}", "hydra/sweeper/sampler=random"),
        *("hydra.sweeper.n_trials=6", f"hydra.sweeper.enqueue=[{queue}]", *more),
        *("hydra.sweeper.n_jobs=2",),
    ).ok()


def walk(x: float, n_steps: int) -> list[float]:
    state, losses = {"step": 0, "total": x}, []
    for _ in range(n_steps):
        state = next_state(state)
        losses.append(state["total"])
    return losses


def best_of(study: Any) -> list[Any]:
    done = [t for t in study.trials if t.state is TrialState.COMPLETE]
    return sorted(done, key=lambda trial: trial.value)


def test_the_best_go_on_from_where_they_ended(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Of any app that saves checkpoints: as many steps more as are asked for, none twice, with the
    curve of a run that was always so long; in a study that says what it extends.
    """
    counting(sweep, tmp_path)
    (tmp_path / "diary").unlink()
    for path in (tmp_path / "study").glob(f"*/{CHECKPOINTS}/*/{MANIFEST}"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": []}))  # of a long run
    done = extend("study", "--top", "2", "--steps", "2x", "--steps-key", "n_steps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = best_of(study())[:2]
    assert f"trial {first.number} goes on from its checkpoint at step {N_STEPS}" in done.stdout
    longer = study(tmp_path / "study-2x")
    assert [record_of(t).extension_of for t in longer.trials] == [first.number, second.number]
    assert [record_of(t).extended_from for t in longer.trials] == [N_STEPS, N_STEPS]
    assert [record_of(t).went_on for t in longer.trials] == [(), ()]
    table = read_curves(tmp_path / "study-2x" / "curves").to_pandas()
    for trial in longer.trials:
        own = table[table["trial"] == trial.number]
        expected = walk(trial.params["x"], 2 * N_STEPS)
        assert own["step"].tolist() == [*range(1, 2 * N_STEPS + 1)]
        assert own["value"].tolist() == expected
        assert (trial.value, record_of(trial).run.best) == (expected[-1], min(expected))
    taken = [
        tuple(map(int, line.split())) for line in (tmp_path / "diary").read_text().splitlines()
    ]
    assert sorted(taken) == [(n, s) for n in (0, 1) for s in range(N_STEPS + 1, 2 * N_STEPS + 1)]
    assert f"extends trial {first.number}: went on from step {N_STEPS}" in done.stdout
    assert len(study().trials) == len(XS)  # nothing was added to the one it extends


def test_checkpoints_of_the_best_stay(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Of completed trials as many as hydra.sweeper.keep_checkpoints says, the best ones; also when
    a driver was killed before it could delete the others.
    """
    counting(sweep, tmp_path, "hydra.sweeper.keep_checkpoints=2")
    kept = {str(trial.number) for trial in best_of(study())[:2]}
    places = lambda: {p.parent.name for p in (tmp_path / "study").glob(f"*/{CHECKPOINTS}")}  # noqa: E731
    assert places() == kept
    worst = best_of(study())[-1]
    left = tmp_path / "study" / str(worst.number) / CHECKPOINTS / "step_000000020"
    left.mkdir(parents=True)
    (left / MANIFEST).write_text("{}")
    counting(sweep, tmp_path, "hydra.sweeper.keep_checkpoints=2", "hydra.sweeper.n_trials=7")
    assert len(places()) == 2
    assert str(worst.number) not in places()


@pytest.mark.slow
def test_a_trial_without_a_checkpoint_begins_anew(sweep: Any, study: Any, tmp_path: Path) -> None:
    """Named by number, it runs from its beginning, and that is said; what has been extended before
    is not run again.
    """
    counting(sweep, tmp_path)
    worst = best_of(study())[-1].number
    words = ("study", str(worst), "--steps", "30", "--steps-key", "n_steps")
    done = extend(*words, cwd=tmp_path)
    assert f"trial {worst} begins anew: no checkpoint of it has been kept" in done.stdout
    assert f"extends trial {worst}: began anew" in done.stdout
    again = extend(*words, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["trials"] == []
    (trial,) = study(tmp_path / "study-30-steps").trials
    assert trial.value == walk(trial.params["x"], 30)[-1]


@pytest.mark.slow
def test_the_trainer_extended_is_the_long_run(tmp_path: Path) -> None:
    """Through the driver, with the real trainer: a constant rate goes on and has the bits of one
    long run, in every metric; a cosine that has come to its end begins anew, and is said to.
    """
    app = [sys.executable, "-m", "iolaus.trainer", "--multirun", "task=digit_sum", "steps=40"]
    given = [
        *("optim.lr=0.02", "schedule=choice(constant,cosine)", "report_every=10", "eval_every=20"),
        *("hydra/sweeper/sampler=grid", "hydra.sweeper.report=null", "device=cpu"),
        *("hydra.sweeper.objective=return", "hydra.sweeper.n_jobs=2"),
    ]
    for name, more in (("short", ()), ("long", ("stretch=2",))):
        words = [*app, *given, f"hydra.sweep.dir={name}", f"hydra.sweeper.study_name={name}", *more]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    done = extend("short", "--steps", "2x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "goes on from its checkpoint at step 40" in done.stdout
    assert "begins anew: the rate of step 39 was" in done.stdout
    extended, whole = load(tmp_path / "short-2x"), load(tmp_path / "long")
    for number, trial in extended.trials.iterrows():
        same = whole.trials["params.schedule"] == trial["params.schedule"]
        assert trial["objective"] == whole.trials.loc[same, "objective"].item()
        curves = [
            sweep.curves.loc[sweep.curves["trial"] == of, ["step", "metric", "value"]]
            .sort_values(["step", "metric"])
            .reset_index(drop=True)
            for sweep, of in ((extended, number), (whole, whole.trials.index[same][0]))
        ]
        assert curves[0].equals(curves[1])


@pytest.mark.parametrize(
    ("text", "length"),
    [("3x", Length(factor=3.0)), ("1.5x", Length(factor=1.5)), ("6,000", Length(n_steps=6000))],
)
def test_a_length_is_a_factor_or_a_number_of_steps(text: str, length: Length) -> None:
    """With x it is a factor, without it the steps of the whole run."""
    assert length_of(text) == length


@pytest.mark.parametrize("text", ["1x", "0", "-5", "x3", "long", "0.5x"])
def test_what_is_no_length_is_refused(text: str) -> None:
    """It says what to give."""
    with pytest.raises(BadInputError, match="such as 3x"):
        length_of(text)


@pytest.mark.slow
def test_what_cannot_be_extended_is_refused_in_a_sentence(
    sweep: Any, study: Any, tmp_path: Path
) -> None:
    """Before anything runs: a key that is not there or is searched, too few steps, no trial."""
    counting(sweep, tmp_path)
    for words, said in {
        ("--steps", "2x"): "the config's steps longer, which is not in the app's config",
        ("--steps", "2x", "--steps-key", "x"): "x is searched in this sweep",
        ("--steps", "20", "--steps-key", "n_steps"): "has 20 already; give more",
        ("77", "--steps", "2x", "--steps-key", "n_steps"): "there is no trial 77",
    }.items():
        done = extend("study", *words, cwd=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr
    assert not [*tmp_path.glob("study-*")]
