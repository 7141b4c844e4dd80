from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.study.findings import lint_sentences


def test_findings_that_differ_in_numbers_are_one_kind() -> None:
    """Each kind is said once, by its first trial's sentence, with whose it is."""
    assert lint_sentences(
        {
            0: ("the rate is flat: from 0.2 to 0.19",),
            1: (),
            3: ("the rate is flat: from 0.1 to 0.09", "warm-up takes 40 of 100 steps"),
        }
    ) == [
        "Lint, of 2 of 3 trials (0, 3): the rate is flat: from 0.2 to 0.19 (trial 0; the others "
        "with their own numbers).",
        "Lint, of trial 3: warm-up takes 40 of 100 steps.",
    ]


@given(st.dictionaries(st.integers(0, 50), st.lists(st.sampled_from(("a: 1", "a: 2", "b 3", "c")))))
def test_every_trial_with_a_finding_is_counted(findings: dict[int, list[str]]) -> None:
    """One sentence per kind that occurs, the most frequent first; nothing of no finding."""
    counts = {
        kind: sum(any(text[0] == kind for text in own) for own in findings.values())
        for kind in "abc"
    }
    said = lint_sentences(findings)
    assert len(said) == sum(count > 0 for count in counts.values())
    shown = [1 if "Lint, of trial" in s else int(s.split()[2]) for s in said]
    assert shown == sorted((c for c in counts.values() if c), reverse=True)
