"""A run that goes on from its exact state is the run that was never cut off, to the last bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.sweeps.checkpoints import STAYS
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.types import Intervention, Verdict
from iolaus.trainer import loop
from iolaus.trainer.best_weights import load_best
from iolaus.trainer.checkpoint import FILE, SHARE, RunState, Saves, read_state, state_to_resume
from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes.serve import Lanes
from iolaus.trainer.lint import preview
from iolaus.trainer.settings import Settings, read

Compose = Callable[..., DictConfig]
N_STEPS = 12
DIGIT_SUM = ("task=digit_sum", "task.n_train=60", "task.n_val=20", "task.n_test=20", "batch_size=8")
SHORT = (f"steps={N_STEPS}", "checkpoint.every_steps=1", "checkpoint.every_seconds=null")
PLAIN = (*DIGIT_SUM, *SHORT, "report_every=3", "eval_every=5", "optim=adam", "optim.lr=0.01")

MODELS = (
    (*DIGIT_SUM, "model=rnn"),
    (*DIGIT_SUM, "model=lstm"),
    (*DIGIT_SUM, "model=transformer", "model.dropout=0.2"),
    ("task=digits", "batch_size=32", "model=mlp", "model.dropout=0.3"),
    ("task=digits", "batch_size=32", "model=cnn"),
    ("task=digits", "batch_size=32", "model=cnn", "model.norm=batch"),
    ("task=digits", "batch_size=32", "model=mlp", "task.max_shift=1", "task.flip=0.5"),
)
OPTIMIZERS = (
    ("optim=sgd", "optim.momentum=0.9", "optim.nesterov=true"),
    ("optim=sgd",),
    ("optim=adam", "optim.weight_decay=0.01"),
    ("optim=adamw",),
    ("optim=rmsprop", "optim.momentum=0.5"),
)
SCHEDULES: tuple[tuple[str, ...], ...] = (
    ("schedule=cosine", "schedule.warmup_steps=3"),
    ("schedule=plateau", "schedule.patience=0", "schedule.factor=0.5"),
    ("schedule=newbob", "schedule.n_measurements=2", "schedule.update_interval=2"),
    (
        "schedule=staged",
        "schedule.stages=[{lr: 0.01, decay_rate: 0.9, decay_steps: 1, length_steps: 5}, "
        "{lr: 0.002, decay_rate: 1, decay_steps: 1, length_steps: 7}]",
    ),
)
CLIPS = (("clip=none",), ("clip=norm", "clip.threshold=0.5"), ("clip=adaptive",))
REST = (
    (),
    ("loss.flood=2.5",),
    ("loss.l1=0.01",),
    ("early_stop.patience=0", "early_stop.min_delta=1", "early_stop.then=continue"),
    ("batch.accumulate=3",),
    ("batch.schedule=[[0,6],[5,8]]", "batch.shuffle_buffer=null"),
    ("loss.reduction=mean", "batch.accumulate=2", "loss.flood=2.9"),
)
PRECISIONS = ("float32", "float64", "bf16", "fp16")

overrides = st.builds(
    lambda *parts: tuple(word for part in parts for word in part),
    st.sampled_from(MODELS),
    st.sampled_from(OPTIMIZERS),
    st.sampled_from(SCHEDULES),
    st.sampled_from(CLIPS),
    st.sampled_from(REST),
    st.tuples(
        st.sampled_from(PRECISIONS).map(lambda name: f"precision={name}"),
        st.sampled_from((1, 2, 5)).map(lambda n: f"report_every={n}"),
        st.sampled_from((0, 0, 3)).map(lambda n: f"norms_each_step_until={n}"),
        st.sampled_from((1, 3, 4)).map(lambda n: f"eval_every={n}"),
        st.sampled_from((0.001, 0.01)).map(lambda lr: f"optim.lr={lr}"),
        st.integers(0, 3).map(lambda seed: f"seed={seed}"),
    ),
)
interventions = st.dictionaries(
    st.integers(1, N_STEPS - 1),
    st.sampled_from(("decay", "rewind")).map(
        lambda action: Intervention(action, 0.3, Verdict("stalled", 1, "stalled"))
    ),
    max_size=2,
)


class CutOff(Exception):  # noqa: N818 (an end, no error)
    """What the report of a run's last checkpoint raises."""


@dataclass
class Attempts:
    """One run, as its sweep sees it: cut off after some steps, and taken up again.

    cuts: the steps after which it is cut off. interventions: what is asked for after the report of
    a step. reports: of all processes together.
    """

    folder: Path
    cuts: Sequence[int] = ()
    interventions: dict[int, Intervention] = field(default_factory=dict)
    reports: list[dict[str, float]] = field(default_factory=list)
    plans: list[Any] = field(default_factory=list)
    saved: dict[int, Path] = field(default_factory=dict)
    last: Path | None = None
    outcome: Summary | BaseException | None = None

    def report(self, step: int, *, checkpoint: Path | None = None, **metrics: float) -> None:
        if checkpoint is None:
            self.reports.append({"step": step, **metrics})
            return
        self.last = self.saved[step] = self.folder / f"step_{step}"
        shutil.move(checkpoint, self.last)
        if step in self.cuts:
            raise CutOff

    def hooks(self) -> Hooks:
        return Hooks(
            report=self.report,
            should_stop=lambda: False,
            plan=lambda *plan: self.plans.append(plan),
            ask_intervention=lambda: self.interventions.get(int(self.reports[-1]["step"])),
            get_checkpoint=lambda: self.last,
            should_checkpoint=lambda: False,
        )

    def ended(self, outcome: Summary | BaseException) -> None:
        self.outcome = outcome


def alone(
    run: Settings, attempts: Attempts, n_processes: int | None = None
) -> dict[str, torch.Tensor]:
    """The run by the solo loop, taken up until it is over, or so many times; its last weights."""
    states: list[loop.State] = []
    start = loop.start

    def started(*given: Any) -> loop.State:
        states.append(start(*given))
        return states[-1]

    hooks = attempts.hooks()
    attempts.outcome = None
    loop.start = started  # the only way to the model of a run that is over
    try:
        while attempts.outcome is None and len(states) != n_processes:
            try:
                attempts.outcome = loop.train(
                    run,
                    report=hooks.report,
                    should_stop=hooks.should_stop,
                    plan=hooks.plan,
                    ask_intervention=hooks.ask_intervention,
                    keep=attempts.folder / "best.pt",
                    folder=attempts.folder,
                    get_checkpoint=hooks.get_checkpoint,
                    should_checkpoint=hooks.should_checkpoint,
                )
            except CutOff:
                continue
    finally:
        loop.start = start
    return {name: value.cpu() for name, value in states[-1].model.state_dict().items()}


def in_lanes(runs: Sequence[Settings], attempts: Sequence[Attempts]) -> None:
    """The runs side by side, once: to their ends, or to where they are cut off."""
    lanes = Lanes()
    for run, own in zip(runs, attempts, strict=True):
        own.outcome = None
        lanes.admit(run, own.hooks(), own.folder / "best.pt", own.ended, own.folder)
    while lanes.n_lane_runs:
        lanes.run_block()


def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def assert_equal(whole: Attempts, cut: Attempts) -> None:
    """Equal bits in every report, the best weights and the final measures; the same plan, too."""
    assert [json.dumps(r) for r in cut.reports] == [json.dumps(r) for r in whole.reports]
    assert vars_of(cut) == vars_of(whole)
    assert cut.plans[-1] == whole.plans[-1]
    kept = [(one.folder / "best.pt").exists() for one in (whole, cut)]
    assert kept[0] == kept[1]
    if not kept[0]:  # early stopping has ended it before its first report
        return
    a, b = (load_best(one.folder / "best.pt") for one in (whole, cut))
    assert (a["step"], a["smoothed_loss"]) == (b["step"], b["smoothed_loss"])
    torch.testing.assert_close(b["model"], a["model"], rtol=0, atol=0)
    torch.testing.assert_close(b["optimizer"]["state"], a["optimizer"]["state"], rtol=0, atol=0)


def vars_of(one: Attempts) -> dict[str, Any]:
    names = ("n_steps", "examples", "final", "best", "best_step", "kept_step", "ended")
    return {name: getattr(one.outcome, name) for name in names}


@settings(max_examples=20)
@given(overrides, st.sets(st.integers(1, N_STEPS - 1), min_size=1, max_size=3), interventions)
def test_a_run_cut_off_anywhere_is_the_run_that_was_not(
    tmp_path_factory: pytest.TempPathFactory,
    compose: Compose,
    words: tuple[str, ...],
    cuts: set[int],
    asked: dict[int, Intervention],
) -> None:
    """Of any model, optimizer, schedule, clipping, precision and batch, cut off up to three times:
    every report, the best weights and the last weights have the same bits.
    """
    run = read(compose(*words, *SHORT, "device=cpu"))
    whole = Attempts(place(tmp_path_factory), interventions=asked)
    cut = Attempts(place(tmp_path_factory), sorted(cuts), asked)
    expected, weights = alone(run, whole), alone(run, cut)
    n_made = whole.outcome.n_steps  # early stopping may have ended it before a cut
    assert len(cut.plans) >= len([step for step in cuts if step < n_made]) + 1
    assert_equal(whole, cut)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0, equal_nan=True)


def test_a_run_can_be_cut_off_after_every_step(compose: Compose, tmp_path: Path) -> None:
    """Cut off after each of its updates, a run with dropout, a schedule that looks at the loss,
    lowered rates, a rewind and parts of batches still is the run that was not.
    """
    words = ("schedule=newbob", "schedule.n_measurements=1", "schedule.update_interval=1")
    run = read(compose(*PLAIN, "model=transformer", "batch.accumulate=2", *words))
    whole, cut = Attempts(tmp_path / "whole"), Attempts(tmp_path / "cut", range(1, N_STEPS))
    for one in (whole, cut):
        one.interventions = {
            step: Intervention(action, 0.5, Verdict("stalled", step, "stalled"))
            for step, action in ((3, "decay"), (6, "rewind"))
        }
    for one in (whole, cut):
        one.folder.mkdir()
        alone(run, one)
    assert len(cut.plans) == N_STEPS + 2
    assert_equal(whole, cut)


def test_the_scaler_goes_on_with_its_factor(compose: Compose, tmp_path: Path) -> None:
    """In half precision the factor of the gradients and the steps since it last grew are kept."""
    run = read(compose(*PLAIN, "precision=fp16", "device=cpu"))
    scalers = []
    for name, cuts in (("whole", ()), ("cut", (4,))):
        one = Attempts(tmp_path / name, cuts)
        one.folder.mkdir()
        alone(run, one)
        scalers.append(read_state(one.saved[N_STEPS - 1], run).scaler)
    assert scalers[0] == scalers[1]
    assert scalers[0]["_growth_tracker"] > N_STEPS - 4


def test_what_a_task_draws_goes_on_as_well(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that draws from torch's, numpy's or python's generator draws what it would have."""
    run = read(compose(*PLAIN))
    loss, drawn = type(run.task).loss, []

    def noisy(self: Any, model: Any, examples: Any) -> Any:
        draw = (torch.rand(()).item(), float(np.random.rand()), random.random())
        drawn.append(draw)
        return loss(self, model, examples) * (1 + sum(draw))

    monkeypatch.setattr(type(run.task), "loss", noisy)
    results = []
    for name, cuts in (("whole", ()), ("cut", (4, 7))):
        one = Attempts(tmp_path / name, cuts)
        one.folder.mkdir()
        np.random.seed(1)
        random.seed(1)
        alone(run, one)
        results.append(one)
    assert len(set(drawn)) == N_STEPS
    assert_equal(*results)


LANES = {
    "adam": ("optim=adamw", "schedule=cosine"),
    "momentum": ("optim=sgd", "optim.momentum=0.9", "loss.reduction=mean"),
    "dropout": ("model=transformer", "schedule=newbob", "schedule.n_measurements=1"),
    "a growing batch": ("batch.schedule=[[0,6],[5,8]]",),
    "flooding, clipping, parts": ("loss.flood=2.5", "batch.accumulate=2", "clip=norm"),
}


def runs_of(compose: Compose, words: tuple[str, ...]) -> list[Settings]:
    rates = (0.01, 0.003, 0.001)
    return [
        read(compose(*PLAIN, *words, f"seed={i}", f"optim.lr={lr}")) for i, lr in enumerate(rates)
    ]


def attempts_in(folder: Path, cuts: tuple[int, ...] = ()) -> list[Attempts]:
    made = [Attempts(folder / str(i), cuts) for i in range(3)]
    for one in made:
        one.folder.mkdir(parents=True)
    return made


@pytest.mark.parametrize("words", LANES.values(), ids=LANES)
def test_lanes_cut_off_together_are_the_lanes_that_were_not(
    compose: Compose, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Lanes that go on beside the same others have the same bits: reports and best weights."""
    runs = runs_of(compose, words)
    whole, cut = attempts_in(tmp_path / "whole"), attempts_in(tmp_path / "cut", (4, 7))
    in_lanes(runs, whole)
    for _ in range(3):
        in_lanes(runs, cut)
    for a, b in zip(whole, cut, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize("name", LANES)
def test_a_lane_goes_on_alone_and_a_solo_run_in_a_lane(
    compose: Compose, tmp_path: Path, name: str
) -> None:
    """Either resumes as the other, as equal as the two are: to 1e-9 in float64."""
    runs = runs_of(compose, (*LANES[name], "precision=float64"))
    whole = attempts_in(tmp_path / "whole")
    moved_out, moved_in = attempts_in(tmp_path / "out", (4,)), attempts_in(tmp_path / "in", (4,))
    in_lanes(runs, moved_out)
    for run, one, out, into in zip(runs, whole, moved_out, moved_in, strict=True):
        alone(run, one)
        alone(run, out)
        alone(run, into, n_processes=1)
    in_lanes(runs, moved_in)
    for one, out, into in zip(whole, moved_out, moved_in, strict=True):
        for other in (out, into):
            for a, b in zip(one.reports, other.reports, strict=True):
                assert list(a) == list(b)
                assert b == pytest.approx(a, rel=1e-9, abs=1e-9)
            assert vars_of(other)["final"] == pytest.approx(vars_of(one)["final"], rel=1e-9)
            assert vars_of(other)["kept_step"] == vars_of(one)["kept_step"]


def test_what_does_not_fit_is_refused_in_a_sentence(compose: Compose, tmp_path: Path) -> None:
    """Other settings are named with both values; damage, another format and a folder without a
    checkpoint are said to be that; all before training.
    """
    run, one = read(compose(*PLAIN)), Attempts(tmp_path)
    alone(run, one)

    def refused(folder: Path, *words: str) -> str:
        with pytest.raises(BadInputError) as error:
            preview(read(compose(*PLAIN, f"resume={folder}", *words)))
        assert "\n" not in str(error.value)
        return str(error.value)

    good = one.saved[5]
    assert preview(read(compose(*PLAIN, f"resume={good}"))).from_step == 5
    said = refused(good, "optim.lr=0.02", "clip=norm")
    assert "optim.lr 0.01 there, 0.02 here" in said
    assert "clip.threshold absent there, " in said
    kept = torch.load(good / FILE, weights_only=True)
    torch.save({**kept, "format": 0}, one.saved[6] / FILE)
    assert "format 0" in refused(one.saved[6])
    torch.save({"model": {}}, one.saved[6] / FILE)
    assert "no checkpoint of this trainer" in refused(one.saved[6])
    whole = (good / FILE).read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        (one.saved[7] / FILE).write_bytes(damaged)
        assert "cannot read the checkpoint" in refused(one.saved[7])
    (tmp_path / "empty").mkdir()
    assert "no whole checkpoint" in refused(tmp_path / "empty")


def test_what_may_differ_does_not_keep_a_run_from_going_on(
    compose: Compose, tmp_path: Path
) -> None:
    """How often states are written, the device, the linter and what is kept may change."""
    run, one = read(compose(*PLAIN)), Attempts(tmp_path)
    alone(run, one)
    words = ("checkpoint.every_steps=null", "device=cpu", "lint.from_step=2", "keep_best=false")
    other = read(compose(*PLAIN, *words, "test=true"))
    kept = state_to_resume(other, one.saved[5])
    assert kept is not None
    assert kept.course["step"] == 5


def state_of_step(step: int) -> RunState:
    nothing: dict[str, Any] = {
        name: {} for name in ("model", "optimizer", "scaler", "best", "random")
    }
    return RunState(**nothing, course={"step": step}, window=torch.empty(0, 3))


def test_states_are_due_by_steps_by_the_clock_and_when_asked(
    compose: Compose, tmp_path: Path
) -> None:
    """By steps at their multiples; by the clock so rarely that writing takes 2 % of the time; at
    any time if the sweep asks, once; never without a folder.
    """
    now, asked = [100.0], [False]
    hooks = Hooks(should_checkpoint=lambda: asked[0], report=lambda *_, **__: None)
    cfg = compose(*PLAIN, "checkpoint.every_steps=4", "checkpoint.every_seconds=60")
    saves = Saves(read(cfg), tmp_path, hooks, clock=lambda: now[0])
    assert [step for step in range(1, 13) if saves.is_due(step)] == [4, 8, 12]
    now[0] = 159.0
    assert not saves.is_due(5)
    now[0] = 160.0
    assert saves.is_due(5)
    saves.saved(cost_s=3.0)
    now[0] += 3.0 / SHARE - 1
    assert not saves.is_due(5)
    now[0] += 1
    assert saves.is_due(5)
    saves.saved(cost_s=0.0)
    assert not saves.is_due(5)
    asked[0] = True
    assert saves.is_due(5)
    saves.save(state_of_step(5))
    assert not saves.is_due(6)
    assert not Saves(read(cfg), None, hooks).is_due(4)


@pytest.mark.parametrize("wrong", ["every_steps=0", "every_steps=1.5", "every_seconds=-1.0"])
def test_intervals_that_cannot_be_are_refused(compose: Compose, wrong: str) -> None:
    """Steps from 1 up, seconds from 0 up, in the setting's name."""
    with pytest.raises(BadInputError, match=f"checkpoint.{wrong.partition('=')[0]} must be"):
        read(compose(*PLAIN, f"checkpoint.{wrong}"))


def test_a_state_that_cannot_be_written_does_not_end_the_run(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the run goes on, says so, and leaves nothing half written."""
    run, one = read(compose(*PLAIN)), Attempts(tmp_path)

    def full(*_: object) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr("iolaus.trainer.checkpoint.write_state", full)
    alone(run, one)
    assert one.outcome is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt"]


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Two equal runs on one GPU are equal; without, cuDNN may choose other kernels each time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", range(len(MODELS)))
def test_on_a_gpu_a_run_cut_off_is_the_run_that_was_not(
    compose: Compose, tmp_path: Path, model: int, precision: str
) -> None:
    """Every model in every precision, the scaler's included, cut off twice: the same bits."""
    words = (*MODELS[model], *SHORT, "report_every=2", "eval_every=3", "optim=adamw", "clip=norm")
    run = read(compose(*words, f"precision={precision}", "device=cuda", "batch.accumulate=2"))
    whole, again, cut = (Attempts(tmp_path / name) for name in ("whole", "again", "cut"))
    cut.cuts = (3, 8)
    for one in (whole, again, cut):
        one.folder.mkdir()
    weights = [alone(run, one) for one in (whole, again, cut)]
    assert_equal(whole, again)  # the device itself repeats its numbers
    assert_equal(whole, cut)
    torch.testing.assert_close(weights[2], weights[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LANES)
def test_on_a_gpu_lanes_cut_off_together_are_the_lanes_that_were_not(
    compose: Compose, tmp_path: Path, name: str
) -> None:
    """Lanes that go on beside the same others have the same bits on a GPU as well."""
    test_lanes_cut_off_together_are_the_lanes_that_were_not(
        compose, tmp_path, (*LANES[name], "device=cuda")
    )


@pytest.mark.gpu
@pytest.mark.parametrize("first", ["cuda", "cpu"])
@pytest.mark.parametrize("in_a_lane", [False, True])
@pytest.mark.parametrize("model", range(len(MODELS)))
def test_a_run_goes_on_on_another_device(
    compose: Compose, tmp_path: Path, model: int, in_a_lane: bool, first: str
) -> None:
    """Made on a GPU it resumes on a CPU and the other way round, in a lane or alone, and goes on as
    the run that stayed where it was, to rounding in float64.
    """
    words = (*MODELS[model], *SHORT, "report_every=2", "eval_every=3", "optim=adamw")
    second = "cpu" if first == "cuda" else "cuda"
    here, there = (
        read(compose(*words, "precision=float64", f"device={device}")) for device in (first, second)
    )
    whole, moved = Attempts(tmp_path / "whole"), Attempts(tmp_path / "moved", (5,))
    for one in (whole, moved):
        one.folder.mkdir()
    alone(here, whole)
    if in_a_lane:
        in_lanes([here], [moved])
        in_lanes([there], [moved])
    else:
        alone(here, moved, n_processes=1)
        alone(there, moved)
    assert [r["step"] for r in moved.reports] == [r["step"] for r in whole.reports]
    for a, b in zip(whole.reports, moved.reports, strict=True):
        assert b == pytest.approx(a, rel=1e-6, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("first", ["cuda", "cpu"])
def test_half_precision_goes_on_on_another_device(
    compose: Compose, tmp_path: Path, first: str
) -> None:
    """The scaler and its factor move with the run: fp16 goes on on the other device, about as it
    would have.
    """
    second = "cpu" if first == "cuda" else "cuda"
    words = (*PLAIN, "precision=fp16", "model=rnn", "loss.reduction=mean")
    here, there = (read(compose(*words, f"device={device}")) for device in (first, second))
    whole, moved = Attempts(tmp_path / "whole"), Attempts(tmp_path / "moved", (5,))
    for one in (whole, moved):
        one.folder.mkdir()
    alone(here, whole)
    alone(here, moved, n_processes=1)
    alone(there, moved)
    assert moved.outcome.final == pytest.approx(whole.outcome.final, rel=0.02)  # type: ignore[union-attr]


EVEN = ("report_every=3", "eval_every=4", "device=cpu")  # both divide N_STEPS
LONGER: dict[str, tuple[int, tuple[str, ...]]] = {
    "constant": (N_STEPS, ("schedule=constant",)),
    "a share of the run as warm-up": (
        N_STEPS,
        ("schedule=constant", "schedule.warmup_steps=.25 run"),
    ),
    "plateau": (N_STEPS, SCHEDULES[1]),
    "newbob": (N_STEPS, SCHEDULES[2]),
    "before its decay": (9, ("schedule=wsd",)),
    "before its first drop": (6, ("schedule=multistep",)),
    "in steps": (5, ("schedule=step", "schedule.decay_steps=6")),
}


@pytest.mark.parametrize("name", LONGER)
def test_an_extended_run_is_the_long_run(compose: Compose, tmp_path: Path, name: str) -> None:
    """Twice as long, from the short run's last state or one before its rate fell: the reports from
    there on, the best weights and the last ones have the bits of a run of that length.
    """
    step, words = LONGER[name]
    words = (*PLAIN, *EVEN, *words, "model=transformer", "model.dropout=0.2")
    short, longer = (read(compose(*words, f"stretch={times}")) for times in (1, 2))
    assert longer.n_steps == 2 * N_STEPS
    first, extended, whole = (Attempts(tmp_path / str(i)) for i in range(3))
    for one in (first, extended, whole):
        one.folder.mkdir()
    alone(short, first)
    extended.last = first.saved[step]
    extended.reports = [r for r in first.reports if r["step"] <= step]
    weights, expected = alone(longer, extended), alone(longer, whole)
    assert_equal(whole, extended)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "wsd", "one_cycle"])
def test_a_rate_that_has_fallen_cannot_be_stretched(
    compose: Compose, tmp_path: Path, schedule: str
) -> None:
    """The stretched schedule would have had other rates by then: which ones, is said."""
    words = (*PLAIN, *EVEN, f"schedule={schedule}")
    first = Attempts(tmp_path)
    alone(read(compose(*words)), first)
    with pytest.raises(
        ValueError, match=r"the rate of step 1?\d was .*, and that of the stretched"
    ):
        read_state(first.saved[N_STEPS], read(compose(*words, "stretch=3")))


def test_a_run_in_lanes_leaves_its_last_state_too(compose: Compose, tmp_path: Path) -> None:
    """Of two that end amid a block, each leaves a state from which the solo loop goes on."""
    words = (*PLAIN, *EVEN, "schedule=constant", "checkpoint.every_steps=null")
    runs = [read(compose(*words, f"steps={n}")) for n in (11, N_STEPS)]
    laned = [Attempts(tmp_path / str(run.n_steps)) for run in runs]
    for one in laned:
        one.folder.mkdir()
    in_lanes(runs, laned)
    for run, one in zip(runs, laned, strict=True):
        whole = Attempts(tmp_path / f"alone_{run.n_steps}")
        whole.folder.mkdir()
        alone(run, whole)
        states = [read_state(saved.saved[run.n_steps], run) for saved in (one, whole)]
        torch.testing.assert_close(states[0].model, states[1].model, rtol=1e-4, atol=1e-6)
        assert states[0].course["step"] == run.n_steps


def test_a_run_whose_end_is_not_to_be_kept_leaves_none(compose: Compose, tmp_path: Path) -> None:
    """checkpoint.at_end=false: nothing is written after the last step."""
    quiet = ("checkpoint.every_steps=null", "checkpoint.at_end=false")
    one = Attempts(tmp_path)
    alone(read(compose(*PLAIN, *quiet)), one)
    assert one.saved == {}


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (("schedule=wsd",), 9),  # report_every=3; warm-up is over after 0.6 steps, the decay at 9.7
        (("schedule=multistep",), 6),
        (("schedule=wsd", "schedule.stable_steps=0"), None),
        (("schedule=constant",), None),
        (("schedule=cosine",), None),
        (("schedule=plateau",), None),
    ],
)
def test_the_state_before_the_rate_falls_is_kept(
    compose: Compose, tmp_path: Path, words: tuple[str, ...], step: int | None
) -> None:
    """One state from which a longer run can go on, whatever comes after, and marked to stay."""
    run = read(compose(*PLAIN, *EVEN, *words, "checkpoint.every_steps=null"))
    one = Attempts(tmp_path)
    alone(run, one)
    assert set(one.saved) == {N_STEPS} | ({step} if step else set())
    assert [n for n, place in one.saved.items() if (place / STAYS).exists()] == (
        [step] if step else []
    )
