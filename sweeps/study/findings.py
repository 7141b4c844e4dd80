"""What a lint found in the trials of a sweep, in sentences of one kind each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["lint_sentences"]

N_NAMED = 8  # trials of one kind


def lint_sentences(findings: Mapping[int, Sequence[str]]) -> list[str]:
    """One sentence per kind of finding, the most frequent first: the first trial's, and whose.

    findings: of each trial, by number. Findings are of one kind that are alike up to the first
    number or colon: what follows is the trial's own.
    """
    kinds: dict[str, dict[int, str]] = {}
    for number, texts in sorted(findings.items()):
        for text in texts:
            kinds.setdefault(re.split(r"[:\d]", text)[0], {}).setdefault(number, text)
    sentences = []
    for own in sorted(kinds.values(), key=lambda own: (-len(own), min(own))):
        (first, text), *others = own.items()
        more = f" (trial {first}; the others with their own numbers)" if others else ""
        sentences.append(f"Lint, of {_trials(list(own), len(findings))}: {text}{more}.")
    return sentences


def _trials(numbers: Sequence[int], n_trials: int) -> str:
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    named = ", ".join(map(str, numbers[:N_NAMED])) + (" ..." if len(numbers) > N_NAMED else "")
    return f"{len(numbers)} of {n_trials} trials ({named})"
