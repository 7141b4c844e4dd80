"""The seeds that would settle a sweep's first place.

`iolaus top-up DIR` queues and runs just those.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from omegaconf import OmegaConf
from optuna.trial import TrialState

from iolaus.analysis.data.sweep import load
from iolaus.analysis.diagnosis.next_trials import continuing
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.sweeps.study.folder import SWEEP_FILE, own_command, read_study, working_dir
from iolaus.sweeps.study.record import (
    TrialRecord,
    is_paused,
    is_repeat,
    leader_of,
    n_settings,
    record_of,
)

__all__ = ["TopUp", "contenders", "plan_top_up", "run_top_up"]

# Seeds that are added at once at most: what they show may make the rest unnecessary.
N_SEEDS_AT_ONCE = 4
# Settings that are topped up at once at most, best first.
N_SETTINGS_AT_ONCE = 8
# Where no setting was repeated, seeds of fewer settings than this say too little of the spread
# between seeds.
N_SETTINGS_FIRST = 4
# The sweep's own options that a top-up sets: only the queue is run, to its end, with the seeds as
# queued.
_OVERRIDDEN = (
    "hydra.sweep.dir",
    "hydra.sweeper.n_trials",
    "hydra.sweeper.repeats",
    "hydra.sweeper.finalists",
    "hydra/sweeper/pruner",
)


@dataclass(frozen=True, slots=True)
class TopUp:
    """The runs that a sweep is to be topped up by, and how they are started.

    repeats: (leading trial, repeat number, seed) for each run. command: continues the sweep with
    them, in working_dir. makes_finalists: whether other settings have no such seeds.
    """

    repeats: tuple[tuple[int, int, int], ...]
    command: tuple[str, ...]
    working_dir: Path
    makes_finalists: bool = False

    def __str__(self) -> str:
        return shlex.join(self.command)


def plan_top_up(folder: Path, ranking: Ranking, n_seeds: int | None = None) -> TopUp:
    """The runs that would settle first place: more seeds for the settings that may have it.

    The settings are the first tier, at most its best 8; where nothing was repeated, the best four.
    If first place is settled there are no runs.

    n_seeds: for each; left out: as many as the ranking says, at most 4. Raises ValueError if the
    sweep has no seed to change, searches it, or is of no command we know; also if other settings
    are queued: the command would run them too, without the sweep's pruner.
    """
    study = read_study(folder)
    config = OmegaConf.create(study.user_attrs.get("config", ""))
    key = str(OmegaConf.select(config, "hydra.sweeper.seed_key", default="seed"))
    first_seed = OmegaConf.select(config, key)
    trials = study.get_trials(deepcopy=False)
    if any(key in trial.params for trial in trials):
        raise ValueError(
            f"{key} is searched in {folder}, so its trials have no seed that could be repeated"
        )
    if not isinstance(first_seed, int):
        raise ValueError(
            f"top-up counts seeds from the config's {key}, which is {first_seed} in {folder}; "
            "run the sweep with hydra.sweeper.seed_key=KEY naming a whole number of the app's"
        )
    own = own_command(study.user_attrs.get("provenance", []))
    if not own:
        raise ValueError(
            f"{folder} does not say by which command it was run, so it cannot be continued"
        )
    repeats: list[tuple[int, int, int]] = []
    for leader in contenders(ranking):
        last = max(record_of(t).repeat for t in _runs(trials, leader))
        numbers = range(
            last + 1, last + 1 + (n_seeds or min(ranking.seeds_to_settle or 50, N_SEEDS_AT_ONCE))
        )
        repeats += [(leader, number, first_seed + number) for number in numbers]
    waiting = [t for t in trials if t.state is TrialState.WAITING and not is_paused(t)]
    queued = [t.number for t in waiting if not is_repeat(t)]
    if repeats and queued:
        raise ValueError(
            f"{folder} has other settings in its queue (trials {', '.join(map(str, queued))}), "
            "which a top-up would run too, without the sweep's pruner. Run them first:\n  "
            f"{continuing(folder, load(folder))}"
        )
    kept = [a for a in own if a.lstrip("+~").partition("=")[0] not in _OVERRIDDEN]
    values = (str(folder.absolute()), str(n_settings(trials)), "1", "null", "none")
    command = (*kept, *(f"{name}={value}" for name, value in zip(_OVERRIDDEN, values, strict=True)))
    makes_finalists = ranking.n_others > 0 or not ranking.is_repeated
    return TopUp(tuple(repeats), command, working_dir(config), makes_finalists)


def run_top_up(folder: Path, top_up: TopUp, output: int | None = None) -> Ranking:
    """Queue the runs of a top-up, continue the sweep until they are done, and rank it anew.

    What the sweep says of itself stays as it was but for one more session, which is marked as a
    top-up: whoever goes on with the sweep goes on with its own options. output: the file descriptor
    for what the sweep prints (standard output). Raises subprocess.CalledProcessError if the sweep's
    command fails; what is queued then stays so, and runs when the sweep is next continued.
    """
    study = read_study(folder)
    trials = study.get_trials(deepcopy=False)
    for leader, number, seed in top_up.repeats:
        marked = top_up.makes_finalists
        outside = record_of(trials[leader]).outside
        repeat = TrialRecord(
            repeat_of=leader, repeat=number, seed=seed, finalist=marked, outside=outside
        )
        study.enqueue_trial(trials[leader].params, user_attrs=repeat.to_attrs())
    with _description_kept(folder, study):
        subprocess.run(top_up.command, cwd=top_up.working_dir, check=True, stdout=output)
    return rank(load(folder))


@contextlib.contextmanager
def _description_kept(folder: Path, study: optuna.Study) -> Iterator[None]:
    """Afterwards the sweep's description is that of before; sessions added within are marked."""
    texts = {
        path: path.read_text()
        for path in (folder / SWEEP_FILE, folder / "multirun.yaml")
        if path.is_file()
    }
    about, known = OmegaConf.load(folder / SWEEP_FILE), study.user_attrs
    n_before = len(known.get("provenance", []))
    try:
        yield
    finally:
        sessions = read_study(folder).user_attrs.get("provenance", [])
        sessions = [
            *sessions[:n_before],
            *({**session, "top_up": True} for session in sessions[n_before:]),
        ]
        study.set_user_attr("provenance", sessions)
        study.set_user_attr("config", known.get("config", ""))
        for path, text in texts.items():
            path.write_text(text)
        OmegaConf.save(OmegaConf.merge(about, {"sessions": sessions}), folder / SWEEP_FILE)


def contenders(ranking: Ranking) -> list[int]:
    """The settings between which first place is open, best first.

    That is the first tier, and the first of the order; without repeats the best four, by their
    results and by their levels. None where first place is settled.
    """
    table = ranking.table[ranking.table["tier"].notna()]
    ranked = [int(n) for n in table["setting"]]
    if len(ranked) < 2:
        return []
    if not ranking.is_repeated:
        favoured = {ranked[0], ranking.level_leader}
        return sorted(ranked, key=lambda setting: setting not in favoured)[:N_SETTINGS_FIRST]
    favoured = {ranked[0], *ranking.first}  # the first of the order, and whom the levels favour
    if len(favoured) == 1 and int(table["n_seeds"].iloc[0]) > 1:
        return []
    best_first = sorted(ranked, key=lambda setting: setting not in favoured)
    return best_first[: min(max(len(favoured), 2), N_SETTINGS_AT_ONCE)]


def _runs(trials: list[optuna.trial.FrozenTrial], leader: int) -> list[optuna.trial.FrozenTrial]:
    return [t for t in trials if leader_of(t) == leader]
