"""Runs that other tools recorded, as the rows of a sweep.

cells.py         files of rows: text with any delimiter, Parquet, JSON, packed or not
tables.py        what their columns mean; charts and tables of W&B and others
tensorboard.py   folders of event files
stores.py        MLflow's stores, Optuna's databases and journals
steps.py         what the rows of a run say of their order
rows.py          all of them in one form, which `read_runs` makes into two frames
"""

from __future__ import annotations

from pathlib import Path

from iolaus.analysis.data.importers import stores, tables, tensorboard
from iolaus.analysis.data.importers.cells import READ_SUFFIXES
from iolaus.analysis.data.importers.rows import Columns, Runs, tidy

__all__ = ["Columns", "Runs", "read_runs"]


def read_runs(source: Path, columns: Columns | None = None) -> Runs:
    """The runs in a file or a folder, whichever tool has recorded them.

    A file: a table (`tables.read_table`), a study of Optuna or a store of MLflow in SQLite. A
    folder: MLflow's `mlruns`, TensorBoard's event files, or tables in it and below, each of which
    is a run if it names none: `version_0/metrics.csv` of Lightning, `checkpoint-500/
    trainer_state.json` of Hugging Face, `progress.csv` of Ray Tune. columns: which columns of a
    table are the steps and the runs, where their names do not say it.

    Raises FileNotFoundError if there is nothing, ValueError if what is there are no curves, rows
    lack their trial, or steps are not whole; the message names the columns seen and the options
    that say what they are.
    """
    columns = columns or Columns()
    if source.is_dir():
        found = stores.mlruns(source) or tensorboard.runs(source) or tables.folder(source, columns)
        if found is not None:
            return tidy(found, source)
        raise FileNotFoundError(
            f"{source} is no sweep (it has no sweep.yaml) and holds no TensorBoard event files, "
            f"no mlruns and no table of runs ({', '.join(READ_SUFFIXES)})"
        )
    if not source.is_file():
        raise FileNotFoundError(
            f"no runs at {source}: give a sweep's folder, a table ({', '.join(READ_SUFFIXES)}), a "
            "database of Optuna or MLflow, or a folder of TensorBoard, MLflow or tables"
        )
    if stores.is_sqlite(source):
        return tidy(stores.database(source, columns.run), source)
    if stores.is_journal(source):
        return tidy(stores.journal(source, columns.run), source)
    return tidy(tables.read_table(source, columns), source)
