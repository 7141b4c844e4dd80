"""Apps written for the official Optuna sweeper behave the same under this one; options are Optuna's
own.
"""

import inspect
import itertools
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
from hydra import compose, initialize
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from hydra_plugins.iolaus.config import PRUNERS, SAMPLERS, IolausSweeperConf, register
from hydra_plugins.iolaus.sweeper import IolausSweeper, complete
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._factories import as_given, make_pruner, make_sampler
from iolaus.sweeps.run.settings import read_settings
from iolaus.sweeps.search.branches import searched
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.space import Space

APPS = Path(__file__).parent.parent / "apps"


def results(tmp_path: Path) -> Any:
    return OmegaConf.load(tmp_path / "study" / "optimization_results.yaml")


def test_own_app_from_another_folder_without_torch(tmp_path: Path) -> None:
    """An app of at most 30 lines sweeps from any folder, in a Python that has no torch, and trains
    alone.
    """
    app = shutil.copy(APPS / "parabola.py", tmp_path)
    assert len(Path(app).read_text().splitlines()) <= 30
    (tmp_path / "torch.py").write_text("raise ImportError('there is no torch here')")
    here = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    sweep = [
        "--multirun",
        "hydra/sweeper=iolaus",
        "lr=tag(log, interval(1e-3, 2))",
        "hydra.sweeper.n_trials=8",
    ]
    done = subprocess.run([sys.executable, "parabola.py", *sweep, "hydra.sweep.dir=study"], **here)
    found = optuna.load_study(study_name="parabola", storage=f"sqlite:///{tmp_path}/study/study.db")
    assert results(tmp_path).best_trial == found.best_trial.number
    assert (tmp_path / "study" / results(tmp_path).best_folder / ".hydra" / "config.yaml").is_file()
    assert "8 trials in study parabola" in done.stdout
    subprocess.run([sys.executable, "parabola.py", "hydra.run.dir=alone"], **here)


@pytest.mark.parametrize(
    "given", [["x=choice(0, 1, 2)", "y=0"], []], ids=["command line", "config"]
)
def test_tpe_finds_a_small_sphere(given: list[str], sweep: Any, study: Any, tmp_path: Path) -> None:
    """TPE reaches the official test's 95th percentile in 20 trials; what the command line fixes is
    not searched.
    """
    seed = ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=123"]
    sweep("sphere.py", *seed, "hydra.job.chdir=true", *given).ok()
    best = study().best_trial
    assert results(tmp_path).name == "optuna"
    assert results(tmp_path).best_params == best.params
    assert results(tmp_path).best_value == best.value <= 2.27
    assert set(best.params) == ({"x"} if given else {"x", "y"})
    assert len(study().trials) == 20


def test_grid_finds_its_optimum(sweep: Any, study: Any, tmp_path: Path) -> None:
    """A grid runs each combination once, in Hydra's order, strings included, and stops."""
    done = sweep("sphere.py", "--config-name=grid").ok()
    grid = itertools.product([-1, 1], [-1.0, 0.0, 1.0], ["foo", "bar"])
    assert [tuple(t.params.values()) for t in study().trials] == list(grid)
    assert results(tmp_path).best_value == 1
    assert results(tmp_path).best_params.y == 0
    assert "12 trials in study sphere" in done.out


@pytest.mark.parametrize(
    "given", [["x=range(0, 5)", "y=range(0, 3)"], []], ids=["command line", "config"]
)
def test_solutions_do_not_dominate_each_other(given: list[str], sweep: Any, tmp_path: Path) -> None:
    """With two objectives the results are a front: no solution is at least as good as another in
    both.
    """
    sweep(
        "two_objectives.py",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=123",
        *given,
    ).ok()
    solutions = results(tmp_path).solutions
    assert len(solutions) > 1
    for a, b in itertools.permutations([s["values"] for s in solutions], 2):
        assert not (all(x <= y for x, y in zip(a, b, strict=True)) and a != b)
    step = 1 if given else 0.5
    assert all(s.params[key] % step == 0 for s in solutions for key in ("x", "y"))


def test_own_search_space(sweep: Any, study: Any, tmp_path: Path) -> None:
    """A function may search further keys, depending on the values so far, and add keys the config
    lacks.
    """
    seed = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=123"]
    sweep("own_space.py", *seed, "z_to_x=0.3").ok()
    trials = study().trials
    assert len(trials) == 20
    assert all(
        abs(t.params["x"] - t.params["z"]) <= 0.3 and 0 <= t.params["+w"] <= 1 for t in trials
    )
    squares = [sum(value**2 for value in t.params.values()) for t in trials]
    assert [t.value for t in trials] == pytest.approx(squares)
    assert results(tmp_path).best_params["+w"] == study().best_trial.params["+w"]


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_failures(rate: float, sweep: Any, study: Any) -> None:
    """Failing trials end the sweep when they are more than max_failure_rate allows, and not
    before.
    """
    done = sweep(
        "sphere.py",
        "error=true",
        f"hydra.sweeper.max_failure_rate={rate}",
        "hydra.sweeper.n_jobs=2",
    ).wait()
    trials = study().trials
    assert {t.state for t in trials} == {optuna.trial.TrialState.FAIL}
    n_run = sum("duplicate_of" not in t.user_attrs for t in trials)
    assert (done.code == 0) == (rate == 1)
    assert ("RuntimeError: told to fail" in done.err) == (rate < 1)
    assert (
        len(trials) == 20 if rate == 1 else 6 <= n_run <= 7
    )  # of the first 10, 5 may fail; 2 at a time


def template(name: str) -> Any:
    """The config of the app in the layout of lightning-hydra-template, with its `hydra` node."""
    Plugins.instance()
    with initialize(version_base="1.3", config_path="../apps/template/configs"):
        return compose("train", overrides=[f"hparams_search={name}"], return_hydra_config=True)


def test_a_template_reads_alike_in_its_old_form(caplog: pytest.LogCaptureFixture) -> None:
    """`params` and the `search_space` of older forks say the same; the old one with a warning. What
    a range leaves out is said once.
    """
    caplog.set_level("INFO")
    spaces = []
    for name in ("iolaus", "old"):
        config = template(name)
        loader = ConfigLoaderImpl(create_config_search_path(str(APPS / "template" / "configs")))
        config.hydra.job.config_name = "train"
        given = [f"hparams_search={name}"]
        spaces.append(searched(config.hydra.sweeper, given, Composer(loader, config)))
    new, old = ({k: p.distribution for k, p in space.parameters.items()} for space in spaces)
    assert new == old
    assert "search_space is the old way" in caplog.text
    assert "range" not in caplog.text
    searched(config.hydra.sweeper, [*given, "seed=range(1, 3)"], Composer(loader, config))
    assert "a range leaves out its stop, as in Hydra and Python: seed=range(1, 3)" in caplog.text


@pytest.mark.slow
def test_a_template_is_swept_as_it_stands(sweep: Any, study: Any) -> None:
    """A search file of lightning-hydra-template with `iolaus` for `optuna` runs, maximizes, and
    prunes inside trials; which line to delete is said.
    """
    done = sweep("template/train.py", "hparams_search=iolaus").ok(200)
    assert "delete the line `_target_: hydra_plugins.hydra_optuna_sweeper" in done.out
    states = {trial.state.name for trial in study().trials}
    assert states == {"COMPLETE", "PRUNED"}
    assert study().best_value > 0.9


@pytest.mark.filterwarnings("ignore:ConfigStore config")  # Hydra 1.4 warns of the second plugin
def test_both_plugins_have_their_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hydra-optuna-sweeper is installed too, its nodes stay as they are; of their values
    those count here that were given.
    """
    store = ConfigStore.instance()
    group = dict(store.repo["hydra"]["sweeper"]["sampler"])
    monkeypatch.setitem(store.repo["hydra"]["sweeper"], "sampler", group)
    theirs = {"_target_": "optuna.samplers.TPESampler", "seed": None, "multivariate": False}
    own = {**theirs, "n_startup_trials": 10}
    store.store("tpe", own, "hydra/sweeper/sampler", provider="optuna_sweeper")
    register(store)
    with initialize(version_base=None, config_path="../apps/conf"):
        given = ["hydra/sweeper=iolaus", "hydra.sweeper.sampler.seed=3"]
        given += ["hydra.sweeper.sampler.multivariate=false"]
        node = compose("sphere", overrides=given, return_hydra_config=True).hydra
    assert store.load("hydra/sweeper/sampler/tpe.yaml").node == own
    found = as_given(node.sweeper.sampler, node)
    assert found == {**theirs, "seed": 3}


@dataclass
class Own:
    """A sweeper's node as an app may have its own: what differs, and no defaults list."""

    _target_: str = "hydra_plugins.iolaus.sweeper.IolausSweeper"
    n_trials: int = 3
    params: dict[str, str] = field(default_factory=lambda: {"x": "interval(0, 1)"})


@dataclass
class Based(IolausSweeperConf):
    """Another, made from ours, whose defaults leave out the pruner."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_"])
    n_trials: int = 3


@pytest.mark.parametrize("cls", [Own, Based])
def test_a_sweeper_node_of_ones_own_needs_no_defaults(cls: type) -> None:
    """What it leaves out is as in ours: TPE, no pruner."""
    content = OmegaConf.to_container(OmegaConf.structured(cls))
    content.pop("defaults", None)  # as Hydra does
    node = OmegaConf.create(content)
    assert not OmegaConf.missing_keys(node)  # Hydra makes no sweeper of one
    complete(node)
    settings = read_settings(node)
    assert settings.n_trials == 3
    assert settings.sampler == {"_target_": "optuna.samplers.TPESampler"}
    assert settings.pruner is None
    assert settings.max_failure_rate == 0.5


def test_the_official_sweepers_class_is_ours_under_our_options() -> None:
    """Hydra finds ours by its name, and makes it; where it is installed its own sweeps stay its."""
    name = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    found = Plugins.instance().class_name_to_class[name]
    bases = [cls.__name__ for cls in type(found(log_to=[])).__mro__]  # Hydra reads modules anew
    assert bases[:2] == [found.__name__, IolausSweeper.__name__]
    assert hydra.utils.get_class(f"{found.__module__}.{found.__qualname__}") is found


def configured(group: str, name: str) -> Any:
    Plugins.instance()
    with initialize(version_base=None, config_path="../apps/conf"):
        chosen = ["hydra/sweeper=iolaus", f"hydra/sweeper/{group}={name}"]
        found = compose("sphere", overrides=chosen, return_hydra_config=True).hydra.sweeper[group]
        return OmegaConf.create(OmegaConf.to_container(found))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name: str) -> None:
    """Each sampler composes and is made with Optuna's defaults; the options it names are Optuna's,
    all of them.
    """
    config = configured("sampler", name)
    assert not [
        key for key in config if key != "_target_" and not OmegaConf.is_missing(config, key)
    ]
    cls = getattr(optuna.samplers, SAMPLERS[name][0])
    named = set(config) - {"_target_"} | (
        {"search_space"} if name == "grid" else set()
    )  # there it is `params`
    assert named == set(inspect.signature(cls).parameters)
    assert isinstance(
        make_sampler(config, Space({}, {}, ())),
        optuna.samplers.RandomSampler if name == "grid" else cls,
    )


def test_a_word_for_a_group_is_refused_with_what_to_type() -> None:
    """`hydra.sweeper.pruner=none` is a word, `hydra/sweeper/pruner=none` the choice of a group."""
    with pytest.raises(BadInputError, match=r"give hydra/sweeper/pruner=none$"):
        make_pruner("none", 1, holdout_fraction=0)
    with pytest.raises(BadInputError, match=r"give hydra/sweeper/sampler=tpe$"):
        make_sampler("tpe", Space({}, {}, ()))


@pytest.mark.parametrize(
    "name", [name for name, (cls, *_) in PRUNERS.items() if hasattr(optuna.pruners, cls)]
)
def test_pruners(name: str) -> None:
    """Each pruner of Optuna composes and is made; the options it names are Optuna's, and only what
    must be is set.
    """
    config = configured("pruner", name)
    cls = getattr(optuna.pruners, PRUNERS[name][0])
    parameters = inspect.signature(cls).parameters
    assert set(config) - {"_target_"} == set(parameters)
    given = {key for key in config if key != "_target_" and not OmegaConf.is_missing(config, key)}
    assert given == {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    if name == "threshold":
        config.lower = 0.0  # Optuna wants one of its two bounds
    assert isinstance(make_pruner(config, 1, holdout_fraction=0), cls)
