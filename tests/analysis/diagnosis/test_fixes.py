from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import Features, gather
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.fixes import (
    END_SHARE,
    LEAST,
    MOST,
    MOST_BY_PEERS,
    ConfigKeys,
    all_config_keys,
    as_text,
    suggested_fix,
)
from iolaus.analysis.diagnosis.next_trials import _nearest, continuing, enqueue, next_trials
from iolaus.analysis.diagnosis.shapes import SHAPES, Diagnosis
from iolaus.sweeps.search.space import signature

STEPS = np.arange(1, 101) * 10.0
FLAT = np.full(100, 0.9)


def features(losses: np.ndarray = FLAT, **known: object) -> Features:
    return Features(
        **{
            "steps": STEPS,
            "losses": losses,
            "n_steps": 1000,
            "start": 1.0,
            "lowest": 0.0,
            "lowest_by_now": 0.0,
        }
        | known
    )


def config_keys(
    good_rate: float = math.nan, choices: dict[str, str] | None = None, **values: object
) -> ConfigKeys:
    named = {key.replace("__", "."): value for key, value in values.items()}
    return ConfigKeys(
        named, frozenset(named), {}, choices or {}, choices is not None, 1.0, good_rate
    )


def fixed(shape: str, known: ConfigKeys, **more: object) -> dict[str, object]:
    return dict(suggested_fix(Diagnosis(shape, "", 500.0), features(**more), known).values)


@given(st.sampled_from(SHAPES), st.floats(1e-6, 1e3), st.floats(1e-6, 1e3) | st.just(math.nan))
def test_a_rate_changes_by_three_times_at_least(shape, lr, good):
    """Whatever the shape and the peers, a rate moves by 3 to 100 times (to two digits), without
    peers by 10 at most, or not at all.
    """
    changed = fixed(shape, config_keys(good, optim__lr=lr))
    if "optim.lr" in changed:
        most = MOST if math.isnan(good) else MOST_BY_PEERS
        assert (
            LEAST * 0.95 <= max(changed["optim.lr"] / lr, lr / changed["optim.lr"]) <= most * 1.05
        )


def test_what_holds_a_loss_up_is_changed():
    """A warm-up that outlasts the run is shortened in its own unit, a cosine that is spent early
    lasts the run, too much weight decay is lowered; where no key is known there are words alone.
    """
    rising = {"rates": (STEPS, 1e-5 * STEPS)}
    assert fixed("slow", config_keys(lr=0.5, warmup_steps=50_000), **rising) == {
        "warmup_steps": 100
    }
    epochs = config_keys(lr=0.5, warmup_epochs=500)  # of 100 steps
    assert fixed("improving", epochs, **rising) == {"warmup_epochs": 1}
    assert fixed("slow", config_keys(lr=0.5, warmup_ratio=1.0), **rising) == {"warmup_ratio": 0.1}
    no_key = suggested_fix(Diagnosis("slow", ""), features(**rising), config_keys(lr=0.5))
    assert not no_key.values
    assert "warm-up" in no_key.advice
    spent = {"rates": (STEPS, np.where(STEPS < 100, 1.0, 0.0))}
    assert fixed("fast_then_flat", config_keys(lr=0.3, decay_steps=80), **spent) == {
        "decay_steps": 1000
    }
    assert fixed("underfitting", config_keys(lr=0.3, T_max=80), **spent) == {"T_max": 1000}
    assert fixed("underfitting", config_keys(lr=0.3), **spent) == {}
    decayed = config_keys(lr=0.1, weight_decay=0.1)
    assert fixed("fast_then_flat", decayed) == {"weight_decay": 0.001}
    assert fixed("converged", decayed) == {"weight_decay": 0.001}
    assert fixed("stalled", replace(decayed, good_decay=1e-4)) == {"weight_decay": 1e-4}
    assert fixed("stalled", replace(decayed, good_decay=0.05)) == {"lr": 0.033}
    assert fixed("converged", config_keys(lr=0.1, weight_decay=0.1, optim="adamw")) == {}
    out = {"rates": (STEPS, np.maximum(1 - STEPS / 1000, 0.0))}
    went_out = suggested_fix(Diagnosis("stalled", "", 970.0), features(**out), config_keys(lr=0.1))
    assert went_out.values == {"lr": 0.3}


def test_no_fix_turns_a_setting_that_the_run_does_not_use():
    """Under a staged schedule the rates are the stages' own; the threshold of a schedule that looks
    at the loss is not that of a clipping.
    """
    staged = config_keys(choices={"schedule": "staged_shares"}, optim__lr=0.1)
    plateau = config_keys(choices={"schedule": "plateau"}, optim__lr=0.1, schedule__threshold=1e-4)
    for shape in SHAPES:
        assert "optim.lr" not in fixed(shape, staged)
        assert "schedule.threshold" not in fixed(shape, plateau)
    assert plateau.key("threshold") is None
    assert config_keys(choices={}, clip__threshold=1.0).key("threshold") == "clip.threshold"


def test_a_rate_that_still_rises_is_lowered_itself():
    """Where the warm-up outlasts the run no other schedule would be seen: the rate is lowered."""
    rising = {"rates": (STEPS, 1e-3 * STEPS)}
    for shape in ("fast_then_flat", "oscillating", "rebound"):
        known = config_keys(choices={"schedule": "constant"}, optim__lr=2.0)
        assert fixed(shape, known, **rising) == {"optim.lr": 0.2}
        assert fixed(shape, known) == {"schedule": "cosine"}


def test_one_that_never_moved_is_looked_at():
    """Flat at the start at a rate that others learn with it is not the rate; alone it may be."""
    still = features(np.full(100, 1.0))
    flat = Diagnosis("underfitting", "")
    assert not suggested_fix(flat, still, config_keys(0.1, lr=0.1)).values
    assert "initial weights" in suggested_fix(flat, still, config_keys(0.1, lr=0.1)).advice
    assert suggested_fix(flat, still, config_keys(0.1, lr=0.001)).values == {"lr": 0.1}
    alone = suggested_fix(flat, still, config_keys(lr=0.1))
    assert alone.values == {"lr": 0.3}
    assert "if it still does not move" in alone.advice
    ended_early = features(np.full(10, 1.0), steps=STEPS[:10])
    assert suggested_fix(flat, ended_early, config_keys(0.1, lr=0.1)).values == {"lr": 0.3}


def test_the_table_of_fixes():
    """Too fast, lower and clip; too slow, raise; flat early, decay; overfitting, regularise."""
    trainer = {"schedule": "constant", "clip": "none"}
    assert fixed("exploded", config_keys(optim__lr=1.0)) == {"optim.lr": 0.1}
    found = fixed("exploded", config_keys(choices=trainer, optim__lr=1.0), usual_norm=2.5)
    assert found == {"optim.lr": 0.1, "clip": "norm", "clip.threshold": 2.5}
    assert fixed("slow", config_keys(lr=0.01)) == {"lr": 0.03}
    assert fixed("slow", config_keys(0.08, lr=0.01)) == {"lr": 0.08}
    assert fixed("fast_then_flat", config_keys(choices=trainer, optim__lr=0.1)) == {
        "schedule": "cosine"
    }
    assert fixed("fast_then_flat", config_keys(lr=0.3)) == {"lr": 0.1}
    assert fixed("overfitting", config_keys(model__dropout=0.1, optim__weight_decay=0.0)) == {
        "model.dropout": 0.3
    }
    assert fixed("overfitting", config_keys(weight_decay=0.01)) == {"weight_decay": 0.1}
    assert fixed("overfitting", config_keys(steps=1000)) == {"steps": 500}
    assert fixed("converged", config_keys(lr=0.1)) == fixed("improving", config_keys(lr=0.1)) == {}


@given(st.floats(0.1, 0.99), st.integers(1, 5000))
def test_a_faster_decay_ends_at_a_hundredth_of_the_rate(rate, before):
    """Decay steps such that the rate is a hundredth at the end, or a third of those before if that
    is less.
    """
    rates = (STEPS, 0.1 * rate ** (STEPS / before))
    known = config_keys(schedule__decay_rate=rate, schedule__decay_steps=before, lr=0.1)
    changed = fixed("stalled", known, rates=rates)
    end = rates[1][-1] / rates[1].max()
    if "schedule.decay_steps" in changed and end > 2 * END_SHARE:
        at_most = min(before / LEAST, 1000 / math.log(END_SHARE, rate))
        assert changed["schedule.decay_steps"] == max(1, round(at_most))


def test_a_rate_that_is_spent_decays_more_slowly():
    """A rate that is near zero long before the loss is low."""
    rates = (STEPS, 0.1 * 0.5 ** (STEPS / 50))
    changed = fixed(
        "underfitting",
        config_keys(schedule__decay_rate=0.5, schedule__decay_steps=50, lr=0.1),
        rates=rates,
    )
    assert changed == {"schedule.decay_steps": round(1000 * math.log(0.5) / math.log(0.1))}


def test_a_tied_setting_is_changed_where_it_is_searched():
    """`schedule.decay_steps: ${decay_share} run` is fixed by decay_share."""
    known = ConfigKeys(
        {"schedule.decay_rate": 0.5, "decay_share": 0.9},
        frozenset({"decay_share"}),
        {"schedule.decay_steps": "decay_share"},
    )
    assert fixed("stalled", known, rates=(STEPS, 0.1 + 0 * STEPS)) == {"decay_share": 0.15}


def test_a_high_loss_that_jumped_is_calmed_and_one_that_did_not_is_driven():
    """Underfitting has two causes: a rate too high or too low. Jumps above the start, and better
    trials, tell.
    """
    jumped = FLAT.copy()
    jumped[3:6] = 1.2
    assert fixed("underfitting", config_keys(lr=0.1))["lr"] == 0.3
    assert fixed("underfitting", config_keys(lr=0.1), losses=jumped)["lr"] == 0.01
    assert fixed("underfitting", config_keys(0.01, lr=0.1))["lr"] == 0.01


def test_a_loss_that_began_high_has_not_jumped_where_better_rates_are_higher():
    """Its rate is raised; without peers it is lowered, and so is that of one that rose later."""
    began_high = np.linspace(1.9, 1.4, 100)
    rose = np.concatenate([np.linspace(1.2, 1.0, 50), np.linspace(2.0, 1.6, 50)])
    better = config_keys(0.3, lr=0.01)
    assert fixed("slow", better, losses=began_high)["lr"] == pytest.approx(0.3, rel=0.05)
    assert fixed("slow", config_keys(lr=0.01), losses=began_high)["lr"] < 0.01
    assert fixed("slow", better, losses=rose)["lr"] < 0.01


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03, "0.03"),
        (4000, "4000"),
        ("norm", "norm"),
        ("0.05 run", "'0.05 run'"),
        (None, "null"),
        (True, "true"),
    ],
)
def test_values_are_written_as_hydra_reads_them(value, text):
    """Numbers short, texts with blanks quoted."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert as_text(value) == text
    parsed = OverridesParser.create().parse_override(f"k={text}").value()
    assert (parsed.text if hasattr(parsed, "text") else parsed) == value


# A sweep of four trials: good, slow, exploded and slow again with the setting of trial 1.
SPACE = {
    "optim.lr": FloatDistribution(0.001, 1.0, log=True),
    "batch_size": CategoricalDistribution([16, 32]),
    "n_layers": IntDistribution(1, 4),
}
CURVES = (
    np.exp(-STEPS / 150),
    1 - 0.3 * STEPS / 1000,
    1 + np.exp(STEPS / 200),
    1 - 0.3 * STEPS / 1000,
)
RATES = (0.03, 0.002, 0.9, 0.002)
COMMAND = [
    "python",
    "-m",
    "app",
    "-m",
    "x=1",
    "optim.lr=tag(log,interval(0.001,1))",
    "hydra.sweeper.n_trials=4",
]


def sweep(lrs: tuple[float, ...] = RATES) -> Sweep:
    trials = pd.DataFrame(
        {"state": "complete", "why": "completed", "n_steps": 1000, "params.optim.lr": lrs}
    )
    trials["setting"] = trials.index
    trials = trials.assign(best=[c.min() for c in CURVES], final=[c[-1] for c in CURVES])
    trials = trials.assign(**{"params.batch_size": 16, "params.n_layers": 2})
    frames = [
        pd.DataFrame({"trial": n, "step": STEPS.astype(int), "metric": "loss", "value": v})
        for n, v in enumerate(CURVES)
    ]
    curves = pd.concat(frames).assign(examples=math.nan, seconds=0.0)
    return Sweep(
        "s", "loss", ("minimize",), trials, curves, ({"command": COMMAND},), {}, signature(SPACE)
    )


def test_cures_of_a_sweep_once_each_by_promise():
    """Trials that came far first; the same change of the same setting once, for both; well trials
    have none.
    """
    made = sweep()
    found = next_trials(made, diagnose(made))
    assert [t.fixes for t in found] == [(1, 3), (2,)]
    assert [t.shape for t in found] == ["slow", "exploded"]
    assert found[0].params == {"optim.lr": 0.006, "batch_size": 16, "n_layers": 2}
    assert found[0].command == "python -m app x=1 optim.lr=0.006 batch_size=16 n_layers=2"
    assert not found[0].outside


def test_a_fix_that_has_been_run_but_for_rounding_is_no_news():
    """Fixes have two digits: 0.0062 is what a trial of 0.00623 has run."""
    made = sweep()
    table = diagnose(made)
    table.at[1, "fix"], table.at[2, "fix"] = ("optim.lr=0.0062",), ()
    table.at[3, "fix"] = ()
    assert [t.fixes for t in next_trials(made, table)] == [(1,)]
    has_run = made.trials.assign(**{"params.optim.lr": [0.00623, 0.002, 0.9, 0.002]})
    assert next_trials(replace(made, trials=has_run), table) == []


def test_a_cure_outside_of_the_space_is_a_command():
    """What the sweep does not search, or not so far, has values beyond, the nearest setting inside
    if there is one, and a command.
    """
    made = sweep()
    table = diagnose(made)
    table.at[1, "fix"] = ("optim.lr=5.0",)
    table.at[2, "fix"] = ("clip=norm",)
    found = {t.fixes: t for t in next_trials(made, table)}
    assert found[(1,)].outside == "optim.lr=5 is not in 0.001 to 1"
    assert found[(2,)].outside == "clip is not searched"
    assert found[(2,)].command.endswith("clip=norm")
    assert (found[(1,)].beyond, found[(1,)].nearest) == ({"optim.lr": 5.0}, {"optim.lr": 1.0})
    assert (found[(2,)].beyond, found[(2,)].nearest) == ({"clip": "norm"}, {})
    assert found[(1,)].params["optim.lr"] == 0.002  # its own


def test_a_decay_that_cannot_be_shorter_has_a_lower_rate_instead():
    """The nearest setting inside gives the same learning rates where the ranges allow it."""
    space = signature(
        {
            "schedule.decay_rate": FloatDistribution(0.01, 0.99),
            "schedule.decay_steps": FloatDistribution(100, 1000),
        }
    )
    setting = {"schedule.decay_rate": 0.9, "schedule.decay_steps": 400.0}
    near = _nearest(space, setting, {"schedule.decay_steps": 20.0})
    assert near["schedule.decay_steps"] == 100
    assert near["schedule.decay_rate"] == pytest.approx(0.9**5, rel=0.01)
    assert _nearest(space, {**setting, "schedule.decay_steps": 20.0}, {"clip": "norm"}) == {}


def test_fixes_outside_of_the_space_are_marked_in_the_queue(tmp_path):
    """They are queued once when asked for, with their values beyond as texts; without, the nearest
    inside is.
    """
    (tmp_path / "sweep.yaml").write_text(
        "study_name: s\nstorage: null\ndirections: [minimize]\nmetric: loss\n"
    )
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    made = sweep()
    table = diagnose(made)
    table.at[1, "fix"] = ("optim.lr=5.0",)
    table.at[2, "fix"] = ("clip=norm",)
    found = [t for t in next_trials(made, table) if t.outside]
    assert len(enqueue(tmp_path, found)) == 1
    assert len(enqueue(tmp_path, found, beyond=True)) == 2
    assert enqueue(tmp_path, found, beyond=True) == []
    nearest, *beyond = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert nearest.system_attrs["fixed_params"]["optim.lr"] == 1.0
    assert "outside" not in nearest.user_attrs
    assert {"optim.lr": "5"} in [t.user_attrs["outside"] for t in beyond]


def test_what_a_new_choice_needs_comes_from_the_best_trial_that_has_it():
    """A suggested fix that brings a conditional parameter takes its value from the best trial with
    one; what goes, goes.
    """
    space = {
        **SPACE,
        "clip": CategoricalDistribution(["none", "norm"]),
        "clip.threshold": FloatDistribution(0.1, 10),
    }
    described = signature(space)
    described["clip.threshold"]["when"] = {"clip": ["norm"]}
    made = sweep()
    trials = made.trials.assign(
        **{
            "params.clip": ["norm", "none", "none", "norm"],
            "params.clip.threshold": [5.0, np.nan, np.nan, 2.0],
        }
    )
    made = Sweep(
        **{
            **{f: getattr(made, f) for f in made.__dataclass_fields__},
            "trials": trials,
            "space": described,
        }
    )
    table = diagnose(made)
    table.at[1, "fix"], table.at[3, "fix"] = ("clip=norm",), ("clip=none",)
    found = {t.fixes[0]: t.params for t in next_trials(made, table)}
    assert found[1]["clip.threshold"] == 5.0
    assert 3 not in found  # it is the setting of trial 1
    assert "clip.threshold" not in found[2]


def test_queued_cures_are_there_once(tmp_path):
    """Enqueueing twice queues once; the command to go on reaches as far as the queue."""
    (tmp_path / "sweep.yaml").write_text(
        "study_name: s\nstorage: null\ndirections: [minimize]\nmetric: loss\n"
    )
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    made = sweep()
    found = next_trials(made, diagnose(made))
    assert len(enqueue(tmp_path, found)) == 2
    assert enqueue(tmp_path, found) == []
    queued = study.get_trials(states=(optuna.trial.TrialState.WAITING,))
    assert [t.system_attrs["fixed_params"]["optim.lr"] for t in queued] == [
        t.params["optim.lr"] for t in found
    ]
    assert [t.user_attrs["fix_of"] for t in queued] == [1, 2]
    assert continuing(tmp_path, made).endswith(
        f"hydra.sweep.dir={tmp_path} hydra.sweeper.n_trials=2"
    )
    assert study.ask(SPACE).params == found[0].params


def test_settings_of_a_trial_come_from_its_parameters_and_the_config():
    """A chosen group hides the config's node of another; peers' rates are those of the same
    optimizer.
    """
    made = sweep()
    choices = {"optim": "sgd", "schedule": "constant", "clip": "none"}
    config = {
        "optim": {"lr": 0.1, "weight_decay": 0.2},
        "schedule": {"_target_": "iolaus.trainer.schedules.Constant"},
        "hydra": {"runtime": {"choices": choices}},
    }
    fields = {f: getattr(made, f) for f in made.__dataclass_fields__}
    trials = made.trials.assign(**{"params.optim": ["sgd", "adam", "sgd", "sgd"]})
    made = Sweep(**{**fields, "config": config, "trials": trials})
    known = all_config_keys(made, gather(made))
    assert known[0].key("lr") == "optim.lr"
    assert known[0].number("lr") == 0.03
    assert known[0].number("weight_decay") == 0.2
    assert known[1].key("weight_decay") is None
    assert known[0].has_trainer


def test_tables_are_json():
    """What `--json` prints can be read again."""
    made = sweep()
    assert len(json.loads(diagnose(made).reset_index().to_json(orient="records"))) == 4
