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

__all__ = ["NO_FIX", "ConfigKeys", "Fix", "all_config_keys", "as_text", "rounded", "suggested_fix"]

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
    "warmup": (
        *("warmup_steps", "num_warmup_steps", "warmup", "warmup_iters", "warmup_epochs"),
        *("warmup_ratio", "warmup_share"),
    ),
    "total_steps": ("decay_steps", "T_max", "total_steps", "num_training_steps", "lr_decay_steps"),
}
# By these factors a learning rate is changed; how far in between is said by how far the trial is
# from its peers.
LEAST, MOST = 3.0, 10.0
MOST_BY_PEERS = 100.0
# Of the first rate at the end of a run: a decay by at least 100 times, and one that is slow.
END_SHARE, SLOW_END_SHARE = 0.01, 0.1
# A warm-up is a tenth of the run; this share of the room left is not well.
WARM_UP_SHARE, WELL_LEFT = 0.1, 0.05
# Weight decay that is more than usual where it is part of the gradient, and where it is not.
COUPLED_DECAY, DECOUPLED_DECAY = 0.03, 1.0
OPTIMIZER_KEYS = ("optim", "optimizer", "kind", "optim.kind", "optimizer.name")
LONG_ENOUGH = 0.25  # of the run: one that was ended before may have been about to begin
FLAT_SHAPES = ("converged", "fast_then_flat", "stalled", "underfitting")
TRAINING_EXAMPLES = (
    "look at the training examples (wrong labels, augmentation, dropout): validation is lower than "
    "training, and no rate removes what is left"
)
INITIAL_WEIGHTS = (
    "look at the initial weights and the inputs: it never began to learn, and the rate is usual"
)
SHUFFLE = (
    "shuffle the training examples anew in each epoch: the loss swings with their order, not with "
    "the rate"
)
MASK = (
    "mask what the loss term {term} must not see before the logarithm, division or softmax, not "
    "after, or leave the term out (weight null): no rate helps, nor a weight of 0, since 0 times "
    "NaN is NaN"
)
IF_NOT = "if it still does not move, look at the initial weights and the inputs"
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
    that of the sweep's best trials, NaN if unknown. good_decay: their median weight decay.
    """

    values: Mapping[str, Any]
    searched: frozenset[str] = frozenset()
    ties: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    has_trainer: bool = False
    step_scale: float = 1.0
    good_rate: float = math.nan
    good_decay: float = math.nan

    def key(self, role: str) -> str | None:
        """The key of a setting by its role (of NAMES), None if the config has none.

        Searched ones first.
        """
        for name in NAMES[role]:
            keys = [
                key
                for key in self.values
                if key.lstrip("+").rpartition(".")[2] == name and not self._is_idle(key)
            ]
            if keys:
                return min(keys, key=lambda key: (key not in self.searched, key.count("."), key))
        return None

    def _is_idle(self, key: str) -> bool:
        """Whether the run does not use a setting, or it is another's of the same name."""
        if not self.has_trainer:
            return False
        has_own_rates = self.choices.get("schedule", "").startswith("staged")
        return key == "schedule.threshold" or (key == "optim.lr" and has_own_rates)

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
        decays = np.array([keys[n].number("weight_decay") for n in best])
        decays = decays[np.isfinite(decays)]
        if len(peers) > N_PEERS and len(rates):
            own = replace(own, good_rate=float(np.exp(np.log(rates).mean())))
        if len(peers) > N_PEERS and len(decays):
            own = replace(own, good_decay=float(np.median(decays)))
        done[number] = own
    return done


def suggested_fix(diagnosis: Diagnosis, features: Features, keys: ConfigKeys) -> Fix:
    """What to change about a trial of this shape.

    NO_FIX if it is well, words alone where no setting is known.
    """
    if diagnosis.shape in ("slow", "underfitting", "stalled", "improving") and features.warms_up:
        return _shorter_warm_up(features, keys)
    if features.has_a_floor and diagnosis.shape in ("converged", "improving"):
        return Fix({}, TRAINING_EXAMPLES)
    if diagnosis.shape in FLAT_SHAPES and not features.is_spent and _is_decayed(features, keys):
        return _less_weight_decay(keys)
    match diagnosis.shape:
        case "died" if features.never_alive:
            return Fix({}, INITIAL_WEIGHTS)
        case "exploded" if features.not_finite is not None:
            return Fix({}, MASK.format(term=features.not_finite.term))
        case "exploded" | "died":
            return _calmer(features, keys)
        case "underfitting" if _never_began(features, keys):
            return Fix({}, INITIAL_WEIGHTS)
        case "slow" | "underfitting":
            if features.is_spent:
                return _slower_decay(features, keys)
            if _is_unstable(features, keys):
                return _calmer(features, keys)
            raised = _other_rate(keys, up=True)
            if math.isnan(keys.towards_good) and _has_not_moved(features):
                return replace(raised, advice=f"{raised.advice}; {IF_NOT}")
            return raised
        case "oscillating" if features.swings_with_epochs:
            return _shuffled(keys)
        case "fast_then_flat" | "oscillating" | "stalled":
            if features.is_spent:
                return _slower_decay(features, keys)
            # Flat since the rate has gone to nothing, as it should by the end: too little was done.
            went_out = features.spent_at(diagnosis.since)
            return (
                _other_rate(keys, up=True)
                if keys.towards_good > LEAST or went_out
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


def _never_began(features: Features, keys: ConfigKeys) -> bool:
    """Whether a loss has not moved at all at a rate at which the best trials learn."""
    is_usual = 1 / LEAST <= keys.towards_good <= LEAST
    return is_usual and features.explosion is None and _has_not_moved(features)


def _has_not_moved(features: Features) -> bool:
    s = features.signals
    if s is None or features.elapsed(s.step) < LONG_ENOUGH * features.elapsed(features.n_steps):
        return False
    return features.fall <= 2 * s.noise


def _is_decayed(features: Features, keys: ConfigKeys) -> bool:
    """Whether a flat loss is held up by the weight decay.

    It is if the decay is ten times that of better trials, or, with no others to compare with, more
    than is ever usual.
    """
    decay = keys.number("weight_decay")
    if not decay > 0:
        return False
    if not math.isnan(keys.good_decay):
        return decay >= MOST * keys.good_decay and features.fall < (1 - WELL_LEFT) * features.room
    named = [str(keys.values.get(key, "")) for key in OPTIMIZER_KEYS]
    is_decoupled = "adamw" in " ".join([*named, keys.choices.get("optim") or ""]).lower()
    return decay >= (DECOUPLED_DECAY if is_decoupled else COUPLED_DECAY)


def _less_weight_decay(keys: ConfigKeys) -> Fix:
    key, decay = keys.key("weight_decay"), keys.number("weight_decay")
    value = keys.good_decay if keys.good_decay > 0 else decay / MOST**2
    values = {key: rounded(value)} if key is not None else {}
    return Fix(values, "lower the weight decay: it holds the loss up")


def _shorter_warm_up(features: Features, keys: ConfigKeys) -> Fix:
    """A warm-up over a tenth of the run, in the unit it is given in."""
    words = "shorten the warm-up: the rate still rises when the run ends"
    key, n = keys.key("warmup"), max(features.n_steps, 1)
    if key is None:
        return Fix({}, words)
    before = keys.values[key]
    if isinstance(before, str) or (isinstance(before, float) and before <= 1):
        return Fix({key: "0.1 run" if isinstance(before, str) else 0.1}, words)
    per_step = before / _warm_up_steps(features, keys)
    return Fix({key: max(1, round(WARM_UP_SHARE * n * per_step))}, words)


def _warm_up_steps(features: Features, keys: ConfigKeys) -> float:
    """How many steps the warm-up takes, if the rate rises straight to the one that is set."""
    rate, s = keys.number("lr"), features.signals
    if features.rates is None or s is None or not rate > 0:
        return max(keys.number("warmup"), 1.0)
    now = float(np.interp(s.step, *features.rates))
    return s.step * max(rate / now, 1.0) if now > 0 else max(keys.number("warmup"), 1.0)


def _is_unstable(features: Features, keys: ConfigKeys) -> bool:
    """Whether a high loss speaks of a rate too high.

    It does if it has jumped, or if the rates of better trials are much lower. Where those are much
    higher, a loss that was high at its first report has not jumped: it began so.
    """
    if features.explosion is not None and keys.key("threshold") is None:
        return True
    s, began = features.signals, features.start
    if keys.towards_good > LEAST and len(features.losses):
        began = float(np.fmax(began, features.losses[0]))
    jumped = (
        s is not None and np.nanmax(features.losses) - began > 0.1 * features.room + 6 * s.noise
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
        clipping = {"clip": "norm"} | ({"clip.threshold": rounded(usual)} if usual > 0 else {})
        return Fix({**lower.values, **clipping}, f"{lower.advice}, and clip the gradients")
    threshold, rate = keys.key("threshold"), keys.key("lr")
    is_alone = threshold in keys.searched and rate not in keys.searched
    if threshold is not None and is_alone and keys.step_scale < 1:
        value = keys.number("threshold")
        return Fix({threshold: rounded(value / MOST)}, "clip the gradients at a lower threshold")
    return lower


def _other_rate(keys: ConfigKeys, *, up: bool) -> Fix:
    """Another learning rate from the start: that of better trials, 3 to 100 times as much.

    Where there are none, 3 times up or 10 times down.
    """
    words = f"{'raise' if up else 'lower'} the learning rate and start again"
    key, rate = keys.key("lr"), keys.number("lr")
    if key is None or not rate > 0:
        return Fix({}, words)
    factor = keys.towards_good if up else 1 / keys.towards_good
    if math.isnan(factor):
        factor = LEAST if up else MOST
    factor = min(max(factor, LEAST), MOST_BY_PEERS)
    return Fix({key: rounded(rate * factor if up else rate / factor)}, words)


def _lower_late(features: Features, keys: ConfigKeys) -> Fix:
    """The same rate early, a lower one late: decay to a hundredth by the end.

    Where the rate decays so far already, a lower rate.
    """
    if features.warms_up:  # there is no decay yet that could be a faster one
        return _other_rate(keys, up=False)
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
        {key: rounded(rate / LEAST)} if key is not None and rate > 0 else {},
        "lower the learning rate",
    )


def _slower_decay(features: Features, keys: ConfigKeys) -> Fix:
    """Decay to a tenth by the end, from a rate like that of better trials.

    It helps where the rate is spent while the loss is high.
    """
    words = "decay more slowly: the rate is spent too early"
    decay = _decay(features, keys, SLOW_END_SHARE) or _to_the_end(features, keys)
    if not decay:
        return Fix({}, words)
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
        return {keys.ties[key]: rounded(share)}
    steps, before = share * features.n_steps, keys.number("decay_steps")
    if not math.isnan(before):
        steps = min(steps, before / LEAST) if end == END_SHARE else max(steps, before * LEAST)
    return {key: max(1, round(steps))}


def _to_the_end(features: Features, keys: ConfigKeys) -> dict[str, Any]:
    """A schedule without a decay rate, such as a cosine, over the whole run. Empty without one."""
    key = keys.key("total_steps")
    if key is None or not math.isnan(keys.number("decay_rate")) or not features.n_steps:
        return {}
    if isinstance(keys.values[key], str):
        return {key: "1 rest"} if keys.has_trainer else {}
    return {key: int(features.n_steps)}


def _shuffled(keys: ConfigKeys) -> Fix:
    """Another order in each epoch, for a loss that swings with the order of its examples."""
    key = "batch.shuffle_buffer"
    has_buffer = keys.has_trainer and keys.values.get(key) is not None
    return Fix({key: None} if has_buffer else {}, SHUFFLE)


def _regularised(diagnosis: Diagnosis, keys: ConfigKeys) -> Fix:
    """Dropout or weight decay where there are such settings, else an end at the best validation."""
    words = "regularise: dropout, weight decay, more data; or end when validation is best"
    values: dict[str, Any] = {}
    dropout, decay = keys.key("dropout"), keys.key("weight_decay")
    if dropout is not None and keys.number("dropout") < 0.5:
        values[dropout] = rounded(min(0.5, max(0.3, 2 * keys.number("dropout"))))
    elif decay is not None:
        values[decay] = rounded(max(0.01, MOST * keys.number("weight_decay")))
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


def rounded(value: float) -> float:
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
