"""One order: every table, file, sentence and figure names the same first setting."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from iolaus.analysis.data.sweep import Sweep, load
from iolaus.analysis.ranking.rank import as_document, best_trial, rank
from iolaus.analysis.report.dashboard import ReviewedStorage
from iolaus.analysis.report.notes import review
from iolaus.analysis.report.report import report
from iolaus.sweeps.curves import SCHEMA
from iolaus.sweeps.study import summary

N_REPORTS = 30


def made(folder: Path, seed: int, directions: tuple[str, ...], n_seeds: int) -> optuna.Study:
    """A sweep's folder whose last reports are spikes half of the time.

    Among its trials are pruned and failed ones, infeasible ones with the best objective of all, and
    a duplicate of the best; of settings with several seeds each has a lucky one.
    """
    rng = np.random.default_rng(seed)
    (folder / "curves").mkdir()
    (folder / "sweep.yaml").write_text(
        f"study_name: s\nstorage: null\ndirections: [{', '.join(directions)}]\nmetric: loss\n"
        "objective: final\n"
    )
    study = optuna.create_study(
        study_name="s", storage=f"sqlite:///{folder / 'study.db'}", directions=list(directions)
    )
    sign = -1.0 if directions[0] == "maximize" else 1.0
    trials: list[dict[str, Any]] = []
    tables = []
    for number in range(6 * n_seeds):
        setting = number // n_seeds * n_seeds
        state = (TrialState.COMPLETE,) * 4 + (TrialState.PRUNED, TrialState.FAIL)
        is_bad = number // n_seeds == 2
        steps = np.arange(N_REPORTS)
        level = 1.0 + 0.05 * (number // n_seeds) - (2.0 if is_bad else 0.0)
        loss = level + 2.0 * np.exp(-steps / 4) + rng.normal(0, 0.02, N_REPORTS)
        if rng.random() < 0.5:
            loss[-1] += rng.choice([-0.4, 0.4])
        values = sign * loss
        columns = {"trial": np.full(N_REPORTS, number), "attempt": 0 * steps}
        columns |= {"step": steps, "seconds": 1.0 * steps}
        table = {**columns, "metric": ["loss"] * N_REPORTS, "value": values}
        tables.append(pa.table(table, SCHEMA))
        own = state[number // n_seeds]
        repeat = {"repeat_of": setting, "repeat": number - setting} if number != setting else {}
        run = {
            "best": float(sign * np.min(sign * values)),
            "final": float(values[-1]),
            "folder": f"trials/{number}",
        }
        objectives = [float(values[-1]), *(float(rng.normal()) for _ in directions[1:])]
        trials.append(
            {
                "state": own,
                "values": objectives if own is TrialState.COMPLETE else None,
                "constraints": {"memory": 1.0 if is_bad else -1.0},
                "user_attrs": {
                    "steps": N_REPORTS - 1,
                    "run": run,
                    "seed": number - setting,
                    **repeat,
                },
                "lr": 0.1 + 0.1 * (number // n_seeds),
            }
        )
    completed = [t for t in trials if t["state"] is TrialState.COMPLETE and t["lr"] != 0.3]
    lucky = min(completed, key=lambda t: sign * t["values"][0])
    of = trials.index(lucky)
    why = {"why": f"duplicate: the setting of trial {of}, not run again", "duplicate_of": of}
    trials.append({**lucky, "user_attrs": why})
    for trial in trials:
        lr = {"params": {"lr": trial.pop("lr")}, "distributions": {"lr": FloatDistribution(0, 1)}}
        study.add_trial(create_trial(**trial, **lr))
    pq.write_table(pa.concat_tables(tables), folder / "curves" / "a-000000.parquet")
    return study


def named_first(study: optuna.Study, sweep: Sweep, path: Path) -> dict[str, int | None]:
    """The setting that each output names first."""
    out = io.StringIO()
    n_objectives = len(study.directions)
    Console(file=out, width=200).print(summary.table(summary.rank(study), "loss", n_objectives))
    summary.save_results(study, path)
    results = yaml.safe_load(path.read_text())
    solutions = results["solutions"][0]["trial"] if n_objectives > 1 else results["best_trial"]
    ranking = rank(sweep)
    notes = review(sweep, 1)
    row = next(line for line in notes.about.splitlines() if line.startswith("| ["))
    (section,) = (s for s in report(sweep, ranking).sections if s.title == "Ranking")
    (table,) = (
        block.frame  # type: ignore[union-attr]
        for block in section.blocks
        if getattr(block, "caption", "").startswith("Completed settings")
    )
    best = best_trial(sweep)
    storage: Any = ReviewedStorage(study._storage, study._study_id, notes)
    shown = None if n_objectives > 1 else storage.get_best_trial(study._study_id)
    return {
        "dashboard": ranking.winner
        if shown is None
        else int(sweep.trials["setting"][shown.number]),
        "end table": int(out.getvalue().splitlines()[1].split()[0]),
        "results file": solutions,
        "ranking": ranking.winner,
        "ranking for machines": as_document(ranking)["settings"][0]["setting"],
        "ranking for readers": int(ranking.shown()["setting"].iloc[0]),
        "headline": int(re.match(r"(?:Setting|Run) (\d+) ", ranking.headline())[1]),  # type: ignore[index]
        "report": int(table["setting"].iloc[0]),
        "note": int(re.match(r"\| \[(\d+)\]", row)[1]),  # type: ignore[index]
        "figures": None if best is None else int(sweep.trials["setting"][best]),
    }


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(
    "directions", [("minimize",), ("maximize",), ("minimize", "maximize")], ids="+".join
)
@pytest.mark.parametrize("seed", range(3))
def test_all_outputs_name_the_same_first(
    tmp_path: Path, seed: int, directions: tuple[str, ...], n_seeds: int
) -> None:
    """The feasible setting with the best mean objective is first in all of them, whatever the ends
    of the curves say; where those disagree, the sentences say so.
    """
    study = made(tmp_path, seed, directions, n_seeds)
    sweep = load(tmp_path)
    sign = -1.0 if directions[0] == "maximize" else 1.0
    done = sweep.trials[sweep.trials["state"].eq("complete") & sweep.trials["infeasible"].eq("")]
    own = done[~done["why"].str.startswith("duplicate")]
    best = int((sign * own.groupby("setting")["objective"].mean()).idxmin())
    first = named_first(study, sweep, tmp_path / "optimization_results.yaml")
    assert first == dict.fromkeys(first, best)
    ranking = rank(sweep)
    objections = [s for s in ranking.sentences() if f" {best} has the" in s]
    assert len(objections) == (ranking.level_leader != best)
    if objections:
        other = f"{'setting' if ranking.is_repeated else 'run'} {ranking.level_leader}"
        assert f"{'below' if sign < 0 else 'above'} {other}" in objections[0]
        is_tied = best in ranking.first
        assert ("within the noise" in objections[0]) is (ranking.is_repeated and is_tied)
        assert ("beyond the noise" in objections[0]) is (ranking.is_repeated and not is_tied)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(("objective", "at"), [("final", -1), ("best", 40)])
def test_a_spike_wins_but_is_called_out(direction: str, objective: str, at: int) -> None:
    """The lowest objective is first even if it is a single report far off its curve.

    That it may be luck is said, and no sentence calls it better.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    rng = np.random.default_rng(0)
    steps = np.arange(60)
    rows = []
    for trial, end in enumerate([2.0, 1.0, 3.0]):
        loss = end + 2 * np.exp(-steps / 8) + rng.normal(0, 0.01, 60)
        loss[at] = 0.5 if trial == 0 else loss[at]
        rows.append(pd.DataFrame({"trial": trial, "step": steps, "value": sign * loss}))
    frame = pd.concat(rows).assign(metric="loss", examples=math.nan, seconds=0.0)
    values = frame.assign(value=sign * frame["value"]).groupby("trial")["value"]
    found = sign * (values.last() if objective == "final" else values.min())
    trials = pd.DataFrame(
        {"setting": range(3), "state": "complete", "why": "completed", "objective": found}
    ).assign(best=found, final=found, seed=math.nan, code="a")
    ranking = rank(Sweep("s", "loss", (direction,), trials, frame))
    assert ranking.winner == 0
    assert ranking.level_leader == 1
    said = " ".join(ranking.sentences())
    best, worse = ("highest", "below") if sign < 0 else ("lowest", "above")
    lies = "its curve ends" if objective == "final" else "its curve's best lies"
    assert f"Run 0 has the {best} objective, {sign * 0.5:.4g}, but {lies} {worse} run 1" in said
    assert "its lead may be the luck of one report" in said
    came_out = f"Run 0 {'came out' if objective == 'best' else 'ended'} {best}, objective"
    assert said.startswith(came_out)
    assert "is better than" not in said
