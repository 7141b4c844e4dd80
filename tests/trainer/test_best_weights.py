"""The best weights are kept through a rebound, and interventions do to a run what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.types import Intervention, Verdict
from iolaus.trainer.best_weights import (
    SMOOTHING,
    BestWeights,
    SmoothedLoss,
    forget_rebounds,
    load_best,
)
from iolaus.trainer.lint import preview
from iolaus.trainer.loop import start, train
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]
SMALL = (
    "task.n_train=200",
    "task.n_val=50",
    "batch_size=16",
    "report_every=2",
    "eval_every=10",
    "steps=40",
)


def pieces(value: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(value)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def smoothed(losses: list[float]) -> list[float]:
    """The smoothed loss after each report, from its definition as a weighted mean."""
    weights = [SMOOTHING ** np.arange(len(losses[: i + 1]))[::-1] for i in range(len(losses))]
    return [float(np.average(losses[: i + 1], weights=w)) for i, w in enumerate(weights)]


def test_a_rebound_does_not_cost_the_best_weights(tmp_path: Path) -> None:
    """What is on disk at the end is from the report with the lowest smoothed loss, under its own
    name too; one lucky report is not the best.
    """
    rng = np.random.default_rng(0)
    losses = np.concatenate([np.linspace(3, 1, 40), np.linspace(1, 4, 40)]) + rng.normal(
        0, 0.05, 80
    )
    losses[70] = 0.0  # a lucky one, after the rebound
    best_weights = BestWeights(tmp_path / "best.pt", clock=lambda: 0.0)
    for step, loss in enumerate(losses.tolist()):
        best_weights.offer(step, 0, loss, *pieces(float(step)))
    best_weights.write()
    expected = int(np.argmin(smoothed(losses.tolist())))
    kept = load_best(tmp_path / "best.pt")
    assert kept["step"] == best_weights.step == expected
    assert kept["model"]["weight"].item() == expected
    assert kept["smoothed_loss"] == pytest.approx(min(smoothed(losses.tolist())))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["best.pt", f"best_before_rebound_{expected}.pt"]


def test_the_weights_before_each_rebound_are_kept_and_named(tmp_path: Path) -> None:
    """Each has a file that lower losses to come leave as it is, and is said once, within thirty
    reports; of more than five the oldest go; a run begun anew in the folder forgets them.
    """
    falls = [np.linspace(9 - n, 7 - n, 60) for n in range(7)]
    losses = np.concatenate(
        [np.concatenate([fall, np.linspace(fall[-1], 9, 40)]) for fall in falls]
    )
    losses += np.random.default_rng(0).normal(0, 0.05, len(losses))
    path, told = tmp_path / "best.pt", dict[int, Path]()
    best_weights = BestWeights(path, clock=lambda: 0.0)
    for step, loss in enumerate(losses.tolist()):
        kept = best_weights.offer(step, 0, loss, *pieces(float(step)))
        if kept is not None:
            told[step] = kept
    steps = [int(kept.stem.removeprefix("best_before_rebound_")) for kept in told.values()]
    assert len(steps) == 7
    for n, (at, step) in enumerate(zip(told, steps, strict=True)):
        assert step == pytest.approx(100 * n + 60, abs=5)
        assert step < at < step + 30
    here = sorted(one.name for one in tmp_path.glob("best_before_rebound_*.pt"))
    assert here == sorted(f"best_before_rebound_{step}.pt" for step in steps[-5:])
    for step in steps[-5:]:
        assert load_best(tmp_path / f"best_before_rebound_{step}.pt")["step"] == step
    forget_rebounds(path)
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


def test_noise_is_no_rebound() -> None:
    """A curve that falls and then stays, with noise of a sixth of its fall, has no rebound."""
    rng, smoothed_loss = np.random.default_rng(0), SmoothedLoss()
    losses = 2 + 3 * np.exp(-np.arange(3000) / 20) + rng.normal(0, 0.5, 3000)
    for loss in losses.tolist():
        smoothed_loss.offer(loss)
        assert smoothed_loss.rebound == 0


def run(
    cfg: DictConfig, interventions: dict[int, Intervention], **options: Any
) -> tuple[list[dict[str, float]], list[Any]]:
    """A run's reports and plans, with interventions given out after the reports of these steps."""
    reports: list[dict[str, float]] = []
    plans: list[Any] = []
    train(
        read(cfg),
        report=lambda step, **metrics: reports.append({"step": step, **metrics}),
        ask_intervention=lambda: interventions.get(int(reports[-1]["step"])),
        plan=lambda n_steps, lr: plans.append((n_steps, lr)),
        **options,
    )
    return reports, plans


def test_decay_lowers_every_rate_to_come(compose: Compose) -> None:
    """After an intervention the run is what it would be with the schedule times the factor from
    there on, and says so.
    """
    cfg = compose(*SMALL, "optim.lr=0.01", "schedule=exponential", "schedule.decay_steps=20")
    plain, _ = run(cfg, {})
    intervened, plans = run(
        cfg, {20: Intervention("decay", 0.25, Verdict("stalled", 20, "stalled"))}
    )
    for before, after in zip(plain, intervened, strict=True):
        factor = 1.0 if before["step"] <= 20 else 0.25
        assert after["lr"] == before["lr"] * factor
        assert (after["loss"] == before["loss"]) == (before["step"] <= 20)
    assert len(plans) == 2
    assert plans[1][1][-1][1] == pytest.approx(plans[0][1][-1][1] * 0.25)


def test_a_intervention_leaves_the_plan_of_the_steps_made_as_it_was(compose: Compose) -> None:
    """What is told after interventions holds the rates that were used, and the lowered ones from
    each intervention on.
    """
    cfg = compose(*SMALL, "optim.lr=0.01", "schedule=exponential", "schedule.decay_steps=20")
    interventions = {
        step: Intervention("decay", 0.25, Verdict("stalled", step, "stalled")) for step in (20, 30)
    }
    _, plans = run(cfg, interventions)
    first, _, last = (np.interp(np.arange(40), *zip(*lr, strict=True)) for _, lr in plans)
    factor = np.repeat([1.0, 0.25, 0.0625], [20, 10, 10])
    np.testing.assert_allclose(last, first * factor, atol=2e-5)


def test_rewind_goes_back_to_the_best_weights(compose: Compose, tmp_path: Path) -> None:
    """A rewind puts the best weights back: a run wrecked in between goes on as from the best
    report.
    """
    stages = [
        {"lr": 0.001, "decay_rate": 1.0, "decay_steps": 1, "length_steps": 10},
        {"lr": 5.0, "decay_rate": 1.0, "decay_steps": 1, "length_steps": 4},
        {"lr": 0.001, "decay_rate": 1.0, "decay_steps": 1, "length_steps": 10},
    ]
    cfg = compose(
        *SMALL,
        "steps=24",
        "schedule=staged",
        "schedule.stages=["
        + ",".join("{" + ",".join(f"{k}:{v}" for k, v in s.items()) + "}" for s in stages)
        + "]",
    )
    wrecked, _ = run(cfg, {}, keep=tmp_path / "wrecked.pt")
    rewound, _ = run(
        cfg,
        {14: Intervention("rewind", 0.5, Verdict("rebound", 14, "rebound"))},
        keep=tmp_path / "best.pt",
    )
    loss = {int(r["step"]): r["loss"] for r in rewound}
    assert max(loss[12], loss[14]) > 2 * loss[10]  # it was wrecked
    assert loss[16] < 1.1 * loss[10]  # and is not any more
    assert {int(r["step"]): r["loss"] for r in wrecked}[16] > loss[16]
    assert load_best(tmp_path / "wrecked.pt")["step"] <= 10


def test_resuming_is_going_on(compose: Compose, tmp_path: Path) -> None:
    """A run taken up from its checkpoint makes the same steps as one that was never stopped, bit
    for bit.
    """
    common = (*SMALL, "optim=adamw", "optim.lr=0.003", "schedule=cosine", "schedule.warmup_steps=5")
    whole, _ = run(compose(*common), {}, keep=tmp_path / "whole.pt")
    step = load_best(tmp_path / "whole.pt")["step"]
    assert 2 <= step < 40  # the loss was lowest before the end, or there is nothing to take up
    resumed, plans = run(compose(*common, f"resume={tmp_path}/whole.pt"), {})
    names = ("step", "loss", "lr", "examples", "val_loss")
    expected = [{n: r[n] for n in names if n in r} for r in whole if r["step"] > step]
    assert [{n: r[n] for n in names if n in r} for r in resumed] == expected
    assert plans[0][0] == 40


def test_weights_alone_begin_a_run_of_their_own(compose: Compose, tmp_path: Path) -> None:
    """init_checkpoint: step 0, a fresh optimizer, the schedule from its beginning, and the weights
    of the file; beside resume it is refused.
    """
    common = (*SMALL, "optim=adamw", "optim.lr=0.003", "schedule=warmup_linear")
    run(compose(*common), {}, keep=tmp_path / "best.pt")
    begun = read(compose(*common, f"init_checkpoint={tmp_path}/best.pt"))
    state = start(begun)
    assert (state.step, state.examples, len(state.optimizer.state)) == (0, 0, 0)
    for name, weights in load_best(tmp_path / "best.pt")["model"].items():
        assert torch.equal(state.model.state_dict()[name], weights)
    first, *_ = run(compose(*common, f"init_checkpoint={tmp_path}/best.pt"), {})[0]
    fresh, *_ = run(compose(*common), {})[0]
    assert first["lr"] == fresh["lr"]
    assert first["loss"] < fresh["loss"]
    with pytest.raises(BadInputError, match="give one of them"):
        read(compose(*SMALL, "resume=best.pt", "init_checkpoint=best.pt"))


def test_resuming_keeps_the_settings_asked_for(compose: Compose, tmp_path: Path) -> None:
    """Weight decay and momentum are those of the config, not those the checkpoint was written
    with.
    """
    run(
        compose(*SMALL, "optim=sgd", "optim.momentum=0.9", "optim.weight_decay=0.2"),
        {},
        keep=tmp_path / "best.pt",
    )
    again = compose(
        *SMALL,
        "optim=sgd",
        "optim.momentum=0.5",
        "optim.weight_decay=0.1",
        f"resume={tmp_path}/best.pt",
    )
    state = start(read(again))
    assert state.step > 0
    assert all(group["momentum"] == 0.5 for group in state.optimizer.param_groups)
    assert {group["weight_decay"] for group in state.optimizer.param_groups} == {0.0, 0.1}


def test_a_checkpoint_that_does_not_fit_is_refused(compose: Compose, tmp_path: Path) -> None:
    """A missing file, another file, and the weights of another model are refused in one sentence
    before training.
    """
    (tmp_path / "other.pt").write_text("no checkpoint")
    run(compose(*SMALL, "model.n_hidden=8"), {}, keep=tmp_path / "small.pt")
    for name in ("missing.pt", "other.pt", "small.pt"):
        with pytest.raises(BadInputError) as error:
            preview(read(compose(*SMALL, f"resume={tmp_path}/{name}")))
        assert "\n" not in str(error.value)
