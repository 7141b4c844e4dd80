"""What commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from iolaus.analysis.ranking.rank import Ranking

__all__ = ["plain", "print_columns", "print_frame", "print_json", "print_ranking"]

# What the columns of a ranking are; of the others their names say it.
RANKING_COLUMNS = {
    "setting": "the number of its first trial",
    "seeds": "completed runs",
    "tier": "settings of one tier cannot be told apart",
    "objective": "what the sweep optimises, mean of the seeds",
    "level": "what the intervals are about: the objective without the noise of its last report, or "
    "of seeds that only some ran",
    "95 % low": "to `high`, where the setting's level lies",
    "this run's end, low": "to `high`, where this run's own curve ends (95 %); another seed may "
    "differ by more",
    "best": "of the watched metric on the curve",
}


def plain(what: Any) -> Any:
    """The same as plain data for JSON.

    The rows of a frame become records, a series and a dataclass a mapping; NaN, infinity and
    absent values become None.
    """
    if what is None or isinstance(what, str | bool | int):
        return what
    if isinstance(what, float):
        return float(what) if math.isfinite(what) else None
    if isinstance(what, Path):
        return str(what)
    if isinstance(what, Mapping):
        return {str(key): plain(value) for key, value in what.items()}
    if is_dataclass(what) and not isinstance(what, type):
        return plain(asdict(what))
    if hasattr(what, "iterrows"):  # a frame; pandas may not be installed
        return plain(what.to_dict(orient="records"))
    if hasattr(what, "to_dict"):
        return plain(what.to_dict())
    if hasattr(what, "tolist"):  # of numpy
        return plain(what.tolist())
    if isinstance(what, Iterable):
        return [plain(value) for value in what]
    return None if str(what) in ("<NA>", "NaT") else str(what)


def print_json(what: Any) -> None:
    """Print it as one line of JSON."""
    print(json.dumps(plain(what), allow_nan=False))


def print_frame(frame: pd.DataFrame, as_json: bool) -> None:
    """Print a frame's rows."""
    from iolaus.analysis.report.terminal import as_table, terminal

    print_json(frame) if as_json else terminal().print(as_table(frame))


def print_columns(shown: Collection[str], meanings: Mapping[str, str]) -> None:
    """Say in a line what the columns that are shown mean."""
    known = [f"{name}: {meaning}" for name, meaning in meanings.items() if name in shown]
    print(f"({'; '.join(known)})")


def print_ranking(ranking: Ranking, as_json: bool) -> None:
    """Print a ranking's table and what there is to say of it."""
    from iolaus.analysis.ranking.rank import as_document
    from iolaus.analysis.report.terminal import as_table, terminal
    from iolaus.sweeps.text import short_names

    if as_json:
        print_json(as_document(ranking))
        return
    console = terminal()
    table = ranking.shown()
    columns = map(str, ranking.table.columns)
    params = [c.removeprefix("params.") for c in columns if c.startswith("params.")]
    names = short_names([name for name in params if name in table])
    renamed = {key: name for key, name in names.items() if name not in table}
    console.print(as_table(table.rename(columns=renamed)))
    print_columns(table.columns, RANKING_COLUMNS)
    for sentence in ranking.sentences():
        console.print(sentence, markup=False, highlight=False)
