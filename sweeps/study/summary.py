"""The end of a sweep in the terminal and on disk.

That is a ranked table, the results file, and what to do next.
"""

from __future__ import annotations

import math
import shlex
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from iolaus.sweeps.holdout import BEST_PER_CUBE_ROOT, goal_rank, held_out
from iolaus.sweeps.metric import metric_of
from iolaus.sweeps.study.fingerprint import ALIKE_ONLY, RAN_WITH, ran_with
from iolaus.sweeps.study.ranking import INFEASIBLE, Standing, order, runs_of
from iolaus.sweeps.study.record import (
    broken_constraints,
    record_of,
    set_apart,
    setting_of,
    state_of,
    that_ran,
)
from iolaus.sweeps.text import counted, ordinal, short_names
from iolaus.sweeps.types import WAITS_RULE, Ending

__all__ = [
    "Result",
    "ResultsTable",
    "cut_off_text",
    "holdout_text",
    "n_best_of",
    "pauses_text",
    "rank",
    "ranked",
    "save_results",
    "show_next",
    "table",
]

# What these commands need beyond what a sweep needs; where none has it, `show` is named.
READERS = {
    "report": ("pandas", "matplotlib", "scipy"),
    "dashboard": ("pandas", "matplotlib", "scipy", "optuna_dashboard"),
}
# A terminal's screenful or two; the report holds all.
N_ROWS_SHOWN = 40
# Between columns, and what the reason for an ending is given before parameters are left out.
GAP, WHY_WIDTH = 2, 12


@dataclass(frozen=True, slots=True)
class Result:
    """One setting in the table.

    It is a trial, or the runs of a setting with several seeds, under the first one's number.
    n_runs: of the setting, of which n_seeds completed. values: the objectives, means over those;
    spread: the standard deviation of the first one between them, NaN of fewer than two. best: of
    the watched metric, NaN if there is none; of several runs the mean. n_steps: the last step
    reported, of several runs the highest. n_pauses: of all runs. ran_with: what tells its session
    from the others', "" where all ran alike; of runs that differ in it, all of them.
    """

    number: int
    state: str
    values: tuple[float, ...]
    best: float
    n_steps: int | None
    why: str
    params: Mapping[str, Any]
    n_runs: int = 1
    n_seeds: int = 1
    spread: float = math.nan
    ran_with: str = ""
    n_pauses: int = 0


def rank(study: optuna.Study) -> list[Result]:
    """All settings that ran, best first, in the order of `iolaus.sweeps.study.ranking`."""
    # Looked at once: others may write meanwhile.
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    standings = _ranked(study, trials.values())
    known = ran_with(study.user_attrs, trials.values())
    return [
        _result(standing, [trials[run.number] for run in standing.runs], known)
        for standing in standings
    ]


def ranked(study: optuna.Study) -> list[Standing]:
    """The settings of a study, best first; failed trials that were run again are left out."""
    return _ranked(study, study.get_trials(deepcopy=False))


def _ranked(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[Standing]:
    directions = [direction.name.lower() for direction in study.directions]
    metric = metric_of(study)
    runs = runs_of(trials)
    return order(runs, directions, None if metric is None else metric.sign)


def _result(
    standing: Standing, trials: Sequence[FrozenTrial], ran_with: Mapping[int, str]
) -> Result:
    endings = [_ending(trial) for trial in trials]
    wrong = (
        ending
        for trial, ending in zip(trials, endings, strict=True)
        if trial.state is not TrialState.COMPLETE or ending[0] == INFEASIBLE
    )
    state, why = next(wrong, endings[0])  # says what went wrong, if anything did
    steps = [known for trial in trials if (known := record_of(trial).steps) is not None]
    done = [run.objectives[0] for run in standing.runs if run.objectives]
    return Result(
        trials[0].number,
        state,
        standing.objectives,
        standing.best,
        max(steps, default=None),
        why,
        setting_of(trials[0]),
        len(trials),
        len(done),
        _spread(done),
        " / ".join(dict.fromkeys(ran_with[t.number] for t in trials if t.number in ran_with)),
        sum(len(record_of(trial).pauses) for trial in trials),
    )


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):  # statistics.stdev fails on infinity
        return math.nan
    return statistics.stdev(values)


def _ending(trial: FrozenTrial) -> tuple[str, str]:
    """(state, reason) of a trial, for the table."""
    record = record_of(trial)
    state, _, reason = record.why.partition(": ")
    if record.verdict is not None and record.ending in (Ending.PRUNED, Ending.PAUSED):
        has_waited = record.verdict.rule == WAITS_RULE and record.ending is Ending.PRUNED
        if not has_waited:
            reason = f"{record.verdict.rule} at step {record.verdict.step:,}"
    if trial.state is TrialState.COMPLETE:
        reason = set_apart(record) or reason
    broken = ", ".join(broken_constraints(trial))
    if broken and trial.state is TrialState.COMPLETE:
        state, reason = INFEASIBLE, f"breaks {broken}"
    return state or state_of(trial), reason


@dataclass(frozen=True, slots=True)
class ResultsTable:
    """The ranking as a table that fits its terminal.

    Where that is narrow, the last parameters are left out, by name.
    columns: title and cells, each with a cell per row. params: those that may be left out. why: how
    each row ended.
    n_below: rows that are not shown. note: what to know before comparing rows, or "".
    """

    columns: Sequence[tuple[str, Sequence[str]]]
    params: Sequence[tuple[str, Sequence[str]]]
    why: Sequence[str]
    n_below: int
    note: str = ""

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
            shown.add_column(
                title, justify="left" if title in ("state", RAN_WITH) else "right", no_wrap=True
            )
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
        if self.note:
            yield Text(self.note)


def _width(column: tuple[str, Sequence[str]]) -> int:
    title, cells = column
    return max(map(len, [title, *cells])) + GAP


def table(results: Sequence[Result], metric: str, n_objectives: int = 1) -> ResultsTable:
    """The ranking for a terminal: the best `N_ROWS_SHOWN` rows, and how many there are below.

    Its columns are the trial, how it ended, what the study optimises (objective), the best value of
    the watched metric on its curve, the last step, how often it was paused (if any was), what it
    ran with (where trials differ in it), and the parameters.
    """
    rows = results[:N_ROWS_SHOWN]
    keys = list(dict.fromkeys(key for r in results for key in r.params))
    short = short_names(keys)
    columns = [("trial", [str(r.number) for r in rows]), ("state", [r.state for r in rows])]
    for i in range(n_objectives):
        title = "objective" if n_objectives == 1 else f"objective {i + 1}"
        columns.append((title, [_number(r.values[i]) if r.values else "" for r in rows]))
    if any(r.n_runs > 1 for r in results):
        columns += [
            ("± sd", [_number(r.spread) for r in rows]),
            ("seeds", [str(r.n_seeds) for r in rows]),
        ]
    if any(not math.isnan(r.best) for r in results):
        columns += [
            (f"best {metric}", [_number(r.best) for r in rows]),
            ("steps", ["" if r.n_steps is None else f"{r.n_steps:,}" for r in rows]),
        ]
    if any(r.n_pauses for r in results):
        columns.append(("pauses", [str(r.n_pauses or "") for r in rows]))
    if differ := any(r.ran_with for r in results):
        columns.append((RAN_WITH, [r.ran_with for r in rows]))
    params = [(short[key], [_number(r.params.get(key, "")) for r in rows]) for key in keys]
    n_below, note = len(results) - len(rows), ALIKE_ONLY.format(counts="") if differ else ""
    return ResultsTable(columns, params, [r.why for r in rows], n_below, note)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def save_results(study: optuna.Study, path: Path) -> None:
    """Write optimization_results.yaml: what the official sweeper writes, with trial and folder.

    The best trial is the first of the ranking, if that completed and is feasible; with several
    objectives the solutions are the Pareto front, in the order of the ranking. Of a setting with
    several seeds the values are means, and the folder is that of its first run.
    """
    content: dict[str, Any] = {"name": "optuna"}
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    standings = _ranked(study, trials.values())
    if len(study.directions) > 1:
        front = [(standing, trials[standing.runs[0].number]) for standing in standings]
        content["solutions"] = [
            {
                "params": setting_of(trial),
                "values": list(standing.objectives),
                "trial": trial.number,
                "folder": record_of(trial).run.folder,
            }
            for standing, trial in front
            if standing.on_front
        ]
    elif not standings or standings[0].state != "complete":
        content["best_params"] = None  # no feasible trial has completed
    else:
        own = [trials[run.number] for run in standings[0].runs]
        first, best = (
            own[0],
            _result(standings[0], own, ran_with(study.user_attrs, trials.values())),
        )
        content |= {
            "best_params": dict(best.params),
            "best_value": best.values[0],
            "best_trial": best.number,
            "best_folder": record_of(first).run.folder,
        }
        content |= {"n_seeds": best.n_seeds, "spread": best.spread} if best.n_runs > 1 else {}
        content |= {"ran_with": best.ran_with} if best.ran_with else {}
    OmegaConf.save(OmegaConf.create(content), path)


def iolaus_command(python: str, *arguments: str) -> str:
    """A command of `iolaus`, to be typed: the script beside this interpreter, or its module."""
    script = str(Path(python).with_name("iolaus"))
    iolaus = [script] if shutil.which(script) else [python, "-m", "iolaus.cli"]
    return shlex.join([*iolaus, *arguments])


def show_next(
    console: Console, python: str, folder: str, command: str, n_trials: int, n_failed: int = 0
) -> None:
    """Print the commands a user is likely to want now, of those that work with what is installed.

    python: the interpreter as it was called. command: what continues the sweep, given a new
    n_trials at its end. n_failed: trials that could be run again.
    """
    readers = [name for name, needed in READERS.items() if all(map(find_spec, needed))] or ["show"]
    commands = [(name, iolaus_command(python, name, folder)) for name in readers]
    commands.append(("continue", f"{command} hydra.sweeper.n_trials={n_trials}"))
    if n_failed:
        commands.append(("retry", iolaus_command(python, "retry", folder, "--failed")))
    for what, how in commands:
        console.print(Text(f"  {what:10} {how}"), soft_wrap=True)


def cut_off_text(trials: Iterable[FrozenTrial]) -> str:
    """What became of the trials that were cut off, in a sentence; "" if none was.

    Of one that was cut off several times the last time counts, and the steps of all. What a driver
    that was killed had not recorded is not known, so there may be more steps.
    """
    went_on = [pairs for trial in trials if (pairs := record_of(trial).went_on)]
    n_lost = sum(max(last - max(step, 0), 0) for pairs in went_on for step, last in pairs)
    n_anew = sum(pairs[-1][0] < 0 for pairs in went_on)
    n_on = len(went_on) - n_anew
    parts = [
        f"{counted(n_on, 'trial')} went on from {'its' if n_on == 1 else 'their'} checkpoints",
        f"{counted(n_anew, 'trial')} began anew, with no checkpoint loaded",
    ]
    said = " and ".join(part for part, n in zip(parts, (n_on, n_anew), strict=True) if n)
    again = f": at least {counted(n_lost, 'step')} computed again" if n_lost else ""
    return f"Of those cut off, {said}{again}." if said else ""


def pauses_text(study: optuna.Study) -> str:
    """What came of the trials that were paused, in a sentence; "" if none was.

    As in "3 trials paused, 2 went on (1 of them finished, the best of these 2nd)".
    """
    records = {t.number: record_of(t) for t in study.get_trials(deepcopy=False)}
    paused = {number: record.pauses for number, record in records.items() if record.pauses}
    thawed = {number for number, pauses in paused.items() if any(pause.thawed for pause in pauses)}
    if not paused:
        return ""
    places = [
        place
        for place, standing in enumerate(ranked(study), start=1)
        for run in standing.runs
        if run.number in thawed and run.state == "complete"
    ]
    best = f", the best of these {ordinal(places[0])}" if places else ""
    came = f" ({len(places) or 'none'} of them finished{best})" if thawed else ""
    return f"{counted(len(paused), 'trial')} paused, {len(thawed) or 'none'} went on{came}."


def holdout_text(study: optuna.Study) -> str:
    """How often stopping trials was wrong, as far as the holdout says; "" if none was held out."""
    ran = that_ran(study.get_trials(deepcopy=False))
    steps = {
        trial.number: step for trial in ran if (step := record_of(trial).held_out_step) is not None
    }
    if not steps:
        return ""
    sign = -1.0 if study.directions[0] is StudyDirection.MAXIMIZE else 1.0
    losses = {
        trial.number: sign * trial.values[0]
        for trial in ran
        if trial.state is TrialState.COMPLETE and trial.values
    }
    config = yaml.safe_load(study.user_attrs.get("config", "")) or {}
    return held_out(losses, steps, goal_rank(len(ran), n_best_of(config))).sentence()


def n_best_of(config: Mapping[str, Any]) -> float:
    """How many of the best count in a sweep of this config, times the cube root of its trials.

    It is what the pruner `stalled` takes for its goal, and without that what it would at caution 1.
    """
    node: Any = config
    for key in ("hydra", "sweeper", "pruner", "caution"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return BEST_PER_CUBE_ROOT * (node if isinstance(node, int | float) else 1.0)
