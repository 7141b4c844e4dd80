"""What to change after a diagnosis, as overrides of the sweep's own config.

What helps against a shape becomes values of the config keys that this sweep has. Nothing is drawn
at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import Features
from iolaus.analysis.diagnosis.shapes import Diagnosis
from iolaus.sweeps.types import SPENT_SHARE

__all__ = ["NO_FIX", "ConfigKeys", "Fix", "all_config_keys", "as_text", "suggested_fix"]

# What settings are called, most usual first; the last part of a key counts.
NAMES: Mapping[str, Sequence[str]] = {
    "lr": ("lr", "learning_rate", "base_lr", "init_lr", "eta"),
    "batch_size": ("batch_size", "train_batch_size", "bs"),
    "threshold": (
        "threshold",
        "max_grad_norm",
        "grad_clip",
        "clip_norm",
        "max_norm",
        "clip_grad_norm",
    ),
    "decay_rate": ("decay_rate", "gamma"),
    "decay_steps": ("decay_steps", "step_size"),
    "weight_decay": ("weight_decay", "wd"),
    "dropout": ("dropout", "p_dropout", "dropout_rate"),
}
# By these factors a learning rate is changed; how far in between is said by how far the trial is
# from its peers.
LEAST, MOST = 3.0, 10.0
# Of the first rate at the end of a run: a decay by at least 100 times, and one that is slow.
END_SHARE, SLOW_END_SHARE = 0.01, 0.1
GOOD_SHARE = 0.25  # of the trials, best first, whose rates are good ones
N_PEERS = 4  # fewer other trials say nothing about rates


@dataclass(frozen=True, slots=True)
class Fix:
    """What to change about a trial.

    values: key to value, all together. advice: the same in words, with what no override can say.
    """

    values: Mapping[str, Any]
    advice: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """As typed on a command line: `optim.lr=0.03`, `clip=norm`; numbers with three digits."""
        return tuple(f"{key}={as_text(value)}" for key, value in self.values.items())


NO_FIX = Fix({}, "")


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """The settings of one trial that a suggested fix may turn.

    values: all settings of the trial by key; its parameters, then its config's. searched: keys of
    its parameters.
    ties: keys that are set as a share of the run by another: {"schedule.decay_steps":
    "decay_share"}.
    choices: config group to the option chosen. has_trainer: whether these are the reference
    trainer's groups.
    step_scale: what clipping leaves of a usual step, 1 without. good_rate: the learning rate times
    that of the sweep's best trials, NaN if unknown.
    """

    values: Mapping[str, Any]
    searched: frozenset[str] = frozenset()
    ties: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    has_trainer: bool = False
    step_scale: float = 1.0
    good_rate: float = math.nan

    def key(self, role: str) -> str | None:
        """The key of a setting by its role (of NAMES), None if the config has none.

        Searched ones first.
        """
        for name in NAMES[role]:
            keys = [key for key in self.values if key.lstrip("+").rpartition(".")[2] == name]
            if keys:
                return min(keys, key=lambda key: (key not in self.searched, key.count("."), key))
        return None

    def number(self, role: str) -> float:
        """A setting's value by its role; NaN if there is none, or it is no number."""
        key = self.key(role)
        value = self.values[key] if key is not None else None
        return (
            float(value)
            if isinstance(value, int | float) and not isinstance(value, bool)
            else math.nan
        )

    @property
    def towards_good(self) -> float:
        """By what factor the learning rate would be that of the sweep's best trials.

        NaN if unknown.
        """
        return self.good_rate / (self.number("lr") * self.step_scale)


def all_config_keys(sweep: Sweep, features: Mapping[int, Features]) -> dict[int, ConfigKeys]:
    """The settings of each trial, by number.

    features: of `iolaus.analysis.diagnosis._features.gather`.
    """
    params = [str(column) for column in sweep.trials if str(column).startswith("params.")]
    choices: Mapping[str, Any] = _at(sweep.config, "hydra", "runtime", "choices")
    asked: Mapping[str, Any] = _at(sweep.config, "hydra", "sweeper", "params")
    ties = {key: name for key, text in asked.items() if (name := _tied_to(str(text))) is not None}
    config = _flat({key: value for key, value in sweep.config.items() if key != "hydra"})
    has_trainer = str(config.get("schedule._target_", "")).startswith("iolaus.trainer.")
    found = {}
    for number, row in zip(sweep.trials.index, sweep.trials.to_dict("records"), strict=True):
        own = {
            name.removeprefix("params."): _plain(row[name])
            for name in params
            if row[name] == row[name]
        }
        own = {key: value for key, value in own.items() if value is not None}
        chosen = {**choices, **{key: value for key, value in own.items() if key in choices}}
        other = [group for group in chosen if chosen[group] != choices.get(group)]
        kept = {key: value for key, value in config.items() if key.partition(".")[0] not in other}
        keys = ConfigKeys({**kept, **own}, frozenset(own), ties, chosen, has_trainer)
        if (
            chosen.get("optim") == "sgd" and chosen.get("clip") == "norm"
        ):  # Adam's steps do not scale with gradients
            scale = keys.number("threshold") / features[int(number)].usual_norm
            keys = replace(keys, step_scale=float(np.fmin(scale, 1.0)))
        found[int(number)] = keys
    return _with_good_rates(sweep, found)


def _with_good_rates(sweep: Sweep, keys: Mapping[int, ConfigKeys]) -> dict[int, ConfigKeys]:
    """Each trial with the rates of the best quarter of its optimizer, where there are enough."""
    sign = sweep.metric_sign
    ranked = [int(n) for n in (sign * sweep.trials["final"]).dropna().sort_values().index]
    of_optimizer: dict[Any, list[int]] = {}
    for number in ranked:
        of_optimizer.setdefault(keys[number].choices.get("optim"), []).append(number)
    done = {}
    for number, own in keys.items():
        peers = of_optimizer.get(own.choices.get("optim"), [])
        best = [n for n in peers[: max(3, round(GOOD_SHARE * len(peers)))] if n != number]
        rates = np.array(
            [rate for n in best if (rate := keys[n].number("lr") * keys[n].step_scale) > 0]
        )
        is_known = len(peers) > N_PEERS and len(rates)
        done[number] = (
            replace(own, good_rate=float(np.exp(np.log(rates).mean()))) if is_known else own
        )
    return done


def suggested_fix(diagnosis: Diagnosis, features: Features, keys: ConfigKeys) -> Fix:
    """What to change about a trial of this shape.

    NO_FIX if it is well, words alone where no setting is known.
    """
    match diagnosis.shape:
        case "exploded" | "died":
            return _calmer(features, keys)
        case "slow" | "underfitting":
            if _is_spent(features):
                return _slower_decay(features, keys)
            return (
                _calmer(features, keys)
                if _is_unstable(features, keys)
                else _other_rate(keys, up=True)
            )
        case "fast_then_flat" | "oscillating" | "stalled":
            if _is_spent(features):
                return _slower_decay(features, keys)
            return (
                _other_rate(keys, up=True)
                if keys.towards_good > LEAST
                else _lower_late(features, keys)
            )
        case "rebound":
            return _lower_late(features, keys)
        case "overfitting":
            return _regularised(diagnosis, keys)
        case "broken":
            return Fix({}, "read the trial's log")
        case _:
            return NO_FIX


def _is_spent(features: Features) -> bool:
    return features.rate_share(0.5 * max(features.n_steps, 1)) < SPENT_SHARE


def _is_unstable(features: Features, keys: ConfigKeys) -> bool:
    """Whether a high loss speaks of a rate too high.

    It does if it has jumped, or if the rates of better trials are much lower.
    """
    if features.explosion is not None and keys.key("threshold") is None:
        return True
    s = features.signals
    jumped = (
        s is not None
        and np.nanmax(features.losses) > features.start + 0.1 * features.room + 4 * s.noise
    )
    return bool(jumped) or keys.towards_good < 1 / LEAST


def _calmer(features: Features, keys: ConfigKeys) -> Fix:
    """A lower rate from the start, and clipping where there is none.

    Gradients are clipped at the norm that was usual before an explosion.
    """
    lower = _other_rate(keys, up=False)
    if keys.has_trainer and keys.choices.get("clip") == "none":
        usual = (
            features.usual_norm
        )  # unknown if it exploded from the start: then as the config has it
        clipping = {"clip": "norm"} | ({"clip.threshold": _round(usual)} if usual > 0 else {})
        return Fix({**lower.values, **clipping}, f"{lower.advice}, and clip the gradients")
    threshold, rate = keys.key("threshold"), keys.key("lr")
    is_alone = threshold in keys.searched and rate not in keys.searched
    if threshold is not None and is_alone and keys.step_scale < 1:
        value = keys.number("threshold")
        return Fix({threshold: _round(value / MOST)}, "clip the gradients at a lower threshold")
    return lower


def _other_rate(keys: ConfigKeys, *, up: bool) -> Fix:
    """Another learning rate from the start: towards that of better trials, by 3 to 10 times."""
    words = f"{'raise' if up else 'lower'} the learning rate and start again"
    key, rate = keys.key("lr"), keys.number("lr")
    if key is None or not rate > 0:
        return Fix({}, words)
    factor = keys.towards_good if up else 1 / keys.towards_good
    if math.isnan(factor):
        factor = LEAST if up else MOST
    factor = min(max(factor, LEAST), MOST)
    return Fix({key: _round(rate * factor if up else rate / factor)}, words)


def _lower_late(features: Features, keys: ConfigKeys) -> Fix:
    """The same rate early, a lower one late: decay to a hundredth by the end.

    Where the rate decays so far already, a lower rate.
    """
    words = "lower the rate late in the run: a faster decay"
    if keys.has_trainer and keys.choices.get("schedule") == "constant":
        return Fix({"schedule": "cosine"}, words)
    decay = (
        _decay(features, keys, END_SHARE)
        if features.rate_share(max(features.n_steps, 1)) > 2 * END_SHARE
        else {}
    )
    if decay:
        return Fix(decay, words)
    key, rate = keys.key("lr"), keys.number("lr")
    return Fix(
        {key: _round(rate / LEAST)} if key is not None and rate > 0 else {},
        "lower the learning rate",
    )


def _slower_decay(features: Features, keys: ConfigKeys) -> Fix:
    """Decay to a tenth by the end, from a rate like that of better trials.

    It helps where the rate is spent while the loss is high.
    """
    words = "decay more slowly: the rate is spent too early"
    decay = _decay(features, keys, SLOW_END_SHARE)
    if not decay:
        return Fix(_other_rate(keys, up=True).values, words)
    if keys.towards_good > LEAST:
        return Fix({**decay, **_other_rate(keys, up=True).values}, f"{words}, and raise it")
    return Fix(decay, words)


def _decay(features: Features, keys: ConfigKeys, end: float) -> dict[str, Any]:
    """Decay steps by which an exponential ends at a share of its rate.

    If that is no real change, a third or three times the steps there were. Empty if there is no
    such schedule.
    """
    key, rate = keys.key("decay_steps"), keys.number("decay_rate")
    key = (
        key if key is not None else next((k for k in keys.ties if k.endswith("decay_steps")), None)
    )
    if key is None or not 0 < rate < 1 or not features.n_steps:
        return {}
    share = math.log(rate) / math.log(end)
    if key in keys.ties:
        return {keys.ties[key]: _round(share)}
    steps, before = share * features.n_steps, keys.number("decay_steps")
    if not math.isnan(before):
        steps = min(steps, before / LEAST) if end == END_SHARE else max(steps, before * LEAST)
    return {key: max(1, round(steps))}


def _regularised(diagnosis: Diagnosis, keys: ConfigKeys) -> Fix:
    """Dropout or weight decay where there are such settings, else an end at the best validation."""
    words = "regularise: dropout, weight decay, more data; or end when validation is best"
    values: dict[str, Any] = {}
    dropout, decay = keys.key("dropout"), keys.key("weight_decay")
    if dropout is not None and keys.number("dropout") < 0.5:
        values[dropout] = _round(min(0.5, max(0.3, 2 * keys.number("dropout"))))
    elif decay is not None:
        values[decay] = _round(max(0.01, MOST * keys.number("weight_decay")))
    elif "steps" in keys.values and diagnosis.since > 0:
        values["steps"] = int(diagnosis.since)
    return Fix(values, words)


def as_text(value: Any) -> str:
    """A value as Hydra's grammar reads it; texts with anything but plain characters are quoted."""
    from iolaus.sweeps.search.parsing import PLAIN_TEXT

    if isinstance(value, str):
        return value if PLAIN_TEXT.fullmatch(value) else "'" + value.replace("'", "\\'") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _round(value: float) -> float:
    """Two digits: a suggested fix is a guess, and looks like one."""
    return float(f"{value:.2g}")


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _at(node: Any, *path: str) -> Any:
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _tied_to(text: str) -> str | None:
    """`${decay_share} run` is the parameter decay_share as a share of the run."""
    name = text.removesuffix(" run")
    if name != text and name.startswith("${") and name.endswith("}") and ":" not in name:
        return name[2:-1]
    return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
