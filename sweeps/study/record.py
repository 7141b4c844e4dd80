"""What a trial leaves in the study, and what can be said of it from that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from iolaus.sweeps.optuna_compat import is_paused
from iolaus.sweeps.types import Ending, Memory, Outcome, Plan, Verdict

__all__ = [
    "Pause",
    "Run",
    "TrialRecord",
    "again_for",
    "broken_constraints",
    "counts_as_run",
    "failed",
    "has_failed",
    "is_duplicate",
    "is_over",
    "is_paused",
    "is_repeat",
    "leader_of",
    "n_over",
    "n_settings",
    "outside_of",
    "record_of",
    "repeat_number",
    "set_apart",
    "setting_of",
    "state_of",
    "that_ran",
    "was_interrupted",
    "why",
]


@dataclass(frozen=True, slots=True)
class Run:
    """Where and how long a trial ran, and how far it got.

    folder: relative to the sweep's, or absolute; "" if unknown. slot: of the driver. session: of
    the study's provenance. best, best_step, final: of the watched metric in its user's own sign.
    What is not known, or no finite number, is None.
    """

    folder: str = ""
    slot: int | None = None
    session: int | None = None
    seconds: float | None = None
    best: float | None = None
    best_step: int | None = None
    final: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """That a trial was stopped by a verdict and could go on.

    step: up to which it had reported. rule, reason: the verdict's. checkpoint, n_bytes: the step of
    the checkpoint that it can go on from, and its size; None: it can only be started anew. place:
    the sweep's folder that has it, where a study has several, else "". slot, began, seconds: where,
    from when and how long it had run until then, since it began or was thawed. thawed: when it went
    on, "" if it did not; why: that was. began and thawed are local times, ISO 8601. from_step: of
    the checkpoint that it went on from, -1 for none, None while that is not known.
    """

    step: int
    rule: str
    reason: str
    checkpoint: int | None = None
    n_bytes: int = 0
    place: str = ""
    slot: int | None = None
    began: str = ""
    seconds: float = 0.0
    thawed: str = ""
    why: str = ""
    from_step: int | None = None

    def has_checkpoint(self, place: str) -> bool:
        """Whether the trial can go on from its checkpoint in this sweep's folder."""
        return self.checkpoint is not None and self.place == place

    @classmethod
    def from_json(cls, value: Any) -> Pause | None:
        """A pause as `asdict` gives it; None for what is none."""
        try:
            return cls(**value)
        except TypeError:
            return None

    def share_again(self, n_steps: int | None, place: str) -> float:
        """The share of the trial's run, in [0, 1], that would have to be made again in a folder.

        n_steps: of the whole run; where that is not known, 1 unless nothing is to be made again.
        """
        n_again = self.step - ((self.checkpoint or 0) if self.has_checkpoint(place) else 0)
        if n_again <= 0:
            return 0.0
        return min(n_again / n_steps, 1.0) if n_steps else 1.0


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What this package keeps of a trial in Optuna's user attributes, under the fields' names.

    driver: who runs it, host and process. plan: the trial's own (attributes n_steps and lr_plan).
    ending: how it ended, None while it runs. why: the same in a sentence that begins with the
    ending. steps: the last step it reported. run: see `Run`. log: where to read on, if it failed.
    findings: what a lint found in its config, in sentences. seed, repeat, repeat_of: of repeats the
    seed, which repeat it is (0 leads) and the leading trial's number. finalist: whether it
    is a seed that only the best settings get, see `finalists`. duplicate_of: the trial whose
    setting and result it shares, without having been run. again_for: the failed trial whose setting
    it runs again (in older studies an interrupted one, too). interruptions: why it was cut off
    with its sweep and put back, to go on, each time. went_on: for each of these the step from which
    it went on, and that up to which it had reported; -1 for none. pauses: see `Pause`, each time.
    fix_of: the trial whose suggested fix it tries. outside: what of its setting lies outside the
    search space, values as texts by key; its parameters are as near as the space has them.
    settings: likewise, all that a run outside a sweep was given, which has no parameters. verdict:
    why a rule ended it (attributes verdict, verdict_rule, verdict_step and verdict_numbers).
    held_out, held_out_step: why and where the pruner would have ended it, had it not been held out.
    extension_of, from_checkpoint: the trial of another study that it extends, and the checkpoint of
    that from which it goes on; "" where it begins anew. extended_from: the step from which it did.
    memory: what it held at most, and what it could not get. alone: "gpu" or "ram" if it once got no
    more of that, so that it runs with nothing beside it. ruled_out_by: the trial without room than
    which it is no smaller, so that it was not run.
    """

    driver: str = ""
    plan: Plan = field(default_factory=Plan)
    ending: Ending | None = None
    why: str = ""
    steps: int | None = None
    run: Run = field(default_factory=Run)
    log: str = ""
    findings: tuple[str, ...] = ()
    seed: int | None = None
    repeat: int = 0
    repeat_of: int | None = None
    finalist: bool = False
    duplicate_of: int | None = None
    again_for: int | None = None
    interruptions: tuple[str, ...] = ()
    went_on: tuple[tuple[int, int], ...] = ()
    pauses: tuple[Pause, ...] = ()
    fix_of: int | None = None
    outside: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict | None = None
    held_out: str = ""
    held_out_step: int | None = None
    extension_of: int | None = None
    from_checkpoint: str = ""
    extended_from: int | None = None
    memory: Memory = field(default_factory=Memory)
    alone: str = ""
    ruled_out_by: int | None = None

    @property
    def attempt(self) -> int:
        """How often it has gone on, after it was cut off or paused; 0 for its first run."""
        return len(self.interruptions) + sum(bool(pause.thawed) for pause in self.pauses)

    @property
    def stayed_paused(self) -> bool:
        """Whether it was paused, and has not gone on since."""
        return bool(self.pauses) and not self.pauses[-1].thawed

    def to_attrs(self) -> dict[str, Any]:
        """The attributes, as JSON knows them; what is not known is left out, NaN and infinity too.

        A record of a few fields can so be added to what a trial has already.
        """
        attrs = {
            name: value
            for name in _PLAIN
            if (value := getattr(self, name)) is not None and value != _DEFAULTS[name]
        }
        if self.ending is not None:
            attrs["ending"] = str(self.ending)
        for name in ("findings", "interruptions"):
            if texts := getattr(self, name):
                attrs[name] = list(texts)
        for name in ("outside", "settings"):
            if texts_by_key := getattr(self, name):
                attrs[name] = dict(texts_by_key)
        if self.went_on:
            attrs["went_on"] = [list(pair) for pair in self.went_on]
        if self.pauses:
            attrs["pauses"] = [asdict(pause) for pause in self.pauses]
        if self.plan.n_steps is not None:
            attrs[Plan.N_STEPS_ATTR] = self.plan.n_steps
        if self.plan.lr:
            attrs[Plan.LR_ATTR] = [list(corner) for corner in self.plan.lr]
        run = {f.name: getattr(self.run, f.name) for f in fields(Run)}
        run = {name: value for name, value in run.items() if _is_known(value) and value != ""}
        if run:
            attrs["run"] = run
        memory = {name: value for name, value in asdict(self.memory).items() if value}
        if memory:
            attrs["memory"] = memory
        if self.verdict is not None:
            attrs |= {
                "verdict": self.verdict.reason,
                "verdict_rule": self.verdict.rule,
                "verdict_step": self.verdict.step,
                "verdict_numbers": {n: v for n, v in self.verdict.numbers.items() if _is_known(v)},
            }
        return attrs

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> TrialRecord:
        """The record of a trial's attributes, which anyone may have written.

        Attributes that are missing, or are not what this package writes under their names, read as
        not known. Older studies kept no `ending`, which is then read from the beginning of `why`,
        and called the held out ones `audited`.
        """
        run = attrs.get("run")
        run = run if isinstance(run, Mapping) else {}
        memory = attrs.get("memory")
        memory = memory if isinstance(memory, Mapping) else {}
        return cls(
            driver=_text(attrs, "driver"),
            plan=_plan(attrs),
            ending=_ending(attrs),
            why=_text(attrs, "why"),
            steps=_whole(attrs, "steps"),
            run=Run(
                folder=_text(run, "folder"),
                slot=_whole(run, "slot"),
                session=_whole(run, "session"),
                seconds=_number(run, "seconds"),
                best=_number(run, "best"),
                best_step=_whole(run, "best_step"),
                final=_number(run, "final"),
            ),
            log=_text(attrs, "log"),
            findings=_texts(attrs, "findings"),
            seed=_whole(attrs, "seed"),
            repeat=_whole(attrs, "repeat") or 0,
            repeat_of=_whole(attrs, "repeat_of"),
            finalist=attrs.get("finalist") is True,
            duplicate_of=_whole(attrs, "duplicate_of"),
            again_for=_whole(attrs, "again_for"),
            interruptions=_texts(attrs, "interruptions"),
            went_on=_pairs(attrs, "went_on"),
            pauses=_pauses(attrs),
            fix_of=_whole(attrs, "fix_of"),
            outside=outside_of(attrs),
            settings=_texts_by_key(attrs, "settings"),
            verdict=_verdict(attrs),
            held_out=_text(attrs, "held_out") or _text(attrs, "audited"),
            held_out_step=_whole(
                attrs, "held_out_step" if "held_out_step" in attrs else "audited_step"
            ),
            extension_of=_whole(attrs, "extension_of"),
            from_checkpoint=_text(attrs, "from_checkpoint"),
            extended_from=_whole(attrs, "extended_from"),
            memory=Memory(
                gpu_bytes=_whole(memory, "gpu_bytes"),
                ram_bytes=_whole(memory, "ram_bytes"),
                capacity_bytes=_whole(memory, "capacity_bytes"),
                requested_bytes=_whole(memory, "requested_bytes"),
                ran_out=_text(memory, "ran_out"),
            ),
            alone=_text(attrs, "alone"),
            ruled_out_by=_whole(attrs, "ruled_out_by"),
        )


# Fields whose attribute is the field's own value.
_PLAIN = (
    "driver", "why", "steps", "log", "seed", "repeat", "repeat_of", "finalist", "duplicate_of",
    "again_for", "fix_of", "held_out", "held_out_step", "extension_of", "from_checkpoint",
    "extended_from", "alone", "ruled_out_by",
)  # fmt: skip
_DEFAULTS = {name: getattr(TrialRecord(), name) for name in _PLAIN}


def record_of(trial: FrozenTrial) -> TrialRecord:
    """What this package knows of a trial."""
    return TrialRecord.from_attrs(trial.user_attrs)


# One attribute alone, for what is asked of every trial again and again.


def is_over(trial: FrozenTrial) -> bool:
    """Whether a trial has its result, which never changes."""
    return trial.state.is_finished() and not is_paused(trial)


def state_of(trial: FrozenTrial) -> str:
    """Optuna's state of a trial in lower case, or "paused"."""
    return "paused" if is_paused(trial) else trial.state.name.lower()


def counts_as_run(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards n_trials.

    All do that run or ran, paused ones too, but those that were cut off, and what a sampler
    proposed that had no room.
    """
    return not _is_queued(trial) and not was_interrupted(trial) and not _had_no_room(trial)


def _had_no_room(trial: FrozenTrial) -> bool:
    """Whether a trial was ruled out by another, and not asked for by its values, as in a grid."""
    is_out = _whole(trial.user_attrs, "ruled_out_by") is not None
    return is_out and "fixed_params" not in trial.system_attrs


def _is_queued(trial: FrozenTrial) -> bool:
    """Whether a trial waits to be run, or to go on after it was cut off."""
    return trial.state is TrialState.WAITING and not is_paused(trial)


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was cut off with its sweep, and waits to go on.

    In older studies such a trial has failed, and another one runs its setting again.
    """
    if _is_queued(trial):
        return bool(_texts(trial.user_attrs, "interruptions"))
    return trial.state is TrialState.FAIL and _ending(trial.user_attrs) is Ending.INTERRUPTED


def has_failed(trial: FrozenTrial) -> bool:
    """Whether a trial has no result by a fault of its own: not cut off, and no duplicate."""
    is_fault = not was_interrupted(trial) and not is_duplicate(trial)
    return trial.state is TrialState.FAIL and is_fault


def again_for(trial: FrozenTrial) -> int | None:
    """The number of the trial whose setting this one runs again, if it does."""
    return _whole(trial.user_attrs, "again_for")


def failed(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that have failed and that no other runs again or is queued to."""
    trials = list(trials)
    again = {again_for(trial) for trial in trials}
    return [trial for trial in trials if has_failed(trial) and trial.number not in again]


def that_ran(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that run or ran, each setting once for each of its seeds.

    Left out are those that were cut off with their sweep, and those that another has run again.
    """
    ran = [trial for trial in trials if not _is_queued(trial)]
    again = {again_for(trial) for trial in ran}
    return [trial for trial in ran if not was_interrupted(trial) and trial.number not in again]


def n_over(trials: Iterable[FrozenTrial]) -> int:
    """How many trials that count as run have their result, for good: none runs them again."""
    trials = list(trials)
    again = {again_for(trial) for trial in trials}
    return sum(
        is_over(trial) and counts_as_run(trial) and trial.number not in again for trial in trials
    )


def n_settings(trials: Iterable[FrozenTrial]) -> int:
    """The n_trials that all of these reach: settings that ran, run or are queued.

    Repeats are of one setting; so is a trial that another runs again, or is queued to.
    """
    leading = [trial for trial in trials if not is_repeat(trial)]
    again = {again_for(trial) for trial in leading}
    return sum(
        (counts_as_run(trial) or _is_queued(trial)) and trial.number not in again
        for trial in leading
    )


def is_repeat(trial: FrozenTrial) -> bool:
    """Whether a trial runs the setting of another one with another seed."""
    return _whole(trial.user_attrs, "repeat_of") is not None


def leader_of(trial: FrozenTrial) -> int:
    """The number of the trial that was the first of this one's setting, which may be itself."""
    leader = _whole(trial.user_attrs, "repeat_of")
    return trial.number if leader is None else leader


def repeat_number(trial: FrozenTrial) -> int:
    """Which repeat of its setting a trial is; 0 leads."""
    return _whole(trial.user_attrs, "repeat") or 0


def is_duplicate(trial: FrozenTrial) -> bool:
    """Whether a trial took over another's result, and was not run."""
    return _whole(trial.user_attrs, "duplicate_of") is not None


def outside_of(attrs: Mapping[str, Any]) -> dict[str, str]:
    """What of a trial's setting lies outside the search space, by its user attributes."""
    return _texts_by_key(attrs, "outside")


def setting_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters as it ran with them, with what is kept as text beside them."""
    kept = {**_texts_by_key(trial.user_attrs, "settings"), **outside_of(trial.user_attrs)}
    return {**trial.params, **{key: _number_or_text(text) for key, text in kept.items()}}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def broken_constraints(trial: FrozenTrial) -> list[str]:
    """The names of the constraints that a trial does not keep; one that is NaN is not kept."""
    return [name for name, amount in trial.constraints.items() if not amount <= 0]


def why(outcome: Outcome) -> str:
    """How a trial ended, in a sentence that begins with the ending."""
    return f"{outcome.ending}: {outcome.reason}" if outcome.reason else str(outcome.ending)


def set_apart(record: TrialRecord) -> str:
    """What tells a completed trial from others, "" for nothing.

    It was held out, its setting lies outside the search space, or it extends another trial.
    """
    if record.held_out_step is not None:
        return f"held out: to be stopped at step {record.held_out_step:,}"
    if record.outside:
        return (
            f"outside the search space: {' '.join(f'{k}={v}' for k, v in record.outside.items())}"
        )
    if record.extension_of is None:
        return ""
    at = record.extended_from
    how = "began anew" if at is None else f"went on from step {at:,}"
    return f"extends trial {record.extension_of}: {how}"


def _is_known(value: Any) -> bool:
    """Whether JSON can keep it."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _text(attrs: Mapping[str, Any], name: str) -> str:
    value = attrs.get(name, "")
    return value if isinstance(value, str) else ""


def _texts(attrs: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = attrs.get(name)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _texts_by_key(attrs: Mapping[str, Any], name: str) -> dict[str, str]:
    value = attrs.get(name)
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def _pairs(attrs: Mapping[str, Any], name: str) -> tuple[tuple[int, int], ...]:
    value = attrs.get(name)
    try:
        return tuple((int(a), int(b)) for a, b in value) if isinstance(value, list | tuple) else ()
    except (TypeError, ValueError):
        return ()


def _pauses(attrs: Mapping[str, Any]) -> tuple[Pause, ...]:
    value = attrs.get("pauses")
    found = map(Pause.from_json, value) if isinstance(value, list | tuple) else ()
    return tuple(pause for pause in found if pause is not None)


def _number(attrs: Mapping[str, Any], name: str) -> float | None:
    value = attrs.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _whole(attrs: Mapping[str, Any], name: str) -> int | None:
    value = attrs.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ending(attrs: Mapping[str, Any]) -> Ending | None:
    said = _text(attrs, "ending") or _text(attrs, "why").partition(":")[0]
    return Ending(said) if said in _ENDINGS else None


_ENDINGS = frozenset(map(str, Ending))


def _plan(attrs: Mapping[str, Any]) -> Plan:
    n_steps = _whole(attrs, Plan.N_STEPS_ATTR)
    n_steps = n_steps if n_steps is not None and n_steps >= 1 else None
    try:
        corners = attrs.get(Plan.LR_ATTR) or ()
        return Plan(n_steps, tuple((int(step), float(rate)) for step, rate in corners))
    except (TypeError, ValueError):
        return Plan(n_steps)


def _verdict(attrs: Mapping[str, Any]) -> Verdict | None:
    reason, rule = _text(attrs, "verdict"), _text(attrs, "verdict_rule")
    step, numbers = _whole(attrs, "verdict_step"), attrs.get("verdict_numbers")
    if not (reason and rule) or step is None:
        return None
    numbers = numbers if isinstance(numbers, Mapping) else {}
    known = {str(name): v for name in numbers if (v := _number(numbers, name)) is not None}
    return Verdict(rule, step, reason, known)
