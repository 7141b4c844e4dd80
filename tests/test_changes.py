"""A sweep whose settings, code or space have changed under the same name, as its user sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

import iolaus
from iolaus.sweeps.study.folder import describe_sweep

TRAIN = """
import sys
import hydra, iolaus
from hydra.core.config_store import ConfigStore
sys.path.append({library!r})
import dependency
ConfigStore.instance().store(
    "c", {{"x": 1.0, "epochs": 2, "stamp": "${{now:%f}}", "out": "${{hydra:runtime.output_dir}}"}}
)
@hydra.main(version_base=None, config_path=None, config_name="c")
def main(cfg):
    from nets import net
    for step in range(cfg.epochs):
        iolaus.report(step, loss=net.loss(cfg.x) / (step + 1))
    return net.loss(cfg.x) / cfg.epochs
main()
"""
NET = "def loss(x): return (x - 0.3) ** 2 + 0.1\n"
X = "x=interval(0, 1)"
Go = Callable[..., Any]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app in a git repository, with a dependency that is a checkout elsewhere."""
    folder, library = tmp_path / "app", tmp_path / "library"
    (folder / "nets").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN.format(library=str(library)))
    (folder / "nets" / "net.py").write_text(NET)
    library.mkdir()
    (library / "dependency.py").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def go(sweep: Any, app: Path) -> Go:
    """Runs the app's sweep to its end."""

    def run(n_trials: int, *arguments: str, folder: Path = app, space: str = X) -> Any:
        given = (f"hydra.sweeper.n_trials={n_trials}", "hydra.sweeper.n_jobs=1", space, *arguments)
        return sweep(str(folder / "train.py"), *given).wait()

    return run


def commit(app: Path) -> None:
    (app / "nets" / "net.py").write_text(NET + "# committed\n")
    git(app, "commit", "-qam", "second")


changes: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a setting": (lambda app: None, ["epochs=3"], "epochs was 2, now 3"),
    "a new setting": (lambda app: None, ["+warm=1"], "warm was not there, now 1"),
    "a commit": (commit, [], "the code of nets has changed"),
    "an edit": (
        lambda app: (app / "train.py").write_text((app / "train.py").read_text() + "# edited\n"),
        [],
        "the code of train has changed",
    ),
    "an untracked module": (
        lambda app: (app / "nets" / "new.py").write_text("width = 3\n"),
        [],
        "the code of nets has changed",
    ),
    "a dependency's checkout": (
        lambda app: (app.parent / "library" / "dependency.py").write_text("width = 3\n"),
        [],
        "the code of dependency has changed",
    ),
}


@pytest.mark.slow
def test_what_has_changed_is_refused_by_name(go: Go, app: Path, study: Any, tmp_path: Path) -> None:
    """Under refuse nothing is run or written; without a change the same command goes on."""
    go(1).ok()
    kept = tmp_path / "kept"
    shutil.copytree(app.parent / "library", kept / "library")
    shutil.copytree(app, kept / "app")
    for change, arguments, said in changes.values():
        change(app)
        before = study().user_attrs
        refused = go(2, *arguments, "hydra.sweeper.on_change=refuse")
        assert refused.code == 1
        assert f"was last run otherwise: {said}" in refused.err
        assert "hydra.sweeper.on_change=warn" in refused.err
        assert "Traceback" not in refused.err
        assert (len(study().trials), study().user_attrs) == (1, before)
        for name in ("app", "library"):
            shutil.rmtree(app.parent / name)
            shutil.copytree(kept / name, app.parent / name)
    go(2, "hydra.sweeper.on_change=refuse").ok()


def test_the_same_code_elsewhere_is_the_same(go: Go, app: Path, tmp_path: Path) -> None:
    """A copy in another folder, outside any repository, goes on with the sweep without a word."""
    go(1).ok()
    shutil.copytree(app, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "copy" / "README").write_text("moved")
    again = go(2, "hydra.sweeper.on_change=refuse", folder=tmp_path / "copy").ok()
    assert "ran with" not in again.out
    trials = iolaus.load(tmp_path / "study").trials
    assert trials["fingerprint"].nunique() == 1
    assert not trials["ran_with"].any()


@pytest.mark.slow
def test_trials_that_differ_are_told_apart_in_every_table(
    go: Go, cli: Any, study: Any, tmp_path: Path
) -> None:
    """By default the sweep goes on, says what differs, and no table or headline hides it."""
    folder = tmp_path / "study"
    go(2).ok()
    second = go(4, "epochs=3").ok()
    assert "epochs was 2, now 3. It goes on" in second.out
    assert [line.count("epochs=") for line in second.out.splitlines()].count(1) >= 4
    assert "may be the difference" in second.out
    again = go(4, "epochs=2").ok()  # nothing to run: all the more to be said
    assert "epochs was 3, now 2" in again.out
    said = ["epochs=2", "epochs=2", "epochs=3", "epochs=3"]
    sweep = iolaus.load(folder)
    assert list(sweep.trials["ran_with"]) == said
    ranking = iolaus.rank(sweep)
    assert sorted(ranking.table["ran_with"]) == said
    assert "ran with" in ranking.shown()
    (warning,) = (w for w in ranking.warnings if "different settings, code or versions" in w)
    assert "2 with epochs=2" in warning
    assert "2 with epochs=3" in warning
    for command in ("show", "rank", "diagnose", "convergence"):
        lines = cli(command, folder).ok().out.splitlines()
        assert "ran with" in lines[0] or "ran_with" in lines[0], command
        assert all("epochs=" in line for line in lines[1:3]), command
    _, text = iolaus.write_report(folder)
    report = Path(text).read_text()
    assert "2 with epochs=2; 2 with epochs=3" in report.splitlines()[4]
    assert sum("| ran with |" in line for line in report.splitlines()) >= 3
    assert "epochs was 2, now 3" in report  # with the session that changed it
    results = (folder / "optimization_results.yaml").read_text()
    assert "ran_with: epochs=" in results
    known = study()
    notes = known._storage.get_study_system_attrs(known._study_id)  # as the dashboard keeps them
    assert "ran with" in json.dumps(notes)


def test_a_result_of_other_settings_is_not_taken_over(go: Go, study: Any) -> None:
    """A setting that ran with other fixed settings runs again; with the same it does not."""
    space = "x=choice(0.5)"
    go(1, "hydra/sweeper/sampler=random", space=space).ok()
    go(2, "hydra/sweeper/sampler=random", "epochs=3", space=space).ok()
    assert [t.user_attrs.get("duplicate_of") for t in study().trials] == [None, None]
    assert study().trials[0].value != study().trials[1].value


def test_a_changed_space_is_refused_unless_it_gets_its_own_study(go: Go, tmp_path: Path) -> None:
    """Refused under warn too; new_study begins another folder and finds it again by itself."""
    study, wider = tmp_path / "study", "x=interval(0, 2)"
    go(1).ok()
    refused = go(2, space=wider)
    assert refused.code == 1
    assert "x was float 0.0 to 1.0, now float 0.0 to 2.0" in refused.err
    assert "on_change=new_study" in refused.err
    new = ("hydra.sweeper.on_change=new_study",)
    assert "this is study-2" in go(1, *new, space=wider).ok().out
    assert "[2/2 trials" in go(2, *new, space=wider).ok().out
    go(1, *new, "epochs=3", space=wider).ok()
    go(2, *new).ok()
    assert {p.name: len(iolaus.load(p).trials) for p in tmp_path.glob("study*")} == {
        "study": 2,
        "study-2": 2,
        "study-3": 1,
    }
    assert iolaus.load(study).curves.groupby("trial").size().tolist() == [2, 2]
    assert iolaus.load(tmp_path / "study-3").curves.groupby("trial").size().tolist() == [3]


def test_a_new_study_in_a_shared_storage_has_a_name_of_its_own(go: Go, tmp_path: Path) -> None:
    """NAME-2 in the storage, and a folder of its own, which readers find by what it says."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = (f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=s")
    new = (*shared, "hydra.sweeper.on_change=new_study")
    go(1, *shared).ok()
    for n_trials in (1, 2):
        go(n_trials, *new, "epochs=3").ok()
    assert optuna.get_all_study_names(url) == ["s", "s-2"]
    assert describe_sweep(tmp_path / "study-2").study_name == "s-2"
    assert len(iolaus.load(tmp_path / "study-2").trials) == 2
    assert len(iolaus.load(tmp_path / "study").trials) == 1
