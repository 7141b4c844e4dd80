"""The same three runs, as the files of many hands say them."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from iolaus.analysis.data.importers import Columns, read_runs

STEPS = np.arange(0, 120, 10)
RUNS = {name: end + 2 * np.exp(-STEPS / 80) for name, end in (("a", 0.1), ("b", 0.3), ("c", 0.2))}
ROWS = pd.concat(
    [pd.DataFrame({"run": name, "step": STEPS, "loss": loss}) for name, loss in RUNS.items()],
    ignore_index=True,
)
CELLS = [list(row) for row in ROWS.itertuples(index=False)]


def lines(form: str, head: str = "run,step,loss") -> str:
    """A line per row; form takes run, step and loss."""
    return "\n".join([head, *(form.format(*row) for row in CELLS)]) + "\n"


def csv(**options: object) -> str:
    return ROWS.to_csv(index=False, **options)


TEXTS: dict[str, tuple[str, bytes]] = {
    "semicolons and decimal commas": ("r.csv", csv(sep=";", decimal=",").encode()),
    "tabs and decimal commas": ("r.tsv", csv(sep="\t", decimal=",").encode()),
    "quoted decimal commas": ("r.csv", lines('{0},{1},"{2}"').replace(".", ",").encode()),
    "thousands": ("r.csv", lines('{0},"{1},000",{2}').replace('"0,000"', "0").encode()),
    "bars": ("r.csv", csv(sep="|").encode()),
    "spaces": ("r.txt", csv(sep=" ").encode()),
    "aligned": ("r.log", ROWS.to_string(index=False).encode()),
    "spaces after commas": ("r.csv", lines("{0} , {1} , {2} ", " run , step , loss ").encode()),
    "quoted": ("r.csv", csv(quoting=1).encode()),
    "single quotes": ("r.csv", csv(quoting=1, quotechar="'").encode()),
    "byte order mark": ("r.csv", csv(quoting=1).encode("utf-8-sig")),
    "UTF-16": ("r.txt", csv(sep="\t").encode("utf-16")),
    "Latin-1": ("r.csv", lines("{0},{1},{2},größe", "run,step,loss,note").encode("latin-1")),
    "packed": ("r.csv.gz", gzip.compress(csv(sep=";").encode())),
    "packed JSON Lines": (
        "r.jsonl.bz2",
        bz2.compress(ROWS.to_json(orient="records", lines=True).encode()),
    ),
    "comments": ("r.csv", b"# three runs\n# seed 0\n" + csv().encode()),
    "header as a comment": ("r.txt", lines("{0} {1} {2}", "# run step loss").encode()),
    "sep= of Excel": ("r.csv", b"sep=;\n" + csv(sep=";").encode()),
    "other capitals": ("r.CSV", lines("{0},{1},{2}", "Run Name,Global Step,Loss").encode()),
    "another header after a restart": (
        "r.csv",
        (ROWS[:12].to_csv(index=False) + ROWS[12:].assign(acc=0.5).to_csv(index=False)).encode(),
    ),
    "dashes for nothing": ("r.csv", lines("{0},{1},{2},-", "run,step,loss,acc").encode()),
    "percent": ("r.csv", lines("{0},{1},{2}%").encode()),
    "printed tensors": ("r.csv", lines('{0},{1},"tensor({2}, device=cuda:0)"').encode()),
    "metric and value by other names": (
        "r.csv",
        lines("{0},{1},loss,{2}", "run,step,metric_name,metric_value").encode(),
    ),
    "JSON of columns": ("r.json", ROWS.to_json(orient="columns").encode()),
    "JSON of rows by index": ("r.json", ROWS.to_json(orient="index").encode()),
    "JSON split": ("r.json", ROWS.to_json(orient="split").encode()),
    "JSON of runs": (
        "r.json",
        json.dumps(
            {name: {"step": STEPS.tolist(), "loss": v.tolist()} for name, v in RUNS.items()}
        ).encode("utf-8-sig"),
    ),
    "JSON of histories": (
        "r.json",
        json.dumps(
            [
                {
                    "run": name,
                    "config": {"lr": 0.1},
                    "history": [{"step": int(s), "loss": x} for s, x in zip(STEPS, v, strict=True)],
                }
                for name, v in RUNS.items()
            ]
        ).encode(),
    ),
}


def curves_of(path: Path, columns: Columns | None = None) -> dict[str, pd.DataFrame]:
    trials, curves = read_runs(path, columns)[:2]
    curves = curves[curves["metric"].str.lower() == "loss"]
    return {str(trials["name"][number]): own for number, own in curves.groupby("trial")}


@pytest.mark.parametrize("form", TEXTS)
def test_the_form_of_a_file_says_nothing(tmp_path: Path, form: str) -> None:
    """Delimiters, decimals, codes, packing, headers and quotes change no number and no name."""
    name, content = TEXTS[form]
    (tmp_path / name).write_bytes(content)
    found = curves_of(tmp_path / name)
    assert list(found) == list(RUNS)
    scale = 1000 if form == "thousands" else 1
    for run, own in found.items():
        assert own["step"].tolist() == (STEPS * scale).tolist()
        assert own["value"].to_numpy() == pytest.approx(RUNS[run], abs=1e-5)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, name, rows: rows.to_csv(folder / f"{name}.txt", sep=" ", index=False),
        lambda folder, name, rows: rows.to_csv(folder / f"{name}.csv.gz", index=False),
        lambda folder, name, rows: (folder / f"{name}.json").write_text(
            rows.to_json(orient="records")
        ),
        lambda folder, name, rows: rows.rename(columns={"step": "epoch"}).to_csv(
            folder / f"{name}.log", sep=";", decimal=",", index=False
        ),
    ],
    ids=["text", "packed", "JSON", "Keras"],
)
def test_a_folder_of_such_files_is_its_runs(
    tmp_path: Path, write: Callable[[Path, str, pd.DataFrame], object]
) -> None:
    """Each is a run; a config, a note and a list of packages beside them are none."""
    for name, loss in RUNS.items():
        write(tmp_path, name, pd.DataFrame({"step": STEPS, "loss": loss}))
    (tmp_path / "config.json").write_text('{"lr": 0.1, "loss": 0.5, "step": 3}')
    (tmp_path / "requirements.txt").write_text("torch==2.0\nnumpy\n")
    found = curves_of(tmp_path)
    assert list(found) == list(RUNS)
    assert all(own["value"].to_numpy() == pytest.approx(RUNS[run]) for run, own in found.items())


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["2024-03-31T00:30:00+01:00", "2024-03-31T03:30:00+02:00"], 7200),
        (["2024-01-01T00:00:00Z", "2024-01-01 00:01:00.250"], 60.25),
        (["3/14/2024 11:59:00 PM", "3/15/2024 12:01:00 AM"], 120),
        (["0:59:30", "1:00:00"], 30),
        ([1700000000000, 1700000012000], 12),
        (["soon", "later"], None),
    ],
)
def test_times_as_they_are_written(
    tmp_path: Path, times: list[object], seconds: float | None
) -> None:
    """Of any zone, with and without fractions, elapsed; what is no time is said and left out."""
    pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0], "time": times}).to_csv(
        tmp_path / "r.csv", index=False
    )
    _, curves, _, notes = read_runs(tmp_path / "r.csv")
    if seconds is None:
        assert curves["seconds"].isna().all()
        assert "times of r.csv cannot be read" in notes[0]
    else:
        assert curves["seconds"].tolist() == pytest.approx([0, seconds])


def test_names_stay_as_they_are(tmp_path: Path) -> None:
    """007 is a name, and --run may be said in other capitals."""
    ROWS.assign(run=ROWS["run"].map({"a": "007", "b": "010", "c": "011"})).rename(
        columns={"run": "Who"}
    ).to_csv(tmp_path / "r.csv", index=False)
    assert list(curves_of(tmp_path / "r.csv", Columns(run="who"))) == ["007", "010", "011"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.xlsx", b"PK\x03\x04\x00\x01", r"is no text; what is read is \.csv, \.tsv"),
        ("r.csv", b"run,step,loss\na,1,2 nats\na,2,1 nats\n", r"it has .*loss \(such as '2 nats'"),
        ("r.csv", b"", "r.csv cannot be read as a table: it is empty"),
        ("r.csv", b"x,y,z\n1,2,3\n4,5,6\n", r"it has x, y, z: .*--step NAME --metric NAME --run"),
        ("r.csv.gz", b"no gzip", "r.csv.gz cannot be read as a table"),
    ],
)
def test_what_is_no_table_of_runs_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """The sentence names the file, what was seen in it, and the options where these would help."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_runs(tmp_path / name)
    assert re.search(re.escape(name), str(refusal.value))


@pytest.mark.parametrize("ids", [True, False])
def test_several_runs_of_one_name_are_several(tmp_path: Path, ids: bool) -> None:
    """A table of runs has a run in each row, whatever it calls them; its last step is no curve's,
    and the other numbers are settings.
    """
    rows = {"Name": ["r", "r", "q"], "State": "finished", "config.lr": [0.1, 0.2, 0.3]}
    rows |= {"val_loss": [3.0, 2.0, 1.0], "_step": [30, 40, 50]}
    rows |= {"ID": ["x1", "x2", "x3"]} if ids else {}
    pd.DataFrame(rows).to_csv(tmp_path / "r.csv", index=False)
    trials, curves = read_runs(tmp_path / "r.csv")[:2]
    assert trials["name"].tolist() == (["r x1", "r x2", "q"] if ids else ["r (1)", "r (2)", "q"])
    assert trials["params.lr"].tolist() == [0.1, 0.2, 0.3]
    assert curves["value"].tolist() == [3.0, 2.0, 1.0]


def test_runs_without_a_name_are_told_apart_by_their_words(tmp_path: Path) -> None:
    """Where steps repeat, texts and seeds say which run a row is of, and that is said."""
    named = ROWS.assign(model=ROWS["run"], seed=ROWS["run"].map({"a": 0, "b": 1, "c": 0}))
    named.drop(columns="run").to_csv(tmp_path / "r.csv", index=False)
    trials, _, _, notes = read_runs(tmp_path / "r.csv")
    assert trials["name"].tolist() == [
        "model=a seed=0",
        "model=b seed=1",
        "model=c seed=0",
    ]
    assert "told apart by model, seed" in notes[0]


def test_a_journal_of_optuna_and_one_study_of_several(tmp_path: Path) -> None:
    """Both are read by the study's name; without it the refusal names the studies."""
    path = tmp_path / "journal.log"
    for name in ("one", "two"):
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(study_name=name, storage=storage)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(read_runs(path, Columns(run="two")).trials) == 2
    with pytest.raises(ValueError, match=r"2 studies \(one, two\): say which is meant, --run NAME"):
        read_runs(path)
