from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.trainer.lint import preview
from iolaus.trainer.settings import read

CONF = Path(__file__).parents[2] / "conf"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "group", [pytest.param("task", marks=pytest.mark.slow), "optim", "schedule", "clip"]
)
def test_every_config_of_a_group_makes_a_run(
    compose: Callable[..., DictConfig], group: str, image_folder: Path, tmp_path: Path
) -> None:
    """Each shipped choice composes, and every check passes."""
    assert len(choices(group)) >= 2
    text = tmp_path / "text"
    text.write_text("a few words\n" * 2100)
    for choice in choices(group):
        own = {
            "images": [f"task.folder={image_folder}"],
            "parallel_text": [f"task.source_file={text}", f"task.target_file={text}"],
        }.get(choice, [])
        assert read(compose(f"{group}={choice}", "steps=1000", *own)).n_steps == 1000, choice


@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_schedule_runs_with_and_without_warm_up(
    compose: Callable[..., DictConfig], schedule: str
) -> None:
    """Warm-up is a line from 0 to where the schedule begins, and takes no step from the others."""
    with_it, without = (
        read(compose(f"schedule={schedule}", f"schedule.warmup_steps={n} steps", "steps=1000"))
        for n in (100, 0)
    )
    rates, plain = (run.schedule(np.arange(1000), 0.1) for run in (with_it, without))
    own = {"staged": 0.55, "staged_shares": 0.55, "one_cycle": 0.1 / 25}
    begins = own.get(schedule, 0.1)
    assert plain[0] == pytest.approx(begins)
    np.testing.assert_allclose(rates[:100], begins * np.arange(100) / 100)
    assert np.isfinite(rates).all()
    assert (rates[100:] >= 0).all()


def test_milestones_count_from_the_first_step(compose: Callable[..., DictConfig]) -> None:
    """With a warm-up too, multi-step falls where torch's MultiStepLR falls."""
    run = read(compose("schedule=multistep", "schedule.warmup_steps=100", "steps=1000"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [500, 750])
    expected = []
    for _ in range(1000):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    rates = run.schedule(np.arange(1000), 0.1)
    np.testing.assert_allclose(rates[100:], expected[100:])


def test_the_rates_of_parameter_groups_can_be_searched(compose: Callable[..., DictConfig]) -> None:
    """A group's scale may refer to a key of one's own, which a sweep then searches."""
    run = read(
        compose(
            *("task=digits", "+head=0.25"),
            "optim.groups=[{params: '3.*', lr_scale: ${head}}]",
        )
    )
    assert [group["lr_scale"] for group in run.optim.groups] == [0.25]


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("digit_sum", "rnn"),
        ("digits", "mlp"),
        ("digits", "cnn"),
        ("digit_sum", "lstm"),
        ("digit_sum", "gru"),
        ("digit_sum", "transformer"),
    ],
)
def test_a_task_chooses_its_model_unless_told(
    compose: Callable[..., DictConfig], task: str, model: str
) -> None:
    """The task's default model, or the one named on the command line, takes its data."""
    cfg = compose(f"task={task}", *([] if model in ("rnn", "mlp") else [f"model={model}"]))
    assert cfg.model._target_.startswith(f"iolaus.trainer.models.{model}.")
    run = read(cfg)
    n_classes = {"digit_sum": 19, "digits": 10}[task]
    batch = run.splits.val[:5]
    assert run.task.build_model(run.node)(batch.inputs).shape == (5, n_classes)


def test_lengths_follow_the_batch_size(compose: Callable[..., DictConfig]) -> None:
    """Ten epochs at twice the batch size are half the steps, and the schedule ends with them."""
    small = read(compose("steps=10 epochs", "batch_size=32", "schedule=warmup_linear"))
    large = read(compose("steps=10 epochs", "batch_size=64", "schedule=warmup_linear"))
    assert (small.n_steps, large.n_steps) == (2000, 1000)
    for run in (small, large):
        assert run.schedule(run.n_steps, 0.1) == pytest.approx(0, abs=1e-12)
        assert run.schedule(run.n_steps - 1, 0.1) > 0
        assert run.schedule(run.n_steps // 10, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["batch_size=0"], "batch_size must be a whole number from 1 up; got 0"),
        (["batch_size=2.5"], r"batch_size must be a whole number from 1 up; got 2\.5"),
        (["steps=0"], "steps=0 leaves no whole step"),
        (["steps=5 examples"], "steps=5 examples leaves no whole step at batch_size=64"),
        (["steps=0.5 run"], "a length is a number"),
        (["seed=-1"], "seed must be"),
        (["precision=fp8"], "precision must be one of float64, float32, bf16, fp16"),
        (["device=warp"], "device=warp cannot be used here"),
        (["device=cuda:99"], "device=cuda:99 cannot be used here"),
        (["optim.lr=-1"], "optim.lr must be finite and from 0 up; got -1"),
        (["optim.lr=nan"], "optim.lr must be finite"),
        (["optim.kind=lion"], "optim.kind=lion is not known; there are sgd, adam, adamw, rmsprop"),
        (["optim.groups=[{lr_scale: 2}]"], "a group of optim.groups has params"),
        (["clip=norm", "clip.threshold=0"], r"clip\.threshold must be above 0"),
        (["schedule=exponential", "schedule.decay_rate=2"], r"schedule\.decay_rate must be in"),
        (["schedule=exponential", "schedule.unit=weeks"], "a length is a number"),
        (["+schedule.bogus=1"], r"bogus.*its settings are warmup_steps, min_lr"),
        (
            ["schedule._target_=iolaus.trainer.clipping.NoClipping"],
            "got an unexpected keyword|must name a Schedule",
        ),
        (["schedule._target_=iolaus.trainer.nowhere.Schedule"], "cannot be imported"),
        (["loss.reduction=max"], "loss.reduction is"),
        (["loss.flood=-1"], "loss.flood must be"),
        (["batch.accumulate=65"], "cannot split a batch of 64"),
        (["report_every=0"], "report_every must be"),
        (["norms_each_step_until=-1"], "norms_each_step_until must be"),
        (["batch.shuffle_buffer=0"], r"batch\.shuffle_buffer must be null or from 1 up; got 0"),
        (["lint.from_step=-1"], r"lint\.from_step must be"),
        (["lint.n_samples=0"], r"lint\.n_samples must be"),
        (["task.n_distractors=50"], "task.n_distractors must fit"),
        (["batch.schedule=[[0,4],[0,8]]"], "must rise"),
        (["model.n_hidden=???"], "Missing mandatory value"),
    ],
)
def test_bad_input_is_refused_before_any_compute(
    compose: Callable[..., DictConfig], overrides: list[str], sentence: str
) -> None:
    """What cannot be run is refused by name, with what arrived, when the config is read."""
    with pytest.raises(BadInputError, match=sentence):
        read(compose(*overrides))


def test_a_model_that_does_not_fit_the_task_is_refused_by_name(
    compose: Callable[..., DictConfig],
) -> None:
    """Two examples are tried before any training; what model and optimizer refuse comes as a
    sentence too.
    """
    mismatch = (
        r"model iolaus\.trainer\.models\.mlp\.MLP does not take the data of task "
        r"iolaus\.trainer\.tasks\.digit_sum\.DigitSum: "
    )
    for overrides, sentence in (
        (["model=mlp"], mismatch),
        (["task=digits", "model=cnn", "model.side=6"], r"model\.side=6 must be a multiple of 4"),
        (["optim.nesterov=true"], "optim, for kind sgd: Nesterov momentum requires"),
        (["optim.groups=[{params: 'x.*'}]"], r"no parameter is called like 'x\.\*'"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            preview(read(compose(*overrides)))


def run_trainer(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "iolaus.trainer", *overrides]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_documented_command_trains_once_from_any_folder(tmp_path: Path) -> None:
    """It prints progress lines and a last line with losses, accuracy, steps and seconds, and exits
    with 0.
    """
    done = run_trainer(
        tmp_path,
        "task=digit_sum",
        "optim.lr=0.2",
        "clip=norm",
        "clip.threshold=5",
        "steps=120",
        "eval_every=40",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    steps = [line.split()[2] for line in lines if line.split()[1] == "step"]
    assert steps == ["40/120", "80/120", "120/120"]
    for word in (
        "done",
        "val_loss",
        "val_accuracy",
        "best val_loss",
        "120 steps",
        "7680 examples",
        "steps/s",
    ):
        assert word in lines[-1]


def test_bad_input_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    """No traceback, exit code 1, and the sentence on the error stream."""
    done = run_trainer(tmp_path, "clip=norm", "clip.threshold=-1")
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "trainer: clip.threshold must be above 0; got -1; use clip=none to clip nothing"
    )


def test_the_old_name_of_lint_is_answered_with_the_new_one(
    compose: Callable[..., DictConfig],
) -> None:
    """Hydra offers +audit for the audit of old commands; it is refused with what to write."""
    with pytest.raises(BadInputError, match=r"audit is called lint now: write lint\.n_samples"):
        read(compose("+audit.n_samples=10"))
