"""The sweeper's config groups.

Hydra loads this whenever any app starts, so it imports next to nothing. Options of Optuna's
samplers and pruners are named here without a value (`???`) and left out unless the user gives one:
Optuna's own defaults stay in force, whatever its version makes of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import OmegaConf
from omegaconf import __version__ as omegaconf_version

__all__ = ["PRUNERS", "RESOLVERS", "SAMPLERS", "IolausSweeperConf", "register"]

UNSET = "???"

# name: (class, options without a value of ours, options with one)
SAMPLERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tpe": (
        "TPESampler",
        "consider_prior prior_weight consider_magic_clip consider_endpoints n_startup_trials "
        "n_ei_candidates gamma weights seed multivariate group warn_independent_sampling "
        "constant_liar constraints_func",
        {},
    ),
    "random": ("RandomSampler", "seed", {}),
    "grid": ("GridSampler", "seed", {}),
    "cmaes": (
        "CmaEsSampler",
        "x0 sigma0 n_startup_trials independent_sampler warn_independent_sampling seed "
        "consider_pruned_trials restart_strategy popsize inc_popsize use_separable_cma with_margin "
        "lr_adapt source_trials",
        {},
    ),
    "nsgaii": (
        "NSGAIISampler",
        "population_size mutation mutation_prob crossover crossover_prob swapping_prob seed "
        "constraints_func elite_population_selection_strategy "
        "child_generation_strategy after_trial_strategy",
        {},
    ),
    "nsgaiii": (
        "NSGAIIISampler",
        "population_size mutation mutation_prob crossover crossover_prob swapping_prob seed "
        "constraints_func reference_points dividing_parameter "
        "elite_population_selection_strategy child_generation_strategy after_trial_strategy",
        {},
    ),
    "qmc": (
        "QMCSampler",
        "qmc_type scramble seed independent_sampler warn_asynchronous_seeding "
        "warn_independent_sampling",
        {},
    ),
    "gp": (
        "GPSampler",
        "seed independent_sampler n_startup_trials deterministic_objective constraints_func "
        "warn_independent_sampling",
        {},
    ),
    "bruteforce": ("BruteForceSampler", "seed avoid_premature_stop", {}),
}
PRUNERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "none": ("NopPruner", "", {}),
    "median": ("MedianPruner", "n_startup_trials n_warmup_steps interval_steps n_min_trials", {}),
    "percentile": (
        "PercentilePruner",
        "n_startup_trials n_warmup_steps interval_steps n_min_trials",
        {"percentile": 25.0},
    ),
    "asha": (
        "SuccessiveHalvingPruner",
        "min_resource reduction_factor min_early_stopping_rate bootstrap_count",
        {},
    ),
    "hyperband": (
        "HyperbandPruner",
        "min_resource max_resource reduction_factor bootstrap_count",
        {},
    ),
    "patient": ("PatientPruner", "min_delta", {"wrapped_pruner": None, "patience": 10}),
    "threshold": ("ThresholdPruner", "lower upper n_warmup_steps interval_steps", {}),
    "wilcoxon": ("WilcoxonPruner", "p_threshold n_startup_steps", {}),
}
# Ours, see `iolaus.sweeps.pruners.StalledLoss`.
STALLED = {
    "_target_": "iolaus.sweeps.pruners.StalledLoss",
    "n_steps": UNSET,
    "caution": UNSET,
    "direction": UNSET,
}


@dataclass
class IolausSweeperConf:
    """Options of the sweeper; see `iolaus.sweeps.run.settings.Settings` for what each means."""

    _target_: str = "hydra_plugins.iolaus.sweeper.IolausSweeper"
    _recursive_: bool = (
        False  # samplers, pruners and storages are made by the sweeper, when it has all they need
    )
    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"sampler": "tpe"}, {"pruner": "none"}]
    )

    sampler: Any = None  # of a node with other defaults: TPE
    pruner: Any = None
    direction: Any = "minimize"
    storage: Any = None
    study_name: str | None = None
    n_trials: int = 20
    budget: Any = None
    stop_when: Any = None
    n_jobs: Any = "auto"
    n_nodes: int = 1
    trials_per_gpu: Any = 1
    memory_per_slot: Any = None
    monotonic: list[str] | None = None
    lanes: Any = 1
    lane_runner: str | None = None
    max_failure_rate: float = 0.5
    trial_timeout: Any = None
    stall_timeout: Any = None
    start_timeout: Any = 60
    start_method: str = "auto"
    checkpoint_grace: Any = 10
    keep_checkpoints: int = 4
    grace_period: Any = "60s"
    params: dict[str, Any] | None = field(default_factory=dict)  # empty: a command line can add
    custom_search_space: str | None = None
    when: dict[str, Any] | None = field(default_factory=dict)
    enqueue: list[Any] | None = None
    repeats: int = 1
    repeat_hopeless: bool = False
    finalists: Any = None
    seed_key: str = "seed"
    on_change: str = "warn"
    lint: str | None = None
    holdout_fraction: float = 0.03
    on_prune: str = "pause"
    paused_limit: Any = "2GB"
    on_stall: str = "prune"
    stall_factor: float = 0.3
    n_interventions: int = 2
    metric: str = "loss"
    metric_goal: str | None = None
    objective: str | None = None
    report: str | None = "html"
    log_to: list[str] = field(default_factory=list)
    # As sweeper configs of before hydra-optuna-sweeper 1.2 have it: read as params.
    search_space: dict[str, Any] | None = None
    # Old names, read for one release more: lint, holdout_fraction and n_interventions.
    audit: str | None = None
    audit_fraction: float | None = None
    n_remedies: int | None = None


# For ties between parameters, in any config: `lr: ${sweep.mul:0.1,${sweep.div:${batch_size},64}}`.
RESOLVERS: dict[str, Callable[..., Any]] = {
    "mul": lambda *factors: math.prod(factors),
    "div": lambda a, b: a / b,
    "add": lambda *terms: sum(terms),
    "sqrt": math.sqrt,
    "round": round,
}


def register(store: ConfigStore) -> None:
    """Make the sweeper, its groups and the resolvers for ties known to Hydra."""
    is_renamed = not omegaconf_version.startswith("2.3.")
    add: Any = OmegaConf.register_resolver if is_renamed else OmegaConf.register_new_resolver
    for name, function in RESOLVERS.items():
        add(f"sweep.{name}", function, replace=True)
    store.store(group="hydra/sweeper", name="iolaus", node=IolausSweeperConf, provider="iolaus")
    for group, module, known in (("sampler", "samplers", SAMPLERS), ("pruner", "pruners", PRUNERS)):
        for name, (cls, options, values) in known.items():
            node = {
                "_target_": f"optuna.{module}.{cls}",
                **dict.fromkeys(options.split(), UNSET),
                **values,
            }
            if not _is_of_others(store, group, name):
                store.store(group=f"hydra/sweeper/{group}", name=name, node=node, provider="iolaus")
    store.store(group="hydra/sweeper/pruner", name="stalled", node=STALLED, provider="iolaus")


def _is_of_others(store: ConfigStore, group: str, name: str) -> bool:
    """Whether hydra-optuna-sweeper is installed too and has this node, which it cannot do without.

    What such a node says is read as if it were ours, see `iolaus.sweeps.run._factories.as_given`.
    """
    try:
        return store.load(f"hydra/sweeper/{group}/{name}.yaml").provider != "iolaus"
    except ConfigLoadError:
        return False


register(ConfigStore.instance())
