"""What a sweep should try next.

The suggested fixes of its trials with problems, as settings for its queue or as commands to type.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import CategoricalDistribution, json_to_distribution

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.fixes import as_text, rounded
from iolaus.analysis.diagnosis.shapes import shape_name
from iolaus.sweeps.errors import SweepError
from iolaus.sweeps.study.folder import own_command, read_study
from iolaus.sweeps.study.record import TrialRecord, n_settings, outside_of

__all__ = ["NextTrial", "as_frame", "continuing", "enqueue", "next_trials", "rerun_command"]


@dataclass(frozen=True, slots=True)
class NextTrial:
    """One thing to try.

    fixes: the trials it would fix, the most promising first. shape, overrides, advice: of that one.
    params: the whole setting, in the sweep's own search space. beyond: values by key that lie
    outside of it, to be run instead of those in params; `outside` says which and why, "" if none
    does. nearest: the setting inside that comes nearest to such a one; empty if none is nearer than
    the trial's own, or the fix is inside. command: runs it by itself, "" if the sweep does not say
    by which command it was run.
    """

    fixes: tuple[int, ...]
    shape: str
    overrides: tuple[str, ...]
    advice: str
    params: Mapping[str, Any]
    outside: str
    command: str
    beyond: Mapping[str, Any] = field(default_factory=dict)
    nearest: Mapping[str, Any] = field(default_factory=dict)

    def nearest_text(self) -> str:
        """What is nearest inside the search space, as overrides; "" if there is nothing."""
        return " ".join(f"{key}={as_text(value)}" for key, value in self.nearest.items())


def next_trials(sweep: Sweep, diagnosis: pd.DataFrame) -> list[NextTrial]:
    """The suggested fixes of a sweep's trials with problems, each setting once, by promise.

    Settings that have been run are left out, also where a run's value is the fix's when rounded.
    diagnosis: of `iolaus.analysis.diagnosis.diagnose.diagnose`. Promise: a suggested fix of a trial
    that came far (a low best loss) ranks before one of a trial that never left the start. Nothing
    is drawn at random: what a fixed setting needs besides, such as the threshold of a clipping it
    did not have, is taken from the best trial that has it.
    """
    problems = diagnosis[diagnosis["fix"].map(len) > 0]
    order = (
        (sweep.metric_sign * sweep.trials["best"].reindex(problems.index).astype(float))
        .sort_values(kind="stable")
        .index
    )
    settings, leader = _settings(sweep), sweep.trials["setting"]
    order = order[~leader.reindex(order).duplicated()]  # seeds of one setting have one fix
    run: dict[frozenset[str], set[Any]] = {}
    found: dict[Any, NextTrial] = {}
    for number, row in zip(order, problems.loc[order].to_dict("records"), strict=True):
        changes = dict(_parsed(text) for text in row["fix"])
        params, outside = _in_space(sweep, {**settings[number], **changes}, changes)
        beyond = {k: v for k, v in changes.items() if k in outside}
        nearest = _nearest(sweep.space, settings[number], changes) if outside else {}
        whole = params if not outside else {**settings[number], **changes}
        changed = frozenset(changes)
        if changed not in run:
            run[changed] = {_same(own, changed) for own in settings.values()}
        if _same(whole, changed) in run[changed]:
            continue
        key = _same(whole)
        if key in found:
            known = found[key]
            found[key] = replace(known, fixes=(*known.fixes, int(number)))
            continue
        command = _command(sweep, {**settings[number], **changes})
        found[key] = NextTrial(
            (int(number),),
            row["shape"],
            row["fix"],
            row["advice"],
            {k: settings[number].get(k, v) if k in beyond else v for k, v in params.items()},
            "; ".join(outside.values()),
            command,
            beyond,
            nearest,
        )
    return list(found.values())


def as_frame(trials: Sequence[NextTrial]) -> pd.DataFrame:
    """For a table: columns change, of trial, because, advice, and where it can be run."""
    table = pd.DataFrame(
        {
            "change": [" ".join(t.overrides) for t in trials],
            "of trial": [", ".join(map(str, t.fixes)) for t in trials],
            "because": [shape_name(t.shape) for t in trials],
            "advice": [t.advice for t in trials],
            "where": [
                f"outside: {t.outside}" if t.outside else "in the search space" if t.params else ""
                for t in trials
            ],
        }
    )
    return table if table["where"].any() else table.drop(columns="where")


def enqueue(folder: Path, trials: Sequence[NextTrial], beyond: bool = False) -> list[NextTrial]:
    """Put them into the study's queue, of those outside of its space the nearest inside, if any.

    beyond: themselves instead; such a trial says so in its record, samplers do not see it, and
    tables tell it apart. Returns the ones that were not queued before.
    """
    study = read_study(folder)
    queued = {
        _same({**t.system_attrs.get("fixed_params", {}), **outside_of(t.user_attrs)})
        for t in study.get_trials(deepcopy=False)
    }
    new = []
    for trial in trials:
        outside = _texts(trial.beyond) if beyond else {}
        params = {**trial.params, **({} if beyond else trial.nearest)}
        is_there = not trial.outside or beyond or trial.nearest
        if not is_there or _same({**params, **outside}) in queued:
            continue
        record = TrialRecord(fix_of=trial.fixes[0], outside=outside)
        study.enqueue_trial(params, user_attrs=record.to_attrs())
        new.append(trial)
    return new


def run_queued(folder: Path, sweep: Sweep, output: int | None = None) -> int:
    """Continue the sweep until its queue is run; returns the command's exit code.

    output: the file descriptor for what it prints (standard output). Raises SweepError if the sweep
    is of no command that is known.
    """
    command = continuing(folder, sweep)
    if not command:
        raise SweepError(f"{folder} does not say by which command it was run")
    cwd = sweep.config.get("hydra", {}).get("runtime", {}).get("cwd", ".")
    return subprocess.run(shlex.split(command), cwd=cwd, check=False, stdout=output).returncode


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: as_text(value) for key, value in values.items()}


def _nearest(
    space: Mapping[str, Any], setting: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The changes as far as ranges allow; empty if one has none, or the setting is there already.

    Where a decay cannot be as short as it should, its rate makes up for it: by
    `decay_rate ** (t / decay_steps)` both give the same learning rates.
    """
    found = dict(changes)
    for key, value in changes.items():
        known, is_inside = _as_searched(space[key], value) if key in space else (None, False)
        if is_inside:
            found[key] = known
            continue
        bounds = space[key]["attributes"] if key in space else {}
        if "low" not in bounds or not isinstance(value, int | float):
            return {}
        bound = type(bounds["low"])(min(max(value, bounds["low"]), bounds["high"]))
        found[key] = bound
        rate_key = f"{key.rpartition('.')[0]}.decay_rate".lstrip(".")
        rate = found.get(rate_key, setting.get(rate_key))
        rates = space.get(rate_key, {}).get("attributes", {})
        is_decay = key.rpartition(".")[2] == "decay_steps" and "low" in rates
        if is_decay and isinstance(rate, int | float) and rate > 0 and value > 0:
            same = rate ** (bound / value)
            found[rate_key] = float(f"{min(max(same, rates['low']), rates['high']):.3g}")
    return {} if _same({**setting, **found}) == _same(setting) else found


def continuing(folder: Path, sweep: Sweep) -> str:
    """The sweep's own command, reaching far enough to run what is queued; "" if it is not known."""
    n_trials = n_settings(read_study(folder).get_trials(deepcopy=False))
    command = own_command(sweep.provenance)
    if not command:
        return ""
    set_here = ("hydra.sweeper.n_trials", "hydra.sweep.dir")
    kept = [part for part in command if part.partition("=")[0] not in set_here]
    return shlex.join(
        [*kept, f"hydra.sweep.dir={folder.absolute()}", f"hydra.sweeper.n_trials={n_trials}"]
    )


def _same(params: Mapping[str, Any], changed: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """What two equal settings share: numbers to four digits, of changed keys to a fix's two."""
    return tuple(
        sorted(
            (key, as_text(rounded(value) if key in changed and _is_number(value) else value))
            for key, value in params.items()
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _settings(sweep: Sweep) -> dict[int, dict[str, Any]]:
    """The parameters of each trial, without those that it has not."""
    columns = sweep.trials.filter(like="params.")
    keys = [str(column).removeprefix("params.") for column in columns]
    rows = (zip(keys, row, strict=True) for row in columns.itertuples(index=False, name=None))
    return {
        int(number): {key: value for key, value in row if not pd.isna(value)}
        for number, row in zip(sweep.trials.index, rows, strict=True)
    }


def _in_space(
    sweep: Sweep, params: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(the whole changed setting in the space's values, what of it is outside and why, by key)."""
    setting: dict[str, Any] = {}
    outside: dict[str, str] = {}
    for key in [*sweep.space, *(key for key in changes if key not in sweep.space)]:
        if key not in sweep.space:
            outside[key] = f"{key} is not searched"
            continue
        if not all(
            str(params.get(k)) in allowed for k, allowed in sweep.space[key].get("when", {}).items()
        ):
            continue
        value = params[key] if key in params else _of_best(sweep, key)
        if value is None and key not in changes:
            continue  # nobody has it: the sampler's business
        known, is_inside = _as_searched(sweep.space[key], value)
        setting[key] = known
        if not is_inside and key in changes:
            outside[key] = f"{key}={as_text(value)} is not in {_range(sweep.space[key])}"
    return setting, outside


def _as_searched(signature: Mapping[str, Any], value: Any) -> tuple[Any, bool]:
    """(a value as the distribution has it, whether it is in the distribution)."""
    distribution = json_to_distribution(
        json.dumps({k: v for k, v in signature.items() if k != "when"})
    )
    if isinstance(distribution, CategoricalDistribution):
        if value == "null" and None in distribution.choices:
            value = None  # as a table of trials has it
        same = [c for c in distribution.choices if c == value or str(c) == str(value)]
        return (same[0], True) if same else (value, False)
    try:
        known = type(distribution.low)(value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return value, False
    return known, bool(distribution.low <= known <= distribution.high)  # type: ignore[attr-defined]


def _range(signature: Mapping[str, Any]) -> str:
    known = signature["attributes"]
    if "choices" in known:
        return f"choice({', '.join(map(str, known['choices']))})"
    return f"{known['low']:g} to {known['high']:g}"


def _of_best(sweep: Sweep, key: str) -> Any:
    """The value of a parameter in the best trial that has it."""
    column = f"params.{key}"
    if column not in sweep.trials:
        return None
    having = sweep.trials[sweep.trials[column].notna() & sweep.trials["final"].notna()]
    return (
        having[column].iloc[int((sweep.metric_sign * having["final"]).argmin())]
        if len(having)
        else None
    )


def rerun_command(sweep: Sweep, trial: int) -> str:
    """One run of the app with a trial's own values and seed; "" if its command is not known."""
    row = sweep.trials.loc[trial]
    values = {
        str(c).removeprefix("params."): v
        for c, v in row.items()
        if str(c).startswith("params.") and not pd.isna(v)
    }
    sweeper = sweep.config.get("hydra", {}).get("sweeper", {})
    seed = row.get("seed")
    if seed is not None and not pd.isna(seed):
        values.setdefault(str(sweeper.get("seed_key") or "seed"), int(seed))
    return _command(sweep, values)


def _command(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """One run of the app with these values: the sweep's command without what makes it a sweep."""
    command = own_command(sweep.provenance)
    if not command:
        return ""
    keys = {key.lstrip("+~") for key in values}
    kept = [
        part
        for i, part in enumerate(command)
        if part != "--multirun"
        and not (part == "-m" and i > 2)  # the first is Python's
        and not part.lstrip("+~").startswith(("hydra.", "hydra/"))
        and part.lstrip("+~").partition("=")[0] not in keys
    ]
    return shlex.join([*kept, *(f"{key}={as_text(value)}" for key, value in values.items())])


def _parsed(override: str) -> tuple[str, Any]:
    """(key, value) of an override that `iolaus.analysis.diagnosis.fixes` wrote."""
    import yaml

    key, _, text = override.partition("=")
    value = yaml.safe_load(text)
    try:
        return key, float(value) if isinstance(value, str) else value  # YAML reads 1e-05 as a text
    except ValueError:
        return key, value
