"""`iolaus lint ...`.

The findings on one run, or on settings drawn from a whole search space.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.search.branches import searched
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.space import Space, Value
from iolaus.sweeps.types import Finding
from iolaus.trainer.best_weights import load_best
from iolaus.trainer.lint import RULES, Preview, lint, preview
from iolaus.trainer.settings import CONF, read

__all__ = ["composed", "lint_command", "sample"]

N_SHOWN = 11


@dataclass(frozen=True)
class Linted:
    """One setting: the overrides that make it, what is known of the run, and the findings on it."""

    overrides: tuple[str, ...]
    view: Preview
    findings: list[Finding]


def lint_command(overrides: Sequence[str], as_json: bool = False) -> str:
    """Lint what these overrides ask for, a run or a search space.

    Writes the figure and returns the text, or as JSON a list of the settings with their overrides
    and findings. Searched is what `hydra.sweeper.params` of a
    `+sweep=NAME` or the overrides themselves say, as under --multirun. Raises BadInputError.
    """
    with composed(overrides) as (master, space, composer):
        linted = sample(space, composer, master.lint.n_samples, seed=master.seed)
    text = (
        one_run(linted[0])
        if not space.parameters
        else search_space(linted, str(master.hydra.sweeper.study_name))
    )
    if as_json:
        settings = [
            {"overrides": list(s.overrides), "findings": [asdict(f) for f in s.findings]}
            for s in linted
        ]
        text = json.dumps(settings)
    if master.lint.figure:
        path = Path(str(master.lint.figure))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        draw(figure.subplots(), linted)
        figure.savefig(path, dpi=120)
        text += "" if as_json else f"\nfigure: {path}"
    return text


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[tuple[DictConfig, Space, Composer]]:
    """The config, the search space and the composer of what overrides ask for, as --multirun does.

    Raises BadInputError for what Hydra cannot compose, here or inside.
    """
    with initialize_config_dir(str(CONF), version_base=None, job_name="trainer"):
        loader = GlobalHydra.instance().config_loader()
        try:
            master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
            composer = Composer(loader, master)
            space = searched(master.hydra.sweeper, list(master.hydra.overrides.task), composer)
            yield master, space, composer
        except HydraException as error:
            raise BadInputError(str(error)) from error


def sample(space: Space, composer: Composer, n_samples: int, seed: int) -> list[Linted]:
    """Draw settings as Optuna's RandomSampler does, and lint each.

    If nothing is searched, it is the one setting.
    """
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study, blank = (
        optuna.create_study(),
        optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING),
    )
    linted = []
    for _ in range(n_samples if space.parameters else 1):
        values: dict[str, Value] = {}
        for key, parameter in space.parameters.items():
            if parameter.is_active(values):
                values[key] = sampler.sample_independent(study, blank, key, parameter.distribution)
        lines = space.overrides(values)
        run = read(without_hydra(composer.compose(lines)))
        view = preview(run, run.node["lint"]["from_step"])
        linted.append(Linted(lines, view, lint(view)))
    return linted


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The app's part of a composed config."""
    return DictConfig({name: cfg._get_node(name) for name in cfg if name != "hydra"})


def one_run(linted: Linted) -> str:
    """Length, the rate at evenly spread steps, and every finding."""
    view, run = linted.view, linted.view.run
    n_examples, n_train = run.batches.examples(run.n_steps), len(run.splits.train)
    steps = np.unique(
        np.linspace(min(view.from_step, view.n_steps - 1), view.n_steps - 1, N_SHOWN)
        .round()
        .astype(int)
    )
    lines = [
        f"{run.n_steps} steps, {n_examples} examples, {n_examples / n_train:.2f} epochs of "
        f"{n_train}, batch size {', then '.join(map(str, run.batches.sizes))}; "
        f"{type(run.schedule).__name__}",
        "step " + "".join(f"{step:>10}" for step in steps),
        "lr   " + "".join(f"{view.rates[step]:>10.3g}" for step in steps),
    ]
    if run.resume is not None and run.resume.is_file():
        rate = view.rates[view.from_step] if view.from_step < view.n_steps else 0.0
        saved = ", ".join(
            f"{group['lr']:.3g}" for group in load_best(run.resume)["optimizer"]["param_groups"]
        )
        lines.append(
            f"taken up at step {view.from_step} of {view.n_steps}: the rate there is {rate:.3g}; "
            f"the optimizer was saved at {saved}, which does not keep it there, "
            "since the schedule sets the rate at every step"
        )
    lines += [f"{f.name} (step {f.step}): {f.text}" for f in linted.findings] or ["no findings"]
    return "\n".join(lines)


def search_space(linted: Sequence[Linted], name: str) -> str:
    """For each rule the share of settings with that finding, and the first such setting."""
    counts = Counter(finding.name for setting in linted for finding in setting.findings)
    n_clean = sum(not setting.findings for setting in linted)
    lines = [
        f"{len(linted)} settings drawn from the space of {name}: "
        f"{n_clean / len(linted):.1%} without findings"
    ]
    for rule in RULES:
        if counts[rule]:
            first = next(s for s in linted if any(f.name == rule for f in s.findings))
            sentence = next(f.text for f in first.findings if f.name == rule)
            lines.append(
                f"{counts[rule] / len(linted):>6.1%} {rule:<13} "
                f"such as {' '.join(first.overrides)}:"
            )
            lines.append(f"{'':>7}{sentence}")
    return "\n".join(lines)


def draw(axes: Axes, linted: Sequence[Linted]) -> None:
    """The rate over the run, one line per setting.

    Dark where there is a finding, with the step it starts marked.
    """
    lowest = min(
        (view.rates[view.rates > 0].min(initial=np.inf) for view in (s.view for s in linted)),
        default=1.0,
    )
    single = len(linted) == 1
    for setting in linted:
        view = setting.view
        color, alpha = (
            ("#b2182b", 0.9)
            if setting.findings and not single
            else ("#2166ac", 0.9 if single else 0.35)
        )
        axes.plot(
            np.arange(view.n_steps),
            view.rates,
            color=color,
            alpha=alpha,
            linewidth=1.8 if single else 0.7,
        )
        for finding in setting.findings:
            step = min(finding.step, view.n_steps - 1)
            axes.plot(step, view.rates[step], "v", color="#b2182b", markersize=7 if single else 3)
            if single:
                axes.annotate(
                    finding.name,
                    (step, view.rates[step]),
                    xytext=(4, 6),
                    textcoords="offset points",
                )
    if single:
        axes.set_ylim(bottom=0)  # so that a flat rate looks flat
    else:  # linear below the lowest rate but 0, which a plain log axis could not show
        axes.set_yscale("symlog", linthresh=max(lowest, 1e-12) if np.isfinite(lowest) else 1e-12)
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel("learning rate")
    n_found = sum(bool(setting.findings) for setting in linted)
    axes.set_title(
        "planned learning rate"
        if single
        else f"{len(linted)} settings; {n_found} with a finding (red)",
        loc="left",
    )
