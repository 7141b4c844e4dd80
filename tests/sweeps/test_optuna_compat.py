"""What Optuna does not promise and we rely on: a version that changes it fails here first."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
import threading
import warnings
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.study.backend import open_backend


@pytest.fixture(params=["memory", "database"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.storages.BaseStorage:
    return open_backend("sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/s.db")


def _schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        versions = database.execute("SELECT * FROM version_info, alembic_version").fetchall()
    return sorted(map(str, tables)) + versions


def test_tables_are_made_as_optuna_makes_them(tmp_path: Path) -> None:
    """The same tables and versions; the storage is its own but for its looks at them."""
    theirs = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/theirs.db")
    ours = compat.open_rdb(f"sqlite:///{tmp_path}/ours.db", {"connect_args": {"timeout": 60}})
    assert _schema(tmp_path / "ours.db") == _schema(tmp_path / "theirs.db")
    again = compat.open_rdb(f"sqlite:///{tmp_path}/theirs.db", {})
    for storage in (ours, again):
        assert vars(storage).keys() == vars(theirs).keys()
        for name in ("skip_compatibility_check", "heartbeat_interval", "grace_period"):
            assert getattr(storage, name) == getattr(theirs, name)
    study = optuna.create_study(storage=theirs, study_name="s")
    optuna.load_study(study_name="s", storage=again).optimize(lambda _: 0.5, n_trials=2)
    assert [trial.value for trial in study.trials] == [0.5, 0.5]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE version_info SET library_version = '4.0'",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
    ],
)
def test_tables_of_another_version_are_left_to_optuna(tmp_path: Path, change: str) -> None:
    """Whether they can be used is its to say; what is in them stays."""
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(storage=compat.open_rdb(url, {}), study_name="s").ask()
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        database.execute(change)
        database.commit()
    opened = compat.open_rdb(url, {})
    assert opened.get_current_version() == opened.get_head_version()
    assert len(optuna.load_study(study_name="s", storage=opened).trials) == 1


def test_a_file_is_opened_while_another_driver_writes_its_first(tmp_path: Path) -> None:
    """The switch to the write-ahead log waits, which SQLite by itself does not."""
    url = f"sqlite:///{tmp_path}/s.db"
    compat.open_rdb(url, {}).engine.dispose()
    with closing(sqlite3.connect(tmp_path / "s.db", check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.2, other.rollback)
        ending.start()
        assert open_backend(url).get_all_studies() == []
        ending.join()


def test_a_study_and_its_trials_have_ids_in_a_storage(storage: optuna.storages.BaseStorage) -> None:
    """What a study reads is found again in its storage by the ids."""
    first, study = optuna.create_study(storage=storage), optuna.create_study(storage=storage)
    first.ask()
    trial = study.ask()
    assert compat.storage_of(study) is study._storage
    assert storage.get_study_name_from_id(compat.study_id(study)) == study.study_name
    assert [compat.study_id(s) for s in storage.get_all_studies()] == [
        compat.study_id(first),
        compat.study_id(study),
    ]
    for one in (trial, study.trials[0]):
        assert storage.get_trial(compat.trial_id(one)).number == 0


def test_a_trial_can_be_given_any_distribution() -> None:
    """Suggest draws, records, and gives what was queued."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.25})
    assert compat.suggest(study.ask(), "x", FloatDistribution(0, 1)) == 0.25
    assert study.trials[0].params == {"x": 0.25}
    assert 0 <= compat.suggest(study.ask(), "x", FloatDistribution(0, 1)) <= 1


def test_an_attribute_reaches_a_trial_of_which_one_has_a_copy() -> None:
    """It is in the study, not in the copy."""
    study = optuna.create_study()
    trial = study.ask()
    copy = study.trials[0]
    compat.set_user_attr(study, copy, "a", 1)
    assert study.trials[trial.number].user_attrs == {"a": 1}
    assert copy.user_attrs == {}


def test_a_distribution_knows_what_it_contains() -> None:
    """Bounds belong to it; a choice that is none is a ValueError or not contained."""
    assert compat.contains(FloatDistribution(0, 1), 1.0)
    assert not compat.contains(FloatDistribution(0, 1), 1.5)
    assert compat.contains(CategoricalDistribution(["a", None]), None)
    with pytest.raises(ValueError, match="b"):
        compat.contains(CategoricalDistribution(["a", None]), "b")


def _template() -> optuna.trial.FrozenTrial:
    """A trial with one of everything."""
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params={"x": 0.5, "c": "b"},
        distributions={"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])},
        user_attrs={"a": {"b": [1, None]}},
        system_attrs={"s": "t"},
        intermediate_values={1: 0.5, 2: math.inf, 3: math.nan},
    )


def test_a_trial_is_created_as_optuna_would(storage: optuna.storages.BaseStorage) -> None:
    """With the next number of its study, and all that its template has."""
    optuna.create_study(storage=storage).ask()
    study = compat.study_id(optuna.create_study(storage=storage))
    templates = [_template(), optuna.trial.create_trial(state=TrialState.WAITING), _template()]
    last_id, all_made = -1, []
    for n_known, template in enumerate(templates):
        made = compat.create_trial(storage, study, template, n_known, last_id)
        assert made is not None
        assert made.number == n_known
        last_id = compat.trial_id(made)
        all_made.append(made)
    expected = storage.get_trial(storage.create_new_trial(study, _template()))
    for made in all_made:
        found = storage.get_trial(compat.trial_id(made))
        assert _content(found) == _content(made)
        assert found.datetime_start == made.datetime_start
    assert _content(expected) == _content(all_made[0])
    assert [trial.number for trial in storage.get_all_trials(study)] == [0, 1, 2, 3]


def _content(trial: optuna.trial.FrozenTrial) -> list[object]:
    curve = {step: str(value) for step, value in trial.intermediate_values.items()}
    attrs = [trial.user_attrs, trial.system_attrs, trial.params, trial.distributions]
    return [trial.state, trial.values, curve, *attrs]


def test_a_trial_is_created_only_if_it_is_the_next(storage: optuna.storages.BaseStorage) -> None:
    """Of a study in which another driver made one meanwhile, none is."""
    study = compat.study_id(optuna.create_study(storage=storage))
    first = compat.create_trial(storage, study, _template(), 0, -1, is_only_next=True)
    assert first is not None
    assert compat.create_trial(storage, study, _template(), 0, -1, is_only_next=True) is None
    assert storage.get_n_trials(study) == 1
    second = compat.create_trial(storage, study, _template(), 0, -1)
    assert second is not None
    assert second.number == 1


WRITES = [
    ("set_trial_param", "x", 0.25, FloatDistribution(0, 1)),
    ("set_trial_param", "c", 1, CategoricalDistribution(["a", "b"])),
    ("set_trial_user_attr", "a", {"b": 1}),
    ("set_trial_user_attr", "a", [None, "ä"]),  # the later one counts
    ("set_trial_system_attr", "a", 2.5),
    *(("set_trial_intermediate_value", step, 1.0 / (step + 1)) for step in range(3)),
    ("set_trial_intermediate_value", 1, math.inf),
    ("set_trial_intermediate_value", 3, math.nan),
    ("set_trial_state_values", TrialState.COMPLETE, [0.5, -math.inf]),
]


def test_many_writes_leave_what_one_after_the_other_would(
    storage: optuna.storages.BaseStorage,
) -> None:
    """Of every kind, twice for the same value too, and made once more after a lost answer."""
    study = compat.study_id(optuna.create_study(storage=storage, directions=["minimize"] * 2))
    one, other = (storage.create_new_trial(study) for _ in range(2))
    for name, *arguments in WRITES:
        getattr(storage, name)(one, *arguments)
    at = dt.datetime(2026, 11, 26, 12, 0, 0, 7)
    writes = [compat.TrialWrite(name, other, tuple(rest), at) for name, *rest in WRITES]
    assert compat.write_trials(storage, writes[:4], "") == set()
    assert compat.write_trials(storage, writes[:4], "") == set()
    assert compat.write_trials(storage, writes, "") == set()
    expected, found = storage.get_trial(one), storage.get_trial(other)
    assert _content(found) == _content(expected)
    assert found.datetime_complete is not None
    if isinstance(storage, optuna.storages._CachedStorage):
        assert found.datetime_complete == at
        assert compat.write_trials(storage, writes[:1], "") == set()  # a finished one: as it was
        assert _content(storage.get_trial(other)) == _content(expected)


def test_to_a_trial_of_another_driver_nothing_is_written(
    storage: optuna.storages.BaseStorage,
) -> None:
    """It is named; those of this driver in the same transaction are written."""
    study = compat.study_id(optuna.create_study(storage=storage))
    mine, lost = (storage.create_new_trial(study) for _ in range(2))
    storage.set_trial_user_attr(mine, compat.DRIVER_ATTR, "me")
    storage.set_trial_user_attr(lost, compat.DRIVER_ATTR, "you")
    writes = [compat.TrialWrite("set_trial_user_attr", t, ("a", 1)) for t in (mine, lost)]
    writes.append(compat.TrialWrite("", lost))
    assert compat.write_trials(storage, writes, "me") == {lost}
    assert storage.get_trial(mine).user_attrs == {compat.DRIVER_ATTR: "me", "a": 1}
    assert storage.get_trial(lost).user_attrs == {compat.DRIVER_ATTR: "you"}


def test_the_news_of_a_storage_are_what_changed_and_what_is_new(
    storage: optuna.storages.BaseStorage,
) -> None:
    """Also what another connection to the same database has written; by number."""
    study = optuna.create_study(storage=storage)
    asked = [study.ask() for _ in range(4)]
    number = compat.study_id(study)
    known = compat.news(storage, number, [], 0, -1)
    assert [trial.number for trial in known] == [0, 1, 2, 3]
    other = storage
    if url := str(getattr(getattr(storage, "_backend", None), "url", "")):
        other = open_backend(url)
    other.set_trial_state_values(compat.trial_id(asked[1]), TrialState.COMPLETE, [1.0])
    other.create_new_trial(number)
    found = compat.news(storage, number, known[1:3], 4, compat.trial_id(known[3]))
    assert [(t.number, t.state) for t in found] == [
        (1, TrialState.COMPLETE),
        (2, TrialState.RUNNING),
        (4, TrialState.RUNNING),
    ]
    assert compat.news(storage, number, [], 5, compat.trial_id(found[-1])) == []


def test_the_settings_of_optunas_pruners_can_be_read() -> None:
    """As they were given."""
    p = optuna.pruners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = p.MedianPruner()
        patient, wilcoxon = p.PatientPruner(inner, 7), p.WilcoxonPruner(p_threshold=0.2)
    assert compat.percentile(p.PercentilePruner(25.0)) == 25
    assert compat.percentile(inner) == 50
    assert compat.reduction_factor(p.SuccessiveHalvingPruner(reduction_factor=5)) == 5
    assert compat.reduction_factor(p.HyperbandPruner(reduction_factor=6)) == 6
    assert compat.thresholds(p.ThresholdPruner(lower=-1, upper=2)) == (-1, 2)
    assert compat.patience(patient) == 7
    assert compat.wrapped_pruner(patient) is inner
    assert compat.significance(wilcoxon) == 0.2


def test_reports_can_be_forgotten(storage: optuna.storages.BaseStorage) -> None:
    """One trial's intermediate values from a step on are gone, and nothing else."""
    study = optuna.create_study(storage=storage)
    one, other = study.ask(), study.ask()
    for trial in (one, other):
        for step in (2, 3, 4):
            trial.report(float(step), step)
        trial.set_user_attr("a", 1)
    compat.forget_reports(storage, compat.trial_id(one), 3)
    assert [t.intermediate_values for t in study.trials] == [{2: 2.0}, {2: 2.0, 3: 3.0, 4: 4.0}]
    assert [t.user_attrs for t in study.trials] == [{"a": 1}] * 2
    storage.set_trial_intermediate_value(compat.trial_id(one), 3, 9.0)
    assert study.trials[0].intermediate_values == {2: 2.0, 3: 9.0}
