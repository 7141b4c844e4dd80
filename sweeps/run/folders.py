"""Whether each trial of a sweep gets a folder of its own, found out before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._prepared import folder_of
from iolaus.sweeps.run.driver import Rules
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.search.space import Value
from iolaus.sweeps.study.sweep_study import Plans, Proposal

__all__ = ["refuse_shared_folders"]

# What a subdir may be named after that no two trials share.
_NUMBERED = re.compile(r"\$\{hydra[:.]job\.(num|id)\}")


def refuse_shared_folders(
    config: DictConfig, rules: Rules, plans: Plans, composer: Composer
) -> None:
    """Raise BadInputError if two trials that differ in one thing have the same folder.

    In the value of a parameter, or in the seed of a repeat. What cannot be told is let pass: a
    parameter that does not always exist, a setting whose config cannot be composed.
    """
    subdir = OmegaConf.to_container(config.hydra.sweep)["subdir"]  # type: ignore[call-overload, index]
    if plans.n_runs == 1 or _NUMBERED.search(str(subdir)):
        return
    before = HydraConfig.instance().cfg
    try:
        for what, one, other in _pairs(rules, plans):
            try:
                folder = _folder(rules, composer, 0, one)
                is_shared = (
                    folder == _folder(rules, composer, 0, one)  # not so where its name is drawn
                    and folder == _folder(rules, composer, 1, other)
                )
            except Exception:
                continue
            if is_shared:
                raise BadInputError(
                    f"hydra.sweep.subdir={subdir} gives trials that differ in {what} one folder, "
                    f"{folder.name}, where each would overwrite the other's files; name it after "
                    "${hydra.job.num} or ${hydra.job.override_dirname}"
                )
    finally:
        HydraConfig.instance().cfg = before


_Setting = tuple[dict[str, Value], int | None]


def _pairs(rules: Rules, plans: Plans) -> Iterator[tuple[str, _Setting, _Setting]]:
    """What two settings differ in, and they, as values and a seed."""
    always = {key: p for key, p in rules.space.parameters.items() if not p.when}
    seed = plans.first_seed if plans.gives_seeds else None
    values = {key: p.examples()[0] for key, p in always.items()}
    if seed is not None:
        yield rules.seed_key, (values, seed), (values, seed + 1)
    for key, parameter in always.items():
        last = parameter.examples()[-1]
        if last != values[key]:
            yield key, (values, seed), ({**values, key: last}, seed)


def _folder(rules: Rules, composer: Composer, trial: int, setting: _Setting) -> Path:
    assignment = rules.assignment(Proposal(trial, *setting))
    return folder_of(composer.compose(assignment.overrides), trial)
