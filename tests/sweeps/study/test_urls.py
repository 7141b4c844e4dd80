"""URLs of storages: any path can be one, and no password is shown."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.errors import BadInputError, StorageError
from iolaus.sweeps.run._provenance import shareable
from iolaus.sweeps.secrets import without_password
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.folder import STORAGE_VARIABLE, describe_sweep

word = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@pytest.mark.parametrize(
    "name", ["top k", "top%20k", "a?b=c", "p%41", "{x}", "a#b", "a+b", "a:b@c", "ü", "'", "100%"]
)
def test_a_study_lies_in_the_folder_of_its_name(tmp_path: Path, name: str) -> None:
    """Whatever the folder is called; who reads the folder finds the same study."""
    folder = tmp_path / name
    folder.mkdir()
    optuna.create_study(study_name="s", storage=open_backend(sqlite_url(folder / "study.db")))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "study.db").is_file()
    (folder / "sweep.yaml").write_text("study_name: s\nstorage: null\n")
    optuna.load_study(study_name="s", storage=describe_sweep(folder).storage)


@given(user=word, password=word)
def test_no_password_is_shown(user: str, password: str) -> None:
    """Neither alone nor in a text; the rest of the URL stays as it is."""
    user = user.translate({ord(c): "" for c in ":/@"})
    url = f"postgresql+psycopg://{user}:{password}@host:5432/db"
    assert without_password(url) == f"postgresql+psycopg://{user}:***@host:5432/db"
    assert without_password(f"at {url} now") == f"at {without_password(url)} now"


@pytest.mark.parametrize(
    "text", ["sqlite:///a b.db", "http://proxy:3128/x", "postgresql://me@h/db", "git@h:a/b", ""]
)
def test_what_has_no_password_stays(text: str) -> None:
    """Ports, users and paths are none."""
    assert without_password(text) == text


def test_a_password_among_the_options_is_hidden() -> None:
    """As some drivers take it."""
    url = "mysql://h/db?user=me&password=geheim&charset=utf8"
    assert without_password(url) == "mysql://h/db?user=me&password=***&charset=utf8"


def test_a_storage_that_cannot_be_opened_hides_its_password() -> None:
    """The error names the URL all the same."""
    with pytest.raises(StorageError, match=r"nonsense://me:\*\*\*@host/db") as raised:
        open_backend("nonsense://me:geheim@host/db")
    assert "geheim" not in str(raised.value)


def test_a_command_that_is_shown_can_be_typed_again() -> None:
    """A storage with a password is to be given by the environment; all else stays."""
    command = ["python", "a.py", "hydra.sweeper.storage=pg://me:geheim@h/db", "x=1", "u=a://b:c@d"]
    assert shareable(command) == [
        *(
            "python",
            "a.py",
            "hydra.sweeper.storage=${oc.env:IOLAUS_STORAGE}",
            "x=1",
            "u=a://b:***@d",
        )
    ]
    kept = ["python", "a.py", "hydra.sweeper.storage=sqlite:///s.db"]
    assert shareable(kept) == kept


def test_readers_take_a_hidden_url_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sweep's own variable or $IOLAUS_STORAGE; a sweep that hides nothing asks neither."""
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    monkeypatch.delenv("OWN_DB", raising=False)

    def storage(line: str) -> str:
        (tmp_path / "sweep.yaml").write_text(f"study_name: s\nstorage: {line}\n")
        return str(describe_sweep(tmp_path).storage)

    hidden, named = "pg://me:***@h/db", "${oc.env:OWN_DB}"
    with pytest.raises(BadInputError, match=r"pg://me:\*\*\*@h/db.*export IOLAUS_STORAGE="):
        storage(hidden)
    with pytest.raises(BadInputError, match="export OWN_DB="):
        storage(named)
    monkeypatch.setenv(STORAGE_VARIABLE, "pg://me:geheim@h/db")
    assert storage(hidden) == storage(named) == "pg://me:geheim@h/db"
    monkeypatch.setenv("OWN_DB", "pg://other")
    assert storage(named) == "pg://other"
    assert storage("pg://me@h/db") == "pg://me@h/db"
    assert storage("null") == sqlite_url(tmp_path / "study.db")
