"""What a session's results depend on beside the search, and where two sessions differ in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import optuna

from iolaus.sweeps.study.record import record_of

__all__ = [
    "ALIKE_ONLY",
    "RAN_WITH",
    "Fingerprint",
    "differences",
    "fingerprints_of",
    "labels",
    "latest",
    "not_comparable",
    "note_fingerprint",
    "ran_with",
    "session_ids",
]

# The study's user attributes of fingerprints: this, then the fingerprint's id.
_ATTR = "fingerprint:"
UNKNOWN = "not recorded"
# The heading of the labels in every table, and what they are for.
RAN_WITH = "ran with"
ALIKE_ONLY = (
    "The trials ran with different settings, code or versions{counts}: that may be the difference, "
    "and not what was searched."
)
N_SHOWN = 6  # differences in a sentence, the others are counted
N_IN_LABEL = 3  # the same in a table
LENGTH_SHOWN = 40  # of a value


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a session's results depend on beside the search.

    fixed: the task's config as text by dotted key, but for what is searched. code: digests by name
    of the modules and packages that are nobody's installed version. versions: of installed packages
    by name. Two sessions are the same if all three are.
    """

    fixed: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal for equal fingerprints and else not."""
        return _digest(asdict(self), 12)

    @property
    def code_version(self) -> str:
        """Seven hexadecimal digits for all of the code, "" if there is none."""
        return _digest(dict(self.code), 7) if self.code else ""


def differences(was: Fingerprint, now: Fingerprint) -> list[str]:
    """Where two sessions differ, in words such as `epochs was 5, now 40`; empty where they do not.

    Settings come first, then versions of packages, then the code with the names of what changed.
    """
    found = [
        f"{key} was {_value(before, key)}, now {_value(after, key)}"
        for before, after in ((was.fixed, now.fixed), (was.versions, now.versions))
        for key in _changed(before, after)
    ]
    if len(found) > N_SHOWN:
        found = [*found[:N_SHOWN], f"{len(found) - N_SHOWN} more settings or versions differ"]
    if names := _changed(was.code, now.code):
        more = [f"{len(names) - N_SHOWN} more"] if len(names) > N_SHOWN else []
        found.append(
            f"the code of {', '.join([*names[:N_SHOWN], *more])} has changed "
            f"(was {was.code_version or 'none'}, now {now.code_version or 'none'})"
        )
    return found


def labels(known: Mapping[str, Fingerprint]) -> dict[str, str]:
    """What tells each fingerprint from the others, by id, such as `epochs=40, code 1a2b3c4`.

    "" where there is nothing to tell apart. The id "" stands for sessions of which no fingerprint
    is kept, and reads `not recorded` beside others.
    """
    if len(known) < 2:
        return dict.fromkeys(known, "")
    has_unknown = "" in known
    kept = [fingerprint for name, fingerprint in known.items() if name]
    settings = _varying(kept, lambda f: f.fixed)
    versions = _varying(kept, lambda f: f.versions)
    has_other_code = len({f.code_version for f in kept}) > 1

    def label(name: str, of: Fingerprint) -> str:
        if not name:
            return UNKNOWN
        parts = [f"{key}={_value(of.fixed, key)}" for key in settings]
        parts += [f"{key} {_value(of.versions, key)}" for key in versions]
        parts = [*parts[:N_IN_LABEL], name] if len(parts) > N_IN_LABEL else parts
        parts += [f"code {of.code_version}"] if has_other_code else []
        return ", ".join(parts) or (name if has_unknown else "")

    return {name: label(name, fingerprint) for name, fingerprint in known.items()}


# What a study keeps of them. Each is kept once, under its own digest, so that drivers that begin
# side by side write the same.


def note_fingerprint(study: optuna.Study, fingerprint: Fingerprint) -> None:
    """Keep a fingerprint in the study, under its id."""
    study.set_user_attr(_ATTR + fingerprint.id, asdict(fingerprint))


def fingerprints_of(study_attrs: Mapping[str, Any]) -> dict[str, Fingerprint]:
    """The fingerprints in a study's user attributes, by id; what is no fingerprint is left out."""
    found = {}
    for name, kept in study_attrs.items():
        if name.startswith(_ATTR) and isinstance(kept, Mapping):
            parts = (kept.get(part) for part in ("fixed", "code", "versions"))
            found[name.removeprefix(_ATTR)] = Fingerprint(*map(_texts, parts))
    return found


def session_ids(study_attrs: Mapping[str, Any]) -> list[str]:
    """The id of each session's fingerprint, "" where none is kept, as in older studies."""
    sessions = study_attrs.get("provenance")
    return [
        str(session.get("fingerprint", "")) if isinstance(session, Mapping) else ""
        for session in (sessions if isinstance(sessions, list | tuple) else ())
    ]


def latest(study_attrs: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint of a study's last session; None if there is none."""
    ids = session_ids(study_attrs)
    return fingerprints_of(study_attrs).get(ids[-1]) if ids else None


def not_comparable(study_attrs: Mapping[str, Any], now: Fingerprint) -> frozenset[int]:
    """The numbers of the sessions that are known to differ from this fingerprint."""
    ids = session_ids(study_attrs)
    return frozenset(number for number, name in enumerate(ids) if name not in ("", now.id))


def ran_with(
    study_attrs: Mapping[str, Any], trials: Iterable[optuna.trial.FrozenTrial]
) -> dict[int, str]:
    """What tells each trial's session from the others', by the trial's number; see `labels`.

    Only trials of which the session is known are in it; none is if all sessions are the same.
    """
    ids = session_ids(study_attrs)
    if len(set(ids)) < 2:
        return {}
    records = {trial.number: record_of(trial) for trial in trials}
    sessions = {number: record.run.session for number, record in records.items()}
    of_trial = {n: ids[s] for n, s in sessions.items() if s is not None and s < len(ids)}
    kept = fingerprints_of(study_attrs)
    known = {name: kept.get(name, Fingerprint()) for name in dict.fromkeys(of_trial.values())}
    shown = {key for record in records.values() for key in record.settings}  # each in its column
    said = labels(
        {
            name: replace(of, fixed={k: v for k, v in of.fixed.items() if k not in shown})
            for name, of in known.items()
        }
    )
    return {number: said[name] for number, name in of_trial.items() if said[name]}


def _texts(kept: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in kept.items()} if isinstance(kept, Mapping) else {}


def _changed(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]


def _varying(
    of: Sequence[Fingerprint], part: Callable[[Fingerprint], Mapping[str, str]]
) -> list[str]:
    keys = dict.fromkeys(key for fingerprint in of for key in part(fingerprint))
    return [key for key in keys if len({part(fingerprint).get(key) for fingerprint in of}) > 1]


def _value(values: Mapping[str, str], key: str) -> str:
    if key not in values:
        return "not there"
    value = values[key]
    return value if len(value) <= LENGTH_SHOWN else f"{value[:LENGTH_SHOWN]}… ({_digest(value, 7)})"


def _digest(what: Any, length: int) -> str:
    text = json.dumps(what, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
