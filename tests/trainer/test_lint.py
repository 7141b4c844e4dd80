from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.types import Finding
from iolaus.trainer.data import epoch_order
from iolaus.trainer.lint import RULES, lint, lint_config, preview
from iolaus.trainer.lint_command import lint_command
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]


def found(compose: Compose, *overrides: str, from_step: int = 0) -> dict[str, Finding]:
    run = read(compose(*overrides))
    return {finding.name: finding for finding in lint(preview(run, from_step))}


AS_PUBLISHED = (
    "schedule=exponential",
    "optim.lr=0.095",
    "schedule.decay_rate=0.98",
    "schedule.decay_steps=30000",
)


@pytest.mark.parametrize(
    ("overrides", "step_of"),
    [
        ((*AS_PUBLISHED, "steps=39630"), {"flat": 0}),
        (("schedule=exponential", "schedule.decay_rate=0.7", "schedule.decay_steps=100"), {}),
        (
            ("schedule=exponential", "schedule.decay_rate=0.7", "schedule.decay_steps=50"),
            {"spent": 420},
        ),
        (
            # The floor of TextSum is 6.7 % of its rate, which 0.7 / 20 reaches at step 152.
            (
                *("schedule=exponential", "schedule.decay_rate=0.7", "schedule.decay_steps=20"),
                *("optim.lr=0.15", "schedule.min_lr=0.01"),
            ),
            {"spent": 123},
        ),
        (
            # A floor of 30 % is no end of training.
            (
                *("schedule=exponential", "schedule.decay_rate=0.7", "schedule.decay_steps=20"),
                *("optim.lr=0.15", "schedule.min_lr=0.045"),
            ),
            {},
        ),
        (("schedule=multistep", "schedule.milestone_steps=[300]"), {}),
        (("schedule=polynomial", "schedule.decay_steps=800"), {"zero": 800}),
        (("schedule=polynomial", "schedule.decay_steps=200"), {"spent": 191, "zero": 200}),
        (("schedule=polynomial", "schedule.decay_steps=800", "schedule.min_lr=1e-3"), {}),
        (("schedule=warmup_linear", "schedule.warmup_steps=400"), {"warming": 0}),
        (("schedule=warmup_linear", "schedule.warmup_steps=333"), {}),
        (("schedule=constant", "schedule.warmup_steps=2000"), {"warming": 0}),
        (("schedule=multistep", "schedule.milestone_steps=[500,1000,2000]"), {"beyond": 1000}),
        (("schedule=multistep", "schedule.milestone_steps=[2000]"), {"flat": 0, "beyond": 1000}),
        (("schedule=exponential", "schedule.decay_steps=10"), {"spent": 44, "unresolvable": None}),
        (("optim.lr=0",), {"zero": 0}),
        (("steps=99",), {"short": 99}),
        (("steps=100",), {}),
        (("schedule=constant",), {}),
        (("schedule=plateau",), {}),
        (("schedule=cosine",), {}),
        (("schedule=one_cycle",), {}),
        (("schedule=wsd",), {}),
        (("schedule=bert",), {}),
        (("schedule=staged",), {}),
        (("schedule=cosine_restarts",), {}),
        (("schedule=inverse_time",), {}),
        (("schedule=newbob",), {}),
        (("schedule=step",), {}),
        (("schedule=multistep",), {}),
        (("schedule=warmup_linear",), {}),
    ],
)
def test_findings_and_the_step_each_starts(
    compose: Compose, overrides: tuple[str, ...], step_of: dict[str, int | None]
) -> None:
    """The published failures are found at their step, shipped schedules and their neighbours are
    left alone.
    """
    findings = found(compose, *overrides)
    assert set(findings) == set(step_of)
    for name, step in step_of.items():
        assert step is None or findings[name].step == step
        assert findings[name].amount > 0


def test_the_flat_schedule_of_case_1_is_told_with_its_numbers(compose: Compose) -> None:
    """After 39,630 steps the rate had only gone from 0.095 to 0.0925."""
    text = found(compose, *AS_PUBLISHED, "steps=39630")["flat"].text
    assert "from 0.095 at step 0 to 0.0925 at step 39629" in text


def test_a_rate_below_the_weights_resolution_changes_nothing(compose: Compose) -> None:
    """`unresolvable` starts where adding one times the rate to the typical weight gives the same
    float32.
    """
    run = read(compose("schedule=exponential", "schedule.decay_steps=10"))
    view = preview(run)
    finding = next(f for f in lint(view) if f.name == "unresolvable")
    weight = torch.tensor(view.weight_scale)
    lower = torch.tensor(view.rates[finding.step + 10], dtype=torch.float32)
    higher = torch.tensor(view.rates[finding.step - 20], dtype=torch.float32)
    assert weight - lower == weight
    assert weight - higher != weight
    assert "unresolvable" not in found(
        compose, "schedule=exponential", "schedule.decay_steps=20", "precision=float64"
    )


def test_a_larger_batch_on_resuming_is_told_what_the_rate_will_be(compose: Compose) -> None:
    """Three epochs at batch 16 are 1,200 steps; taken up at step 700 with batch 64 the run
    is over.
    """
    common = ("schedule=warmup_linear", "steps=3 epochs")
    assert "over" not in found(compose, *common, "batch_size=16", from_step=700)
    finding = found(compose, *common, "batch_size=64", from_step=700)["over"]
    assert finding.rule == "infeasible"
    assert "300 steps and would be taken up at step 700" in finding.text
    assert "the rate there would be 0" in finding.text
    assert finding.text.endswith(
        "Two ways out: init_checkpoint=best.pt begins a run at step 0 with the weights alone; "
        "steps='10 epochs' makes this one 300 steps longer than it has come"
    )
    longer = found(
        compose, "schedule=warmup_linear", "steps=10 epochs", "batch_size=64", from_step=700
    )
    assert set(longer) == set()
    resumed = found(compose, "schedule=polynomial", "schedule.decay_steps=500", from_step=700)
    assert resumed["zero"].step == 700


def test_texts_in_label_order_need_a_buffer_as_long_as_a_class(
    compose: Compose, tmp_path: Path
) -> None:
    """A shuffle buffer shorter than the longest run of one label is refused before any compute,
    with the share of batches that would hold one label; at that length, or without one, it is not.
    """
    table = tmp_path / "texts.tsv"
    rows = [f"{label}\tthe text {label} {i}" for label in "abcd" for i in range(250)]
    table.write_text("\n".join(["label\ttext", *rows]))
    texts = (
        *("task=finetune", "model=gru", "model.n_classes=null", "model.n_symbols=2003"),
        *("task.packages=[]", f"task.file={table}", "task.n_train=null"),
        *("task.n_val=10", "task.n_test=10"),
    )
    run = read(compose(*texts))
    run_of_labels = int(run.splits.train.targets.bincount().max())
    finding = found(compose, *texts, "batch.shuffle_buffer=100")["unshuffled"]
    assert finding.rule == "infeasible"
    assert (
        f"batch.shuffle_buffer=100 is shorter than the longest run of one label in the training "
        f"data ({run_of_labels} examples)" in finding.text
    )
    order = epoch_order(980, run.seed, 0, 100)[: 980 // 16 * 16].reshape(-1, 16)
    labels = run.splits.train.targets.numpy()[order]
    alone = np.mean([len(set(batch)) == 1 for batch in labels.tolist()])
    assert f"and {alone:.0%} of the first epoch's batches hold one label" in finding.text
    for buffer in (run_of_labels, "null"):
        assert "unshuffled" not in found(compose, *texts, f"batch.shuffle_buffer={buffer}")


def test_the_config_says_what_a_finding_does(compose: Compose) -> None:
    """Rules are ignored, warned of, or make a run infeasible, as `lint.rules` has it."""
    flat = (*AS_PUBLISHED, "steps=1000")
    assert [f.rule for f in lint_config(compose(*flat))] == ["warn"]
    assert [f.rule for f in lint_config(compose(*flat, "lint.rules.flat=infeasible"))] == [
        "infeasible"
    ]
    assert lint_config(compose(*flat, "lint.rules.flat=ignore")) == []
    with pytest.raises(
        BadInputError, match=r"lint\.rules\.flat must be ignore, warn or infeasible; got 'no'"
    ):
        lint_config(compose(*flat, "lint.rules.flat='no'"))


def test_every_rule_has_an_entry_in_the_config(compose: Compose) -> None:
    """The config names exactly the rules there are."""
    assert list(compose().lint.rules) == list(RULES)


@pytest.mark.parametrize(
    "schedule", ["exponential", "polynomial", "cosine", "multistep", "wsd", "staged", "plateau"]
)
def test_no_setting_breaks_the_lint(compose: Compose, schedule: str) -> None:
    """Whatever the lengths, steps and place to resume, findings lie within the run and have an
    amount above 0.
    """
    cfg = compose(f"schedule={schedule}", "task.n_train=50", "task.n_val=2", "task.n_test=2")

    @given(
        steps=st.integers(1, 300),
        lr=st.sampled_from([0.0, 1e-12, 0.1, 1e6]),
        warmup=st.integers(0, 400),
        floor=st.sampled_from([0.0, 1e-3]),
        from_step=st.integers(0, 400),
    )
    @settings(max_examples=30)
    def check(steps: int, lr: float, warmup: int, floor: float, from_step: int) -> None:
        cfg.steps, cfg.optim.lr, cfg.schedule.warmup_steps, cfg.schedule.min_lr = (
            steps,
            lr,
            warmup,
            floor,
        )
        for finding in lint(preview(read(cfg), from_step)):
            earliest = (
                steps if finding.name in ("beyond", "short") else from_step
            )  # those two are about the end
            assert earliest <= finding.step <= max(steps, from_step)
            assert finding.amount > 0

    check()


def test_a_search_space_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shares of settings with each finding come out of the sweep's own params, and a figure is
    drawn.
    """
    monkeypatch.chdir(tmp_path)
    text = lint_command(["+sweep=decay", "lint.n_samples=40", "lint.figure=deep/lint.png"])
    lines = text.splitlines()
    assert lines[0].startswith("40 settings drawn from the space of decay: ")
    shares = {
        line.split()[1]: float(line.split()[0].rstrip("%"))
        for line in lines
        if line.strip()[:1].isdigit()
    }
    assert 10 < shares["flat"] < 60
    assert 10 < shares["spent"] < 60
    assert (tmp_path / "deep" / "lint.png").read_bytes()[:4] == b"\x89PNG"
    again = lint_command(["+sweep=decay", "lint.n_samples=40", "lint.figure=null"]).splitlines()
    assert [line[:20] for line in again] == [line[:20] for line in lines[:-1]]


def test_a_fixed_override_narrows_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line beats the sweep's params, and may search further keys in Hydra's grammar."""
    monkeypatch.chdir(tmp_path)
    flat = lint_command(
        [
            "+sweep=decay",
            "schedule.decay_steps=1e6",
            "optim.lr=interval(0.1,1)",
            "lint.n_samples=10",
            "lint.figure=null",
        ]
    )
    assert "100.0% flat" in flat


@pytest.mark.slow
def test_the_command_lints_one_run(tmp_path: Path) -> None:
    """It prints the rate as numbers and the findings; bad input is one sentence and exit code 1."""
    command = [sys.executable, "-m", "iolaus.cli", "lint"]
    done = subprocess.run(
        [*command, *AS_PUBLISHED, "steps=39630"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "flat (step 0): the rate is flat: from 0.095" in done.stdout
    assert (tmp_path / "lint.png").exists()
    bad = subprocess.run(
        [*command, "optim.lr=-1"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (bad.returncode, bad.stderr) == (
        1,
        "iolaus: optim.lr must be finite and from 0 up; got -1\n",
    )


def test_json_has_the_findings_of_each_setting() -> None:
    """For machines, a list of settings with their overrides and findings, of a run of one."""
    overrides = [*AS_PUBLISHED, "steps=39630", "lint.figure=null"]
    (setting,) = json.loads(lint_command(overrides, as_json=True))
    assert setting["overrides"] == overrides
    assert [(f["name"], f["step"], f["rule"]) for f in setting["findings"]] == [("flat", 0, "warn")]
