"""The settings of a sweep in order, and how certain that order is.

The order itself is that of `iolaus.sweeps.study.ranking`, by the objective. What is added here is
the evidence: where the curves end, intervals, and tiers of settings that cannot be told apart.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from iolaus.analysis.data.curves import curves_of
from iolaus.analysis.data.parameters import PREFIX, parameters
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.ranking import tiers
from iolaus.analysis.ranking._extrapolation import likely_end
from iolaus.analysis.ranking.level import is_written, level, objective_source
from iolaus.sweeps.signals import signals
from iolaus.sweeps.study.fingerprint import ALIKE_ONLY, RAN_WITH, Fingerprint, labels
from iolaus.sweeps.study.folder import own_command
from iolaus.sweeps.study.ranking import INFEASIBLE, Run, Standing, order

__all__ = ["Ranking", "as_document", "best_trial", "compare", "rank"]

# Settings that saw numbers of examples further apart than this share are not on one axis.
EXAMPLES_APART = 0.05
# Below this many degrees of freedom between seeds a reader should be told.
FEW_DEGREES = 5
# Where no setting was repeated, fewer more seeds than this say nothing of the spread between seeds.
N_SEEDS_FIRST = 2
# Levels closer than this, relative to their size, differ by rounding.
ROUNDING = 1e-9
N_NAMED = 8  # settings that share first place

NoiseSource = Literal["seeds", "curve", "none"]


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
    noise: standard deviation of one run around its setting, typical. noise_source: "seeds";
        "curve", where no setting was repeated: errors are then those of the level of each curve,
        and another seed may differ by more; "none" if not even that is known: then all share one
        tier.
    smallest_difference: between the first place and the others, found in nine such sweeps of ten.
    seeds_to_settle: more seeds for each setting of the first tier after which its leader would
        stand alone if the differences are as they seem; 0 if it does (never without repeats: then
        at least 2), None if more than 50 are needed or the noise is not known.
    warnings: what the reader must know before believing the order, in sentences.
    """

    table: pd.DataFrame
    of: str
    larger_is_better: bool
    noise: float
    noise_source: NoiseSource
    smallest_difference: float
    seeds_to_settle: int | None
    warnings: tuple[str, ...]

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

    def sentences(self) -> list[str]:
        """Who is first, whether that is certain, what could have been seen, and the warnings."""
        return [*_outcome(self), *self.warnings]

    def shown(self) -> pd.DataFrame:
        """The table for a reader.

        It has the parameters that vary, by their keys, trials where a setting has several, and the
        level where it is not the objective itself.
        """
        table = self.table.assign(
            trials=[" ".join(map(str, numbers)) for numbers in self.table["trials"]]
        )
        left_out = [c for c in parameters(table).values() if table[c].nunique(dropna=False) < 2]
        if len(table) and table["trials"].eq(table["setting"].astype(str)).all():
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
        names = {column: key for key, column in parameters(table).items()}
        names |= {"n_seeds": "seeds", "low": "95 % low", "high": "95 % high"}
        names |= {"ran_with": RAN_WITH}
        return table.drop(columns=left_out).rename(columns=names)

    def _repr_html_(self) -> str:
        """See IPython: the table with the outcome below."""
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        return self.shown().to_html(index=False, na_rep="", float_format="{:.4g}".format) + said


def rank(sweep: Sweep) -> Ranking:
    """The settings of a sweep, best first, in tiers of those that cannot be told apart.

    Runs of one setting with several seeds count as its seeds; seeds that settings share are paired.
    Results taken over by a duplicate count once. A setting of which a run breaks a constraint has
    no tier. A setting whose seeds did not all complete is ranked by those that did, with a warning.
    A sweep without a completed trial has no tier. See `iolaus.analysis.ranking.tiers` for the
    statistics.

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
            math.nan,
            None,
            ("No trial has run.",),
        )
    trials = trials[~trials["why"].astype(str).str.startswith("duplicate")]
    standings = order(_runs(sweep, trials), sweep.directions, sweep.metric_sign)
    trials = _with_infeasible(trials, standings)
    sign = sweep.objective_sign
    done = trials[trials["state"].eq("complete") & np.isfinite(trials["objective"].astype(float))]
    settings = {int(s): i for i, s in enumerate(dict.fromkeys(done["setting"]))}
    index = done["setting"].map(settings).to_numpy(np.int64)
    source: NoiseSource = "none"
    known, of = None, "objective"
    if 0 < len(settings) < len(done):
        seed = done["seed"].astype(float).fillna(-1).to_numpy(np.int64)
        known = tiers.from_seeds(index, seed, sign * done["objective"].to_numpy(np.float64))
        source = "seeds"
    elif len(done):
        known, of, source = _by_curves(sweep, done, sign)
    levels: dict[int, dict[str, float]] = {}
    if known is not None:
        tier = tiers.tiers(known)
        half = t.isf(0.025, np.maximum(known.df, 1e-9)) * known.standard_error
        levels = {
            setting: {
                "level": sign * known.mean[i],
                "low": sign * known.mean[i] - half[i],
                "high": sign * known.mean[i] + half[i],
                "tier": int(tier[i]),
            }
            for setting, i in settings.items()
        }
    return Ranking(
        table=_table(sweep, trials, standings, levels),
        of=of,
        larger_is_better=sign < 0,
        noise=known.noise if known else math.nan,
        noise_source=source,
        smallest_difference=tiers.smallest_difference(known) if known else math.nan,
        seeds_to_settle=_seeds_to_settle(known, tier, source) if known else None,
        warnings=tuple(_warnings(sweep, trials, done, known, source)),
    )


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


def _runs(sweep: Sweep, trials: pd.DataFrame) -> list[Run]:
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


def _seeds_to_settle(known: tiers.Estimates, tier: tiers.Indices, source: str) -> int | None:
    needed = tiers.seeds_to_settle(known, tier)
    if source == "curve" and needed is not None and len(tier) > 1:
        return max(needed, N_SEEDS_FIRST)
    return needed


def _by_curves(
    sweep: Sweep, done: pd.DataFrame, sign: float
) -> tuple[tiers.Estimates, str, NoiseSource]:
    """One run per setting: the level of the curve that the objective was taken from, if any."""
    source = objective_source(sweep, done)
    values = sign * done["objective"].to_numpy(np.float64)
    if source is None:
        unknown = np.full(len(done), np.nan)
        return tiers.from_curves(values, unknown, np.ones(len(done))), "objective", "none"
    metric, kind = source
    curves = curves_of(sweep.curves, metric)
    known = [
        level(curves[n][0], sign * curves[n][1], kind) if is_whole else (math.nan, math.nan, 1.0)
        for n, is_whole in zip(done.index, is_written(sweep, done), strict=True)
    ]
    levels, errors, df = np.array(known).T
    levels = np.where(np.isnan(levels), values, levels)  # not written yet, or it began with NaN
    name = f"{'level' if kind == 'final' else 'smoothed best'} of {metric}"
    estimates = tiers.from_curves(levels, errors, df)
    return estimates, name, "curve" if np.isfinite(errors).any() else "none"


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
                **({"sweep": lead["sweep"]} if "sweep" in runs else {}),
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


_REPEATS = "Repeats would tell: runs with a column `setting` that names the first of each."


def _warnings(
    sweep: Sweep,
    trials: pd.DataFrame,
    done: pd.DataFrame,
    known: tiers.Estimates | None,
    source: str,
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
        return [
            *found,
            f"No {'feasible ' if found else ''}trial has completed, so nothing is ranked.",
        ]
    if len(sweep.directions) > 1:
        found.append(
            f"Of {len(sweep.directions)} objectives the first decides the order within the Pareto "
            "front "
            "and behind it, and tiers are those of the first; `iolaus rank DIR --pareto` shows all."
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
    if source == "curve":
        found.append(
            "No setting was repeated: the noise is that of each curve, and another seed may "
            "differ by more. "
            + (
                "`iolaus top-up DIR` runs the seeds that would tell."
                if sweep.provenance
                else _REPEATS
            )
        )
    elif source == "none" and len(done) > 1:
        found.append(
            "Nothing is known about the noise (no repeats, no curve of the objective): no order "
            "is certain."
        )
    elif source == "seeds" and known.df_all < FEW_DEGREES:
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


def _outcome(ranking: Ranking) -> list[str]:
    """Who is first and how certain that is, then what noise was seen."""
    table, winner = ranking.table, ranking.winner
    if winner is None:
        return []
    n_ranked = int(table["tier"].notna().sum())
    if int(table["state"].eq("complete").sum()) == 1:
        return [f"Setting {winner} is the only one that completed."]
    said = [*_objection(ranking), *_first_tier(ranking, n_ranked)]
    if math.isfinite(ranking.noise) and n_ranked > 1:
        whose = {"seeds": "between seeds of one setting", "curve": "of a curve's level"}[
            ranking.noise_source
        ]
        said.append(
            f"Noise {whose}: {ranking.noise:.3g}; a lead of {ranking.smallest_difference:.3g} "
            "would be seen in 90 % of such sweeps, a smaller one in fewer."
        )
    return said


def _objection(ranking: Ranking) -> list[str]:
    """What the levels say against the first of the order; nothing if they agree with it."""
    winner, leader = ranking.winner, ranking.level_leader
    if winner is None or winner == leader:
        return []
    rows = ranking.table.set_index("setting")
    best = "highest" if ranking.larger_is_better else "lowest"
    has = f"Setting {winner} has the {best} objective, {rows['objective'][winner]:.4g}"
    if leader is None or pd.isna(rows["tier"][winner]):
        return [f"{has}, which is not finite: how certain it is cannot be told."]
    worse = "below" if ranking.larger_is_better else "above"
    its, other = rows["level"][winner], rows["level"][leader]
    numbers = f"{its:.4g} against {other:.4g}"
    if ranking.noise_source == "seeds":
        but = f"with the same seeds for all it would lie {worse} setting {leader} ({numbers})"
    elif ranking.of.startswith("level"):
        but = f"its curve ends {worse} setting {leader}'s ({ranking.of}: {numbers})"
    else:
        but = f"its curve's best lies {worse} setting {leader}'s ({ranking.of}: {numbers})"
    if winner in ranking.first:
        return [f"{has}, but {but}, which is within the noise."]
    return [f"{has}, but {but}, beyond the noise: its lead may be the luck of one report."]


def _first_tier(ranking: Ranking, n_ranked: int) -> list[str]:
    first = ranking.first
    if n_ranked < 2:
        return []
    if len(first) == 1:
        others, but = f"the other {n_ranked - 1}", _but_ran_differently(ranking)
        if ranking.noise_source == "curve":  # one seed ranks runs, not settings
            ended = "higher" if ranking.larger_is_better else "lower"
            by = "" if ranking.winner in first else f" by {ranking.of}"
            return [
                f"The run of setting {first[0]} came out {ended} than {others}{by}, beyond the "
                "noise of their curves; whether the setting is better, one seed each cannot tell"
                f"{but}."
            ]
        if ranking.winner in first:
            return [f"Setting {first[0]} is better than {others}, beyond the noise of seeds{but}."]
        return [f"By {ranking.of} setting {first[0]} is better, beyond the noise of seeds{but}."]
    names = ", ".join(map(str, first[:N_NAMED]))
    names += f" and {len(first) - N_NAMED} more" if len(first) > N_NAMED else ""
    place = "first place" if ranking.winner in first else f"first place by {ranking.of}"
    said = [f"{len(first)} of {n_ranked} settings share {place}: {names}."]
    if ranking.noise_source == "none":
        return said
    if ranking.seeds_to_settle is None:
        more = f"More than {tiers.N_SEEDS_MOST} more seeds each would be needed to settle it."
        return [*said, more]
    least = "At least" if ranking.noise_source == "curve" else "About"
    return [*said, f"{least} {_seeds(ranking.seeds_to_settle)} for each of them would settle it."]


def _but_ran_differently(ranking: Ranking) -> str:
    """What to add to a claim that one setting is better, if that may not be its doing."""
    ranked = ranking.table[ranking.table["tier"].notna()]
    if "ran_with" not in ranked or ranked["ran_with"].nunique() < 2:
        return ""
    return "; but not all ran with the same settings, code and versions, which may be the reason"


def _seeds(n: int) -> str:
    return f"{n} more seed{'' if n == 1 else 's'}"


def compare(sweeps: Sequence[Sweep]) -> Ranking:
    """The settings of several sweeps in one ranking.

    Setting numbers are counted on from one sweep to the next. The table has the column sweep (its
    name) and, in trials, the numbers as in their own sweep. What makes the sweeps not comparable is
    among the warnings: code, metric, examples, fixed parameters. Raises ValueError if their
    directions differ, or there are none.

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
    names = _distinct([sweep.name for sweep in sweeps])
    all_trials, all_curves, start = [], [], 0
    for name, sweep in zip(names, sweeps, strict=True):
        trials = sweep.trials.assign(
            sweep=name, number=sweep.trials.index, setting=sweep.trials["setting"] + start
        )
        all_trials.append(trials.set_axis(trials.index + start))
        all_curves.append(sweep.curves.assign(trial=sweep.curves["trial"] + start))
        start += int(sweep.trials.index.max()) + 1 if len(trials) else 0
    joint = replace(
        sweeps[0],
        name=" and ".join(names),
        trials=_ran_with_of_all(pd.concat(all_trials), sweeps),
        curves=pd.concat(all_curves, ignore_index=True),
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


def _ran_with_of_all(trials: pd.DataFrame, sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """The trials of several sweeps, told apart by what they ran with but for what one searches."""
    if "fingerprint" not in trials:
        return trials
    searched = {key for sweep in sweeps for key in sweep.space}
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
        for name in ("smallest_difference", "seeds_to_settle", "warnings")
    }
    plain = {
        name: None if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in fields.items()
    }
    return {**plain, "settings": json.loads(ranking.table.to_json(orient="records"))}
