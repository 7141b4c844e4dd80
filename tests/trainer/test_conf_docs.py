from __future__ import annotations

from pathlib import Path

import pytest

from iolaus.trainer.gallery import draw
from iolaus.trainer.lengths import UNITS
from iolaus.trainer.lint import RULES

CONF = Path(__file__).parents[2] / "conf"
README = (CONF / "README.md").read_text()


@pytest.mark.parametrize("group", ["task", "model", "optim", "schedule", "clip", "sweep"])
def test_every_choice_is_in_the_table(group: str) -> None:
    """conf/README.md names each file of each group, and no schedule or clipping that is not
    there.
    """
    choices = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert all(f"`{choice}`" in README for choice in choices)
    if group in ("schedule", "clip"):
        title = {"schedule": "## Schedules", "clip": "## Clipping"}[group]
        table = README.split(title)[1].split("| --- |", 1)[1].split("\n\n")[0]
        assert {
            line.split("`")[1] for line in table.splitlines() if line.startswith("| `")
        } == choices


def test_every_unit_and_rule_is_in_its_table() -> None:
    """Units of lengths and rules of the lint each have a line."""
    assert all(f"| `{name}` |" in README for name in (*UNITS, *RULES))


def test_the_gallery_draws_every_schedule(tmp_path: Path) -> None:
    """The script behind schedules.png runs with what ships."""
    draw(tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").read_bytes()[:4] == b"\x89PNG"
