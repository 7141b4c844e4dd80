"""A sweep as two tidy frames, its trials and its curves.

They are read from its folder, or from what other tools recorded.
"""

from __future__ import annotations

import contextlib
import gc
import html
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState

from iolaus.analysis.data.earlier import EarlierRepeats, repeats_of_earlier
from iolaus.analysis.data.importers import Columns, read_runs
from iolaus.analysis.data.parameters import PREFIX, varied
from iolaus.analysis.data.slots import read_slots
from iolaus.sweeps.checkpoints import before_rebounds
from iolaus.sweeps.curves import read_curves
from iolaus.sweeps.metric import Goal, Metric, choose_metric, infer_goal
from iolaus.sweeps.signals import has_diverged
from iolaus.sweeps.study.fingerprint import Fingerprint, fingerprints_of, ran_with
from iolaus.sweeps.study.folder import SWEEP_FILE, curves_folders, describe_sweep, read_study
from iolaus.sweeps.study.record import (
    TrialRecord,
    broken_constraints,
    leader_of,
    record_of,
    set_apart,
    setting_of,
    state_of,
    that_ran,
)
from iolaus.sweeps.text import counted, short_names

__all__ = ["Sweep", "is_sweep", "load"]

BEST = "best.pt"  # as the trainer calls it
NEVER_WATCHED = ("lr", "learning_rate", "grad_norm", "clipped")  # beside what a run is judged by
N_ROWS_SHOWN = 10  # in a notebook: more is a frame
# What every sweep's trials have, with its type before there is one.
TRIAL_COLUMNS = {
    **dict.fromkeys(
        (
            *("state", "why", "infeasible", "code", "fingerprint", "ran_with", "findings"),
            *("verdict", "verdict_rule", "folder", "lr_plan", "stretches"),
        ),
        object,
    ),
    "setting": np.int64,
    **dict.fromkeys(
        ("steps", "seconds", "best", "final", "objective", "seed", "examples", "n_steps"),
        np.float64,
    ),
    "pauses": np.int64,
    **dict.fromkeys(
        (
            *("fix_of", "verdict_step", "held_out_step", "slot", "started_s", "device_seconds"),
            *("gpu_bytes", "ram_bytes"),
        ),
        np.float64,
    ),
}


@dataclass(frozen=True)
class Sweep:
    """What a sweep left behind, or has so far.

    name: of the study. metric: the watched one, whose own goal is metric_goal (None for what its
        name or else the objective says). directions: one per objective.
    trials: one row per trial that ran, indexed by number; columns state (Optuna's, lower case, or
        paused),
        why, steps (last reported), seconds, best and final (of the watched metric; NaN if it was
        never reported), objective (NaN unless completed; the first of several), seed (NaN unless
        repeats gave it one), setting (number of the leading trial), finalist
        (whether it is a seed that only the best settings got), infeasible (the names of the
        constraints it breaks, "" if none), findings (a lint's, sentences), code (version it ran on,
        short), fingerprint (id of what else its result depends on, "" if not known), ran_with (what
        tells it from the fingerprints
        of the other trials, "" if all are the same), examples (last
        reported; NaN if never), n_steps and lr_plan (what it had planned: updates, and corners
        [step, rate]; missing if it did not say), fix_of (the
        trial whose suggested fix it is), verdict, verdict_rule and verdict_step (if a rule
        ended it), held_out_step (where the pruner would have ended a trial that a holdout let run
        on), slot, started_s (seconds since the sweep's first start), device_seconds (its seconds on
        a slot), pauses (how often it was paused) and stretches (where one that was has run: slot,
        start as in started_s and seconds of each; else None), gpu_bytes and ram_bytes (most that it
        held of a GPU, by torch, and resident), folder, and `params.KEY` for each
        parameter (missing where a trial has none); of several objectives also objective_2 and so
        on. Trials cut off with their sweep are left out:
        their settings were run again.
    curves: columns trial, step, examples (NaN if not reported), seconds, metric, value; one row per
    metric and report.
    provenance: one entry per session, oldest first, see `iolaus.sweeps.run._provenance.collect`;
        `top_up` is true of those that `iolaus.analysis.ranking.top_up` started.
    config: as composed for the sweep, interpolations as they stand. space: key to its Optuna
        distribution as `iolaus.sweeps.search.space` signs it. Both empty where nothing is known.
    notes: what was assumed of the runs of other tools, in sentences.
    fingerprints: what the results of its sessions depend on beside the search, by id.
    earlier: where no setting was repeated, the repeats of earlier sweeps of the same task.
    slots: what the slots held and did, see `iolaus.analysis.data.slots.read_slots`.
    folder: the sweep's own, which its trials' are relative to; None for runs of other tools.
    """

    name: str
    metric: str
    directions: tuple[str, ...]
    trials: pd.DataFrame
    curves: pd.DataFrame
    provenance: tuple[Mapping[str, Any], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    metric_goal: Goal | None = None
    notes: tuple[str, ...] = ()
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)
    earlier: tuple[EarlierRepeats, ...] = ()
    slots: pd.DataFrame = field(default_factory=pd.DataFrame)
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Before the first trial there are the columns of all others, so that nobody need ask.

        Parameters come first, then what the trial came to.
        """
        if "state" not in self.trials:
            columns = {name: pd.Series(dtype=dtype) for name, dtype in TRIAL_COLUMNS.items()}
            object.__setattr__(self, "trials", pd.DataFrame(columns).rename_axis("number"))
        first = [c for c in map(str, self.trials.columns) if c.startswith(PREFIX)]
        others = [c for c in self.trials.columns if c not in first]
        object.__setattr__(self, "trials", self.trials[[*first, *others]])

    @property
    def objective_sign(self) -> float:
        """What the first objective is multiplied by to be minimised: 1, or -1."""
        return -1.0 if self.directions[0] == "maximize" else 1.0

    @property
    def metric_sign(self) -> float:
        """What the watched metric is multiplied by to be minimised: 1, or -1 if it is maximised.

        Not the objective's: a sweep may maximise an accuracy and watch a loss.
        """
        return float(self.watched.sign)

    @property
    def argument(self) -> str:
        """What a command is given to read it: its folder, as typed; DIR where that is not known."""
        return "DIR" if self.folder is None else shlex.quote(str(self.folder))

    @property
    def findings(self) -> dict[int, tuple[str, ...]]:
        """What a lint found in each trial's config, in sentences."""
        known = self.trials.get("findings", pd.Series(dtype=object))
        return {int(str(number)): tuple(found) for number, found in known.items()}

    @property
    def watched(self) -> Metric:
        """The watched metric and its goal."""
        return choose_metric(self.metric, self.metric_goal, self.directions, None)[0]

    def curve(self, trial: int, metric: str | None = None) -> pd.DataFrame:
        """One metric of one trial, by default the watched one.

        Columns step and value, in the order reported.
        """
        rows = self.curves[
            (self.curves["trial"] == trial) & (self.curves["metric"] == (metric or self.metric))
        ]
        return rows[["step", "value"]].reset_index(drop=True)

    def kept_weights(self, trial: int) -> dict[int, Path]:
        """The weights that a trial of the trainer kept from before its rebounds, by their step.

        Empty where there are none, or the sweep's folder is not known.
        """
        own = self.trials["folder"].get(trial)
        if self.folder is None or not isinstance(own, str) or not own:
            return {}
        return before_rebounds(self.folder / own / BEST)

    def states_of(self, trials: Iterable[int]) -> dict[int, str]:
        """The state of each of these trials; those the study does not know yet are running."""
        known = self.trials["state"].to_dict()
        return {trial: str(known.get(trial, "running")) for trial in trials}

    def _repr_html_(self) -> str:
        """See IPython: what it is in a line, then the first trials with their parameters."""
        states = ", ".join(
            f"{n} {state}" for state, n in self.trials["state"].value_counts().items()
        )
        what = (
            f"{self.name}: {counted(len(self.trials), 'trial')} ({states}), watched {self.metric}, "
            f"{', '.join(self.directions)}"
        )
        params = varied(self.trials)
        repeated = ["setting", "seed"] if self.trials["setting"].duplicated().any() else []
        columns = [*params.values(), "state", "objective", "best", "steps", "seconds", *repeated]
        table = self.trials[[c for c in columns if c in self.trials]].head(N_ROWS_SHOWN)
        names = dict(zip(params.values(), short_names(list(params)).values(), strict=True))
        more = len(self.trials) - len(table)
        below = f"<p>{more} more: see <code>sweep.trials</code>, and <code>sweep.curves</code></p>"
        return (
            f"<p>{html.escape(what)}</p>"
            + table.rename(columns=names).to_html(na_rep="", float_format="{:.4g}".format)
            + (below if more else "")
        )


def load(
    source: str | Path,
    metric: str | None = None,
    direction: str | None = None,
    step: str | None = None,
    run: str | None = None,
) -> Sweep:
    """Read a sweep from its folder, while it runs or after.

    Or runs of other tools (`iolaus.analysis.data.importers.read_runs`).
    metric: what is watched in other tools' runs; left out, it is the one metric called `loss` or,
    without it, the only one with `loss` in its name, or the only one there is. direction: minimize
    or maximize; left out, the metric's name says it
    (`iolaus.sweeps.metric.infer_goal`). step, run: the columns of a table that are its steps and
    its runs; left out, their names say it. A sweep's folder knows its own. Of other tools' runs
    those that never reported the watched metric are left out. One of which a report is not finite
    has diverged there: its state is pruned and it has no objective. Raises FileNotFoundError if
    there is neither, ValueError if a file holds no curves, it is unclear what to watch or in which
    direction, or a sweep is asked for another metric or direction than its own.

    >>> sweep = iolaus.load("runs.csv")
    >>> sweep.metric, sweep.directions, len(sweep.trials)
    ('loss', ('minimize',), 12)
    """
    source = Path(source)
    if direction not in (None, "minimize", "maximize"):
        raise ValueError(f"direction={direction!r} is neither minimize nor maximize")
    if not is_sweep(source):
        return _load_runs(source, metric, direction, Columns(step, run))
    sweep = _load_sweep(source)
    if metric not in (None, sweep.metric) or direction not in (None, sweep.directions[0]):
        asked = " and ".join(
            f"{n} {v}" for n, v in (("metric", metric), ("direction", direction)) if v is not None
        )
        own = f"{sweep.directions[0]}s {sweep.metric}"
        raise ValueError(
            f"{source} is a sweep that {own}; asked was {asked}: "
            "leave --metric and --direction away"
        )
    return sweep


def is_sweep(source: Path) -> bool:
    """Whether a path is a sweep's folder; else it can only hold runs of other tools."""
    return (source / SWEEP_FILE).is_file()


def _load_runs(source: Path, metric: str | None, direction: str | None, columns: Columns) -> Sweep:
    """Runs of another tool: each its own setting unless a column says so, complete unless cut."""
    about, curves, known_direction, notes = read_runs(source, columns)
    known = list(curves["metric"].unique())
    metric = metric or _loss_of(known, source)
    if metric not in known:
        raise ValueError(f"{source} has no metric {metric}; it has {', '.join(known)}")
    direction = direction or known_direction or _direction_of(metric, source)
    watched = curves[curves["metric"] == metric]
    about, curves = (
        about[about.index.isin(watched["trial"])],
        curves[curves["trial"].isin(watched["trial"])],
    )
    finite = watched[np.isfinite(watched["value"])].groupby("trial")
    ends = watched.drop_duplicates("trial", keep="last").set_index("trial")["value"]
    last = curves.groupby("trial")[["step", "examples", "seconds"]].max()
    was_censored = about.get("censored", pd.Series(False, about.index)).fillna(False).astype(bool)
    state = about.get("state", pd.Series("complete", about.index)).mask(was_censored, "pruned")
    bad = watched[watched["value"].map(has_diverged).astype(bool)]
    diverged_at = bad.groupby("trial")["step"].min().reindex(about.index)
    diverged = state.eq("complete") & diverged_at.notna()
    why = about.get("why", state.replace({"complete": "completed"}))
    defaults = {
        "steps": watched.groupby("trial")["step"].max(),
        "seconds": last["seconds"],
        "best": finite["value"].max() if direction == "maximize" else finite["value"].min(),
        "final": ends,
        "seed": float("nan"),
        "setting": about.index,
        "finalist": False,
        "infeasible": "",
        "findings": [()] * len(about),
        "code": "",
        "fingerprint": "",
        "ran_with": "",
        "n_steps": about.get("budget", last["step"]),
        "verdict": "",
        "verdict_rule": "",
        "device_seconds": last["seconds"],
        "pauses": 0,
        "examples": last["examples"],
        "folder": "",
    }
    missing = {name: value for name, value in defaults.items() if name not in about}
    others = dict.fromkeys(
        (
            *("lr_plan", "verdict_step", "held_out_step", "slot", "started_s", "stretches"),
            *("gpu_bytes", "ram_bytes"),
        )
    )
    decided = {
        "state": state.mask(diverged, "pruned"),
        "why": why.mask(diverged, "diverged at step " + diverged_at.map("{:.0f}".format)),
        "objective": ends.where(state.eq("complete") & ~diverged),
    }
    trials = about.drop(columns=["censored", "budget"], errors="ignore").assign(
        **missing, **others, **decided
    )
    return Sweep(
        source.stem,
        metric,
        (direction,),
        trials.sort_index(),
        curves.reset_index(drop=True),
        metric_goal=cast(Goal, direction),
        notes=tuple(notes),
    )


def _loss_of(metrics: list[str], source: Path) -> str:
    losses = [name for name in metrics if "loss" in name.lower()]
    judged = [name for name in metrics if name.partition("/")[0] not in NEVER_WATCHED]
    for candidates in (["loss"], judged, losses):
        if len(candidates) == 1 and candidates[0] in metrics:
            return candidates[0]
    training = [name for name in losses if "train" in name.lower()]
    if len(training) == 2:  # Lightning writes both
        training = [name for name in training if f"{name.removesuffix('_step')}_epoch" in training]
    if len(training) == 1:
        return training[0]
    raise ValueError(
        f"{source} has the metrics {', '.join(metrics[:20])}: say which to watch, "
        "--metric NAME (load(..., metric=NAME))"
    )


def _direction_of(metric: str, source: Path) -> str:
    goal = infer_goal(metric)
    if goal is not None:
        return goal
    raise ValueError(
        f"is {metric} of {source} better when it is lower or higher? "
        "give --direction minimize or --direction maximize (load(..., direction=NAME))"
    )


def _load_sweep(folder: Path) -> Sweep:
    about = describe_sweep(folder)
    study = read_study(folder)
    sessions = study.user_attrs.get("provenance", [])
    with _no_collection():
        ran = that_ran(study.get_trials(deepcopy=False))
    trials = pd.DataFrame([_row(trial, sessions) for trial in ran])
    said = ran_with(study.user_attrs, ran)
    first = pd.NaT
    if len(trials):
        trials["ran_with"] = [said.get(trial.number, "") for trial in ran]
        first = trials["started_s"].min()
        trials["started_s"] = (trials["started_s"] - first).dt.total_seconds()
        since = [_since(first, own) for own in trials["stretches"]]
        trials["stretches"] = pd.Series(since, trials.index, dtype=object)
    places = curves_folders(folder, about.study_name, sessions)
    curves = read_curves(*places).to_pandas()
    if len(trials):
        examples = curves[curves["metric"] == "examples"].groupby("trial")["value"].max()
        trials["examples"] = trials["number"].map(examples).astype(float)
    is_repeated = len(trials) > 0 and bool(trials["setting"].duplicated().any())
    return Sweep(
        name=about.study_name,
        metric=about.metric,
        directions=tuple(about.directions),
        trials=trials.set_index("number") if len(trials) else trials,
        curves=_with_examples(curves),
        provenance=tuple(sessions),
        config=yaml.load(
            study.user_attrs.get("config", "{}"),
            Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        ),
        space=study.user_attrs.get("search_space", {}),
        metric_goal=about.get("metric_goal"),
        fingerprints=fingerprints_of(study.user_attrs),
        earlier=() if is_repeated else repeats_of_earlier(folder, study),
        slots=read_slots(folder, None if pd.isna(first) else first.to_pydatetime()),
        folder=folder,
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection within.

    100,000 new objects that all stay make it half of the time of reading a study.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _with_examples(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves with the metric `examples` of the same trial and step beside each value."""
    known = curves.loc[curves["metric"] == "examples", ["trial", "step", "value"]]
    examples = np.full(len(curves), np.nan)
    if len(known):
        n_steps = int(curves["step"].max()) + 1
        keys, first = np.unique(
            known["trial"].to_numpy() * n_steps + known["step"].to_numpy(), return_index=True
        )
        wanted = curves["trial"].to_numpy() * n_steps + curves["step"].to_numpy()
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        examples = np.where(keys[at] == wanted, known["value"].to_numpy(float)[first][at], np.nan)
    curves.insert(2, "examples", examples)
    return curves


def _began(trial: optuna.trial.FrozenTrial, record: TrialRecord) -> datetime | None:
    """When a trial was first started: Optuna's time is that of the last time."""
    began = record.pauses[0].began if record.pauses else ""
    return datetime.fromisoformat(began) if began else trial.datetime_start


def _stretches(
    trial: optuna.trial.FrozenTrial, record: TrialRecord
) -> list[tuple[int | None, datetime, float]] | None:
    """Where a trial that was paused ran, from when and how long; None for one that was not."""
    if not record.pauses:
        return None
    stretches = [
        (pause.slot, datetime.fromisoformat(pause.began), pause.seconds)
        for pause in record.pauses
        if pause.began
    ]
    last_s = (record.run.seconds or 0.0) - sum(pause.seconds for pause in record.pauses)
    if record.pauses[-1].thawed and trial.datetime_start is not None and last_s > 0:
        stretches.append((record.run.slot, trial.datetime_start, last_s))
    return stretches


def _since(
    first: datetime, stretches: list[tuple[int | None, datetime, float]] | None
) -> list[tuple[int | None, float, float]] | None:
    """The same, in seconds since the sweep's first start."""
    if stretches is None:
        return None
    return [(slot, (began - first).total_seconds(), length) for slot, began, length in stretches]


def _row(trial: optuna.trial.FrozenTrial, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    record = record_of(trial)
    run, verdict, session = record.run, record.verdict, record.run.session
    is_done = trial.state is TrialState.COMPLETE
    values = trial.values if trial.values and is_done else []
    apart = set_apart(record) if is_done else ""
    ran_in = sessions[session] if session is not None and session < len(sessions) else {}
    code = ran_in.get("code", {})
    return {
        "number": trial.number,
        "state": state_of(trial),
        "why": f"{record.why}, {apart}" if apart else record.why,
        "steps": record.steps,
        "seconds": run.seconds,
        "best": float("nan") if run.best is None else run.best,
        "final": float("nan") if run.final is None else run.final,
        "objective": values[0] if values else float("nan"),
        **{f"objective_{i}": value for i, value in enumerate(values[1:], start=2)},
        "seed": float("nan") if record.seed is None else record.seed,
        "setting": leader_of(trial),
        "finalist": record.finalist,
        "infeasible": ", ".join(broken_constraints(trial)),
        "findings": record.findings,
        "code": (code.get("commit") or "")[:10]
        + (f"+{code['difference']}" if code.get("dirty") else ""),
        "fingerprint": str(ran_in.get("fingerprint", "")),
        "n_steps": record.plan.n_steps,
        "lr_plan": [list(corner) for corner in record.plan.lr] or None,
        "fix_of": record.fix_of,
        "verdict_step": None if verdict is None else verdict.step,
        "held_out_step": record.held_out_step,
        "verdict": "" if verdict is None else verdict.reason,
        "verdict_rule": "" if verdict is None else verdict.rule,
        "slot": run.slot,
        "started_s": _began(trial, record),
        "device_seconds": run.seconds,
        "pauses": len(record.pauses),
        "stretches": _stretches(trial, record),
        "gpu_bytes": record.memory.gpu_bytes,
        "ram_bytes": record.memory.ram_bytes,
        "folder": run.folder,
        # A choice of null is a category of its own: NaN is a parameter that does not exist.
        **{f"params.{k}": "null" if v is None else v for k, v in setting_of(trial).items()},
    }
