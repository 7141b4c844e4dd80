"""What a trial leaves in the study comes back as it was; what others leave there does no harm."""

import json
import math
from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from iolaus.sweeps.study.record import Run, TrialRecord, was_interrupted
from iolaus.sweeps.types import Ending, Plan, Verdict

numbers = st.floats(allow_nan=False, allow_infinity=False)
whole = st.none() | st.integers(0, 2**40)
text = st.text(max_size=8)
plans = st.builds(
    Plan,
    st.none() | st.integers(1, 10**6),
    st.dictionaries(st.integers(0, 100), numbers, max_size=4).map(
        lambda corners: tuple(sorted(corners.items()))
    ),
)
runs = st.builds(
    Run, text, whole, whole, st.none() | numbers, st.none() | numbers, whole, st.none() | numbers
)
verdicts = st.none() | st.builds(
    Verdict,
    st.text(min_size=1, max_size=8),
    st.integers(0, 10**6),
    st.text(min_size=1, max_size=8),
    st.dictionaries(text, numbers, max_size=3),
)
records = st.builds(
    TrialRecord, driver=text, plan=plans, ending=st.none() | st.sampled_from(Ending), steps=whole,
    run=runs, log=text, findings=st.lists(text, max_size=3).map(tuple), seed=whole,
    repeat=st.integers(0, 100), repeat_of=whole, duplicate_of=whole, again_for=whole, fix_of=whole,
    verdict=verdicts, held_out=text, held_out_step=whole,
)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    *TrialRecord.__slots__, "n_steps", "lr_plan", "verdict_rule", "verdict_step",
    "verdict_numbers", "audited", "audited_step",
)  # fmt: skip


@given(records)
def test_a_record_survives_the_study(record: TrialRecord) -> None:
    """Through attributes and JSON, which must be strict, it comes back equal."""
    stored = json.loads(json.dumps(record.to_attrs(), allow_nan=False))
    assert TrialRecord.from_attrs(stored) == record


@given(st.dictionaries(st.sampled_from(NAMES) | text, anything))
def test_attributes_of_other_tools_are_read_without_harm(attrs: dict[str, Any]) -> None:
    """Whatever stands there, a record comes of it, and is itself one that survives."""
    record = TrialRecord.from_attrs(attrs)
    stored = json.loads(json.dumps(record.to_attrs(), allow_nan=False))
    assert TrialRecord.from_attrs(stored) == record


def test_what_no_number_is_is_left_out() -> None:
    """NaN and infinity are no JSON; what is not known costs no attribute."""
    verdict = Verdict("stalled", 7, "flat", {"slope": 0.25, "noise": math.nan})
    attrs = TrialRecord(run=Run("t/0", best=math.inf), verdict=verdict).to_attrs()
    assert attrs["run"] == {"folder": "t/0"}
    assert attrs["verdict_numbers"] == {"slope": 0.25}
    assert TrialRecord().to_attrs() == {}


def test_an_older_study_says_the_ending_in_words() -> None:
    """Without `ending` it is the first word of `why`; that of another tool is none."""
    for ending in Ending:
        assert TrialRecord.from_attrs({"why": f"{ending}: because"}).ending is ending
        assert TrialRecord.from_attrs({"why": str(ending)}).ending is ending
    assert TrialRecord.from_attrs({"why": "interrupted by the cat"}).ending is None
    old = TrialRecord.from_attrs({"audited": "flat", "audited_step": 9})
    assert (old.held_out, old.held_out_step) == ("flat", 9)


def test_only_our_own_interruption_counts() -> None:
    """A failure whose sentence merely begins with the word has run."""
    for attrs, expected in (
        ({"ending": "interrupted", "why": "stopped"}, True),
        ({"why": "interrupted: its driver died"}, True),
        ({"ending": "failed", "why": "interrupted: says the task itself"}, False),
        ({}, False),
    ):
        trial = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs)
        assert was_interrupted(trial) is expected
