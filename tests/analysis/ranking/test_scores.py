"""Several scores at once, and what a known noise says of one run each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.ranking.rank import rank
from iolaus.analysis.ranking.scores import end_scores, scores
from iolaus.analysis.ranking.seed_noise import SeedNoise
from iolaus.sweeps.errors import BadInputError

NAMES = ("val_bleu", "val_ter", "test_bleu", "test_ter")
# Four variants of a translation system of which three should do nothing, as they were published.
PUBLISHED = """run,val_bleu,val_ter,test_bleu,test_ter
cross-entropy only,35.7,51.4,34.2,53.5
one loss per layer and head,35.5,51.5,33.9,53.7
one loss per layer,35.4,51.8,33.5,54.2
"simplified, one per layer",35.1,52.0,33.5,54.3
"""


@pytest.fixture
def published(tmp_path: Path) -> Sweep:
    path = tmp_path / "published.csv"
    path.write_text(PUBLISHED)
    return load(path, metric="val_bleu")


def of_noise(sd: float) -> dict[str, SeedNoise]:
    return dict.fromkeys(NAMES, SeedNoise(sd, math.inf, "given", "what --noise says"))


def test_the_published_table_is_not_distinguishable(published: Sweep) -> None:
    """By none of the four scores, given a noise of 0.3; nothing is claimed without a noise."""
    found = scores(published, NAMES, of_noise(0.3))
    for name, sentence in zip(NAMES, found.sentences(), strict=True):
        assert sentence.startswith(f"By {name}: the 4 cannot be told apart: they lie within 0."), (
            name
        )
    assert [*found.table[list(NAMES)].iloc[0]] == [35.7, 51.4, 34.2, 53.5]
    said = rank(published, of_noise(0.3)["val_bleu"]).sentences()
    assert "3 of the other 3 are no further from the first, so they cannot be told apart" in said[1]
    for sentence in scores(published, NAMES).sentences():
        assert "how much seeds differ has not been measured" in sentence


def test_a_small_noise_makes_no_winner_of_one_seed(published: Sweep) -> None:
    """What lies further apart than seeds do is said, and still nobody is called better."""
    for sentence in scores(published, NAMES, of_noise(0.05)).sentences():
        assert "lie further apart" in sentence
        assert sentence.endswith("which is better one seed each cannot tell.")


def made(values: dict[str, list[list[float]]]) -> Sweep:
    """A sweep of settings with seeds, [setting][seed] of each score, and a curve of the loss."""
    rows, trials = [], []
    n_seeds = len(next(iter(values.values()))[0])
    n_settings = len(next(iter(values.values())))
    for setting in range(n_settings):
        for seed in range(n_seeds):
            trial = setting * n_seeds + seed
            rows += [(trial, step, "val_loss", 1 / (1 + step + trial)) for step in range(5)]
            rows += [(trial, 4, name, own[setting][seed]) for name, own in values.items()]
            trials.append({"setting": setting * n_seeds, "seed": seed, "params.a": setting})
    table = pd.DataFrame(trials).assign(
        state="complete", why="completed", objective=0.0, best=0.0, final=0.0, fingerprint=""
    )
    curves = pd.DataFrame(rows, columns=["trial", "step", "metric", "value"])
    return Sweep("made", "val_loss", ("minimize",), table, curves)


def test_each_score_is_ranked_by_itself_in_its_own_direction() -> None:
    """The tiers of each are those of a sweep that had it for its objective; ± is its interval."""
    rng = np.random.default_rng(0)
    bleu = (np.array([[30.0], [30.0], [20.0]]) + rng.normal(0, 1, (3, 6))).tolist()
    ter = (np.array([[50.0], [60.0], [50.0]]) + rng.normal(0, 1, (3, 6))).tolist()
    sweep = made({"val_bleu": bleu, "val_ter": ter})
    assert end_scores(sweep) == ["val_bleu", "val_ter"]
    table = scores(sweep, end_scores(sweep)).table.set_index("setting")
    assert table["tier val_bleu"].to_dict() == {0: 1, 6: 1, 12: 2}
    assert table["tier val_ter"].to_dict() == {0: 1, 6: 2, 12: 1}
    assert table["val_bleu"].to_numpy() == pytest.approx(
        np.mean([bleu[int(s) // 6] for s in table.index], axis=1)
    )
    assert (table["± val_bleu"] > 0).all()


def test_settings_that_are_the_same_are_said_to_be_and_count_once() -> None:
    """Where every report of every seed agrees: the noise is that of one of them, not of their
    difference, and no seeds are asked for to tell them apart. Equal results of unlike runs are
    none.
    """
    rng = np.random.default_rng(1)
    first, other = rng.normal(30, 1, (2, 8)).tolist()
    three = made({"val_bleu": [first, first, other]})
    curves = three.curves.copy()
    loss = curves["metric"].eq("val_loss")
    curves.loc[loss, "value"] = 1 / (1.0 + curves.loc[loss, "step"])
    alike = Sweep("made", "val_loss", ("minimize",), three.trials, curves)
    ranking = scores(alike, ["val_bleu"]).rankings["val_bleu"]
    assert any(text.startswith("Settings 0 and 8 are the same") for text in ranking.warnings)
    two = Sweep(
        *("made", "val_loss", ("minimize",), alike.trials.drop(range(8, 16))),
        curves[~curves["trial"].between(8, 15)],
    )
    alone = scores(two, ["val_bleu"]).rankings["val_bleu"]
    assert ranking.noise == pytest.approx(alone.noise)
    assert (
        ranking.table.set_index("setting")["tier"][8] == alone.table.set_index("setting")["tier"][0]
    )
    unlike = scores(three, ["val_bleu"]).rankings["val_bleu"]
    assert not any("the same to the last bit" in text for text in unlike.warnings)


def test_what_cannot_be_ranked_is_refused(published: Sweep) -> None:
    """A metric that nobody reported, and one whose name says no direction."""
    with pytest.raises(BadInputError, match="has no metric val_chrf; it has val_bleu"):
        scores(published, ["val_chrf"])
    named = published.curves.assign(metric="gizmo")
    odd = Sweep("odd", "gizmo", ("minimize",), published.trials, named)
    with pytest.raises(BadInputError, match="is gizmo better when it is lower or higher"):
        scores(odd, ["gizmo"])
