"""The promises of docs/invariants.md name code and tests that exist; paths in the docs do, too."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import optuna
import pytest

from iolaus.analysis.data.sweep import load

ROOT = Path(__file__).parent.parent
PROMISES = re.findall(
    r"^\| (\d+) \| (.+?) \| `(.+?)` \| `(.+?)` \|$",
    (ROOT / "docs/invariants.md").read_text(),
    re.MULTILINE,
)
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "docs/one_loss.py"]
# What a path in the text begins with, or ends with; others are a user's own files, or patterns.
ROOMS = (
    "sweeps/ trainer/ analysis/ conf/ tests/ iolaus/ hydra_plugins/ benchmarks/ notebooks/ docs/"
)
TOP = "pyproject.toml Makefile README.md CHANGELOG.md CONTRIBUTING.md constraints.txt .ci/run"


@cache
def names(path: str) -> set[str]:
    """The functions and classes that a file of the repository defines, methods included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_promises_are_numbered() -> None:
    """From 1 up, none left out, each with its code and its test."""
    assert [int(number) for number, *_ in PROMISES] == list(range(1, len(PROMISES) + 1))
    text = (ROOT / "docs/invariants.md").read_text()
    assert len(PROMISES) == len(re.findall(r"^\| \d", text, re.MULTILINE)) > 30


@pytest.mark.parametrize(("number", "promise", "code", "test"), PROMISES)
def test_what_holds_a_promise_exists(number: str, promise: str, code: str, test: str) -> None:
    """The function that holds it, and the test that fails without."""
    for where in (code.split(":"), test.split("::")):
        path, name = where
        assert name in names(path), f"{number}: {path} has no {name} ({promise})"
    assert test.split("::")[1].startswith(("test_", "World"))


def test_reading_a_sweep_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Python tags of YAML nor targets, resolvers or commands in a folder are acted upon."""
    trace = tmp_path / "trace"
    call = f'!!python/object/apply:os.system ["touch {trace}"]'
    target = {"_target_": "os.system", "command": f"touch {trace}"}
    about = "study_name: made\nstorage: null\ndirections: [minimize]\nmetric: loss\n"
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="made", storage=url)
    study.set_user_attr("config", f"task: {target}\nhome: ${{oc.env:HOME}}\n")
    study.set_user_attr("provenance", [{"command": ["touch", str(trace)]}])
    trial = study.ask()
    trial.set_user_attr("run", {"folder": f"$(touch {trace})"})
    study.tell(trial, 0.5)
    (tmp_path / "sweep.yaml").write_text(about)
    assert load(tmp_path).config["task"] == target
    study.set_user_attr("config", f"task: {call}\n")
    with pytest.raises(Exception, match="python/object/apply"):
        load(tmp_path)
    (tmp_path / "sweep.yaml").write_text(f"{about}objective: {call}\n")
    with pytest.raises(Exception, match="python/object/apply"):
        load(tmp_path)
    assert not trace.exists()


def paths_in(text: str) -> set[str]:
    """The paths of the repository that a page names: in backquotes, links or tables."""
    found = set(
        re.findall(r"[\w./-]*[\w/]", re.sub(r"https?://\S+|^# file: .*$", "", text, flags=re.M))
    )
    rooms = tuple(ROOMS.split())
    return {path for path in found if path.startswith(rooms) or path in TOP.split()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_docs_exist(page: Path) -> None:
    """Every file and folder that a page for developers names is there."""
    missing = sorted(path for path in paths_in(page.read_text()) if not (ROOT / path).exists())
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    """Relative links are files, seen from the page."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_ci_runs_what_people_run() -> None:
    """.ci/run is a script that ends with `make test` if asked for nothing else, and asks for a
    browser.
    """
    script = (ROOT / ".ci/run").read_text()
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert script.splitlines()[-1] == 'exec make "$target"'
    assert "target=${1:-test}" in script.splitlines()
    assert "IOLAUS_REQUIRE_BROWSER=1" in script
