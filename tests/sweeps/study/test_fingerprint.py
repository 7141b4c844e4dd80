"""What two sessions differ in is found and named; trials of one kind of session are not marked."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.study.fingerprint import (
    N_SHOWN,
    Fingerprint,
    differences,
    fingerprints_of,
    labels,
    latest,
    not_comparable,
    note_fingerprint,
    ran_with,
)

WORDS = st.text("ab.5", max_size=3)
TEXTS = st.dictionaries(WORDS, WORDS, max_size=3)
FINGERPRINTS = st.builds(Fingerprint, TEXTS, TEXTS, TEXTS)
FIVE = Fingerprint({"epochs": "5", "k": "1"}, {"train": "aaaa"}, {"torch": "2.3"})
FORTY = Fingerprint({"epochs": "40", "k": "1"}, {"train": "aaaa"}, {"torch": "2.3"})


@given(was=FINGERPRINTS, now=FINGERPRINTS)
def test_differences_are_found_and_only_they(was: Fingerprint, now: Fingerprint) -> None:
    """Equal sessions have one id and no differences, others have two ids and at least one."""
    assert (was.id == now.id) == (was == now) == (not differences(was, now))
    assert Fingerprint(dict(reversed(was.fixed.items())), was.code, was.versions).id == was.id


@given(known=st.lists(FINGERPRINTS, unique_by=lambda f: f.id, min_size=2, max_size=5))
def test_labels_tell_all_apart(known: list[Fingerprint]) -> None:
    """Of sessions that differ no two have the same label, and none has none."""
    said = labels({f.id: f for f in known})
    assert len(set(said.values())) == len(known)
    assert all(said.values())
    assert labels({known[0].id: known[0]}) == {known[0].id: ""}


def test_a_difference_is_named_with_what_was_and_what_is() -> None:
    """Settings and versions by their values, code by names; many are counted."""
    assert differences(FIVE, FORTY) == ["epochs was 5, now 40"]
    other = Fingerprint({"epochs": "5"}, {"train": "bbbb", "nets": "cccc"}, {"torch": "2.4"})
    removed, version, code = differences(FIVE, other)
    assert removed == "k was 1, now not there"
    assert version == "torch was 2.3, now 2.4"
    assert code.startswith("the code of train, nets has changed (was ")
    assert FIVE.code_version in code
    assert other.code_version in code
    many = Fingerprint({str(n): "1" for n in range(50)})
    assert len(differences(Fingerprint(), many)) == N_SHOWN + 1
    assert len(labels({f.id: f for f in (FIVE, many)})[many.id]) < 100
    long = [Fingerprint({"text": "x" * 1000 + end}) for end in "ab"]
    assert len(differences(*long)[0]) < 200
    assert len(set(labels({f.id: f for f in long}).values())) == 2


def study_of(*sessions: Fingerprint | None) -> optuna.Study:
    """A study with a trial of each session; None: one that kept no fingerprint."""
    study = optuna.create_study()
    entries = []
    for number, fingerprint in enumerate(sessions):
        if fingerprint is not None:
            note_fingerprint(study, fingerprint)
        entries.append({} if fingerprint is None else {"fingerprint": fingerprint.id})
        run = {"run": {"session": number}}
        study.add_trial(optuna.trial.create_trial(value=float(number), user_attrs=run))
    study.set_user_attr("provenance", entries)
    return study


def said(study: optuna.Study) -> dict[int, str]:
    return ran_with(study.user_attrs, study.get_trials(deepcopy=False))


def test_trials_are_marked_where_their_sessions_differ() -> None:
    """By what differs; one kind of session, an old study, and trials of nobody's have no mark."""
    study = study_of(FIVE, FIVE, FORTY)
    study.add_trial(optuna.trial.create_trial(value=0.0))
    assert said(study) == {0: "epochs=5", 1: "epochs=5", 2: "epochs=40"}
    assert said(study_of(FIVE, FIVE)) == said(study_of(None, None)) == said(study_of()) == {}
    older = said(study_of(None, FIVE, FORTY))
    assert list(older.values()) == ["not recorded", "epochs=5", "epochs=40"]
    assert said(study_of(None, FIVE)) == {0: "not recorded", 1: FIVE.id}


def test_what_a_session_is_compared_with() -> None:
    """The last session before it; results of any that is known to differ are not taken over."""
    study = study_of(None, FIVE, FORTY)
    assert latest(study.user_attrs) == FORTY
    assert latest(study_of(FIVE, None).user_attrs) is None
    assert latest({}) is None
    assert not_comparable(study.user_attrs, FIVE) == {2}
    assert not_comparable(study.user_attrs, Fingerprint()) == {1, 2}


def test_what_others_wrote_reads_as_not_known() -> None:
    """Attributes under our names that are not ours end nothing."""
    for junk in itertools.product(("x", 3, [3], {"fixed": [1], "code": {"a": 1}}), repeat=2):
        attrs: dict[str, Any] = dict(zip(("provenance", "fingerprint:a"), junk, strict=True))
        assert latest(attrs) is None
        assert ran_with(attrs, []) == {}
        assert all(json.dumps(asdict(f)) for f in fingerprints_of(attrs).values())
