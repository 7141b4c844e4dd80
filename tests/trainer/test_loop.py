from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.course import Summary
from iolaus.trainer.data import Batches
from iolaus.trainer.loop import evaluate, start, train, update
from iolaus.trainer.schedules import Exponential
from iolaus.trainer.settings import Settings, read

Compose = Callable[..., DictConfig]
Report = dict[str, float]

SMALL = (
    "task.n_train=200",
    "task.n_val=50",
    "task.n_test=50",
    "batch_size=16",
    "report_every=1",
    "eval_every=10",
)


def trained(cfg: DictConfig) -> tuple[Summary, list[Report]]:
    """A run's summary and its reports, each with its step."""
    reports: list[Report] = []
    summary = train(
        read(cfg), report=lambda step, **metrics: reports.append({"step": step, **metrics})
    )
    return summary, reports


def column(reports: list[Report], name: str) -> list[float]:
    return [report[name] for report in reports if name in report]


def first_model(run: Settings) -> torch.nn.Module:
    torch.manual_seed(run.seed)
    return start(run).model


OPTIMIZERS: list[tuple[tuple[str, ...], Callable[[Any], torch.optim.Optimizer]]] = [
    (("optim=sgd", "optim.lr=0.01"), lambda params: torch.optim.SGD(params, lr=0.01)),
    (
        ("optim=sgd", "optim.lr=0.01", "optim.momentum=0.9", "optim.nesterov=true"),
        lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, nesterov=True),
    ),
    (("optim=adam", "optim.lr=0.01"), lambda params: torch.optim.Adam(params, lr=0.01)),
    (
        ("optim=rmsprop", "optim.lr=0.01", "optim.alpha=0.9", "optim.momentum=0.5"),
        lambda params: torch.optim.RMSprop(params, lr=0.01, alpha=0.9, momentum=0.5),
    ),
    (
        ("optim=adamw", "optim.lr=0.01", "optim.beta1=0.8", "optim.decay_vectors=true"),
        lambda params: torch.optim.AdamW(params, lr=0.01, betas=(0.8, 0.999), weight_decay=0.01),
    ),
]


@pytest.mark.parametrize(("overrides", "make"), OPTIMIZERS)
def test_the_loop_is_plain_torch(
    compose: Compose, overrides: tuple[str, ...], make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    """Losses, norms and the last weights equal a loop written with torch.optim, LambdaLR and
    clip_grad_norm_.
    """
    schedule = (
        "schedule=exponential",
        "schedule.decay_rate=0.5",
        "schedule.decay_steps=20",
        "schedule.warmup_steps=5",
    )
    cfg = compose(
        *SMALL,
        *overrides,
        *schedule,
        "clip=norm",
        "clip.threshold=3",
        "steps=60",
        "precision=float64",
    )
    _, reports = trained(cfg)

    run = read(cfg)
    model = first_model(run)
    optimizer = make(model.parameters())
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: t / 5 if t < 5 else 0.5 ** ((t - 5) / 20)
    )
    batches = Batches(run.splits.train, run.seed)
    for step in range(60):
        batch = batches.at(16 * step, 16)
        loss = torch.nn.functional.cross_entropy(
            model(batch.inputs), batch.targets, reduction="sum"
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        rate.step()
        assert reports[step]["loss"] == pytest.approx(loss.item() / 16, rel=1e-10)
        assert reports[step]["grad_norm"] == pytest.approx(norm.item(), rel=1e-8)
        assert reports[step]["clipped"] == float(norm > 3)
    assert reports[-1]["val_loss"] == pytest.approx(
        evaluate(run, model, run.splits.val)["val_loss"], rel=1e-8
    )


def test_equal_settings_give_equal_bits(compose: Compose) -> None:
    """The same config and seed give the same losses to the last bit, whatever torch's generator was
    before.
    """
    cfg = compose(*SMALL, "steps=40", "optim.lr=0.02", "clip=norm")
    torch.manual_seed(1)
    first = trained(cfg)[1]
    torch.manual_seed(2)
    second = trained(cfg)[1]
    assert first == second
    assert trained(compose(*SMALL, "steps=40", "optim.lr=0.02", "clip=norm", "seed=1"))[1] != first


def test_a_run_leaves_torchs_generator_alone(compose: Compose) -> None:
    """What the caller draws after a run does not depend on the run."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(compose(*SMALL, "steps=2"))
    assert torch.equal(torch.rand(3), expected)


def test_reports_hold_the_window_since_the_last_report(compose: Compose) -> None:
    """Sparser reports are the means and maxima (norms) of the dense ones; the last step always
    reports.
    """
    common = (*SMALL, "steps=25", "optim.lr=0.01", "clip=norm", "clip.threshold=20")
    dense = trained(compose(*common))[1]
    sparse = trained(compose(*common, "report_every=10"))[1]
    assert column(sparse, "step") == [10, 20, 25]
    for report, window in zip(sparse, (dense[:10], dense[10:20], dense[20:]), strict=True):
        for name in ("loss", "clipped"):
            assert report[name] == pytest.approx(sum(column(window, name)) / len(window), rel=1e-6)
        for name in ("grad_norm", "grad_norm/W", "grad_norm/U", "grad_norm/b"):
            assert report[name] == max(column(window, name))
        assert (report["lr"], report["examples"]) == (window[-1]["lr"], window[-1]["examples"])
    assert 0 < sum(column(sparse, "clipped")) < 3


@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_running_loss_is_textsums(compose: Compose, cap: float | None) -> None:
    """At each report it is what `_RunningAvgLoss` has made of the losses of all steps so far: the
    first one, then `decay * average + (1 - decay) * loss`, each time cut at the cap.
    """
    common = (*SMALL, "steps=25", "optim.lr=0.01")
    dense = trained(compose(*common))[1]
    asked = (f"loss.running_cap={'null' if cap is None else cap}", "loss.running_decay=0.9")
    sparse = trained(compose(*common, *asked, "report_every=10"))[1]
    average, expected = 0.0, {}
    for report in dense:
        average = report["loss"] if average == 0 else average * 0.9 + (1 - 0.9) * report["loss"]
        average = average if cap is None else min(average, cap)
        expected[report["step"]] = average
    assert column(sparse, "running_loss") == pytest.approx(
        [expected[step] for step in (10, 20, 25)], rel=1e-6
    )
    assert "running_loss" not in dense[0]
    with pytest.raises(BadInputError, match=r"loss\.running_decay must be from 0 up and below 1"):
        read(compose("loss.running_decay=1"))


def test_norms_are_reported_at_each_step_as_long_as_asked(compose: Compose) -> None:
    """Up to norms_each_step_until the norms are those of dense reports, then the largest since the
    last; loss and clipped come as if nobody had asked.
    """
    common = (*SMALL, "steps=25", "optim.lr=0.01", "clip=norm", "clip.threshold=20")
    dense = trained(compose(*common))[1]
    sparse = trained(compose(*common, "report_every=10", "eval_every=7"))[1]
    asked = trained(
        compose(*common, "report_every=10", "eval_every=7", "norms_each_step_until=13")
    )[1]
    norms = ("grad_norm", "grad_norm/W", "grad_norm/U", "grad_norm/b")
    for name in norms:
        windows = [*([row] for row in dense[:13]), dense[13:20], dense[20:]]
        assert column(asked, name) == [max(column(window, name)) for window in windows]
        assert [r["step"] for r in asked if name in r] == [*range(1, 14), 20, 25]

    def without_norms(reports: list[Report]) -> list[Report]:
        rows = [{n: v for n, v in row.items() if not n.startswith("grad_norm")} for row in reports]
        return [row for row in rows if len(row) > 1]

    assert without_norms(asked) == without_norms(sparse)


def test_validation_is_reported_at_its_interval_and_at_the_end(compose: Compose) -> None:
    """val_loss and val_accuracy come every eval_every steps and after the last one, and the best is
    remembered.
    """
    summary, reports = trained(compose(*SMALL, "steps=34", "optim.lr=0.005", "clip=norm"))
    measured = [report for report in reports if "val_loss" in report]
    assert column(measured, "step") == [10, 20, 30, 34]
    assert summary.final == {name: measured[-1][name] for name in ("val_loss", "val_accuracy")}
    assert summary.best["val_loss"] == min(column(measured, "val_loss"))
    assert {"val_loss": summary.best["val_loss"], "step": summary.best_step}.items() <= min(
        measured, key=lambda report: report["val_loss"]
    ).items()
    assert (summary.n_steps, summary.examples, summary.ended) == (34, 34 * 16, "done")


def test_the_test_set_is_measured_only_when_asked_for(compose: Compose) -> None:
    """With test=true the weights best on validation are measured on the test set; nothing of it is
    reported to a sweep.
    """
    assert trained(compose(*SMALL, "steps=3"))[0].tested == {}
    summary, reports = trained(compose(*SMALL, "steps=3", "test=true"))
    assert set(summary.tested) == {"test_loss", "test_accuracy"}
    assert summary.tested["test_loss"] != summary.final["val_loss"]
    assert not any("test_loss" in report for report in reports)


def test_the_test_set_is_measured_with_the_weights_best_on_validation(compose: Compose) -> None:
    """A rate so high that validation gets worse: what is tested is what was best, and a run that
    ended there has the same test loss.
    """
    common = (*SMALL, "optim.lr=0.01", "eval_every=5", "test=true")
    whole, reports = trained(compose(*common, "steps=100"))
    losses = column(reports, "val_loss")
    assert min(losses) < losses[-1]
    assert whole.best_step == 5 * (1 + losses.index(min(losses)))
    short, _ = trained(compose(*common, f"steps={whole.best_step}"))
    assert short.tested == whole.tested
    assert short.final == whole.best


def test_evaluation_comes_with_the_step_that_completes_an_epoch(compose: Compose) -> None:
    """`1 epochs` of 200 examples in batches of 16: after 13, 25, 38 ... steps, and at the end."""
    _, reports = trained(compose(*SMALL, "steps=3.5 epochs", "eval_every=1 epochs"))
    assert [r["step"] for r in reports if "val_loss" in r] == [13, 25, 38, 43]


def test_total_norm_is_made_of_the_parameters_norms(compose: Compose) -> None:
    """Every parameter has its norm in each report, and their root of squares is the total."""
    _, reports = trained(compose(*SMALL, "steps=3"))
    names = {"embedding.weight", "W", "U", "b", "output.weight", "output.bias"}
    for report in reports:
        norms = {
            name.removeprefix("grad_norm/"): value
            for name, value in report.items()
            if "norm/" in name
        }
        assert set(norms) == names
        assert report["grad_norm"] == pytest.approx(
            math.sqrt(sum(n * n for n in norms.values())), rel=1e-6
        )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("n_parts", [2, 3, 16])
def test_accumulated_parts_equal_the_whole_batch(
    compose: Compose, reduction: str, n_parts: int
) -> None:
    """Splitting a batch changes rounding only, also in unequal parts and with flooding."""
    common = (
        *SMALL,
        "steps=30",
        "optim.lr=0.02",
        "clip=norm",
        "precision=float64",
        f"loss.reduction={reduction}",
    )
    whole = trained(compose(*common, "loss.flood=2.9"))[1]
    parts = trained(compose(*common, "loss.flood=2.9", f"batch.accumulate={n_parts}"))[1]
    assert column(parts, "loss") == pytest.approx(column(whole, "loss"), rel=1e-10)


def test_an_l1_penalty_is_torchs_gradient_of_it(compose: Compose) -> None:
    """The first update is that of the loss plus l1 times the weights' absolute values, biases left
    out; the reported loss is without it.
    """
    cfg = compose(*SMALL, "loss.reduction=mean", "loss.l1=0.3", "steps=1", "precision=float64")
    run = read(cfg)
    batch = Batches(run.splits.train, run.seed).at(0, 16)
    model = first_model(run)
    loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
    penalty = sum(p.abs().sum() for p in model.parameters() if p.ndim >= 2)
    (loss + 0.3 * penalty).backward()
    _, [report] = trained(cfg)
    assert report["loss"] == pytest.approx(loss.item(), rel=1e-12)
    for name, param in model.named_parameters():
        assert param.grad is not None
        assert report[f"grad_norm/{name}"] == pytest.approx(float(param.grad.norm()), rel=1e-9)
    with pytest.raises(BadInputError, match=r"loss\.l1 must be finite and from 0 up; got -1"):
        read(compose("loss.l1=-1"))


def test_flooding_keeps_the_loss_at_its_level(compose: Compose) -> None:
    """The gradient is that of |loss - flood| + flood: down above the level, up below it, so the
    loss stays near it.
    """
    common = ("task=digits", "steps=300", "optim.lr=0.2", "report_every=50", "eval_every=300")
    assert trained(compose(*common))[1][-1]["loss"] < 0.2
    flooded = trained(compose(*common, "loss.flood=0.6"))[1]
    assert 0.5 < flooded[-1]["loss"] < 0.75

    cfg = compose(
        *SMALL,
        "steps=20",
        "loss.flood=2.95",
        "loss.reduction=mean",
        "optim.lr=0.5",
        "precision=float64",
    )
    reports = trained(cfg)[1]
    run = read(cfg)
    model = first_model(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    signs = set()
    for step in range(20):
        batch = Batches(run.splits.train, run.seed).at(16 * step, 16)
        loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        optimizer.zero_grad()
        ((loss - 2.95).abs() + 2.95).backward()
        optimizer.step()
        signs.add(bool(loss > 2.95))
        assert reports[step]["loss"] == pytest.approx(loss.item(), rel=1e-10)
    assert signs == {True, False}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_single(compose: Compose, precision: str) -> None:
    """Autocast, and for fp16 gradient scaling, end near the float32 run; gradients arrive
    unscaled.
    """
    common = (
        "task=digits",
        "model=cnn",
        "steps=40",
        "optim=adamw",
        "optim.lr=3e-3",
        "report_every=1",
        "eval_every=40",
    )
    single = trained(compose(*common))[1]
    half = trained(compose(*common, f"precision={precision}"))[1]
    assert half != single
    assert half[-1]["val_loss"] == pytest.approx(single[-1]["val_loss"], rel=0.1)
    first = next(
        i for i in range(40) if math.isfinite(half[i]["grad_norm"])
    )  # fp16 skips steps to find its scale
    assert half[first]["grad_norm"] == pytest.approx(single[0]["grad_norm"], rel=0.1)


def test_a_loss_that_is_not_finite_ends_the_run(compose: Compose) -> None:
    """A diverged run stops at its next report, says at which step, and returns what is left of the
    loss.
    """
    summary, reports = trained(
        compose("task=digits", "optim.lr=1e30", "steps=100", "report_every=5")
    )
    assert not math.isfinite(reports[-1]["loss"])
    assert summary.n_steps == reports[-1]["step"] == 5
    assert "diverged: the loss is" in summary.ended
    assert "step 5" in summary.ended


def test_the_sweep_can_end_a_run(compose: Compose) -> None:
    """should_stop ends it after the report; TrialPruned out of report is let through."""
    run = read(compose(*SMALL, "steps=50"))
    seen: list[int] = []
    summary = train(
        run, report=lambda step, **_: seen.append(step), should_stop=lambda: len(seen) >= 7
    )
    assert (summary.n_steps, summary.ended) == (7, "stopped by the sweep at step 7")
    assert set(summary.final) == {"val_loss", "val_accuracy"}

    def prune(step: int, **_: float) -> None:
        raise optuna.TrialPruned("enough")

    with pytest.raises(optuna.TrialPruned, match="enough"):
        train(run, report=prune)


def test_the_plan_is_told_before_the_first_step(compose: Compose) -> None:
    """The horizon and the corners of the learning rate go out first; a schedule that looks at the
    loss has none.
    """
    calls: list[Any] = []

    def told(*overrides: str) -> Any:
        calls.clear()
        train(
            read(compose(*SMALL, "steps=40", *overrides)),
            report=lambda step, **_: calls.append(step),
            plan=lambda n_steps, lr: calls.append((n_steps, lr)),
        )
        return calls[0]

    assert told("schedule=polynomial", "optim.lr=0.4") == (
        40,
        [(0, 0.4), (39, pytest.approx(0.01))],
    )
    assert told("schedule=plateau") == (40, ())


def test_a_batch_schedule_changes_the_batches_and_counts_examples(compose: Compose) -> None:
    """Sizes 4, 8 and 2 from their steps on; examples are their sum, and the data goes on where it
    was.
    """
    schedule = "batch.schedule=[[0,4],[10,8],[20,2]]"
    summary, reports = trained(compose(*SMALL, "steps=30", schedule))
    assert summary.examples == 10 * 4 + 10 * 8 + 10 * 2
    assert column(reports, "examples")[9:12] == [40, 48, 56]


def test_reduce_on_plateau_is_driven_by_the_watched_metric(compose: Compose) -> None:
    """The rate falls where torch's ReduceLROnPlateau, shown the same validation losses, lets it
    fall.
    """
    overrides = (
        "schedule=plateau",
        "schedule.patience=1",
        "schedule.factor=0.5",
        "optim.lr=0.3",
        "steps=200",
    )
    _, reports = trained(compose(*SMALL, *overrides))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=1, threshold=1e-4
    )
    for report in reports:
        assert report["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        if "val_loss" in report:
            reference.step(report["val_loss"])
    assert reports[-1]["lr"] < 0.3


def test_a_metric_that_is_not_measured_is_named(compose: Compose) -> None:
    """Watching what the task does not measure ends with the names of what it does."""
    with pytest.raises(
        ValueError, match=r"schedule.watch=val_bleu is not measured .* val_loss, val_accuracy"
    ):
        trained(compose(*SMALL, "schedule=plateau", "schedule.watch=val_bleu", "steps=20"))


def test_the_digit_sum_explodes_without_clipping_and_learns_with_it(compose: Compose) -> None:
    """On the digit sum, clipping the norm turns a run that learns nothing into one that does."""
    common = (
        "optim.lr=0.05",
        "schedule=exponential",
        "schedule.decay_steps=300",
        "steps=800",
        "eval_every=200",
    )
    unclipped, _ = trained(compose(*common))
    clipped, reports = trained(compose(*common, "clip=norm", "clip.threshold=5"))
    assert unclipped.best["val_accuracy"] < 0.2
    assert clipped.final["val_accuracy"] > 0.3
    assert 0.5 < sum(column(reports, "clipped")) / len(reports) <= 1


def test_a_stage_begins_with_the_weights_that_the_one_before_ended_with(compose: Compose) -> None:
    """One run through a staged schedule is the restarts by hand, each with a new optimizer and a
    decay of its own, from the last weights of the run before.
    """
    stages = [(0.5, 0.8, 5), (0.15, 0.8, 10), (0.05, 0.8, 3)]
    written = ",".join(
        f"{{lr: {lr}, decay_rate: {rate}, decay_steps: {steps}, length_steps: 6}}"
        for lr, rate, steps in stages
    )
    cfg = compose(
        *SMALL, "steps=18", "optim=sgd", "schedule=staged", f"schedule.stages=[{written}]"
    )
    at_once = column(trained(cfg)[1], "loss")

    run = read(cfg)
    weights, by_hand, examples = first_model(run).state_dict(), list[float](), 0
    batches = Batches(run.splits.train, run.seed)
    for lr, rate, steps in stages:
        state = start(run)
        state.model.load_state_dict(weights)
        schedule = Exponential(decay_rate=rate, decay_steps=steps)
        for step in range(6):
            made = update(run, state, batches.at(examples, 16), float(schedule(step, lr)))
            by_hand.append(float(made.loss))
            examples += 16
        weights = state.model.state_dict()
    assert by_hand == pytest.approx(at_once, rel=1e-6)
