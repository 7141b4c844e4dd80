"""A sweep before its first trial: every function has an answer."""

import dataclasses
from collections.abc import Callable

import pandas as pd
import pytest

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis.convergence import convergence, default_target, time_to_target
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.next_trials import next_trials
from iolaus.analysis.importance import importance, interactions, shares
from iolaus.analysis.ranking.pareto import pareto, shown
from iolaus.analysis.ranking.rank import compare, rank
from iolaus.analysis.replay.holdout import pruning
from iolaus.analysis.report.trial import described

Make = Callable[..., Sweep]
TABLES: dict[str, Callable[[Sweep], pd.DataFrame]] = {
    "convergence": convergence,
    "convergence by seconds": lambda sweep: convergence(sweep, "seconds"),
    "diagnose": diagnose,
    "rank": lambda sweep: rank(sweep).table,
    "rank for a reader": lambda sweep: rank(sweep).shown(),
    "compare": lambda sweep: compare([sweep, sweep]).table,
    "importance": importance,
    "interactions": interactions,
    "shares": lambda sweep: shares(sweep, diagnose(sweep)),
    "pareto": pareto,
    "pareto for a reader": lambda sweep: shown(pareto(sweep)),
}


@pytest.fixture
def not_begun(made_sweep: Make) -> Sweep:
    sweep = made_sweep(1)
    return dataclasses.replace(sweep, trials=pd.DataFrame(), curves=sweep.curves.head(0))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.filterwarnings("error")
def test_without_trials_every_table_is_empty_and_has_its_columns(
    table: Callable[[Sweep], pd.DataFrame], not_begun: Sweep, made_sweep: Make
) -> None:
    """Nothing fails before the first trial: tables are empty, with the columns (parameters aside)
    they always have.
    """
    empty = table(not_begun)
    assert empty.empty
    params = {
        name
        for key in made_sweep().trials.filter(like="params.")
        for name in (key, key.removeprefix("params."))
    }
    named = ("steps to loss",)  # only known once there is one
    usual = {
        str(column) for column in table(made_sweep()).columns if not str(column).startswith(named)
    }
    assert set(empty.columns) >= usual - params


def test_without_trials_what_is_no_table_says_so(not_begun: Sweep) -> None:
    """Lists are empty, numbers NaN; what needs a trial says in a sentence that there is none."""
    assert next_trials(not_begun, diagnose(not_begun)) == []
    assert default_target(not_begun) != default_target(not_begun)
    assert pruning(not_begun).sentences() == []
    assert rank(not_begun).sentences() == ["No trial has run."]
    with pytest.raises(ValueError, match="no trial has a finite report"):
        time_to_target(convergence(not_begun))
    with pytest.raises(ValueError, match="no trial 0 that has run"):
        described(not_begun, 0)
