"""Who holds a sweep's folder: one driver, or those of one study together."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.folder import curves_folders, locked

REFUSED = pytest.raises(BadInputError, match="another sweep is running")


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("", "", REFUSED),
        ("s in db", "", REFUSED),
        ("", "s in db", REFUSED),
        ("s in db", "other in db", REFUSED),
        ("s in db", "s in db", nullcontext()),
    ],
)
def test_a_folder_is_held_by_drivers_of_one_study(
    first: str, second: str, what: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of two studies have the same numbers, and would share folders."""
    monkeypatch.setattr("iolaus.sweeps.study.folder.SHARING_S", 0.0)
    with locked(tmp_path, first), what, locked(tmp_path, second):  # type: ignore[attr-defined]
        pass
    with locked(tmp_path, "another"):  # whoever comes alone writes whose it is
        pass
    with locked(tmp_path):
        pass


def test_curves_lie_in_the_folders_of_all_drivers(tmp_path: Path) -> None:
    """Of those that can be seen from here, and are folders of the same study."""
    names = {"own": "s", "node": "s", "of-another": "t"}
    for folder, name in names.items():
        (tmp_path / folder).mkdir()
        text = f"study_name: {name}\nstorage: null\n"
        (tmp_path / folder / "sweep.yaml").write_text(text)
    sessions = [{"folder": str(tmp_path / name)} for name in (*names, "gone")]
    found = curves_folders(tmp_path / "own", "s", [*sessions, {"started": "by an older version"}])
    assert found == [tmp_path / "own" / "curves", tmp_path / "node" / "curves"]
