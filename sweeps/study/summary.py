"""The end of a sweep in the terminal and on disk.

A ranked table, the results file, what to do next.
"""

from __future__ import annotations

import math
import shlex
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.study.opening import METRIC_ATTR
from iolaus.sweeps.study.record import (
    again_for,
    broken_constraints,
    leader_of,
    record_of,
    was_interrupted,
)
from iolaus.sweeps.types import Ending

# A terminal's screenful or two; the report holds all.
N_ROWS_SHOWN = 40
# Between columns, and what the reason for an ending is given before parameters are left out.
GAP, WHY_WIDTH = 2, 12

INFEASIBLE = "infeasible"
_ORDER = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.RUNNING: 2, TrialState.FAIL: 3}


@dataclass(frozen=True, slots=True)
class Result:
    """One setting in the ranking.

    A trial, or the runs of a setting with several seeds, under the first one's number.
    values: the objectives, means over the completed runs; spread: the standard deviation of the
    first one between runs, NaN if fewer than two completed. best, final: of the watched metric, NaN
    if there are none; of several runs the means. n_steps: the last step reported, of several runs
    the highest.
    """

    number: int
    state: str
    values: tuple[float, ...]
    best: float
    final: float
    n_steps: int | None
    why: str
    params: Mapping[str, Any]
    n_runs: int = 1
    spread: float = math.nan


def rank(study: optuna.Study) -> list[Result]:
    """All settings that ran, best first.

    Completed ones by objective, then pruned ones by their best, then failed ones. Those that
    completed but break a constraint come after the other completed ones, in the state infeasible.
    With several objectives, those on the Pareto front come first and the order is otherwise by the
    first objective. Interrupted trials are left out, the same settings are queued again; so are
    failed ones that have been run again.
    """
    sign = -1 if study.directions[0] is StudyDirection.MAXIMIZE else 1
    metric_sign = Metric(**known).sign if (known := study.user_attrs.get(METRIC_ATTR)) else sign
    front = {t.number for t in study.best_trials} if len(study.directions) > 1 else set()
    settings: dict[int, list[FrozenTrial]] = {}
    trials = study.get_trials(deepcopy=False)
    again = {again_for(trial) for trial in trials if trial.state is not TrialState.WAITING}
    for trial in trials:
        if trial.state in _ORDER and not was_interrupted(trial) and trial.number not in again:
            settings.setdefault(leader_of(trial), []).append(trial)

    states = {
        trials[0].number: min((t.state for t in trials), key=lambda state: _ORDER[state])
        for trials in settings.values()
    }

    def place(result: Result) -> tuple[int, bool, bool, float]:
        order = sign * result.values[0] if result.values else metric_sign * result.best
        order = math.inf if math.isnan(order) else order
        return (
            _ORDER[states[result.number]],
            result.state == INFEASIBLE,
            result.number not in front,
            order,
        )

    return sorted(
        (_merged([_result(trial) for trial in trials]) for trials in settings.values()), key=place
    )


def _merged(runs: Sequence[Result]) -> Result:
    """The runs of one setting as one result; the one run of a setting as it is."""
    if len(runs) == 1:
        return runs[0]
    completed = [run.values for run in runs if run.values]
    means = tuple(statistics.fmean(values) for values in zip(*completed, strict=True))
    wrong = (run for run in runs if not run.values or run.state == INFEASIBLE)
    first = next(wrong, runs[0])  # says what went wrong, if anything did
    return replace(
        runs[0],
        state=first.state,
        why=first.why,
        values=means,
        best=statistics.fmean(run.best for run in runs),
        final=statistics.fmean(run.final for run in runs),
        n_steps=max((run.n_steps for run in runs if run.n_steps is not None), default=None),
        n_runs=len(runs),
        spread=_spread([values[0] for values in completed]),
    )


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):  # statistics.stdev fails on infinity
        return math.nan
    return statistics.stdev(values)


def _result(trial: FrozenTrial) -> Result:
    record = record_of(trial)
    state, _, reason = record.why.partition(": ")
    if record.verdict is not None and record.ending is Ending.PRUNED:
        reason = f"{record.verdict.rule} at step {record.verdict.step:,}"
    broken = ", ".join(broken_constraints(trial))
    if broken and trial.state is TrialState.COMPLETE:
        state, reason = INFEASIBLE, f"breaks {broken}"
    run = record.run
    return Result(
        trial.number,
        state or trial.state.name.lower(),
        tuple(trial.values or ()) if trial.state is TrialState.COMPLETE else (),
        math.nan if run.best is None else run.best,
        math.nan if run.final is None else run.final,
        record.steps,
        reason,
        trial.params,
    )


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranking as a table that fits its terminal.

    Where that is narrow, the last parameters are left out, by name.
    columns: title and cells, each with a cell per row. params: those that may be left out. why: how
    each row ended.
    n_below: rows that are not shown.
    """

    columns: Sequence[tuple[str, Sequence[str]]]
    params: Sequence[tuple[str, Sequence[str]]]
    why: Sequence[str]
    n_below: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        left = options.max_width - sum(map(_width, self.columns))
        why_width = max(map(len, self.why), default=0)
        n_params, needed = 0, min(why_width, WHY_WIDTH)
        for n_params in range(len(self.params), -1, -1):
            if sum(map(_width, self.params[:n_params])) + needed <= left:
                break
        left -= sum(map(_width, self.params[:n_params]))
        shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for title, _ in [*self.columns, *self.params[:n_params]]:
            shown.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
        if why_width:
            shown.add_column(
                "why it ended", no_wrap=True, overflow="ellipsis", max_width=max(left, needed)
            )
        cells = [cells for _, cells in [*self.columns, *self.params[:n_params]]]
        for row in zip(*cells, *([self.why] if why_width else []), strict=True):
            shown.add_row(*map(Text, row))
        yield shown
        if self.n_below:
            yield Text(f"… and {self.n_below} more")
        if left_out := [title for title, _ in self.params[n_params:]]:
            yield Text(f"… and {', '.join(left_out)}, for which this terminal is too narrow")


def _width(column: tuple[str, Sequence[str]]) -> int:
    title, cells = column
    return max(map(len, [title, *cells])) + GAP


def table(results: Sequence[Result], metric: str, n_objectives: int = 1) -> Ranking:
    """The ranking for a terminal: the best `N_ROWS_SHOWN` rows, and how many there are below."""
    rows = results[:N_ROWS_SHOWN]
    keys = list(dict.fromkeys(key for r in results for key in r.params))
    short = _short_names(keys)
    # With one objective its value is the best or final of the metric, unless the task returned
    # something else.
    repeated = any(r.n_runs > 1 for r in results)
    own_value = (
        n_objectives > 1
        or repeated
        or any(r.values and r.values[0] not in (r.best, r.final) for r in results)
    )
    columns = [("trial", [str(r.number) for r in rows]), ("state", [r.state for r in rows])]
    if own_value:
        for i in range(n_objectives):
            title = "objective" if n_objectives == 1 else f"objective {i}"
            columns.append((title, [_number(r.values[i]) if r.values else "" for r in rows]))
    if repeated:
        columns += [
            ("± sd", [_number(r.spread) for r in rows]),
            ("seeds", [str(r.n_runs) for r in rows]),
        ]
    if any(not math.isnan(r.best) for r in results):
        columns += [
            (f"best {metric}", [_number(r.best) for r in rows]),
            ("final", [_number(r.final) for r in rows]),
            ("steps", ["" if r.n_steps is None else f"{r.n_steps:,}" for r in rows]),
        ]
    params = [(short[key], [_number(r.params.get(key, "")) for r in rows]) for key in keys]
    return Ranking(columns, params, [r.why for r in rows], len(results) - len(rows))


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, with as many parts before it as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[-n:])
            if sum(other == name or other.endswith(f".{name}") for other in keys) == 1:
                break
        names[key] = name
    return names


def save_results(study: optuna.Study, path: Path) -> None:
    """Write optimization_results.yaml as the official sweeper does, plus the best trial's number and folder."""
    content: dict[str, Any] = {"name": "optuna"}
    trials = study.get_trials(deepcopy=False)
    if len(study.directions) == 1:
        best = next(
            (result for result in rank(study) if result.values and result.state != INFEASIBLE), None
        )
        if best is None:
            content["best_params"] = None  # no feasible trial has completed
        else:
            content |= {
                "best_params": dict(best.params),
                "best_value": best.values[0],
                "best_trial": best.number,
            }
            content |= {"best_folder": record_of(trials[best.number]).run.folder}
            content |= {"n_seeds": best.n_runs, "spread": best.spread} if best.n_runs > 1 else {}
    else:
        content["solutions"] = [
            {
                "params": t.params,
                "values": t.values,
                "trial": t.number,
                "folder": record_of(t).run.folder,
            }
            for t in study.best_trials
        ]
    OmegaConf.save(OmegaConf.create(content), path)


def iolaus_command(python: str, *arguments: str) -> str:
    """A command of `iolaus`, to be typed: the script beside this interpreter, or its module."""
    script = str(Path(python).with_name("iolaus"))
    iolaus = [script] if shutil.which(script) else [python, "-m", "iolaus.cli"]
    return shlex.join([*iolaus, *arguments])


def show_next(
    console: Console, python: str, folder: str, command: str, n_trials: int, n_failed: int = 0
) -> None:
    """Print the commands a user is likely to want now.

    python: the interpreter as it was called. command: what continues the sweep, given a new
    n_trials. n_failed: trials that could be run again.
    """
    commands = [
        ("report", iolaus_command(python, "report", folder)),
        ("dashboard", iolaus_command(python, "dashboard", folder)),
        ("continue", f"{command} hydra.sweeper.n_trials={n_trials}"),
    ]
    if n_failed:
        commands.append(("retry", iolaus_command(python, "retry", folder, "--failed")))
    for what, how in commands:
        console.print(Text(f"  {what:10} {how}"), soft_wrap=True)
