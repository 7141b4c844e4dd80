"""`iolaus dashboard DIR`: the real server, its answers, and its pages in a real
browser.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from iolaus.analysis.data.sweep import load
from iolaus.analysis.report.dashboard import DashboardApp, ReviewedStorage
from iolaus.analysis.report.notes import SIGNATURE, review, write_notes
from iolaus.sweeps.curves import SCHEMA
from iolaus.sweeps.errors import BadInputError

N_REPORTS = 100
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def make_folder(folder: Path, n_trials: int) -> Path:
    """A sweep's folder: power laws over lr with noise, every third trial pruned half-way, every
    seventh exploding.
    """
    (folder / "curves").mkdir(parents=True)
    about = (
        "study_name: made\nstorage: null\ndirections: [minimize]\nmetric: loss\nobjective: final\n"
    )
    (folder / "sweep.yaml").write_text(about)
    url = f"sqlite:///{folder / 'study.db'}"
    study = optuna.create_study(study_name="made", storage=url)
    study.set_user_attr("config", "lr: 0.1\n" + "# a long text\n" * 100)
    rng = np.random.default_rng(0)
    trials, tables, values = [], [], []
    for number in range(n_trials):
        is_pruned = number % 3 == 2
        n = N_REPORTS // 2 if is_pruned else N_REPORTS
        lr, steps = float(10 ** rng.uniform(-3, 0)), 20 * np.arange(1, n + 1)
        loss = 0.3 + abs(np.log10(lr) + 1.5) + 2.5 * (steps / 20) ** -0.5 + rng.normal(0, 0.02, n)
        loss *= 1.2 ** np.arange(n) if number % 7 == 6 else 1.0
        curves = {
            "loss": loss,
            "lr": lr * 0.01 ** (steps / 20 / N_REPORTS),
            "examples": 64.0 * steps,
        }
        for metric, value in curves.items():
            columns = {
                "trial": np.full(n, number),
                "attempt": np.zeros(n, dtype=int),
                "step": steps,
                "seconds": steps / 20,
                "metric": [metric] * n,
            }
            tables.append(pa.table({**columns, "value": value}, SCHEMA))
        run = {
            "folder": f"trials/{number}",
            "slot": 0,
            "session": 0,
            "seconds": float(n),
            "final": float(loss[-1]),
        }
        verdict = {"verdict": "stalled", "verdict_rule": "stalled", "verdict_step": int(steps[-1])}
        trials.append(
            create_trial(
                value=None if is_pruned else float(loss[-1]),
                state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
                params={"lr": lr},
                distributions={"lr": FloatDistribution(1e-3, 1, log=True)},
                user_attrs={
                    "why": "pruned: stalled since step 20" if is_pruned else "completed",
                    "steps": int(steps[-1]),
                    "run": run,
                    "lr_plan": [[0, lr], [20 * N_REPORTS, lr / 100]],
                    **(verdict if is_pruned else {}),
                },
            )
        )
        values += [
            (number + 1, int(step), float(v), "FINITE") for step, v in zip(steps, loss, strict=True)
        ]
    study.add_trials(trials)
    pq.write_table(pa.concat_tables(tables), folder / "curves" / "a-000000.parquet")
    with sqlite3.connect(folder / "study.db") as database:  # by Optuna it would take minutes
        columns = "trial_id, step, intermediate_value, intermediate_value_type"
        database.executemany(
            f"INSERT INTO trial_intermediate_values ({columns}) VALUES (?, ?, ?, ?)", values
        )
    database.close()
    return folder


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("sweep") / "made", 12)


@pytest.fixture
def folder(kept_folder: Path, tmp_path: Path) -> Path:
    """A sweep of twelve trials, to be changed at will."""
    return Path(shutil.copytree(kept_folder, tmp_path / "made"))


def ask(
    app: DashboardApp, path: str, method: str = "GET", body: Any = None
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, content) of a request to the application."""
    text = json.dumps(body).encode()
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method}
    if body is not None:
        environ |= {
            "wsgi.input": io.BytesIO(text),
            "CONTENT_LENGTH": str(len(text)),
            "CONTENT_TYPE": "application/json",
        }
    setup_testing_defaults(environ)
    said: list[Any] = []
    content = b"".join(app(environ, lambda status, headers, *_: said.extend((status, headers))))
    return int(said[0].split()[0]), dict(said[1]), content


def detail(app: DashboardApp) -> Any:
    return json.loads(ask(app, "/api/studies/1")[2])


def attributes(trial: Any) -> dict[str, str]:
    return {item["key"]: item["value"] for item in trial["user_attrs"]}


def dump(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "study.db") as database:
        return list(database.iterdump())


def test_the_root_leads_to_the_study(folder: Path) -> None:
    """Who opens the address sees the sweep's study at once."""
    status, headers, _ = ask(DashboardApp(folder), "/")
    assert (status, headers["Location"]) == (302, "/dashboard/studies/1")


def test_each_trial_carries_attributes_note_and_picture(folder: Path) -> None:
    """The server's own answer has them: short attributes, a note with the picture, and the picture
    as a PNG.
    """
    app = DashboardApp(folder)
    study = detail(app)
    made = review(load(folder), 1)
    assert len(study["trials"]) == 12
    for trial in study["trials"]:
        number = trial["number"]
        assert attributes(trial) == {
            name: str(value) for name, value in made.attributes[number].items()
        }
        assert trial["note"]["body"].startswith(made.notes[number])
        (artifact,) = trial["artifacts"]
        path = f"/artifacts/1/{trial['trial_id']}/{artifact['artifact_id']}"
        assert f"]({path})" in trial["note"]["body"]
        if number < 3:  # drawing takes its time
            status, headers, content = ask(app, path)
            assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", PNG)
    assert {key["key"] for key in study["union_user_attrs"]} >= {
        "shape",
        "steps",
        "examples",
        "seconds",
    }


def test_the_study_carries_the_ranking_and_its_curves(folder: Path) -> None:
    """The study's note is the paragraph with the ranking, then all curves; its objective has a
    name.
    """
    app = DashboardApp(folder)
    study = detail(app)
    assert study["note"]["body"].startswith("Run ")
    assert "| setting |" in study["note"]["body"]
    path = f"/artifacts/1/{study['artifacts'][0]['artifact_id']}"
    assert path in study["note"]["body"]
    assert ask(app, path)[2][:4] == PNG
    assert study["objective_names"] == ["final loss"]
    assert study["user_attrs"] == []


def test_looking_writes_nothing(folder: Path) -> None:
    """A running sweep is not disturbed: pages and pictures leave the database as it was."""
    before = dump(folder)
    app = DashboardApp(folder)
    for trial in detail(app)["trials"][:2]:
        ask(app, f"/artifacts/1/{trial['trial_id']}/{trial['artifacts'][0]['artifact_id']}")
    assert dump(folder) == before
    assert not (folder / "artifacts").exists()


def test_a_sweep_that_goes_on_is_reviewed_again(folder: Path) -> None:
    """What is shown follows the sweep: a trial that ended since has its note after the next
    look.
    """
    app = DashboardApp(folder)
    study = optuna.load_study(study_name="made", storage=f"sqlite:///{folder / 'study.db'}")
    trial = study.ask({"lr": FloatDistribution(1e-3, 1, log=True)})
    table = {
        "trial": [12] * 9,
        "attempt": [0] * 9,
        "step": range(20, 200, 20),
        "seconds": [1.0] * 9,
        "metric": ["loss"] * 9,
    }
    pq.write_table(
        pa.table({**table, "value": [2.0] * 9}, SCHEMA), folder / "curves" / "b-000000.parquet"
    )
    trial.set_user_attr("why", "failed: the disk is full")
    study.tell(trial, state=TrialState.FAIL)

    waits: list[float] = []

    class OverError(Exception):
        pass

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise OverError

    with pytest.raises(OverError):
        app.keep_current(wait)
    assert "the disk is full" in detail(app)["trials"][12]["note"]["body"]
    assert all(seconds >= 10 for seconds in waits)


def test_what_a_person_writes_below_a_note_stays(folder: Path) -> None:
    """An edit in the browser is kept below ours, when the sweep is reviewed again and when notes
    are recorded.
    """
    shown = detail(DashboardApp(folder))["trials"][2]["note"]
    edited = {"version": shown["version"] + 1, "body": shown["body"] + "\n\nLooks like the seed."}
    assert ask(DashboardApp(folder), "/api/studies/1/3/note", "PUT", edited)[0] == 204
    write_notes(folder, load(folder))
    body = detail(DashboardApp(folder))["trials"][2]["note"]["body"]
    assert body.count(SIGNATURE) == body.count("Looks like the seed.") == 1
    assert body.startswith(review(load(folder), 1).notes[2])


def test_recorded_notes_are_seen_without_us(folder: Path) -> None:
    """After a report any dashboard shows the notes of study and finished trials; a second one
    writes nothing.
    """
    from optuna_dashboard import get_note

    write_notes(folder, load(folder))
    study = optuna.load_study(study_name="made", storage=f"sqlite:///{folder / 'study.db'}")
    assert get_note(study).startswith("Run ")
    assert "**Suggested fix**" in get_note(optuna.Trial(study, 3))
    before = dump(folder)
    write_notes(folder, load(folder))
    assert dump(folder) == before


def test_the_best_trial_keeps_its_constraints(folder: Path) -> None:
    """Of the completed trials the best that violates no constraint is shown; if all do, the best of
    all.
    """
    backend = InMemoryStorage()
    study = optuna.create_study(storage=backend)
    for value, amount in ((1.0, 2.0), (3.0, 0.0), (2.0, -1.0), (0.5, 0.1)):
        trial = study.ask()
        trial.set_constraint("memory", amount)
        study.tell(trial, value)
    shown: Any = ReviewedStorage(backend, study._study_id, review(load(folder), 0))
    assert backend.get_best_trial(study._study_id).number == 3
    assert shown.get_best_trial(study._study_id).number == study.best_trial.number == 2
    assert shown.get_all_trials(study._study_id)[0].system_attrs["constraints"] == [2.0]


def test_the_study_of_a_sweep_is_not_renamed(folder: Path) -> None:
    """A renamed study would be lost to its folder: the server refuses, and all is as it was."""
    app = DashboardApp(folder)
    before = dump(folder)
    assert ask(app, "/api/studies/1/rename", "POST", {"study_name": "other"})[0] >= 400
    assert dump(folder) == before


def test_uploads_go_to_the_sweeps_folder(folder: Path) -> None:
    """A file that a person adds to the study lies in artifacts/ of the sweep's folder, and comes
    back.
    """
    file = {"file": "data:text/plain;base64,aGVsbG8=", "filename": "hello.txt"}
    app = DashboardApp(folder)
    status, _, content = ask(app, "/api/artifacts/1", "POST", file)
    assert status == 201
    name = json.loads(content)["artifact_id"]
    assert (folder / "artifacts" / name).read_text() == "hello"
    assert ask(app, f"/artifacts/1/{name}")[2] == b"hello"


# --- as a user starts it, in a browser ---


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts the command on a folder; gives its address."""
    processes = []

    def start(folder: Path) -> str:
        command = [sys.executable, "-m", "iolaus.cli", "dashboard", str(folder), "--port", "0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        processes.append(process)
        assert process.stdout is not None
        found = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())
        assert found
        return found[0]

    yield start
    for process in processes:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def page(browser: Any) -> Any:
    """A page of a headless Chromium."""
    return browser.new_page(viewport={"width": 1500, "height": 1000})


def is_drawn(image: Any) -> bool:
    image.scroll_into_view_if_needed()
    drawn: bool = image.evaluate("image => image.decode().then(() => image.naturalWidth > 400)")
    return drawn


def test_in_a_browser(folder: Path, serve: Any, page: Any, tmp_path: Path) -> None:
    """The study's page names the best trial; a pruned trial has note, picture, artifact; its
    attributes are columns.
    """
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    address = serve(folder)
    best = min(load(folder).trials["objective"].dropna().items(), key=lambda item: item[1])[0]
    page.goto(address)
    page.get_by_text(f"Best Trial (number={best})").wait_for()
    page.get_by_text("final loss").first.wait_for()
    page.screenshot(path=tmp_path / "study.png", full_page=True)

    page.goto(f"{address}/dashboard/studies/1/trials?numbers=2")
    page.get_by_text("Ended: pruned: stalled since step 20.").wait_for()
    page.get_by_text("Fix: ").wait_for()
    assert is_drawn(page.get_by_alt_text("trial 2: curve and learning rate").first)
    page.get_by_text("trial-2.png").first.wait_for()
    assert "verdict stalled" in " ".join(page.inner_text("body").split())
    page.screenshot(path=tmp_path / "trial.png", full_page=True)

    page.goto(f"{address}/dashboard/studies/1/note")
    page.get_by_role("columnheader", name="objective").wait_for()
    page.get_by_text("which setting is better is not known").wait_for()
    assert is_drawn(page.get_by_alt_text("all curves").first)
    page.screenshot(path=tmp_path / "note.png", full_page=True)
    page.locator("td").get_by_role("link").first.click()
    page.get_by_text("Ended: ").wait_for()

    page.goto(f"{address}/dashboard/studies/1/smartSelection")
    page.get_by_text(
        "User Attribute stalled_since"
    ).wait_for()  # an axis of the parallel coordinates
    page.get_by_role("columnheader", name="UserAttribute steps").get_by_role(
        "button"
    ).click()  # sorts
    assert not errors


def test_a_storage_that_lost_its_study_is_refused(folder: Path) -> None:
    """The message says what is missing where, before anything is served."""
    (folder / "study.db").unlink()
    with pytest.raises(FileNotFoundError, match=r"study.db.* has no study made"):
        DashboardApp(folder)


def test_a_port_in_use_is_refused(folder: Path) -> None:
    """The message says which port, and what to do."""
    import socket

    from iolaus.analysis.report.dashboard import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInputError, match="--port"):
            serve(folder, taken.getsockname()[1])


@pytest.mark.slow
def test_a_thousand_trials_stay_usable(
    tmp_path: Path, serve: Any, page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 1,000 trials of up to 100 reports every page is there within a minute on a busy machine
    of two cores.
    """
    folder = make_folder(tmp_path / "made", 1000)
    started_s = time.monotonic()
    address = serve(folder)
    times = {"command": time.monotonic() - started_s}
    picture = page.locator("img[alt]")
    for name, path, content in (
        ("study", "", page.get_by_text("Best Trial (number=")),
        ("trial with its picture", "/trials?numbers=998", picture),
        ("note with all curves", "/note", picture),
        (
            "axes and table",
            "/smartSelection",
            page.get_by_role("columnheader", name="UserAttribute steps"),
        ),
    ):
        started_s = time.monotonic()
        page.goto(f"{address}/dashboard/studies/1{path}", timeout=120_000)
        content.first.wait_for(timeout=120_000)
        assert content is not picture or is_drawn(picture.first)
        page.wait_for_load_state("networkidle", timeout=120_000)
        times[name] = time.monotonic() - started_s
        page.screenshot(path=tmp_path / f"{name}.png")
    with capsys.disabled():
        print(
            "".join(f"\n1,000 trials, {name}: {seconds:.1f} s" for name, seconds in times.items())
        )
    assert max(times.values()) < 60
