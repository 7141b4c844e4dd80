"""What Optuna does not promise and we rely on: a version that changes it fails here first."""

from __future__ import annotations

import warnings
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


def test_a_trial_just_created_is_at_hand(storage: optuna.storages.BaseStorage) -> None:
    """The same as the database's, and a copy: changing it changes nothing."""
    study = compat.study_id(optuna.create_study(storage=storage))
    for _ in range(3):
        trial = storage.create_new_trial(study)
    created = compat.created_trial(storage, study, trial)
    assert created == storage.get_trial(trial)
    created.user_attrs["a"] = 1
    assert storage.get_trial(trial).user_attrs == {}


def test_the_news_of_a_storage_are_what_changed_and_what_is_new(
    storage: optuna.storages.BaseStorage,
) -> None:
    """Also what another connection to the same database has written; by number."""
    study = optuna.create_study(storage=storage)
    asked = [study.ask() for _ in range(4)]
    number = compat.study_id(study)
    assert [t.number for t in compat.news(storage, number, [], 0)] == [0, 1, 2, 3]
    other = storage
    if url := str(getattr(getattr(storage, "_backend", None), "url", "")):
        other = open_backend(url)
    other.set_trial_state_values(compat.trial_id(asked[1]), TrialState.COMPLETE, [1.0])
    other.create_new_trial(number)
    found = compat.news(storage, number, [1, 2], 4)
    assert [(t.number, t.state) for t in found] == [
        (1, TrialState.COMPLETE),
        (2, TrialState.RUNNING),
        (4, TrialState.RUNNING),
    ]
    assert compat.news(storage, number, [], 5) == []


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
