"""Where a sweep's numbers come from, in real git repositories."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest

from iolaus.sweeps.run import _own_code
from iolaus.sweeps.run._provenance import code_version, collect, fingerprint


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.py").write_text("lr = 0.1\n")
    (folder / "sub" / "other.py").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_repository_is_its_commit(repository: Path) -> None:
    """The commit of HEAD, from any folder inside; files that git does not track change nothing."""
    clean = {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}
    assert code_version(repository) == clean
    (repository / "notes.txt").write_text("untracked")
    assert code_version(repository / "sub") == clean


def test_each_change_has_its_own_digest(repository: Path) -> None:
    """Dirty code is told from the commit and from other dirty code; the same change again is the
    same code.
    """
    seen = []
    for change in (
        "lr = 0.2\n",
        "lr = 0.3\n",
        "lr = 0.2\n",
        "lr = 0.1\n",
        "lr = 0.1 \n",
        "lr = \udc80",
    ):
        (repository / "train.py").write_text(change, errors="surrogateescape")
        seen.append(code_version(repository / "sub"))
    assert [version["dirty"] for version in seen] == [True, True, True, False, True, True]
    assert seen[0] == seen[2]
    assert len({json.dumps(version) for version in seen}) == 5
    git(repository, "add", ".")
    assert code_version(repository) == seen[-1]  # staged or not
    git(repository, "commit", "-qm", "second")
    assert code_version(repository)["dirty"] is False
    assert code_version(repository)["commit"] != seen[-1]["commit"]


def test_data_in_a_repository_is_not_read(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too long to be code counts by its length, and a removed one as gone."""
    (repository / "train.py").write_text("x" * 20)
    monkeypatch.setattr(_own_code, "N_BYTES", 10)
    long = code_version(repository)
    (repository / "train.py").write_text("y" * 20)
    assert code_version(repository) == long
    (repository / "train.py").unlink()
    assert code_version(repository) not in (long, {"commit": long["commit"], "dirty": False})


def test_a_fingerprint_has_what_computes_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixed settings, the code of each `_target_`, Python and the packages that compute."""
    for name in ("net", "loss"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    fixed = {"model._target_": "net.Net or loss.Loss", "name": "repository.x"}
    found = fingerprint(fixed, {"numpy": sys.modules["numpy"]})
    assert found.fixed == fixed
    assert list(found.code) == ["loss", "net"]
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:2]))
    assert "numpy" in found.versions
    assert "optuna" not in found.versions  # which settings come next, not what they come to


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No repository, or no git at all, is said as it is and is no error."""
    none = {"commit": None, "dirty": False}
    assert code_version(tmp_path) == none
    assert code_version(tmp_path / "not there") == none
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(repository) == none


def test_a_session_is_plain_data_with_all_that_is_needed(repository: Path) -> None:
    """Command, code, versions and machine survive JSON; the time is UTC."""
    now = datetime(2026, 11, 21, 3, 0, 0, tzinfo=UTC).astimezone()
    session = collect(["python", "train.py", "a=b c"], repository, ["0"], now)
    assert json.loads(json.dumps(session)) == session
    assert session["command"] == ["python", "train.py", "a=b c"]
    assert session["started"] == "2026-11-21T03:00:00+00:00"
    assert session["code"] == code_version(repository)
    assert session["python"] == platform.python_version()
    assert session["packages"]["optuna"] == optuna.__version__
    assert "hydra-iolaus" in session["packages"]
    assert session["machine"]["gpus"] == ["0"]
