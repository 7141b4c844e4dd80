"""What a reviewer reads of a sweep in optuna-dashboard.

There are attributes to sort by, a note on each trial, and one on the study. Nothing of it is
recorded while the sweep runs: a diagnosis may change with every trial that goes lower than the
others did, a tier with every result, and after `tell` Optuna takes no more attributes.
`iolaus.analysis.report.dashboard` lays it over the study whenever someone looks; with the report
the notes go into the study itself, where any dashboard shows them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.exceptions import StorageInternalError

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.shapes import STALLED_SHAPES, shape_name
from iolaus.analysis.ranking.level import objective_source
from iolaus.analysis.ranking.rank import OWN_END, Ranking, rank
from iolaus.analysis.report import summary as words
from iolaus.analysis.report.terminal import cell
from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.study.fingerprint import RAN_WITH
from iolaus.sweeps.study.folder import read_study
from iolaus.sweeps.text import short_names

__all__ = [
    "COLUMNS",
    "N_RANKED",
    "PART_LENGTH",
    "SIGNATURE",
    "Review",
    "note_attributes",
    "review",
    "write_notes",
]

log = logging.getLogger(__name__)

N_RANKED = 20  # settings in the study's note: more is a report
# Columns of the ranking that a note has room for.
COLUMNS = (
    *("seeds", "objective", "level", "95 % low", "95 % high"),
    *(f"{OWN_END} low", f"{OWN_END} high", "tier", "best", RAN_WITH),
)
N_LINKED = 20  # trials behind one link: the dashboard shows all of them on one page
# The last line of a note by us. A person's own words go below it, and stay.
SIGNATURE = "*Written by Iolaus. What you add below this line is kept.*"
# optuna-dashboard keeps notes in the study's system attributes, cut into parts of this length.
PART_LENGTH = 2045

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Review:
    """A sweep as a reviewer sees it.

    attributes: of each trial, by number: shape, stalled_since (step), verdict (its rule),
        steps, examples, seconds, best and final (of the watched metric), and with repeats setting,
        seed and tier; what is unknown is left out.
    notes: of each trial, Markdown. about: the note on the study, Markdown. objective: what the
        objective is of a completed trial, such as "final val_loss"; "" if it is neither the last
        nor the best of a curve.
    """

    sweep: Sweep
    ranking: Ranking
    diagnosis: pd.DataFrame
    attributes: Mapping[int, Attributes]
    notes: Mapping[int, str]
    about: str
    objective: str


def review(
    sweep: Sweep,
    study_id: int,
    ranking: Ranking | None = None,
    diagnosis: pd.DataFrame | None = None,
) -> Review:
    """What there is to say of a sweep, finished or running.

    study_id: Optuna's, for links from the study's note.
    ranking, diagnosis: of `rank` and `diagnose`, where they have been made before.
    """
    ranking = rank(sweep) if ranking is None else ranking
    diagnosis = diagnose(sweep) if diagnosis is None else diagnosis
    if sweep.trials.empty:
        return Review(
            sweep, ranking, diagnosis, {}, {}, f"{_plain(sweep.name)}: no trial has begun.", ""
        )
    found = diagnosis.to_dict("index")
    tiers = _tiers(ranking) if ranking.is_repeated else {}
    n_tiers = max(tiers.values(), default=0)
    rows = dict(zip(map(int, sweep.trials.index), sweep.trials.to_dict("records"), strict=True))
    return Review(
        sweep=sweep,
        ranking=ranking,
        diagnosis=diagnosis,
        attributes={
            n: _attributes(row, found.get(n, {}), tiers.get(n), sweep) for n, row in rows.items()
        },
        notes={
            n: _trial_note(row, found.get(n, {}), tiers.get(n), n_tiers) for n, row in rows.items()
        },
        about="\n\n".join(
            filter(
                None,
                (
                    _own(words.paragraph(sweep, ranking, diagnosis)),
                    "\n".join(f"- {_own(text)}" for text in ranking.sentences()[1:]),
                    _shapes(diagnosis, study_id),
                    _ranked(ranking, study_id),
                ),
            )
        ),
        objective=_objective(sweep),
    )


def _tiers(ranking: Ranking) -> dict[int, int]:
    """The tier of each trial that completed in a setting that has one."""
    table = ranking.table[ranking.table["tier"].notna()]
    return {
        int(n): int(tier)
        for numbers, tier in zip(table["trials"], table["tier"], strict=True)
        for n in numbers
    }


def _attributes(
    row: Mapping[Any, Any], found: Mapping[Any, Any], tier: int | None, sweep: Sweep
) -> Attributes:
    n_seeds = sweep.trials["seed"].nunique()
    known = {
        "shape": shape_name(found["shape"]) if found else "",
        "tier": tier if row["state"] == "complete" else None,
        "stalled_since": found["since"] if found and found["shape"] in STALLED_SHAPES else None,
        "verdict": row["verdict_rule"],
        **{name: row[name] for name in ("steps", "examples", "seconds", "best", "final")},
        **({name: row[name] for name in ("setting", "seed")} if n_seeds > 1 else {}),
    }
    return {name: _short(value) for name, value in known.items() if not _is_unknown(value)}


def _is_unknown(value: Any) -> bool:
    return (
        value is None
        or value is pd.NA
        or value == ""
        or (isinstance(value, float) and not math.isfinite(value))
    )


def _short(value: Any) -> str | int | float:
    if isinstance(value, str):
        return value
    number = float(f"{value:.6g}")
    return int(number) if number.is_integer() else number


def _objective(sweep: Sweep) -> str:
    if not len(sweep.trials) or len(sweep.directions) > 1:
        return ""
    done = sweep.trials[sweep.trials["state"].eq("complete") & sweep.trials["objective"].notna()]
    source = objective_source(sweep, done) if len(done) else None
    return f"{source[1]} {source[0]}" if source else ""


def _trial_note(
    row: Mapping[Any, Any], found: Mapping[Any, Any], tier: int | None, n_tiers: int
) -> str:
    """Diagnosis, verdict and fix of one trial."""
    lines = []
    if found:
        lines.append(f"**{shape_name(found['shape']).capitalize()}**: {_sentence(found['reason'])}")
    if row["state"] != "running":
        lines.append(f"**Ended**: {_sentence(str(row['why']) or str(row['state']))}")
    fix = f"`{' '.join(found['fix'])}`" if found and found["fix"] else ""
    if found and (found["advice"] or fix):
        lines.append(
            f"**Suggested fix**: {'; '.join(filter(None, (_plain(found['advice']), fix)))}."
        )
    place = []
    if tier is not None and row["state"] == "complete":
        place.append(f"Tier {tier} of {n_tiers}.")
    if row["folder"]:
        place.append(f"Folder `{row['folder']}`.")
    return "\n\n".join([*lines, " ".join(place)]).strip()


def _shapes(diagnosis: pd.DataFrame, study_id: int) -> str:
    """The shapes that occur, most frequent first, with links to their trials.

    The dashboard's table cannot filter.
    """
    counts = diagnosis["shape"].value_counts()
    links = []
    for shape, n in counts.items():
        numbers = [int(number) for number in diagnosis.index[diagnosis["shape"] == shape]]
        first = "" if n <= N_LINKED else f", the first {N_LINKED}"
        links.append(_link(f"{n} {shape_name(str(shape))}{first}", numbers[:N_LINKED], study_id))
    return f"Trials by shape: {'; '.join(links)}." if links else ""


def _link(text: str, trials: Sequence[int], study_id: int) -> str:
    return f"[{text}](/dashboard/studies/{study_id}/trials?numbers={'%2C'.join(map(str, trials))})"


def _ranked(ranking: Ranking, study_id: int) -> str:
    """The first settings of the ranking as a table, each with a link to its trials."""
    shown = ranking.shown().head(N_RANKED)
    if shown.empty:
        return ""
    params = list(varied(ranking.table))
    names = short_names(params)
    frame = pd.DataFrame(
        {
            "setting": [
                _link(str(setting), trials, study_id)
                for setting, trials in zip(
                    shown["setting"], ranking.table["trials"].head(N_RANKED), strict=True
                )
            ],
            **{name: shown[name] for name in COLUMNS if name in shown},
            "ended": [str(why).partition(":")[0] for why in shown["why"]],
            **{names[name]: shown[name] for name in params},
        }
    )
    more = len(ranking.table) - len(shown)
    below = f"\n\n{more} more settings are in the report." if more > 0 else ""
    return _markdown(frame) + below


def _markdown(frame: pd.DataFrame) -> str:
    head = [map(str, frame.columns), ["---"] * len(frame.columns)]
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join(
        f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in [*head, *rows]
    )


def _plain(text: str) -> str:
    """Text as Markdown that shows it: nothing in it is markup."""
    return re.sub(r"([\\`*<>\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("\n", " ")


def _own(text: str) -> str:
    """A sentence of ours as Markdown: what stands between backticks is code, nothing else is."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else _plain(part) for i, part in enumerate(parts))


def _sentence(text: str) -> str:
    return f"{_plain(text).rstrip('.')}."


def note_attributes(
    body: str, trial_id: int | None, stored: Mapping[str, Any], *, record: bool
) -> dict[str, Any]:
    """The system attributes of a study by which optuna-dashboard finds a note.

    Empty if nothing is to be changed.
    trial_id: Optuna's id, None for the note on the study. stored: the study's system attributes.
    What a person wrote below SIGNATURE is kept, and a note without SIGNATURE is theirs and left
    alone. record: count the version up, so that no open page writes over it; else the note is only
    shown.
    """
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    version = int(stored.get(f"{prefix}note_ver", 0))
    parts: list[str] = []
    while f"{prefix}note_str:{len(parts)}" in stored:
        parts.append(str(stored[f"{prefix}note_str:{len(parts)}"]))
    known = "".join(parts)
    _, signature, theirs = known.partition(SIGNATURE)
    if known.strip() and not signature:
        return {}
    text = f"{body}\n\n{SIGNATURE}{theirs}"
    if text == known:
        return {}
    n_parts = max(math.ceil(len(text) / PART_LENGTH), len(parts))
    return {
        f"{prefix}note_ver": version + record,
        **{
            f"{prefix}note_str:{i}": text[i * PART_LENGTH : (i + 1) * PART_LENGTH]
            for i in range(n_parts)
        },
    }


def write_notes(
    folder: Path,
    sweep: Sweep,
    ranking: Ranking | None = None,
    diagnosis: pd.DataFrame | None = None,
) -> None:
    """Write the notes that have changed into a sweep's study, on it and its finished trials.

    ranking, diagnosis: of `rank` and `diagnose`, where they have been made before.
    A study that cannot be written keeps the notes it has; a line in the log says so.
    """
    study = read_study(folder)
    made = review(sweep, compat.study_id(study), ranking, diagnosis)
    storage = compat.storage_of(study)
    stored = storage.get_study_system_attrs(compat.study_id(study))
    changed = note_attributes(made.about, None, stored, record=True)
    for trial in study.get_trials(deepcopy=False):
        if trial.number in made.notes and trial.state.is_finished():
            changed |= note_attributes(
                made.notes[trial.number], compat.trial_id(trial), stored, record=True
            )
    try:
        for key, value in changed.items():
            storage.set_study_system_attr(compat.study_id(study), key, value)
    except StorageInternalError as error:
        log.warning(
            "the notes for optuna-dashboard could not be written: %s", error.__cause__ or error
        )
