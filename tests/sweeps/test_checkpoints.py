"""The store of a trial's checkpoints: whole, checked, few, and never fewer than what is whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iolaus.sweeps import checkpoints
from iolaus.sweeps.checkpoints import (
    STAYS,
    Watched,
    adopt,
    copied,
    forget,
    keep_newest,
    newest,
    parse_bytes,
    wholes,
)


def made(folder: Path, text: str) -> Path:
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "inner" / "state").write_text(text)
    return folder


# What happens to a trial's checkpoints: one more at a step, or the one of a step is damaged.
histories = st.lists(
    st.tuples(st.sampled_from(["adopt", "adopt", "flip", "cut", "lose"]), st.integers(0, 6)),
    max_size=14,
)


@settings(max_examples=40)
@given(history=histories)
def test_the_newest_whole_one_is_taken(
    history: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The last that was made, or, where that is damaged, one before it; two are kept at most."""
    folder = tmp_path_factory.mktemp("trial")
    made_at: list[tuple[int, str]] = []  # those that are whole, in the order of making
    there: list[int] = []
    for number, (what, step) in enumerate(history):
        place = folder / "checkpoints" / f"step_{step:09d}"
        if what == "adopt":
            adopt(made(folder / "own", f"{number}"), folder, step, 1.5)
            there = sorted({*(s for s in there if s < step), step})[-2:]  # whole or damaged
            made_at = [(s, text) for s, text in made_at if s < step] + [(step, f"{number}")]
            made_at = [(s, text) for s, text in made_at if s in there]
        elif place.is_dir():
            state = place / "inner" / "state"
            if what == "flip" and state.is_file():
                state.write_text("other")
            elif what == "cut":
                (place / "manifest.json").write_text("{")
            else:
                state.unlink(missing_ok=True)
            made_at = [(s, text) for s, text in made_at if s != step]
        found = newest(folder)
        if made_at:
            assert found is not None
            assert (found.step, (found.path / "inner" / "state").read_text()) == made_at[-1]
        kept = [*(folder / "checkpoints").glob("*")] if (folder / "checkpoints").is_dir() else []
        assert len(kept) <= 2
        made_at = made_at[-2:]
    forget(folder)
    assert newest(folder) is None


def test_what_is_adopted_is_read_again(tmp_path: Path) -> None:
    """Step, seconds, last reports, what is known of the metric; the folder stays, empty."""
    watched = Watched().after(3, 2.0).after(4, math.nan).after(5, 1.0)
    rows = [(4, 0.5, {"loss": math.nan}), (5, 0.6, {"loss": 1.0, "a/b": math.inf})]
    own = made(tmp_path / "own", "x")
    adopt(own, tmp_path, 5, 0.75, rows, watched)
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.seconds, found.watched) == (5, 0.75, Watched(3, (1.0, 5), (2.0, 3)))
    assert repr(found.rows) == repr(rows)
    assert own.is_dir()
    assert not [*own.iterdir()]


def test_what_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up amid a checkpoint; no half of it is left."""
    adopt(made(tmp_path / "own", "old"), tmp_path, 1, 0.0)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_to_disk", full)
    with pytest.raises(OSError, match="No space left"):
        adopt(made(tmp_path / "own", "new"), tmp_path, 2, 0.0)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len([*(tmp_path / "checkpoints").iterdir()]) == 1


def test_a_checkpoint_is_a_folder(tmp_path: Path) -> None:
    """What is none is refused by name."""
    with pytest.raises(NotADirectoryError, match=r"checkpoint=.*none is no folder"):
        adopt(tmp_path / "none", tmp_path, 1, 0.0)


def test_a_paused_trial_keeps_the_newest_alone(tmp_path: Path) -> None:
    """Half of the disk; its size is known, made or read. Nothing is left of it when forgotten."""
    for step in (3, 7):
        made_then = adopt(made(tmp_path / "own", "x" * 1000), tmp_path, step, 1.5)
    keep_newest(tmp_path)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.path) == (7, kept)
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    assert found.n_bytes == made_then.n_bytes == size > 1000
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    forget(tmp_path)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, None, "2 Gib", "GB", "", "many"])
def test_a_size_is_bytes_or_says_its_unit(wrong: object) -> None:
    """Whole bytes, or a text with a unit; anything else is refused with what to write."""
    assert parse_bytes(" 2.5 kB ") == 2500
    assert parse_bytes("12") == 12
    assert parse_bytes("2 GiB") == 2**31
    with pytest.raises(ValueError, match="give bytes, or a text such as 500MB, 2GB"):
        parse_bytes(wrong)


def test_one_that_is_marked_stays_beside_the_newest_two(tmp_path):
    """The newest with a file called `stays` in it; an older such one goes."""
    for step in range(1, 7):
        folder = tmp_path / "new"
        folder.mkdir(exist_ok=True)
        (folder / "state").write_text(str(step))
        if step in (1, 3):
            (folder / STAYS).touch()
        adopt(folder, tmp_path / "trial", step, 0.0)
    assert [found.step for found in wholes(tmp_path / "trial")] == [6, 5, 3]


def test_a_copy_is_the_other_trials_state_under_this_setting(tmp_path, caplog):
    """Its files, step and what was watched; one that is damaged is named, and there is none."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "state").write_text("1")
    other = adopt(folder, tmp_path / "one", 7, 1.5, watched=Watched(1, (0.5, 3)), setting=["x=1"])
    own = copied(other.path, tmp_path / "two", ["x=2"])
    assert newest(tmp_path / "two") == own
    assert (own.step, own.seconds, own.watched) == (7, 1.5, Watched(1, (0.5, 3)))
    assert own.setting == ("x=2",)
    assert (own.path / "state").read_text() == "1"
    (other.path / "state").write_text("2")
    assert copied(other.path, tmp_path / "three", ["x=3"]) is None
    assert "the trial begins anew" in caplog.text
