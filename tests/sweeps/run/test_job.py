"""A trial is a Hydra job: the same config, files and surroundings as from Hydra's own code."""

from __future__ import annotations

import enum
import io
import logging
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, run_job
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

import iolaus
from iolaus import report, should_stop
from iolaus.sweeps.child import CHILD_REPORTS_VARIABLE
from iolaus.sweeps.errors import SweepFailedError
from iolaus.sweeps.reporting import Reporter, reporting_to
from iolaus.sweeps.run._job import HydraRunner
from iolaus.sweeps.run._messages import Assignment
from iolaus.sweeps.run._outcomes import as_floats
from iolaus.sweeps.run._returns import FolderReturn
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.types import OUTPUT_FILE, Ending, Outcome, Returned, Verdict


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Schema:
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    maybe: int | None = None
    shape: tuple[int, int] = (1, 2)
    raw: bytes = b"\x00\xff"
    table: dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    must: str = "???"


CONFIG = """
defaults: [jobs_schema@s, db: mysql, _self_]
x: 1
lr: 1e-3
nested: {a: 1, b: "${x}", c: [1, 2, {d: e}], yes: "yes", seven: "007", long: "%s",
  no: null, text: "ü: '\\n'"}
time: ${now:%%f}
name: ${hydra:job.override_dirname}
hydra:
  job:
    env_set: {APP_X: "${hydra:job.num}"}
    config: {override_dirname: {exclude_keys: [lr], item_sep: ";"}}
  sweep: {dir: "%s/sweep"}
""".lstrip()

# What Hydra keeps to itself of a command line, with an interpolation that only a trial can resolve.
HYDRAS_OWN = ["hydra.job.chdir=true", "hydra.sweep.subdir=${hydra.job.num}-${x}"]


@dataclass
class App:
    """A small Hydra app: how Hydra sees it, and its multirun config."""

    context: HydraContext
    master: DictConfig
    composer: Composer
    sweep_dir: Path
    events: list[tuple[Any, ...]]


class Recorder(Callback):
    """Notes what a callback is given, in a form that can be compared."""

    def __init__(self, events: list[tuple[Any, ...]]) -> None:
        self._events = events

    def on_job_start(self, config: DictConfig, *, task_function: Any, **kwargs: Any) -> None:
        self._events.append(
            (
                "start",
                _plain(config),
                task_function,
                sorted(kwargs),
                Path.cwd(),
                os.environ["APP_X"],
            )
        )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        returned = {
            **vars(job_return),
            "cfg": _plain(job_return.cfg),
            "hydra_cfg": _plain(job_return.hydra_cfg),
            "_return_value": repr(job_return._return_value),
        }
        self._events.append(("end", _plain(config), returned, sorted(kwargs)))


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config) if config is not None else None


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "conf" / "db").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(CONFIG % ("long " * 40, folder))
    for name, port in (("mysql", 3306), ("postgresql", 5432)):
        (folder / "conf" / "db" / f"{name}.yaml").write_text(
            f"driver: {name}\nport: {port}\nof: ${{x}}\n"
        )
    ConfigStore.instance().store("jobs_schema", Schema)
    with initialize_config_dir(str(folder / "conf"), job_name="app", version_base=None):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config(
            "config", HYDRAS_OWN, RunMode.MULTIRUN, with_log_configuration=False
        )
        assert (
            master.time
        )  # from here on the time stands still, as the sweep's folder does in a multirun
        events: list[tuple[Any, ...]] = []
        callbacks = Callbacks()
        callbacks.callbacks = [Recorder(events)]
        context = HydraContext(config_loader=hydra.config_loader, callbacks=callbacks)
        yield App(context, master, Composer(hydra.config_loader, master), folder / "sweep", events)
    ConfigStore.instance().repo.pop("jobs_schema.yaml")


@pytest.fixture
def process() -> Iterator[None]:
    """A trial has its process to itself: put back what it changes of ours."""
    root, kept = logging.getLogger(), (os.dup(1), os.dup(2))
    handlers, level, cfg = list(root.handlers), root.level, HydraConfig.instance().cfg
    yield
    for number, fd in enumerate(kept, start=1):
        os.dup2(fd, number)
        os.close(fd)
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], HydraConfig.instance().cfg = handlers, cfg
    root.setLevel(level)


OVERRIDES = [
    "x=2",
    "lr=0.5",
    "db=postgresql",
    "db.port=1",
    "~db",
    "~lr",
    "~nested.c",
    "+new=1",
    "+new.deep=[1,{a: b}]",
    "++x=5",
    "+db@backup=postgresql",
    "backup.port=7",
    "nested={a: 2}",
    "nested.c=[]",
    'nested.yes="no"',
    "s.colour=BLUE",
    "s.path=/tmp",
    "s.maybe=3",
    "s.maybe=red",
    "s.shape=[3,4]",
    "s.table.b=2",
    "+s.table.b=2",
    "s.must=${x}",
    "unknown=1",
    "db=oracle",
    "hydra.job.name=other",
    "hydra/job_logging=none",
]


def composed(compose: Callable[[], DictConfig]) -> Any:
    try:
        config = compose()
    except HydraException as error:
        return type(error)
    return (
        OmegaConf.to_container(config),
        config.time,
        config._metadata.flags,
        OmegaConf.get_type(config),
    )


NUMBERS = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)


@given(number=NUMBERS.map(repr) | st.sampled_from(["007", "1_0", "-0", "0.5e3", "1.", ".5", "1e3"]))
def test_a_number_is_read_as_hydra_reads_it(app: App, number: str) -> None:
    """Its value, type and text, also of those that are none to Hydra; with another before it."""
    lines = ["lr=1", f"lr={number}", f"+new.x={number}", f"++x={number}"]
    hydras = OverridesParser.create(app.context.config_loader).parse_overrides(list(lines))
    for _ in range(2):
        ours = app.composer.parse(lines)
        assert ours == hydras
        assert [type(o.value()) for o in ours] == [type(o.value()) for o in hydras]


@given(lines=st.lists(st.sampled_from(OVERRIDES), max_size=4, unique=True))
@settings(max_examples=25)
def test_a_composed_config_is_hydras(app: App, lines: list[str]) -> None:
    """From any overrides Composer makes, twice, what Hydra's load_sweep_config makes, or refuses
    what it refuses.
    """
    hydras = composed(lambda: app.context.config_loader.load_sweep_config(app.master, list(lines)))
    for _ in range(2):
        assert composed(lambda: app.composer.compose(lines)) == hydras


def test_the_time_is_that_of_the_sweep(app: App) -> None:
    """${now:} has one value in all trials and in the sweep's own config."""
    assert {
        app.composer.compose([f"x={i}", f"db={db}"]).time
        for i in range(2)
        for db in ("mysql", "postgresql")
    } == {app.master.time}


def test_trials_do_not_share_their_config(app: App) -> None:
    """What a trial changes in its config is not seen by the next one."""
    first = app.composer.compose(["x=1"])
    with open_dict(first):
        first.nested.c.append(99)
        first.extra = 1
    hydras = app.context.config_loader.load_sweep_config(app.master, ["x=1"])
    assert _plain(app.composer.compose(["x=1"])) == _plain(hydras)


@pytest.mark.usefixtures("process")
def test_what_trials_share_can_be_made_before_the_first(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an example, in whose folder nothing is left; trials with other values compose nothing
    then, and have the config that Hydra gives them.
    """
    seen = []
    runner = HydraRunner(
        with_callbacks(app), lambda cfg: seen.append(_plain(cfg)), app.composer, example=["x=0"]
    )
    runner.load()
    assert not app.sweep_dir.exists()
    monkeypatch.setattr(Composer, "compose", lambda *_: pytest.fail("composed"))
    assert runner(Assignment(3, ("x=5",)), Reporter("loss", lambda: 0.0)).ending is not None
    assert [folder.name for folder in app.sweep_dir.iterdir()] == ["3-5"]
    shutil.rmtree(app.sweep_dir)
    assert seen == [_plain(run_as_hydra(app, lambda cfg: None, 3, ["x=5"]).cfg)]
    shutil.rmtree(app.sweep_dir)


def run_as_hydra(
    app: App, task: Callable[[DictConfig], Any], trial: int, lines: list[str]
) -> JobReturn:
    config = app.context.config_loader.load_sweep_config(app.master, lines)
    with open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(trial), trial
    return run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", app.context)


def run_here(
    app: App, task: Callable[[DictConfig], Any], trial: int = 0, lines: tuple[str, ...] = ()
) -> Outcome:
    reporter = Reporter("loss", clock=lambda: 0.0)
    with reporting_to(reporter):
        return HydraRunner(app.context, task, app.composer)(Assignment(trial, lines), reporter)


def contents(folder: Path) -> dict[str, Any]:
    """The files under a folder: YAML as what it says, logs by their messages."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.*")):
        if path.is_dir():
            continue
        text = path.read_text()
        parsed = (
            _plain(OmegaConf.load(path))
            if path.suffix == ".yaml"
            else [line.split(" - ")[-1] for line in text.split("\n")]
        )
        found[str(path.relative_to(folder))] = parsed
    return found


def with_callbacks(app: App, *given: Any) -> HydraContext:
    callbacks = Callbacks()
    callbacks.callbacks = list(given)
    return HydraContext(config_loader=app.context.config_loader, callbacks=callbacks)


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(
    ("callback", "n_composed"),
    [(iolaus.Recorder(), 1), (Recorder([]), 3)],
)
def test_our_own_callback_costs_trials_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, callback: Any, n_composed: int
) -> None:
    """Trials that differ in values are composed once beside `iolaus.Recorder`, which the trainer
    has, and each by itself beside a callback that may keep its config.
    """
    composed, compose = [], Composer.compose
    monkeypatch.setattr(
        Composer, "compose", lambda self, lines: composed.append(lines) or compose(self, lines)
    )
    monkeypatch.setenv("APP_X", "1")
    runner = HydraRunner(with_callbacks(app, callback), lambda _: 0.5, app.composer)
    for trial in range(3):
        reporter = Reporter("loss", clock=lambda: 0.0)
        with reporting_to(reporter):
            runner(Assignment(trial, (f"x={trial}",)), reporter)
    shutil.rmtree(app.sweep_dir)
    assert len(composed) == n_composed


# Values of one branch: numbers, texts that YAML quotes, wraps or escapes, lists, an enum's name.
VALUES = {
    "x": st.sampled_from(["2", "-1.5", "1e-05", "null", "true", "'007'", "'a b'", "[1,{a: 2}]"]),
    "lr": st.floats(0, 1).map(repr),
    "s.colour": st.sampled_from(["RED", "BLUE", "2"]),
    "nested.long": st.sampled_from(["short", "'" + "word " * 40 + "'", "'ü: #'", "1:30", "''"]),
    "+new.deep": st.sampled_from(["1", "'a: b'", "[x]"]),
    "nested.c": st.sampled_from(["[]", "[3,4]", "[a,{b: null}]", "5"]),
}


@pytest.mark.usefixtures("process")
@given(trials=st.lists(st.fixed_dictionaries(VALUES), min_size=2, max_size=4))
@settings(max_examples=8, deadline=None, phases=[Phase.generate])
def test_the_files_of_trials_are_hydras_to_the_byte(app: App, trials: list[dict[str, str]]) -> None:
    """One trial after the other in one process; and each task has the config that Hydra gives it,
    its own to change.
    """
    seen: list[Any] = []

    def task(cfg: DictConfig) -> float:
        hydra = HydraConfig.get()
        seen.append([_plain(cfg), cfg.name, cfg._metadata.flags, _plain(hydra), cfg.nested.b])
        logging.getLogger("app").info("hello")
        with open_dict(cfg):
            cfg.x, cfg.nested.extra = 99, 1
        return 0.5

    runner = HydraRunner(with_callbacks(app), task, app.composer)
    for trial, values in enumerate(trials):
        lines = tuple(f"{key}={value}" for key, value in values.items())
        left: list[dict[str, bytes]] = []
        for is_ours in (False, True):
            if is_ours:
                assert runner(Assignment(trial, lines), Reporter("loss", lambda: 0.0)).values
            else:
                run_as_hydra(app, task, trial, list(lines))
            (folder,) = app.sweep_dir.iterdir()
            left.append({p.name: p.read_bytes() for p in (folder / ".hydra").iterdir()})
            assert "hello" in (folder / "app.log").read_text()
            shutil.rmtree(app.sweep_dir)
        assert left[1] == left[0]
        assert len(left[0]) == 3
        assert seen[-1] == seen[-2]


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("meddles", ["level", "handler", "stream", "filter", "nothing"])
def test_logging_is_as_hydra_sets_it_up_whatever_a_task_did(app: App, meddles: str) -> None:
    """Each job's log has what the next job said, once, and the handlers do not pile up."""
    root = logging.getLogger()

    def task(cfg: DictConfig) -> None:
        logging.getLogger("app").info("of %s", cfg.x)
        match meddles:
            case "level":
                root.setLevel(logging.ERROR)
            case "handler":
                root.addHandler(logging.StreamHandler())
            case "stream":
                root.handlers[0].stream = io.StringIO()  # type: ignore[attr-defined]
            case "filter":
                root.handlers[-1].addFilter(lambda _: False)

    runner = HydraRunner(with_callbacks(app), task, app.composer)
    made = []
    for trial in range(3):
        runner(Assignment(trial, (f"x={trial}",)), Reporter("loss", lambda: 0.0))
        made.append(root.handlers[-1])
        (folder,) = [f for f in app.sweep_dir.iterdir() if f.name.startswith(f"{trial}-")]
        assert (folder / "app.log").read_text().count("of ") == 1
        assert f"of {trial}\n" in (folder / "app.log").read_text()
    assert (made[0] is made[2]) == (meddles == "nothing")
    shutil.rmtree(app.sweep_dir)


LINES = ("x=2", "db=postgresql", "lr=0.5", "s.colour=BLUE", "s.must='007'", "+new='a,b'")


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_leaves_what_hydras_job_leaves(
    app: App, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder, .hydra files, log, environment, working directory and callbacks are those of Hydra's
    run_job.
    """
    monkeypatch.delenv("APP_X", raising=False)
    seen: list[Any] = []

    def task(cfg: DictConfig) -> float:
        hydra = HydraConfig.get()
        seen.append(
            (
                cfg,
                Path.cwd(),
                os.environ["APP_X"],
                hydra.job.num,
                hydra.runtime.output_dir,
                cfg.name,
            )
        )
        logging.getLogger("app").info("hello")
        Path("made.txt").write_text("by the task")
        if fails:
            raise ValueError("no")
        return 0.5

    app.events.clear()
    before = Path.cwd()
    trees = []
    for run in (run_as_hydra, run_here):
        run(app, task, 3, list(LINES) if run is run_as_hydra else LINES)  # type: ignore[operator]
        (folder,) = app.sweep_dir.iterdir()
        trees.append(contents(folder))
        app.sweep_dir.rename(app.sweep_dir.with_name(f"of-{run.__name__}-{fails}"))
        assert Path.cwd() == before
        assert "APP_X" not in os.environ
    theirs, ours = trees
    assert OUTPUT_FILE in ours
    assert theirs.pop("app.log") == ["hello", ""]
    logged = ours.pop("app.log")
    assert logged[0] == "hello"
    assert ("ValueError: no" in logged) == fails  # Hydra leaves it to its caller to show the error
    del ours[OUTPUT_FILE]
    assert ours == theirs
    assert ours.keys() == {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")} | {
        "made.txt"
    }
    assert seen[0] == seen[1]
    assert seen[0][3] == 3
    assert app.events[:2] == app.events[2:]
    assert [event[0] for event in app.events] == ["start", "end"] * 2


def test_a_finished_trial_shows_hydras_callers_its_configs(app: App, tmp_path: Path) -> None:
    """FolderReturn reads configs from the folder; its return value is the task's, or raises why
    there is none.
    """
    (tmp_path / ".hydra").mkdir()
    for name in ("config", "hydra"):
        (tmp_path / ".hydra" / f"{name}.yaml").write_text(f"it: {name}\n")
    good = FolderReturn(
        ["x=1"], tmp_path, "here", Outcome(Ending.COMPLETED, returned=Returned.of({"a": 1}))
    )
    assert (good.cfg, good.hydra_cfg, good.return_value) == (
        {"it": "config"},
        {"it": "hydra"},
        {"a": 1},
    )
    bad = FolderReturn(["x=1"], tmp_path, "here", Outcome(Ending.FAILED, reason="out of memory"))
    with pytest.raises(SweepFailedError, match="out of memory"):
        _ = bad.return_value


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("no number in here")

    def __reduce__(self) -> Any:
        raise RuntimeError("stays here")


def raises(error: BaseException) -> Callable[[DictConfig], Any]:
    def task(cfg: DictConfig) -> Any:
        raise error

    return task


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even the message is broken")


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize(
    ("task", "ending", "reason", "values"),
    [
        (lambda cfg: 0.5, Ending.COMPLETED, "", (0.5,)),
        (lambda cfg: (1, 2.5), Ending.COMPLETED, "", (1.0, 2.5)),
        (lambda cfg: None, Ending.COMPLETED, "", ()),
        (lambda cfg: "text", Ending.COMPLETED, "", ()),
        (lambda cfg: Broken(), Ending.COMPLETED, "", ()),
        (lambda cfg: 10**400, Ending.COMPLETED, "", ()),
        (lambda cfg: float("inf"), Ending.COMPLETED, "", (float("inf"),)),
        (lambda cfg: float("nan"), Ending.DIVERGED, "the task returned nan", ()),
        (lambda cfg: [1.0, float("nan")], Ending.DIVERGED, "the task returned nan", ()),
        (lambda cfg: sys.exit(), Ending.FAILED, r"the task called sys\.exit\(\)", ()),
        (lambda cfg: sys.exit(3), Ending.FAILED, r"the task called sys\.exit\(3\)", ()),
        (lambda cfg: sys.exit("bad"), Ending.FAILED, r"the task called sys\.exit\('bad'\)", ()),
        (
            raises(KeyboardInterrupt()),
            Ending.FAILED,
            r"KeyboardInterrupt \(test_job\.py:\d+\)",
            (),
        ),
        (
            raises(ValueError("two\n\n lines")),
            Ending.FAILED,
            r"ValueError: two lines \(test_job\.py:\d+\)",
            (),
        ),
        (raises(MuteError()), Ending.FAILED, r"MuteError \(test_job\.py:\d+\)", ()),
        (raises(optuna.TrialPruned("enough")), Ending.PRUNED, "enough", ()),
        (raises(optuna.TrialPruned()), Ending.PRUNED, "the task pruned itself", ()),
        (
            lambda cfg: cfg.s.must,
            Ending.FAILED,
            "MissingMandatoryValue: Missing mandatory value: s.must",
            (),
        ),
        (
            lambda cfg: report(4, loss=float("nan")),
            Ending.DIVERGED,
            "loss became nan at step 4",
            (),
        ),
        (
            lambda cfg: report(4, loss=float("-inf")),
            Ending.DIVERGED,
            "loss became -inf at step 4",
            (),
        ),
        (
            lambda cfg: report(-1, loss=0),
            Ending.FAILED,
            r"ValueError: iolaus\.report: step counts from 0",
            (),
        ),
    ],
)
def test_whatever_a_task_does_becomes_an_outcome(
    app: App,
    task: Callable[[DictConfig], Any],
    ending: Ending,
    reason: str,
    values: tuple[float, ...],
) -> None:
    """The runner never raises; the reason is one line that says what happened and where."""
    outcome = run_here(app, task)
    assert (outcome.ending, outcome.values) == (ending, values)
    assert re.match(reason, outcome.reason)
    assert bool(outcome.reason) == bool(reason)
    assert "\n" not in outcome.reason
    assert (outcome.verdict is not None) == (ending is Ending.DIVERGED)
    assert repr(pickle.loads(pickle.dumps(outcome))) == repr(
        outcome
    )  # it can leave the worker; repr, for nan


@pytest.mark.usefixtures("process")
def test_a_config_that_cannot_be_composed_fails_the_trial(app: App) -> None:
    """The sentence names the key."""
    outcome = run_here(app, lambda cfg: 1.0, lines=("unknown=1",))
    assert outcome.ending is Ending.FAILED
    assert "unknown" in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("looks", [True, False])
def test_only_a_task_that_noticed_was_stopped(app: App, looks: bool) -> None:
    """A task told to stop counts as pruned if it looked, and as completed if it was over before it
    could.
    """
    verdict = Verdict("Rule", 1, "enough")
    reporter = Reporter("loss", clock=lambda: 0.0)

    def task(cfg: DictConfig) -> float:
        reporter.stop(verdict)
        assert not looks or should_stop()
        return 1.0

    with reporting_to(reporter):
        outcome = HydraRunner(app.context, task, app.composer)(Assignment(0, ()), reporter)
    if looks:
        assert outcome == Outcome(Ending.PRUNED, reason="enough", verdict=verdict)
    else:
        assert outcome == Outcome(Ending.COMPLETED, values=(1.0,), returned=Returned.of(1.0))


@pytest.mark.usefixtures("process")
def test_a_child_reports_in_place_of_its_trial(app: App) -> None:
    """A trial whose child was told to end is pruned, however the task sees the child end."""
    verdict = Verdict("Rule", 1, "enough")
    reporter = Reporter("loss", clock=lambda: 0.0)

    def task(_: DictConfig) -> None:
        reporter.stop(verdict)
        command = "import iolaus; iolaus.report(0, loss=1.0)"
        subprocess.run([sys.executable, "-c", command], check=True)

    runner = HydraRunner(app.context, task, app.composer)
    with reporting_to(reporter):
        outcome = runner(Assignment(0, ("x=1", "s.must=a")), reporter)
    batch = reporter.take()
    assert batch is not None
    assert [row.metrics for row in batch.rows] == [{"loss": 1.0}]
    assert outcome == Outcome(Ending.PRUNED, reason="enough", verdict=verdict)
    assert CHILD_REPORTS_VARIABLE not in os.environ


def test_as_floats_takes_what_is_like_a_number() -> None:
    """Numpy scalars, one-element tensors and bools are numbers; text is none, nor is anything that
    refuses.
    """
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    assert (
        as_floats(numpy.float32(0.5)) == as_floats(torch.tensor([0.5])) == as_floats(0.5) == (0.5,)
    )
    assert as_floats([numpy.int64(2), torch.tensor(3.0), True]) == (2.0, 3.0, 1.0)
    assert as_floats(numpy.array([0.5])) == as_floats(torch.tensor([[0.5]])) == (0.5,)
    assert as_floats("1.0") == as_floats(b"1") == as_floats(None) == as_floats({}) == ()
    assert as_floats(torch.zeros(2)) == as_floats(Broken()) == as_floats(10**400) == ()
    assert as_floats(random) == ()
