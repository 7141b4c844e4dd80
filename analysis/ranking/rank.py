"""The settings of a sweep in order, and how certain that order is.

The order itself is that of `iolaus.sweeps.study.ranking`, by the objective. What is added here is
the evidence: where the curves end, intervals, and tiers of settings that cannot be told apart.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.parameters import PREFIX, parameters, varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.difference import identical
from iolaus.analysis.distributions import t_quantile
from iolaus.analysis.ranking import tiers
from iolaus.analysis.ranking._extrapolation import likely_end
from iolaus.analysis.ranking.level import is_written, level, objective_source
from iolaus.analysis.ranking.seed_noise import SeedNoise, of_earlier_sweeps, of_near_settings
from iolaus.sweeps.signals import signals
from iolaus.sweeps.study.fingerprint import ALIKE_ONLY, RAN_WITH, Fingerprint, labels
from iolaus.sweeps.study.folder import own_command
from iolaus.sweeps.study.ranking import INFEASIBLE, Run, Standing, order

__all__ = ["Ranking", "as_document", "best_trial", "compare", "finalists_of", "rank"]

# Settings that saw numbers of examples further apart than this share are not on one axis.
EXAMPLES_APART = 0.05
# Below this many degrees of freedom between seeds a reader should be told.
FEW_DEGREES = 5
# Where no setting was repeated, fewer more seeds than this say nothing of the spread between seeds.
N_SEEDS_FIRST = 2
# Levels closer than this, relative to their size, differ by rounding.
ROUNDING = 1e-9
N_NAMED = 8  # settings that share first place
N_VALUES = 6  # parameters of the first: more is a table
# What an interval without repeats is of.
OWN_END = "this run's end,"

NoiseSource = Literal["seeds", "earlier", "alike", "given", "none"]


@dataclass(frozen=True)
class Ranking:
    """Settings, best first, and how well their order is known.

    table: one row per setting, in the order of `iolaus.sweeps.study.ranking.order`: completed ones
        by the objective, then infeasible, pruned, running (by their likely end) and failed ones.
        Columns setting (number of its first trial), trials (their numbers), n_seeds (completed),
        state (Optuna's, or infeasible); objective (what the study optimises, mean of the completed
        seeds; NaN unless completed; of several also objective_2 and so on, and on_front), level
        (what `of` names, which tier and interval are about; NaN unless completed), low, high (its
        95 % interval, Student's t, for this setting alone), tier (1 is first place; <NA> unless
        completed and feasible), best (of the watched metric on the curve, mean of the seeds),
        ran_with (what tells its settings and code from the others', "" if they are the same), why,
        and `params.KEY`; in a comparison of sweeps also sweep, of runs of other tools that have one
        also name (of the first run).
    of: what the level is: "level of val_loss", where the curve ends that the objective was taken
        from ("smoothed best of val_loss", if that was its best); "objective" where settings were
        repeated (the mean over the seeds, corrected for seeds that only some settings have run),
        or where there is no such curve. larger_is_better: the direction of the objective.
    noise: standard deviation of one run around its setting, between seeds, typical; NaN if not
        known. noise_source: "seeds", of settings repeated here. Where none is there are no tiers,
        that is one for all, and intervals are of the end of each run's own curve; the noise is then
        what was "given", else that of "earlier" sweeps of the task
        (`iolaus.analysis.data.earlier`), else of settings that are "alike"
        (`iolaus.analysis.ranking.seed_noise`), else of "none". noise_evidence: what it was measured
        on, in words.
    seed_difference: by how much two seeds of one setting may differ (95 %).
    smallest_difference: between the first place and the others, found in nine such sweeps of ten.
    seeds_to_settle: more seeds for each setting of the first tier after which its leader would
        stand alone if the differences are as they seem; 0 if it does (never without repeats: then
        at least 2), None if more than 50 are needed.
    warnings: what the reader must know before believing the order, in sentences. can_top_up:
        whether `iolaus top-up` can run more seeds: not of runs of other tools. n_others: settings
        that completed beside the finalists, with fewer seeds: they have no level and no tier.
        folder: what a command is given to read the sweep.
    """

    table: pd.DataFrame
    of: str
    larger_is_better: bool
    noise: float
    noise_source: NoiseSource
    noise_evidence: str
    seed_difference: float
    smallest_difference: float
    seeds_to_settle: int | None
    warnings: tuple[str, ...]
    can_top_up: bool = False
    noise_df: float = 0.0
    n_others: int = 0
    folder: str = "DIR"

    @property
    def winner(self) -> int | None:
        """The setting that is first in the order.

        None if no feasible one has completed with a number for an objective.
        """
        if self.table.empty:
            return None
        first = self.table.iloc[0]
        is_known = first["state"] == "complete" and not pd.isna(first["objective"])
        return int(first["setting"]) if is_known else None

    @property
    def first(self) -> list[int]:
        """The settings of the first tier, in the order of the table."""
        if self.table.empty:
            return []
        return [int(n) for n in self.table.loc[self.table["tier"].eq(1).fillna(False), "setting"]]

    @property
    def level_leader(self) -> int | None:
        """The setting of the best level; the winner if that is as good. None if none is known."""
        table = self.table[self.table["tier"].notna()]
        if table.empty:
            return None
        levels = (-1.0 if self.larger_is_better else 1.0) * table["level"].to_numpy(np.float64)
        near = levels <= levels.min() + ROUNDING * np.abs(levels).max()
        return int(table["setting"].to_numpy()[near.argmax()])

    @property
    def is_repeated(self) -> bool:
        """Whether settings ran with several seeds: without, none can be called better."""
        return self.noise_source == "seeds"

    def headline(self) -> str:
        """Who is first, and how sure that is, in a sentence."""
        return _headline(self)

    def sentences(self) -> list[str]:
        """The headline, what could have been seen, what would settle it, and the warnings."""
        return [self.headline(), *_evidence(self), *self.warnings]

    def shown(self) -> pd.DataFrame:
        """The table for a reader.

        It has the parameters that vary, by their keys, trials where a setting has several, and the
        level where it is not the objective itself; tiers where settings were repeated.
        """
        table = self.table.assign(
            trials=[" ".join(map(str, numbers)) for numbers in self.table["trials"]]
        )
        left_out = [c for c in parameters(table).values() if table[c].nunique(dropna=False) < 2]
        if len(table) and self.table["trials"].map(len).eq(1).all():
            left_out.append("trials")
        level, objective = (table[c].astype(float) for c in ("level", "objective"))
        if (
            len(table)
            and self.of == "objective"
            and (level.isna() | np.isclose(level, objective)).all()
        ):
            left_out.append("level")
        if "ran_with" in table and not table["ran_with"].any():
            left_out.append("ran_with")
        if not self.is_repeated:
            left_out.append("tier")
        names = {column: key for key, column in parameters(table).items()}
        interval = "95 %" if self.is_repeated else OWN_END
        names |= {"n_seeds": "seeds", "low": f"{interval} low", "high": f"{interval} high"}
        names |= {"ran_with": RAN_WITH}
        if "sweep" in table:  # numbers as in their own sweep
            own = [numbers[0] for numbers in self.table["trials"]]
            table = table.assign(setting=own)
            table = table[["sweep", *(c for c in table if c != "sweep")]]
        return table.drop(columns=left_out).rename(columns=names)

    def _repr_html_(self) -> str:
        """See IPython: the table with the outcome below."""
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        return self.shown().to_html(index=False, na_rep="", float_format="{:.4g}".format) + said


def rank(sweep: Sweep, noise: SeedNoise | None = None) -> Ranking:
    """The settings of a sweep, best first, in tiers of those that cannot be told apart.

    Runs of one setting with several seeds count as its seeds; seeds that settings share are paired.
    Results taken over by a duplicate count once. A setting of which a run breaks a constraint has
    no tier. Where the best settings got more seeds than others, as finalists, these alone have
    tiers. A setting whose seeds did not all complete is ranked by those that did, with a warning.
    Settings whose runs are the same to the last bit with every seed count as one, which is said. A
    sweep without a completed trial has no tier. See `iolaus.analysis.ranking.tiers` for the
    statistics.

    noise: how much seeds of one setting differ, known from elsewhere; used where no setting was
    repeated.

    >>> ranking = iolaus.rank(iolaus.load("runs.csv"))
    >>> int(ranking.table["setting"][0]), int(ranking.table["tier"][0])
    (0, 1)
    """
    trials = sweep.trials
    if not len(trials):
        return Ranking(
            _table(sweep, trials, [], {}),
            "objective",
            False,
            math.nan,
            "none",
            "",
            math.nan,
            math.nan,
            None,
            (),
        )
    trials = trials[~trials["why"].astype(str).str.startswith("duplicate")]
    finalists = finalists_of(trials)
    standings = order(_runs(sweep, trials, finalists), sweep.directions, sweep.metric_sign)
    trials = _with_infeasible(trials, standings)
    sign = sweep.objective_sign
    done = trials[trials["state"].eq("complete") & np.isfinite(trials["objective"].astype(float))]
    n_others = int(done["setting"].nunique())
    done = done[done["setting"].isin(finalists)] if finalists else done
    n_others -= int(done["setting"].nunique())
    settings = {int(s): i for i, s in enumerate(dict.fromkeys(done["setting"]))}
    index = done["setting"].map(settings).to_numpy(np.int64)
    values = sign * done["objective"].to_numpy(np.float64)
    is_repeated = 0 < len(settings) < len(done)
    elsewhere = None if is_repeated else noise or _noise_elsewhere(sweep, done)
    known, of, group = None, "objective", np.arange(len(settings))
    if is_repeated:
        seed = done["seed"].astype(float).fillna(-1).to_numpy(np.int64)
        group, counts = _same_runs(sweep, done.index, index, seed, values)
        known = between_seeds = tiers.from_seeds(group[index][counts], seed[counts], values[counts])
        tier = tiers.tiers(known)
    else:
        if len(done):
            known, of = _by_curves(sweep, done, sign)
        sd, df = (elsewhere.sd, elsewhere.df) if elsewhere else (math.nan, 0.0)
        between_seeds = tiers.from_noise(values, sd, df)
        tier = np.ones(len(done), dtype=np.int64)  # one seed each tells no settings apart
    levels: dict[int, dict[str, float]] = {}
    if known is not None:
        half = t_quantile(0.975, np.maximum(known.df, 1e-9)) * known.standard_error
        levels = {
            setting: {
                "level": sign * known.mean[i],
                "low": sign * known.mean[i] - half[i],
                "high": sign * known.mean[i] + half[i],
                "tier": int(tier[i]),
            }
            for setting, i in zip(settings, group, strict=True)
        }
    return Ranking(
        table=_table(sweep, trials, standings, levels),
        of=of,
        larger_is_better=sign < 0,
        noise=between_seeds.noise,
        noise_df=between_seeds.df_all,
        noise_source="seeds" if is_repeated else elsewhere.source if elsewhere else "none",
        noise_evidence=elsewhere.evidence if elsewhere else "",
        seed_difference=tiers.seed_difference(between_seeds),
        smallest_difference=tiers.smallest_difference(between_seeds),
        seeds_to_settle=_seeds_to_settle(between_seeds, tier, is_repeated) if known else None,
        warnings=(
            *_warnings(sweep, trials, done, known, is_repeated),
            *_said_same(list(settings), group),
        ),
        can_top_up=bool(own_command(sweep.provenance)),
        n_others=n_others,
        folder=sweep.argument,
    )


def _same_runs(
    sweep: Sweep, trials: pd.Index[Any], setting: Any, seed: Any, values: Any
) -> tuple[tiers.Indices, Any]:
    """The group of each setting, [k], and which runs, [n], are those of the first of each group.

    In one group are settings that ran the same seeds, two at least, with the same reports.
    """
    runs: dict[int, dict[int, tuple[int, float]]] = {}
    for trial, s, own, value in zip(trials, setting, seed, values, strict=True):
        runs.setdefault(int(s), {})[int(own)] = (int(trial), float(value))
    alike: dict[Any, list[int]] = {}
    for s in range(len(runs)):
        known = runs[s].keys() - {-1}
        results = frozenset((own, runs[s][own][1]) for own in known)
        alike.setdefault(results if len(known) > 1 else s, []).append(s)
    group, first = np.full(len(runs), -1), list[int]()
    for members in alike.values():
        numbers = [t for s in members for t, _ in runs[s].values()] if len(members) > 1 else []
        same = {t: i for i, of in enumerate(identical(sweep, numbers)) for t in of}
        places: dict[Any, int] = {}
        for s in members:
            own = sorted(runs[s].items())
            key = tuple(same.get(t, -1) for _, (t, _) in own)
            key = (s,) if len(members) < 2 or -1 in key else key
            if key not in places:
                places[key] = len(first)
                first.append(s)
            group[s] = places[key]
    return group, np.isin(setting, first)


def _said_same(settings: Sequence[int], group: tiers.Indices) -> list[str]:
    said = []
    for number in np.unique(group):
        members = [str(s) for s, own in zip(settings, group, strict=True) if own == number]
        if len(members) > 1:
            said.append(
                f"Settings {', '.join(members[:-1])} and {members[-1]} are the same to the last "
                "bit with each seed: what tells them apart changes nothing."
            )
    return said


def _noise_elsewhere(sweep: Sweep, done: pd.DataFrame) -> SeedNoise | None:
    """How much seeds differ, by other evidence than repeats here."""
    return of_earlier_sweeps(sweep.earlier) or of_near_settings(sweep.trials, done.index)


def best_trial(sweep: Sweep, ranking: Ranking | None = None) -> int | None:
    """The first completed run of the setting that the ranking puts first; None if it has none.

    ranking: of `rank`; made anew if left out.
    """
    ranking = rank(sweep) if ranking is None else ranking
    if ranking.winner is None:
        return None
    states = sweep.trials["state"].reindex(ranking.table["trials"].iloc[0])
    completed = states.index[states.eq("complete")]
    return int(completed[0]) if len(completed) else None


def finalists_of(trials: pd.DataFrame) -> set[int]:
    """The settings that got more seeds for being the best, and others of as many; else none.

    By the fewer seeds that all have run the rest was behind, and more is not known of it.
    """
    done = trials[trials["state"].eq("complete")]
    n_seeds = done["setting"].value_counts()
    if "finalist" not in done:
        return set()
    marked = done.loc[done["finalist"].fillna(False).astype(bool), "setting"].unique()
    least = max(n_seeds[marked].min(), 2) if len(marked) else math.inf
    return {int(s) for s in (*marked, *n_seeds.index[n_seeds >= least])}


def _runs(sweep: Sweep, trials: pd.DataFrame, finalists: Collection[int]) -> list[Run]:
    """The trials as their order depends on them."""
    objectives = trials.reindex(columns=_objectives(sweep)).to_numpy(np.float64)
    infeasible = trials["infeasible"] if "infeasible" in trials else pd.Series("", trials.index)
    return [
        Run(
            int(number),
            int(setting),
            str(state),
            tuple(map(float, values)) if state == "complete" else (),
            float(best),
            not broken,
            is_finalists=int(setting) in finalists,
        )
        for number, setting, state, values, best, broken in zip(
            trials.index,
            trials["setting"],
            trials["state"],
            objectives,
            _expected(sweep, trials),
            infeasible.fillna(""),
            strict=True,
        )
    ]


def _objectives(sweep: Sweep) -> list[str]:
    return ["objective", *(f"objective_{i}" for i in range(2, len(sweep.directions) + 1))]


def _expected(sweep: Sweep, trials: pd.DataFrame) -> pd.Series:
    """The best of each trial; of one that still runs where its curve is likely to end."""
    found = trials["best"].astype(float)
    running = trials.index[trials["state"] == "running"]
    curves = curves_of(sweep.curves, sweep.metric) if len(running) else {}
    n_steps = int(sweep.curves["step"].max()) + 1 if curves else 0
    for number in running.intersection(list(curves)):
        steps, values = curves[number]
        planned: Any = trials["n_steps"].get(number) if "n_steps" in trials else None
        is_known = planned is not None and planned == planned
        said = signals(steps, sweep.metric_sign * values)
        end = likely_end(said, int(planned) if is_known else n_steps)
        found[number] = sweep.metric_sign * end
    return found


def _with_infeasible(trials: pd.DataFrame, standings: Sequence[Standing]) -> pd.DataFrame:
    """The trials; those that completed in an infeasible setting are in that state, and say why."""
    infeasible = [standing.setting for standing in standings if standing.state == INFEASIBLE]
    if not infeasible:
        return trials
    completed = trials["state"].eq("complete") & trials["setting"].isin(infeasible)
    broken = trials["infeasible"].fillna("").where(completed, "").groupby(trials["setting"])
    of_setting = broken.transform(lambda names: ", ".join(dict.fromkeys(filter(None, names))))
    return trials.assign(
        state=trials["state"].mask(completed, INFEASIBLE),
        why=trials["why"].mask(completed, "infeasible: breaks " + of_setting.astype(str)),
    )


def _seeds_to_settle(known: tiers.Estimates, tier: tiers.Indices, is_repeated: bool) -> int | None:
    if is_repeated or len(tier) < 2:
        return tiers.seeds_to_settle(known, tier)
    if math.isnan(known.noise):
        return N_SEEDS_FIRST
    needed = tiers.seeds_to_settle(known, tier)
    return None if needed is None else max(needed, N_SEEDS_FIRST)


def _by_curves(sweep: Sweep, done: pd.DataFrame, sign: float) -> tuple[tiers.Estimates, str]:
    """One run per setting: the level of the curve that the objective was taken from, if any."""
    source = objective_source(sweep, done)
    values = sign * done["objective"].to_numpy(np.float64)
    if source is None:
        return tiers.from_noise(values, math.nan, 1.0), "objective"
    metric, kind = source
    curves = curves_of(sweep.curves, metric)
    known = [
        level(curves[n][0], sign * curves[n][1], kind) if is_whole else (math.nan, math.nan, 1.0)
        for n, is_whole in zip(done.index, is_written(sweep, done), strict=True)
    ]
    levels, errors, df = np.array(known).T
    levels = np.where(np.isnan(levels), values, levels)  # not written yet, or it began with NaN
    name = f"{'level' if kind == 'final' else 'smoothed best'} of {metric}"
    return tiers.from_curves(levels, errors, df), name


def _table(
    sweep: Sweep,
    trials: pd.DataFrame,
    standings: Sequence[Standing],
    levels: Mapping[int, Mapping[str, float]],
) -> pd.DataFrame:
    several = len(sweep.directions) > 1
    nothing = {"level": math.nan, "low": math.nan, "high": math.nan, "tier": None}
    columns = [
        "setting",
        "trials",
        "n_seeds",
        "state",
        *_objectives(sweep),
        *nothing,
        "best",
        "ran_with",
        "why",
    ]
    columns += [c for c in ("sweep", "name") if c in trials]
    of_setting = dict(iter(trials.groupby("setting"))) if len(trials) else {}
    rows: list[dict[str, Any]] = []
    for standing in standings:
        runs = of_setting[standing.setting]
        lead = runs.loc[standing.setting] if standing.setting in runs.index else runs.iloc[0]
        ended = runs[runs["state"] != "complete"]
        values = standing.objectives or (math.nan,) * len(sweep.directions)
        rows.append(
            {
                "setting": standing.setting,
                **({"name": lead["name"]} if "name" in runs else {}),
                "trials": tuple(int(n) for n in runs.get("number", runs.index)),
                "n_seeds": sum(run.state == "complete" for run in standing.runs),
                "state": standing.state,
                **dict(zip(_objectives(sweep), values, strict=True)),
                **({"on_front": standing.on_front} if several else {}),
                **levels.get(standing.setting, nothing),
                "best": float(runs["best"].astype(float).mean()),
                "ran_with": _ran_with(runs),
                "why": _why((ended if len(ended) else runs).iloc[0]),
                **(
                    {"sweep": " and ".join(dict.fromkeys(runs["sweep"]))} if "sweep" in runs else {}
                ),
                **{c: lead[c] for c in trials.columns if c.startswith(PREFIX)},
            }
        )
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.astype({"tier": "Int64"})


def _ran_with(runs: pd.DataFrame) -> str:
    """What the runs of one setting ran with; of several kinds all."""
    if "ran_with" not in runs:
        return ""
    return " / ".join(dict.fromkeys(filter(None, runs["ran_with"].fillna("").astype(str))))


def _why(trial: pd.Series) -> str:
    """How a trial ended, in a few words: the rule and step of a verdict, else its own sentence."""
    rule = trial.get("verdict_rule")
    if isinstance(rule, str) and rule:
        return f"{trial['state']}: {rule} at step {trial['verdict_step']:,.0f}"
    return str(trial["why"])


def _warnings(
    sweep: Sweep,
    trials: pd.DataFrame,
    done: pd.DataFrame,
    known: tiers.Estimates | None,
    is_repeated: bool,
) -> list[str]:
    found = []
    broken = trials[trials["state"].eq("infeasible")].drop_duplicates("setting")
    if len(broken):
        which = ", ".join(
            f"{int(n)} ({why.partition(': ')[2]})"
            for n, why in zip(broken["setting"], broken["why"], strict=True)
        )
        found.append(f"Infeasible, so ranked after all that keep the constraints: {which}.")
    if known is None:
        return found
    if len(sweep.directions) > 1:
        found.append(
            f"Of {len(sweep.directions)} objectives the first decides the order within the Pareto "
            "front "
            "and behind it, and tiers are those of the first; "
            f"`iolaus rank {sweep.argument} --pareto` shows all."
        )
    found += _ran_differently(done)
    examples = (
        done["examples"].astype(float).dropna() if "examples" in done else pd.Series(dtype=float)
    )
    if len(examples) > 1 and examples.max() > (1 + EXAMPLES_APART) * examples.min():
        found.append(
            f"The settings saw different numbers of examples ({examples.min():,.0f} to "
            f"{examples.max():,.0f}): "
            "those with more had more data for the same number of steps."
        )
    ended = trials[trials["setting"].isin(done["setting"]) & ~trials.index.isin(done.index)]
    ended = ended[ended["state"] != "running"]
    if len(ended):
        which = ", ".join(str(int(n)) for n in dict.fromkeys(ended["setting"]))
        found.append(
            f"Not every seed of {which} completed; those that did not are left out, which flatters "
            "the rest."
        )
    if is_repeated and known.df_all < FEW_DEGREES:
        found.append(
            f"The spread between seeds is known from {known.df_all:.0f} degrees of freedom only."
        )
    return found


def _ran_differently(done: pd.DataFrame) -> list[str]:
    """What the ranked trials ran with, if that may be the difference between them."""
    if "ran_with" in done and done["ran_with"].any():
        counts = done["ran_with"].fillna("").value_counts()
        said = "; ".join(f"{n} with {label or 'not recorded'}" for label, n in counts.items())
        return [ALIKE_ONLY.format(counts=f" ({said})")] if len(counts) > 1 else []
    if "code" not in done or ("fingerprint" in done and done["fingerprint"].fillna("").all()):
        return []
    counts = done["code"].fillna("unknown").astype(str).value_counts()
    said = ", ".join(f"{n} of {code}" for code, n in counts.items())
    return (
        [
            f"Trials of different code versions are ranked together ({said}): the code may be the "
            "difference."
        ]
        if len(counts) > 1
        else []
    )


def _headline(ranking: Ranking) -> str:
    """Who is first and how certain that is; nothing is called better by one seed."""
    table, winner = ranking.table, ranking.winner
    if winner is None:
        if table.empty:
            return "No trial has run."
        feasible = "feasible " if table["state"].eq("infeasible").any() else ""
        return f"No {feasible}setting has completed, so none has won."
    measured = f"{_measured(ranking)}{_values(table)}"
    n_others = int(table["tier"].notna().sum()) - 1
    if int(table["state"].eq("complete").sum()) == 1:
        return f"{_named(ranking, winner)} is the only one that completed: {measured}."
    others = f"the other {n_others}" if n_others > 1 else "the other one"
    if ranking.n_others:
        others = f"{others} finalists" if n_others > 1 else "the other finalist"
    if not ranking.is_repeated:
        return (
            f"{_named(ranking, winner, 'Run')} {_came_out(ranking)}, {measured}; which setting is "
            f"better is not known: each ran with one seed, and {_seeds_differ(ranking)}."
        )
    first = ranking.first
    if n_others == 0:
        return f"{_named(ranking, winner)} is the finalist: {measured}{_of_the_rest(ranking)}."
    if len(first) == 1 and first[0] == winner:
        if _n_seeds(table, winner) > 1:
            return (
                f"{_named(ranking, winner)} is better than {others}, beyond the noise of seeds"
                f"{_but_ran_differently(ranking)}: {measured}{_of_the_rest(ranking)}."
            )
        return (
            f"{_named(ranking, winner, 'Run')} {_came_out(ranking)}, {measured}, beyond the noise "
            "of the others' seeds; whether its setting is better, one seed cannot tell."
        )
    leads = f"{_named(ranking, winner)} leads, {measured}"
    if len(first) == 1:
        other = _label(table, first[0])
        return (
            f"{leads}; but with the same seeds for all setting {other} would be first, beyond "
            f"the noise of seeds{_but_ran_differently(ranking)}."
        )
    names = ", ".join(_label(table, n) for n in first[:N_NAMED])
    names += f" and {len(first) - N_NAMED} more" if len(first) > N_NAMED else ""
    with_all = "" if winner in first else "with the same seeds for all "
    of = "finalists" if ranking.n_others else "settings"
    share = f"{len(first)} of {n_others + 1} {of} share first place"
    return f"{leads}; but {with_all}{share}: {names}{_of_the_rest(ranking)}."


def _of_the_rest(ranking: Ranking) -> str:
    """What is not known of the settings that are no finalists; "" if there are none."""
    n = ranking.n_others
    which = f"the other {n} settings" if n > 1 else "the other setting"
    lower = "higher" if ranking.larger_is_better else "lower"
    ahead = _ahead(ranking)
    named = ", ".join(_label(ranking.table, n) for n in ahead[:N_NAMED])
    more = f" and {len(ahead) - N_NAMED} more" if len(ahead) > N_NAMED else ""
    came = f"; {len(ahead)} of them came out {lower}: {named}{more}" if ahead else ""
    return f"; of {which}, with fewer seeds, nothing more is known{came}" if n else ""


def _ahead(ranking: Ranking) -> list[int]:
    """The settings that are no finalists whose fewer seeds came out ahead of the first one's."""
    done = ranking.table[ranking.table["state"].eq("complete")]
    sign = -1.0 if ranking.larger_is_better else 1.0
    values = sign * done["objective"].astype(float)
    return [int(n) for n in done.loc[done["tier"].isna() & values.lt(values.iloc[0]), "setting"]]


def _came_out(ranking: Ranking) -> str:
    best = "highest" if ranking.larger_is_better else "lowest"
    return f"came out {best}" if ranking.of.startswith("smoothed") else f"ended {best}"


def _seeds_differ(ranking: Ranking) -> str:
    """How much seeds of one setting differ in such sweeps, as far as it is known."""
    if math.isnan(ranking.noise):
        return "how much seeds differ in such sweeps has not been measured"
    return (
        f"seeds differ by about {ranking.noise:.2g} (standard deviation) in such sweeps, by "
        f"{ranking.noise_evidence}"
    )


def _measured(ranking: Ranking) -> str:
    """The objective of the first setting with what is known of it."""
    lead = ranking.table.astype(object).iloc[0]  # each value of its own type
    known = []
    has_level = not pd.isna(lead["level"])
    is_same = has_level and math.isclose(lead["level"], lead["objective"], rel_tol=1e-6)
    if ranking.is_repeated and has_level and not is_same:
        known.append(f"with the same seeds for all {lead['level']:.4g}")
    if has_level and np.isfinite(lead["low"]):
        what = "95 % interval" if ranking.is_repeated else "this run's end:"
        known.append(f"{what} {lead['low']:.4g} to {lead['high']:.4g}")
    within = f" ({', '.join(known)})" if known else ""
    return f"objective {_value(lead['objective'])}{within}"


def _values(table: pd.DataFrame) -> str:
    """The parameters of the first setting, where they are few."""
    lead = table.astype(object).iloc[0]
    known = [
        f"{name}={_value(lead[column])}"
        for name, column in varied(table).items()
        if not pd.isna(lead[column])
    ]
    return f", with {' '.join(known)}" if 0 < len(known) <= N_VALUES else ""


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _named(ranking: Ranking, setting: int, what: str = "Setting") -> str:
    return f"{what} {_label(ranking.table, setting)}"


def _label(table: pd.DataFrame, setting: int) -> str:
    """What a setting is called: its number, of several sweeps its own one there; a run's name."""
    row = table[table["setting"].eq(setting)].iloc[0]
    if "sweep" in table:
        return f"{row['trials'][0]} of {row['sweep']}"
    named = "name" in table and isinstance(row["name"], str) and row["name"] != str(setting)
    return f"{setting} ({row['name']})" if named else str(setting)


def _n_seeds(table: pd.DataFrame, setting: int) -> int:
    return int(table.loc[table["setting"].eq(setting), "n_seeds"].iloc[0])


def _evidence(ranking: Ranking) -> list[str]:
    """What speaks against the first of the order, what noise was seen, and what would settle it."""
    n_ranked = int(ranking.table["tier"].notna().sum()) if len(ranking.table) else 0
    if ranking.winner is None or n_ranked < 2:
        return []
    said = _objection(ranking)
    if ranking.is_repeated and math.isfinite(ranking.noise):
        said.append(
            f"Noise between seeds of one setting: {ranking.noise:.3g}"
            + (
                f"; a lead of {ranking.smallest_difference:.3g} would be seen in 90 % of such "
                "sweeps, a smaller one in fewer."
                if math.isfinite(ranking.smallest_difference)
                else "."
            )
        )
    elif math.isfinite(ranking.seed_difference):
        values = ranking.table.loc[ranking.table["tier"].notna(), "objective"].astype(float)
        near = int((values - values.iloc[0]).abs().le(ranking.seed_difference).sum()) - 1
        said.append(
            f"Two seeds of one setting may differ by {ranking.seed_difference:.3g}: {near} of the "
            f"other {n_ranked - 1} {'is' if near == 1 else 'are'} no further from the first"
            + (", so they cannot be told apart." if near == n_ranked - 1 else ".")
        )
    return [*said, *_settled_by(ranking)]


def _settled_by(ranking: Ranking) -> list[str]:
    if ranking.is_repeated and (len(ranking.first) < 2 or ranking.seeds_to_settle == 0):
        return []
    if ranking.seeds_to_settle is None:
        return [
            f"If they differ as it seems, more than {tiers.N_SEEDS_MOST} more seeds each would be "
            "needed to settle it."
        ]
    seeds = f"{ranking.seeds_to_settle} more seed{'' if ranking.seeds_to_settle == 1 else 's'}"
    if ranking.is_repeated:
        return [f"About {seeds} for each of them would settle it, if they differ as it seems."]
    how = (
        f"`iolaus top-up {ranking.folder}`"
        if ranking.can_top_up
        else "a column `setting` names the first of each"
    )
    return [f"At least {seeds} for each of the best would tell ({how})."]


def _objection(ranking: Ranking) -> list[str]:
    """What the levels say against the first of the order; nothing if they agree with it."""
    winner, leader = ranking.winner, ranking.level_leader
    if winner is None or winner == leader:
        return []
    rows = ranking.table.set_index("setting")
    best = "highest" if ranking.larger_is_better else "lowest"
    who = _named(ranking, winner, "Setting" if ranking.is_repeated else "Run")
    has = f"{who} has the {best} objective, {rows['objective'][winner]:.4g}"
    if leader is None or pd.isna(rows["tier"][winner]):
        return [f"{has}, which is not finite: how certain it is cannot be told."]
    worse = "below" if ranking.larger_is_better else "above"
    numbers = f"{rows['level'][winner]:.4g} against {rows['level'][leader]:.4g}"
    other = _label(ranking.table, leader)
    if ranking.is_repeated:
        but = f"with the same seeds for all it would lie {worse} setting {other} ({numbers})"
        within = winner in ranking.first
        return [f"{has}, but {but}, {'within' if within else 'beyond'} the noise."]
    its = "its curve ends" if ranking.of.startswith("level") else "its curve's best lies"
    but = f"{its} {worse} run {other}'s ({ranking.of}: {numbers})"
    return [f"{has}, but {but}: its lead may be the luck of one report."]


def _but_ran_differently(ranking: Ranking) -> str:
    """What to add to a claim that one setting is better, if that may not be its doing."""
    ranked = ranking.table[ranking.table["tier"].notna()]
    if "ran_with" not in ranked or ranked["ran_with"].nunique() < 2:
        return ""
    return "; but not all ran with the same settings, code and versions, which may be the reason"


def compare(sweeps: Sequence[Sweep]) -> Ranking:
    """The settings of several sweeps in one ranking.

    Setting numbers are counted on from one sweep to the next. The table has the column sweep (its
    name; its folder, where several have one name) and, in trials, the numbers as in their own
    sweep. A setting that several have run, with the same fixed settings, code and versions, is one
    setting; a run that is in several counts once (the same seed and result). What makes the sweeps
    not comparable is among the warnings: code, metric, examples, fixed parameters. Raises
    ValueError if their directions differ, or there are none.

    >>> ranking = iolaus.compare([iolaus.load("runs.csv"), iolaus.load("runs.csv")])
    >>> len(ranking.table)
    24
    """
    if not sweeps:
        raise ValueError("compare needs at least one sweep")
    directions = {sweep.directions for sweep in sweeps}
    if len(directions) > 1:
        raise ValueError(
            f"these sweeps optimise in different directions: {sorted(directions)}; compare each by "
            "itself"
        )
    names = [sweep.name for sweep in sweeps]
    if len({*names}) < len(names):  # copies, and sweeps of one study's name
        folders = [sweep.name if sweep.folder is None else str(sweep.folder) for sweep in sweeps]
        names = _distinct(folders)
    all_trials, all_curves, start = [], [], 0
    searched = {key for sweep in sweeps for key in parameters(sweep.trials)}
    for name, sweep in zip(names, sweeps, strict=True):
        trials = _with_fixed(sweep, searched).assign(
            sweep=name, number=sweep.trials.index, setting=sweep.trials["setting"] + start
        )
        all_trials.append(trials.set_axis(trials.index + start))
        all_curves.append(sweep.curves.assign(trial=sweep.curves["trial"] + start))
        start += int(sweep.trials.index.max()) + 1 if len(trials) else 0
    joint = replace(
        sweeps[0],
        name=" and ".join(names),
        trials=_copies_merged(_ran_with_of_all(pd.concat(all_trials), sweeps), sweeps),
        curves=pd.concat(all_curves, ignore_index=True),
        folder=None,
    )
    found = []
    metrics = dict.fromkeys(sweep.metric for sweep in sweeps)
    if len(metrics) > 1:
        found.append(f"The sweeps watched different metrics: {', '.join(metrics)}.")
    fixed = [_fixed(sweep) for sweep in sweeps]
    shared = set.intersection(*fixed)
    if any(own - shared for own in fixed):
        own = "; ".join(
            f"{n}: {' '.join(sorted(f - shared)) or 'none'}"
            for n, f in zip(names, fixed, strict=True)
        )
        found.append(
            "The sweeps were started with different options, so they may be of different tasks "
            f"({own})."
        )
    ranking = rank(joint)
    return replace(ranking, warnings=(*found, *ranking.warnings))


def _with_fixed(sweep: Sweep, keys: Collection[str]) -> pd.DataFrame:
    """The trials with what their sweep had fixed of the keys that others search."""
    trials = sweep.trials
    missing = sorted(set(keys) - parameters(trials).keys())
    if "fingerprint" not in trials or not missing:
        return trials
    fixed = {name: f.fixed for name, f in sweep.fingerprints.items()}
    known = {
        PREFIX + key: [_read(fixed.get(own, {}).get(key)) for own in trials["fingerprint"]]
        for key in missing
        if any(key in own for own in fixed.values())
    }
    return trials.assign(**known)


def _read(text: str | None) -> Any:
    """A fixed setting as a parameter's value: a number if it is one; NaN if it is not known."""
    if text is None:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return text


def _ran_with_of_all(trials: pd.DataFrame, sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """The trials of several sweeps, told apart by what they ran with but for what one searches."""
    if "fingerprint" not in trials:
        return trials
    searched = {key for sweep in sweeps for key in (*sweep.space, *parameters(sweep.trials))}
    kept = {name: known for sweep in sweeps for name, known in sweep.fingerprints.items()}
    ids = trials["fingerprint"].fillna("")
    known = {name: kept.get(name, Fingerprint()) for name in ids.unique()}
    said = labels(
        {
            name: replace(f, fixed={k: v for k, v in f.fixed.items() if k not in searched})
            for name, f in known.items()
        }
    )
    return trials.assign(ran_with=ids.map(said))


def _copies_merged(trials: pd.DataFrame, sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """The trials with one setting for what is the same in several sweeps, each run once.

    Where what a trial ran with is not known, as of other tools' runs, it has no copy.
    """
    if "fingerprint" not in trials:
        return trials
    fixed = {name: f.fixed for sweep in sweeps for name, f in sweep.fingerprints.items()}
    keys = parameters(trials)
    first: dict[Any, int] = {}
    merged: dict[int, int] = {}
    for row in trials.to_dict("records"):
        if not row["fingerprint"] or not keys:
            continue
        theirs = fixed.get(row["fingerprint"], {})
        values = (theirs.get(k) if pd.isna(row[c]) else row[c] for k, c in keys.items())
        setting = int(row["setting"])
        same = (row.get("ran_with", ""), *map(_as_text, values))
        merged.setdefault(setting, first.setdefault(same, setting))
    trials = trials.assign(setting=trials["setting"].map(lambda n: merged.get(n, n)))
    runs = trials[trials["fingerprint"].ne("") & trials["seed"].notna()]
    again = runs.duplicated(["setting", "seed", "state", "objective"])
    return trials.drop(index=runs.index[again])


def _as_text(value: Any) -> str:
    """A parameter's value, the same for a number and the text of it."""
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)


def _fixed(sweep: Sweep) -> set[str]:
    """What a sweep's last command fixed by options of the app's own, such as task=digits.

    Options such as +sweep=NAME are among them.
    """
    command = own_command(sweep.provenance)
    searched = {c.removeprefix("params.") for c in sweep.trials.columns if c.startswith("params.")}
    options = {
        a for a in command if "=" in a and not a.lstrip("+~").startswith(("hydra.", "hydra/", "-"))
    }
    return {a for a in options if a.lstrip("+~").partition("=")[0] not in searched}


def _distinct(names: Sequence[str]) -> list[str]:
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def as_document(ranking: Ranking) -> dict[str, Any]:
    """A ranking as plain data for JSON: the fields, and the table's rows as settings.

    NaN becomes None.
    """
    fields = {
        name: getattr(ranking, name) for name in ("of", "larger_is_better", "noise", "noise_source")
    }
    fields |= {
        name: getattr(ranking, name)
        for name in (
            *("noise_evidence", "seed_difference", "smallest_difference", "seeds_to_settle"),
            "warnings",
        )
    }
    plain = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in fields.items()
    }
    plain["headline"] = ranking.headline()
    return {**plain, "settings": json.loads(ranking.table.to_json(orient="records"))}
