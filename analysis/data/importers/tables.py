"""Tables of reports: CSV, TSV, Parquet, JSON, JSON Lines, one row per report or one per run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from iolaus.analysis.data.importers.cells import JSON, flat, kind_of, read_frame, read_rows
from iolaus.analysis.data.importers.rows import ABOUT, Columns, Found, in_rows, is_metric, moments
from iolaus.analysis.data.importers.steps import in_order, whole_steps
from iolaus.sweeps.metric import infer_goal

__all__ = ["folder", "read_table"]

# Our names of the columns of a file: theirs, in small letters, the first that is there.
ALIASES = {
    "trial": (
        *("trial", "run_id", "run_uuid", "run", "run_name", "name", "_run", "trial_id"),
        *("trial_name", "experiment", "experiment_name", "experiment_key", "exp_name", "exp"),
        "number",
    ),
    "step": (
        *("step", "_step", "global_step", "trainer/global_step", "train/global_step"),
        *("iteration", "training_iteration", "iterations", "iter", "it", "steps", "num_updates"),
        *("update", "updates", "num_timesteps", "timesteps", "epoch", "epochs"),
    ),
    "seconds": ("seconds", "_runtime", "relative_time_(process)", "time_total_s", "elapsed_s"),
    "metric": ("metric", "metric_name", "key", "tag"),
    "value": ("value", "metric_value"),
    "timestamp": ("timestamp", "_timestamp", "wall_time", "created_at", "time", "datetime"),
    "state": ("state", "status"),
}
# What is no metric in a chart: W&B adds the columns of steps and times.
NO_METRICS = frozenset(
    name for ours in ("step", "seconds", "timestamp") for name in ALIASES[ours]
) - {"epoch", "epochs"}
# What tools write beside metrics that says nothing of training.
NO_METRIC = re.compile(
    r"^(total_flos|(train|eval|test)_(runtime|(samples|steps)_per_second)|pid|date|hostname|node_ip"
    r"|time_this_iter_s|time_since_restore|iterations_since_restore|done|experiment_id"
    r"|experiment_tag|checkpoint_dir_name|warmup_time|trial_id)$"
)
PARAMETER = re.compile(r"^(?:config|params|hparams|hyperparameters|hp)[./](?P<key>.+)$")
OPTUNA_PARAMETER = re.compile(r"^params_(?P<key>.+)$")
WANDB_CHART = re.compile(r"^(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?(?P<again>\.\d+)?$")
TENSORBOARD_CSV = re.compile(r"^run-(?P<run>.+)-tag-(?P<tag>.+)$")
# What lies beside a run's table and says its parameters.
PARAMETER_FILES = ("hparams.yaml", "params.json", "args.yaml", ".hydra/config.yaml")
# In a folder, files of the second kinds may also be configs, notes and lists of packages.
SURELY_TABLES = (".csv", ".tsv", ".parquet", ".pq", ".feather", ".jsonl", ".ndjson")
MAYBE_TABLES = (".json", ".txt", ".log", ".dat")
KNOWN_FILES = ("trainer_state.json", "result.json", "log.json", "metrics.json")
# Rows of the longest run from which on a column that never changes is no metric.
LEAST_ROWS = 3
RATES = ("lr", "learning_rate")
# Files of a folder that are read; more are hardly the runs of one question.
MOST_FILES = 10_000


def read_table(source: Path, columns: Columns) -> Found:
    """A table with one row per report, of one run or of many.

    Columns: the trial (without one the file is one run), the step, and either a column per metric,
    or `metric` and `value`; names as in ALIASES, or as `columns` says. Without a step the rows of a
    run are its reports, in their order; where each run has one row, it is its end. Optional:
    `examples`, `seconds` (or a `timestamp`, in seconds or milliseconds since any origin, or as a
    text of any zone), those of ABOUT, and parameters: `params.KEY`, `config/KEY`, `hparams.KEY` and
    the like, of which the first of a trial counts; None and null are values. A header within a CSV
    file is skipped. See `steps.in_order` for rows that are not in order.

    Also read: the CSV of a W&B chart, with its axis (`Step`, `trainer/global_step`, `epoch`) and a
    column `RUN - METRIC` per run, whose __MIN and __MAX are left out; MLflow's table of runs;
    Hugging Face's trainer_state.json; the Parquet of neptune-exporter; TensorBoard's CSV of a
    scalar. Raises ValueError for what is no such table.
    """
    if kind_of(source)[0] in JSON:
        frame = _of_rows(read_rows(source, _is_of_run))
    else:
        frame = read_frame(source, lambda name: _is_text(name, columns))
    if frame.empty and not len(frame.columns):
        raise ValueError(f"{source} is empty")
    if {"attribute_path", "attribute_type"} <= set(frame.columns):
        return _neptune(frame, source)
    charts = {c: m for c in frame.columns if (m := WANDB_CHART.match(c))}
    if charts and columns.run is None:
        frame = _wandb_chart(frame, charts)
    return _of_frame(_renamed(frame, columns, source), source)


def folder(source: Path, columns: Columns) -> Found | None:
    """The tables in a folder and below it as one; None if there are none.

    Each is a run, named after its path, unless it names its runs itself; of the checkpoints of one
    run the last counts. Parameters are read from the file that tools write beside.
    """
    paths = [
        path
        for path in sorted(source.rglob("*"))
        if _may_be_table(path)
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
    ][: MOST_FILES + 1]
    if len(paths) > MOST_FILES:
        raise ValueError(f"{source} holds more than {MOST_FILES:,} tables: give a folder of fewer")
    paths = _last_checkpoints(paths)
    read, problems = {}, []
    for path in paths:
        try:
            one = read_table(path, columns)
        except ValueError as error:
            if kind_of(path)[0] in SURELY_TABLES or path.name in KNOWN_FILES:
                problems.append(str(error))
            continue
        if _is_run(path, one):
            read[path] = one
    found = []
    for (path, one), name in zip(read.items(), _names([*read], source), strict=True):
        if set(one.reports["trial"]) == {_stem(path)}:  # it names none
            known = one.about.iloc[0].to_dict() if len(one.about) else {}
            about = pd.DataFrame([_parameters_beside(path) | known], index=[name])
            reports = one.reports.assign(trial=name)
            one = Found(reports, about, one.direction, one.notes)
        found.append(one)
    if not found:
        if problems:
            raise ValueError(problems[0])
        return None
    notes = [note for one in found for note in one.notes]
    if problems:
        notes.append(f"{len(problems)} other files are no runs, such as: {problems[0]}")
    abouts = [one.about for one in found if len(one.about)]
    about = pd.concat(abouts) if abouts else pd.DataFrame()
    reports = pd.concat([one.reports for one in found], ignore_index=True)
    return Found(reports, about[~about.index.duplicated()], None, notes)


def _may_be_table(path: Path) -> bool:
    return kind_of(path)[0] in (*SURELY_TABLES, *MAYBE_TABLES)


def _is_run(path: Path, found: Found) -> bool:
    """Whether a file of a folder is a run, and not a note or a config that reads as one."""
    if kind_of(path)[0] in SURELY_TABLES or path.name in KNOWN_FILES:
        return True
    return bool(found.reports.groupby(["trial", "metric"]).size().max() > 1)


def _last_checkpoints(paths: list[Path]) -> list[Path]:
    """Without the states of a run's earlier checkpoints: each repeats those before."""
    last: dict[Path, tuple[int, Path]] = {}
    others = []
    for path in paths:
        checkpoint = re.fullmatch(r"checkpoint-(\d+)", path.parent.name)
        if path.name != "trainer_state.json" or checkpoint is None:
            others.append(path)
            continue
        run = path.parent.parent
        last[run] = max(last.get(run, (-1, path)), (int(checkpoint[1]), path))
    own = {path.parent for path in others if path.name == "trainer_state.json"}
    kept = [path for run, (_, path) in last.items() if run not in own]
    # Ray Tune writes each report to both.
    twice = {path.parent for path in others if path.name == "progress.csv"}
    others = [p for p in others if not (p.name == "result.json" and p.parent in twice)]
    return sorted([*others, *kept])


def _names(paths: list[Path], source: Path) -> list[str]:
    """The names of runs: their paths, without what all have in common."""
    relative = [path.relative_to(source).with_name(_stem(path)) for path in paths]
    if len({path.name for path in relative}) == 1 and len(paths) > 1:
        relative = [path.parent for path in relative]
    names = [re.sub(r"(^|/)checkpoint-\d+$", "", str(path)) for path in relative]
    return [name if name not in ("", ".") else source.name for name in names]


def _stem(path: Path) -> str:
    """A file's name without its kind and packing."""
    return path.name[: len(path.name) - len("".join(kind_of(path)))]


def _parameters_beside(path: Path) -> dict[str, Any]:
    for folder_ in (path.parent, path.parent.parent):
        for name in PARAMETER_FILES:
            file = folder_ / name
            if file.is_file():
                try:
                    content = yaml.safe_load(file.read_text(encoding="utf-8"))
                except (yaml.YAMLError, UnicodeDecodeError):
                    continue
                if isinstance(content, Mapping):
                    return {f"params.{key}": value for key, value in flat(content, ".").items()}
    return {}


def _of_rows(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of their own names: what a row does not name was not reported there, and is not NaN."""
    rows = list(rows)
    if any(all({*map(_plain, row)} & {*ALIASES[c]} for c in ("metric", "value")) for row in rows):
        return pd.DataFrame(rows)
    reports = []
    for row in rows:
        of_run = {name: value for name, value in row.items() if _is_of_run(name)}
        reports += [
            {**of_run, "metric": name, "value": value}
            for name, value in row.items()
            if name not in of_run
            and not NO_METRIC.match(name)
            and not isinstance(value, bool)
            and (isinstance(value, int | float) or _is_number(value))
        ]
    frame = pd.DataFrame(reports)
    return frame.assign(value=frame["value"].astype(float)) if len(frame) else frame


def _is_number(value: Any) -> bool:
    """Whether a text is a number; JSON itself has no NaN, so that tools write "NaN"."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_of_run(name: str) -> bool:
    """Whether what a row says under a name is of its run, or of its time, and no metric."""
    ours = ("trial", "step", "seconds", "timestamp", "state")
    is_known = name in ABOUT or any(_plain(name) in ALIASES[column] for column in ours)
    return is_known or _parameter(name, is_optuna=False) is not None


def _is_text(name: str, columns: Columns) -> bool:
    """Whether a column holds names, of runs or of what was chosen."""
    runs = ALIASES["trial"] if columns.run is None else (_plain(columns.run),)
    return _plain(name) in runs or _parameter(name, is_optuna=False) is not None


def _plain(name: str) -> str:
    """A column's name as in ALIASES, where Run Name, run-name, runName and run_name are one."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-]+", "_", words.lower())


def _parameter(column: str, *, is_optuna: bool) -> str | None:
    """The parameter that a column holds, if it does."""
    match = PARAMETER.match(column) or (OPTUNA_PARAMETER.match(column) if is_optuna else None)
    return match["key"] if match else None


def _renamed(frame: pd.DataFrame, columns: Columns, source: Path) -> pd.DataFrame:
    """The table with our names for its columns."""
    frame = _named_apart(frame)
    is_optuna = "datetime_start" in frame or {"number", "value", "state"} <= set(frame.columns)
    new = {}
    for column in frame.columns:
        if (key := _parameter(column, is_optuna=is_optuna)) is not None:
            new[column] = f"params.{key}"
        elif column.startswith("metrics.") and "run_id" in frame:
            new[column] = column.removeprefix("metrics.")
    known = {_plain(c): c for c in reversed(frame.columns) if c not in new}
    for ours, theirs in ALIASES.items():
        asked = {"step": columns.step, "trial": columns.run}.get(ours)
        if asked is not None and asked not in frame:
            asked = known.get(_plain(asked), asked)
        if asked is not None and asked not in frame:
            option = "--step" if ours == "step" else "--run"
            raise ValueError(
                f"{source} has no column {asked} ({option}); "
                f"it has {', '.join(map(str, frame.columns[:20]))}"
            )
        name = asked or next((known[alias] for alias in theirs if alias in known), None)
        if name is not None and name not in new:
            new[name] = ours
    clash = [c for c in frame.columns if c not in new and c in new.values()]
    frame = frame.drop(columns=clash).rename(columns=new)
    return frame.loc[:, ~frame.columns.duplicated()]


def _named_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of one row per run with its runs named, of several with one name each apart.

    MLflow's has a run_id; W&B's a State, a Name, parameters as config and maybe an ID. Apart are
    names by the head of the id, else by a number.
    """
    columns = {_plain(c): c for c in reversed(frame.columns)}
    is_wandb = {"name", "state"} <= columns.keys()
    key: str | None
    if "tags.mlflow.runName" in frame and "run_id" in frame:
        name, key = "tags.mlflow.runName", "run_id"
    elif is_wandb and ("id" in columns or any(c.startswith("config") for c in columns)):
        name, key = columns["name"], columns.get("id")
    else:
        return frame
    if key is not None and frame[key].duplicated().any():
        return frame  # a row is no run
    ids = None if key is None else frame[key].astype(str)
    names = frame[name].astype(object).where(frame[name].notna(), "run" if ids is None else ids)
    names = names.astype(str)
    again = names.groupby(names).transform("size") > 1
    number = "(" + (names.groupby(names).cumcount() + 1).astype(str) + ")"
    full = names.where(~again, names + " " + (number if ids is None else ids.str[:8]))
    return frame.drop(columns=[c for c in (name, key) if c is not None]).assign(run_id=full)


def _wandb_chart(frame: pd.DataFrame, charts: dict[str, re.Match[str]]) -> pd.DataFrame:
    others = frame[[c for c in frame.columns if c not in charts]]
    names = {c: _plain(c) for c in others.columns}
    axes = [
        c for c, low in names.items() if low not in (*ALIASES["seconds"], *ALIASES["timestamp"])
    ]
    steps = [c for c in axes if names[c] in ALIASES["step"]] or axes
    if len(steps) != 1 and (not steps or names[steps[0]] not in ALIASES["step"]):
        raise ValueError(
            "a W&B chart needs one column of steps, such as Step, trainer/global_step or epoch; "
            f"this has {', '.join(map(str, frame.columns[:6]))}: export by step"
        )
    parts = [
        pd.DataFrame(
            {
                # Two runs of one name: pandas tells their columns apart by a number.
                "trial": m["run"]
                + (f" ({int(m['again'][1:]) + 1})" if _is_again(m, charts) else ""),
                "step": others[steps[0]],
                "metric": m["metric"] + (m["again"] or "" if not _is_again(m, charts) else ""),
                "value": frame[column],
            }
        )
        for column, m in charts.items()
        if m["bound"] is None and _plain(m["metric"]) not in NO_METRICS
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


def _is_again(match: re.Match[str], charts: Mapping[str, re.Match[str]]) -> bool:
    return match["again"] is not None and match[0].removesuffix(match["again"]) in charts


def _of_frame(frame: pd.DataFrame, source: Path) -> Found:
    """A table with our names as reports, in order."""
    notes: list[str] = []
    one_scalar = TENSORBOARD_CSV.match(_stem(source))
    is_scalar = "value" in frame and "metric" not in frame and "timestamp" in frame
    name = _stem(source) if one_scalar is None else one_scalar["run"]
    direction = None
    if is_scalar and {*frame.columns} == {"timestamp", "step", "value"}:
        frame = frame.assign(metric="value" if one_scalar is None else one_scalar["tag"])
        if one_scalar is None:
            direction = "minimize"
            notes.append(
                f"{source.name} does not name its scalar: it is taken for a loss, lower is better"
            )
    has_names, seen = "trial" in frame, ", ".join(map(str, frame.columns[:12]))
    if not has_names:
        frame = frame.assign(trial=name)
    elif frame["trial"].isna().any():
        n_nameless = int(frame["trial"].isna().sum())
        raise ValueError(
            f"{n_nameless} of {len(frame)} rows of {source} have no trial: name the run of each row"
        )
    if "task" in frame and frame["task"].nunique() > 1:
        frame = frame.assign(trial=frame["task"].astype(str) + "/" + frame["trial"].astype(str))
    if "timestamp" in frame:
        time = moments(frame["timestamp"])
        if time.isna().all() and frame["timestamp"].notna().any():
            frame = frame.drop(columns="timestamp")
            notes.append(f"the times of {source.name} cannot be read: it has no seconds")
        else:
            frame = frame.assign(timestamp=time)
    is_one_each = has_names and not frame["trial"].duplicated().any()
    if "step" in frame and is_one_each and "state" in frame and len(frame) > 1:
        frame = frame.drop(columns="step")  # of a table of runs it is only where each ended
    if not has_names:
        frame, said = _told_apart(frame, name)
        notes += said
    if "step" not in frame:
        frame, said = _numbered(frame, source, is_one_each, seen)
        notes += said
    frame, said = _with_settings(frame)
    notes += said
    about = [c for c in frame.columns if c in ABOUT or str(c).startswith("params.")]
    trials = frame.groupby("trial", sort=False)[about].first() if about else pd.DataFrame()
    frame = frame.drop(columns=about)
    frame = frame.drop(columns=[c for c in frame.columns if NO_METRIC.match(str(c))])
    frame = frame.dropna(subset="step")
    frame = frame.assign(step=whole_steps(frame, source))
    frame, said = in_order(frame)
    frame = frame.drop(columns=[c for c in frame.columns if c in ("epoch", "epochs")])
    return Found(in_rows(frame, source), trials, direction, [*notes, *said])


def _with_settings(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A table with its columns of parameters named so, and what is to be said of it.

    They say the same in all rows of a run, not the same of all runs, and have no metric's name. A
    rate stays a curve too, since it is one that does not change.
    """
    ours = {*ALIASES, *ABOUT, "examples", "clipped"}  # the last is measured, and may never change
    of_run = frame.groupby("trial", sort=False)
    if len(of_run) < 2 or int(of_run.size().max()) < LEAST_ROWS:
        return frame, []
    found = [
        column
        for column in map(str, frame.columns)
        if column not in ours
        and not column.startswith("params.")
        and f"params.{column}" not in frame
        and infer_goal(column) is None
        and frame[column].notna().all()
        and frame[column].nunique() > 1
        and int(of_run[column].nunique().max()) == 1
    ]
    if not found:
        return frame, []
    frame = frame.assign(**{f"params.{column}": frame[column] for column in found})
    kept = frame.drop(columns=[column for column in found if _plain(column) not in RATES])
    names = ", ".join(found)
    return kept, [f"each run has one value of {names}: taken for its parameters"]


def _told_apart(frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """A table without a column of runs whose steps repeat, by the words that tell its runs apart.

    Those are columns of text, parameters and seeds. Steps that begin again in one run, with each
    epoch, are left as they are: nothing of it tells them apart.
    """
    if "step" not in frame or not frame["step"].duplicated().any() or "metric" in frame:
        return frame, []
    words = [
        c
        for c in frame.columns
        if c not in ("trial", "step", "timestamp", "state", "why")
        and (c in ABOUT or str(c).startswith("params.") or not is_metric(frame[c]))
        and 1 < frame[c].nunique() <= len(frame) / 2
    ]
    if not words or frame.duplicated([*words, "step"]).any():
        return frame, []
    keys = [str(word).removeprefix("params.") for word in words]
    texts = [key + "=" + frame[w].astype(str) for key, w in zip(keys, words, strict=True)]
    named = [" ".join(row) for row in zip(*texts, strict=True)]
    return frame.assign(trial=named), [f"the runs of {name} are told apart by {', '.join(keys)}"]


def _numbered(
    frame: pd.DataFrame, source: Path, is_one_each: bool, seen: str
) -> tuple[pd.DataFrame, list[str]]:
    """A table without steps: its rows are reports in their order, or the ends of runs."""
    if "timestamp" in frame and frame["timestamp"].notna().all():
        frame = frame.sort_values("timestamp", kind="stable")
    if "metric" in frame and "value" in frame:
        frame = frame.assign(step=frame.groupby(["trial", "metric"]).cumcount())
        return frame, [f"{source.name} has no steps: the rows of a run are taken for its reports"]
    numbers = [
        c
        for c in frame.columns
        if c not in (*ABOUT, "trial", "seconds", "timestamp", "examples", "step")
        and not str(c).startswith("params.")
        and is_metric(frame[c])
    ]
    measures = [c for c in numbers if infer_goal(str(c)) is not None] or (
        ["value"] if "value" in numbers else []
    )
    if not measures:
        raise ValueError(
            f"{source} has no column step, and none that is a loss or a score by its name; it has "
            f"{seen}: say which is which, --step NAME --metric NAME --run NAME"
        )
    if not is_one_each:
        frame = frame.assign(step=frame.groupby("trial").cumcount())
        return frame, [f"{source.name} has no steps: the rows of a run are taken for its reports"]
    # What is no measure of a run is a setting of it, or says where it ran.
    settings = [
        c for c in frame.columns
        if c not in (*measures, *ABOUT, "trial", "seconds", "timestamp", "examples")
        and not str(c).startswith("params.") and str(c).lower() not in OF_RUNS
        and not str(c).startswith(("tags.", "_"))
    ]  # fmt: skip
    frame = frame.rename(columns={c: f"params.{c}" for c in settings})
    kept = {*measures, *ABOUT, "trial", "seconds", "examples"}
    frame = frame[[c for c in frame.columns if c in kept or str(c).startswith("params.")]]
    return frame.assign(step=0), [
        f"{source.name} has one row per run: where each ended is known, and no curve"
    ]


# Columns of a table of runs that are neither a result nor a setting.
OF_RUNS = frozenset(
    (
        *("id", "created", "runtime", "user", "tags", "notes", "sweep", "hostname", "group"),
        *("job type", "commit", "github", "gpu type", "gpu count", "os", "python version"),
        *("end time", "start_time", "end_time", "updated", "experiment_id", "artifact_uri"),
        *("datetime_start", "datetime_complete", "duration", "url", "entity", "project"),
    )
)


def _neptune(frame: pd.DataFrame, source: Path) -> Found:
    """The long table of neptune-exporter: an attribute of a run, at a step, per row."""
    kind = frame["attribute_type"]
    series = frame[kind == "float_series"].rename(
        columns={"run_id": "trial", "attribute_path": "metric", "float_value": "value"}
    )
    if series.empty:
        raise ValueError(f"{source} has no float_series: export with -c metrics")
    reports = series[["trial", "step", "metric", "value", "timestamp"]]
    reports = reports[~reports["metric"].str.startswith(("monitoring/", "sys/"))]
    reports = reports.assign(step=whole_steps(reports, source))
    reports, notes = in_order(reports)
    if reports["timestamp"].isna().all():
        reports = reports.drop(columns="timestamp")
    single = frame[kind.isin(("float", "int", "string", "bool"))]
    single = single[
        ~single["attribute_path"].str.startswith(("sys/", "source_code/", "monitoring/"))
    ]
    values = _first_value(single)
    about = (
        pd.DataFrame(
            {
                "trial": single["run_id"],
                "key": "params." + single["attribute_path"].str.replace("/", "."),
                "value": values,
            }
        )
        .drop_duplicates(["trial", "key"])
        .pivot(index="trial", columns="key", values="value")
    )
    return Found(reports, about, None, notes)


def _first_value(single: pd.DataFrame) -> pd.Series:
    columns: Iterable[str] = (
        name
        for name in ("float_value", "int_value", "string_value", "bool_value")
        if name in single
    )
    values = pd.Series(index=single.index, dtype=object)
    for name in columns:
        values = values.where(values.notna(), single[name].astype(object))
    return values
