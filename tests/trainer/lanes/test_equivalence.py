"""A trial in a lane is the trial alone: every number, whatever is beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from optuna import TrialPruned

from iolaus.sweeps.types import Intervention, Verdict
from iolaus.trainer.best_weights import load_best
from iolaus.trainer.course import Summary
from iolaus.trainer.lanes import _group as group
from iolaus.trainer.lanes import _stack as stack
from iolaus.trainer.lanes import _stepper as stepper
from iolaus.trainer.settings import Settings, read
from iolaus.trainer.tasks.digit_sum import DigitSum

Compose = Callable[..., DictConfig]
SMALL = (
    "task.n_train=200",
    "task.n_val=50",
    "task.n_test=50",
    "batch_size=16",
    "report_every=5",
    "eval_every=20",
)
EXACT = (*SMALL, "precision=float64")
IN_CI = ("adam",)  # of the optimizers; all are run by `make test-all`


def assert_same(alone: Sequence[Any], together: Sequence[Any], rel: float) -> None:
    """Same steps, same metrics, each within rel of the solo loop's (or within rel of 1 for what is
    about 0).
    """
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other.outcome, Summary), other.outcome
        assert [r["step"] for r in one.reports] == [r["step"] for r in other.reports]
        for a, b in zip(one.reports, other.reports, strict=True):
            assert list(a) == list(b)
            assert b == pytest.approx(a, rel=rel, abs=rel)
        assert other.outcome.final == pytest.approx(one.outcome.final, rel=rel, abs=rel)
        assert (
            other.outcome.n_steps,
            other.outcome.best_step,
            other.outcome.ended,
            other.outcome.kept_step,
        ) == (
            one.outcome.n_steps,
            one.outcome.best_step,
            one.outcome.ended,
            one.outcome.kept_step,
        )
        assert one.plans == other.plans


OPTIMIZERS = {
    "sgd": ["optim=sgd optim.lr=0.01", "optim=sgd optim.lr=0.003"],
    "momentum": [
        "optim=sgd optim.lr=0.003 optim.momentum=0.9",
        "optim=sgd optim.lr=0.001 optim.momentum=0.5",
    ],
    "nesterov": ["optim=sgd optim.lr=0.003 optim.momentum=0.9 optim.nesterov=true"] * 2,
    "dampening": [
        "optim=sgd optim.lr=0.003 optim.momentum=0.9 +optim.dampening=0.5 optim.weight_decay=0.01"
    ]
    * 2,
    "adam": [
        "optim=adam optim.lr=0.01 optim.weight_decay=0.001",
        "optim=adam optim.lr=0.003 optim.weight_decay=0.1",
    ],
    "adamw": [
        "optim=adamw optim.lr=0.01 optim.beta1=0.8",
        "optim=adamw optim.lr=0.003 optim.eps=1e-4",
    ],
    "rmsprop": [
        "optim=rmsprop optim.lr=0.003 optim.alpha=0.9 optim.weight_decay=0.01",
        "optim=rmsprop optim.lr=0.001 optim.eps=1e-4",
    ],
    "rmsprop momentum": ["optim=rmsprop optim.lr=0.001 optim.momentum=0.5"] * 2,
    "groups": [
        "optim=adamw 'optim.groups=[{params: embedding.*, lr_scale: 0.1, weight_decay: 0.2}]'"
    ]
    * 2,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in IN_CI else [pytest.mark.slow]) for n in OPTIMIZERS],
)
def test_200_steps_equal_the_solo_loop(
    compose: Compose, alone: Any, together: Any, name: str
) -> None:
    """Losses, norms, rates and measures agree to 1e-10 over 200 steps in float64; refilled lanes
    too.
    """
    import shlex

    lines = [shlex.split(line) for line in OPTIMIZERS[name]]
    schedules = (
        ["schedule=exponential", "schedule.decay_steps=50", "schedule.warmup_steps=10"],
        ["schedule=cosine"],
    )
    runs = [
        read(
            compose(
                *EXACT,
                *line,
                *schedule,
                "clip=norm",
                f"clip.threshold={1 + i}",
                f"seed={i}",
                "steps=200",
            )
        )
        for i, (line, schedule) in enumerate(
            zip([*lines, *lines], [*schedules, *schedules[::-1]], strict=True)
        )
    ]
    assert_same(alone(runs), together(runs, n_first=3), 1e-10)


@pytest.mark.parametrize("clip", ["none", "norm", "value", "param_norm", "adaptive"])
def test_each_clipping(compose: Compose, alone: Any, together: Any, clip: str) -> None:
    """Each lane is clipped by its own norms and its own threshold."""
    thresholds = [()] * 3 if clip == "none" else [(f"clip.threshold={t}",) for t in (0.02, 0.5, 3)]
    runs = [
        read(compose(*EXACT, f"clip={clip}", *t, f"seed={i}", "optim.lr=0.01", "steps=40"))
        for i, t in enumerate(thresholds)
    ]
    assert_same(alone(runs), together(runs), 1e-10)


MODELS = {
    "mlp": ["task=digits", "batch_size=32"],
    "mlp dropout": ["task=digits", "batch_size=32", "model.dropout=0.3"],
    "cnn": ["task=digits", "model=cnn", "batch_size=32"],
    "cnn batch norm": ["task=digits", "model=cnn", "model.norm=batch", "batch_size=32"],
    "augmented": ["task=digits", "batch_size=32", "task.max_shift=1", "task.flip=0.3"],
    "lstm": ["task=digit_sum", "model=lstm", *SMALL],
    "gru": ["task=digit_sum", "model=gru", *SMALL],
    "transformer": ["task=digit_sum", "model=transformer", *SMALL],
}


@pytest.mark.parametrize("name", MODELS)
def test_each_model(compose: Compose, alone: Any, together: Any, name: str) -> None:
    """Every shipped model trains the same in lanes, dropout included: masks are the lane's own."""
    common = (
        "precision=float64",
        "optim=adamw",
        "optim.lr=0.003",
        "report_every=4",
        "eval_every=8",
        "steps=16",
    )
    runs = [read(compose(*MODELS[name], *common, f"seed={seed}")) for seed in range(3)]
    assert_same(alone(runs), together(runs), 1e-9)


ODD = {
    "a last block that is short": ("steps=33",),
    "evaluations between reports": ("steps=30", "eval_every=7"),
    "norms at each step": ("steps=30", "eval_every=7", "norms_each_step_until=13"),
    "parts of a batch": ("steps=20", "batch.accumulate=3"),
    "flooding": ("steps=20", "loss.flood=2.9"),
    "an L1 penalty": ("steps=20", "loss.l1=0.01"),
    "the mean": ("steps=20", "loss.reduction=mean", "loss.flood=2.9"),
    "a growing batch": ("steps=30", "batch.schedule=[[0,8],[12,16],[20,24]]"),
    "rates that follow the loss": (
        "steps=60",
        "schedule=plateau",
        "schedule.patience=0",
        "schedule.factor=0.5",
    ),
    "stopped early": (
        "steps=60",
        "eval_every=4",
        "early_stop.patience=1",
        "early_stop.min_delta=0.01",
    ),
    "the test set": ("steps=10", "test=true"),
    "a shuffle buffer": ("steps=20", "batch.shuffle_buffer=50"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_settings(compose: Compose, alone: Any, together: Any, name: str) -> None:
    """What is unusual about a run is the same in a lane."""
    runs = [
        read(compose(*EXACT, *ODD[name], f"seed={seed}", "optim.lr=0.005")) for seed in range(3)
    ]
    assert_same(alone(runs), together(runs, n_first=2), 1e-10)


def test_float32_within_rounding(compose: Compose, alone: Any, together: Any) -> None:
    """In float32 the losses differ by rounding only."""
    runs = [
        read(compose(*SMALL, f"seed={seed}", "optim=adam", "optim.lr=0.001", "steps=40"))
        for seed in range(3)
    ]
    assert_same(alone(runs), together(runs), 2e-4)


def test_checkpoints_are_interchangeable(
    compose: Compose, alone: Any, together: Any, tmp_path: Path
) -> None:
    """A lane's best weights are the solo loop's to rounding, and either is gone on from in
    either.
    """
    common = (*EXACT, "optim=adamw", "optim.lr=0.01", "schedule=cosine", "steps=40")
    runs = [read(compose(*common, f"seed={seed}")) for seed in range(2)]
    files = {who: [tmp_path / f"{who}{i}.pt" for i in range(2)] for who in ("solo", "lane")}
    alone(runs, files["solo"])
    together(runs, files["lane"])
    for solo, lane in zip(*files.values(), strict=True):
        a, b = load_best(solo), load_best(lane)
        assert (a["step"], a["examples"]) == (b["step"], b["examples"])
        torch.testing.assert_close(b["model"], a["model"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            b["optimizer"]["state"], a["optimizer"]["state"], rtol=1e-9, atol=1e-9
        )
    again = [
        read(compose(*common, f"seed={i}", f"resume={file}"))
        for i, file in enumerate(files["lane"])
    ]
    crossed = [
        read(compose(*common, f"seed={i}", f"resume={file}"))
        for i, file in enumerate(files["solo"])
    ]
    assert_same(alone(again), together(crossed), 1e-9)


def bits(ran: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if k != "examples"} for r in ran.reports]


def test_a_diverging_neighbour_changes_no_bit(compose: Compose, together: Any) -> None:
    """Lanes beside one that goes to NaN report the same bits as beside one that does not."""

    def runs(lr: str) -> list[Settings]:
        return [
            read(
                compose(
                    *SMALL,
                    "steps=60",
                    f"seed={i}",
                    f"optim.lr={lr if i == 1 else 0.01}",
                    "optim.momentum=0.9",
                )
            )
            for i in range(4)
        ]

    calm, wild = together(runs("0.01")), together(runs("1e38"))
    assert not math.isfinite(wild[1].reports[-1]["loss"])
    assert "diverged" in wild[1].outcome.ended
    for i in (0, 2, 3):
        assert bits(calm[i]) == bits(wild[i])


def test_a_refilled_lane_changes_no_bit(compose: Compose, together: Any) -> None:
    """Lanes beside one that is refilled in the middle report the same bits as beside one that goes
    on.
    """

    def runs(n_steps: int) -> list[Settings]:
        steps = [40, n_steps, 40, 40, 20]
        return [
            read(compose(*SMALL, f"steps={n}", f"seed={i}", "optim=adam"))
            for i, n in enumerate(steps)
        ]

    steady, refilled = together(runs(40)[:4]), together(runs(20), n_first=4)
    assert len(refilled[4].reports) == 4
    for i in (0, 2, 3):
        assert bits(steady[i]) == bits(refilled[i])


@pytest.mark.parametrize("action", ["decay", "rewind"])
def test_interventions(compose: Compose, alone: Any, together: Any, action: str) -> None:
    """A lane that is asked to lower its rate, or to go back to its best weights, does as the solo
    loop does.
    """
    intervention = Intervention(action, 0.25, Verdict("stalled", 20, "it has stalled"))
    runs = [
        read(compose(*EXACT, "optim=adam", f"optim.lr={lr}", f"seed={i}", "steps=60"))
        for i, lr in enumerate((0.004, 0.02, 0.01))
    ]

    def asked() -> dict[str, Any]:
        calls = iter(range(1000))  # every run asks after each of its 12 reports
        return {"ask_intervention": lambda: intervention if next(calls) % 12 == 5 else None}

    one_by_one = [alone([run], **asked())[0] for run in runs]
    beside = together(runs[:1], **asked())
    assert_same(one_by_one[:1], beside, 1e-9)
    calls = {i: iter(range(1000)) for i in range(3)}
    turn = iter([i for _ in range(12) for i in range(3)])  # lanes report in their order
    all_three = together(
        runs, ask_intervention=lambda: intervention if next(calls[next(turn)]) == 5 else None
    )
    assert_same(one_by_one, all_three, 1e-9)
    assert any("going on" in line for line in all_three[1].lines)


def test_a_run_pruned_out_of_its_report_leaves_with_its_best_weights(
    compose: Compose, together: Any, tmp_path: Path
) -> None:
    """TrialPruned ends that lane, after its checkpoint is written; the others go on to their
    end.
    """

    def report(step: int, **metrics: float) -> None:
        if step == 20 and next(turn) == 1:
            raise TrialPruned("enough")

    turn = iter(range(3))
    runs = [read(compose(*SMALL, "steps=40", f"seed={i}", "optim.lr=0.01")) for i in range(3)]
    files = [tmp_path / f"{i}.pt" for i in range(3)]
    first, pruned, last = together(runs, files, report=report)
    assert isinstance(pruned.outcome, TrialPruned)
    assert isinstance(first.outcome, Summary)
    assert isinstance(last.outcome, Summary)
    assert load_best(files[1])["step"] <= 20


def test_best_weights_move_with_a_run_whose_batch_size_changes(
    compose: Compose, alone: Any, together: Any, tmp_path: Path
) -> None:
    """A run that moves to the stack of its next batch size keeps the best weights it had, not those
    it moves with.
    """
    wild = "schedule.stages=[{lr: 0.005, decay_rate: 1, decay_steps: 1, length_steps: 5}, "
    schedule = (
        "schedule=staged",
        wild + "{lr: 0.1, decay_rate: 1, decay_steps: 1, length_steps: 1}]",
        "batch.schedule=[[0,8],[10,16]]",
    )
    run = read(compose(*EXACT, *schedule, "optim=adam", "steps=30"))
    intervention = Intervention("rewind", 1e-3, Verdict("stalled", 20, "it has stalled"))
    results = {}
    for name, train in (("solo", alone), ("lane", together)):
        asked = iter(range(6))
        intervened = {
            "ask_intervention": lambda asked=asked: intervention if next(asked) == 3 else None
        }
        results[name] = [*train([run], [tmp_path / f"{name}.pt"]), *train([run], **intervened)]
    assert_same(results["solo"], results["lane"], 1e-6)
    a, b = load_best(tmp_path / "solo.pt"), load_best(tmp_path / "lane.pt")
    assert a["step"] == b["step"] == 5
    torch.testing.assert_close(b["model"], a["model"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        b["optimizer"]["state"], a["optimizer"]["state"], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("stops", [False, True])
def test_a_rewind_at_the_last_report_counts_for_the_test(
    compose: Compose, alone: Any, together: Any, stops: bool
) -> None:
    """A run asked to go back at its last step, or as it is stopped, is measured with the weights it
    has gone back to.
    """
    intervention = Intervention("rewind", 0.25, Verdict("stalled", 12, "it has stalled"))
    runs = [
        read(compose(*EXACT, "optim.lr=0.3", "test=true", f"steps={n}", f"seed={n}"))
        for n in (12, 40)
    ]

    def hooks(n_before: int) -> dict[str, Any]:
        reports, asked = itertools.count(), itertools.count()
        return {
            "ask_intervention": lambda: intervention if next(reports) == n_before else None,
            "should_stop": lambda: next(asked) == n_before and stops,
        }

    solo = alone(runs[:1], **hooks(2))[0].outcome  # after those of steps 5 and 10
    lane = together(runs, **hooks(4))[0].outcome  # of both
    assert solo.kept_step == 5
    assert lane.ended == solo.ended
    assert lane.final == pytest.approx(solo.final, rel=1e-9)
    assert lane.tested == pytest.approx(solo.tested, rel=1e-9)


def test_a_checkpoint_that_cannot_be_written_fails_its_own_run(
    compose: Compose, together: Any, tmp_path: Path
) -> None:
    """Where a run's folder is gone, that run has failed, and its neighbours go on to their end."""
    runs = [read(compose(*SMALL, "steps=20", f"seed={i}")) for i in range(2)]
    failed, other = together(runs, [tmp_path / "gone" / "best.pt", tmp_path / "best.pt"])
    assert isinstance(failed.outcome, Exception)
    assert "gone" in str(failed.outcome)
    assert isinstance(other.outcome, Summary)


def test_weights_from_before_a_rebound_are_kept_as_in_the_solo_loop(
    compose: Compose, alone: Any, together: Any, tmp_path: Path
) -> None:
    """A rate that rises until the loss climbs: the same step, said at the same report, and the
    weights to rounding, beside a lane that has no rebound.
    """
    common = (*EXACT, "schedule=warmup_linear", "schedule.warmup_steps=100", "steps=100")
    each = ("report_every=2", "eval_every=50", "optim=sgd", "clip=norm")
    runs = [read(compose(*common, *each, f"optim.lr={lr}")) for lr in (1.5, 1e-3)]
    solo = alone(runs, [tmp_path / f"solo{i}.pt" for i in range(2)])
    lanes = together(runs, [tmp_path / f"lane{i}.pt" for i in range(2)])
    files = sorted(path.name for path in tmp_path.glob("*_before_rebound_*.pt"))
    assert len(files) == 2
    lane, alone_ = (load_best(tmp_path / name) for name in files)
    assert files[0].removeprefix("lane0") == files[1].removeprefix("solo0")
    torch.testing.assert_close(lane["model"], alone_["model"], rtol=1e-6, atol=1e-6)
    for ran in (solo, lanes):
        told = [line.partition(",")[0] for line in ran[0].lines if "before the rebound" in line]
        assert len(told) == 1
        assert told[0].endswith(f"the weights of step {lane['step']}")
        assert not any("before the rebound" in line for line in ran[1].lines)


def test_best_weights_are_written_while_a_run_goes_on(
    compose: Compose, together: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed loses some seconds of a lane's best weights, not all of them."""
    monkeypatch.setattr(group, "WRITE_S", 0.0)
    run = read(compose(*SMALL, "steps=20", "seed=1"))
    path = tmp_path / "best.pt"
    there: list[bool] = []
    together([run], [path], should_stop=lambda: there.append(path.exists()))
    assert there[0]


def test_a_step_that_cannot_be_traced_is_made_as_before(
    compose: Compose,
    together: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What vmap takes but tracing does not trains on with plain calls, and a line says so."""
    runs = [read(compose(*EXACT, "steps=20", f"seed={i}")) for i in range(2)]
    monkeypatch.setattr(stepper, "TRACE_PAYS_STEPS", 5)
    traced = together(runs)

    def refuse(_: object) -> Callable[..., object]:
        raise RuntimeError("no tracing of this")

    monkeypatch.setattr(stepper, "make_fx", refuse)
    assert_same(traced, together(runs), 1e-12)
    assert "cannot be traced, going on without: no tracing of this" in caplog.text


@pytest.mark.parametrize(("most", "n_chunks"), [(2**16, 1), (120, 2), (10, 3)])
def test_validation_takes_fewer_lanes_where_it_has_more_examples(
    compose: Compose, together: Any, monkeypatch: pytest.MonkeyPatch, most: int, n_chunks: int
) -> None:
    """What is evaluated at once, examples times lanes, is bounded, but for one lane; the measures
    are the same.
    """
    calls: list[int] = []
    measures = DigitSum.measures
    monkeypatch.setattr(DigitSum, "measures", lambda *given: calls.append(1) or measures(*given))
    runs = [read(compose(*EXACT, "steps=5", f"seed={i}")) for i in range(3)]
    whole = together(runs)
    calls.clear()
    monkeypatch.setattr(stack, "EVAL_EXAMPLES", most)
    assert_same(whole, together(runs), 1e-12)
    assert len(calls) == n_chunks
