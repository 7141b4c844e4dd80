"""Which settings are truly better? A sweep's settings in order, with intervals and tiers."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from iolaus.analysis.data.sweep import Sweep, own_command
from iolaus.analysis.ranking import tiers
from iolaus.analysis.ranking.extrapolation import likely_end
from iolaus.sweeps.signals import despike, signals, thin

# Settings that saw numbers of examples further apart than this share are not on one axis.
EXAMPLES_APART = 0.05
# Below this many degrees of freedom between seeds a reader should be told.
FEW_DEGREES = 5
# A metric is what the objective was taken from if it says so in this share of the completed trials.
SAME_SHARE = 0.9

# Where no setting was repeated, fewer more seeds than this say nothing of the spread between seeds.
N_SEEDS_FIRST = 2

# The end of a curve is read off a line through its last half, this many points of it at most. Fewer
# are noisier, more bend: of 4 to 16 (and of thirds and quarters) 8 held the true end of falling,
# flat, dropping and calmed curves best.
END_POINTS = 8
LEAST_POINTS = 4

NoiseSource = Literal["seeds", "curve", "none"]


@dataclass(frozen=True)
class Ranking:
    """Settings, best first, and how well their order is known.

    table: one row per setting; first the completed ones by tier and estimate, then, without tier,
        those that completed but break a constraint by their objective, then those that did not
        complete by their best, running ones by their likely end. Columns setting (number of its
        first trial), trials (their numbers), n_seeds (completed), state (Optuna's, or infeasible),
        estimate (mean of the seeds; without repeats the level of the curve; NaN unless completed),
        low, high (95 %, Student's t, for this setting alone), tier (1 is first place; <NA> unless
        completed), why, and `params.KEY`; in a comparison of sweeps also sweep, of runs of other
        tools that have one also name (of the first run).
    of: what is ranked, such as "objective" or "level of val_loss". larger_is_better: its direction.
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
    def first(self) -> list[int]:
        """The settings of the first tier, best first."""
        table = self.table
        return (
            [int(n) for n in table.loc[table["tier"].eq(1).fillna(False), "setting"]]
            if len(table)
            else []
        )

    def sentences(self) -> list[str]:
        """The outcome in words: first place, whether it is certain, what could have been seen, and the warnings."""
        return [*_outcome(self), *self.warnings]

    def shown(self) -> pd.DataFrame:
        """The table for a reader: what is ranked by name, parameters that vary, trials where a setting has several."""
        table = self.table.assign(
            trials=[" ".join(map(str, numbers)) for numbers in self.table["trials"]]
        )
        params = [c for c in table.columns if c.startswith("params.")]
        left_out = [c for c in params if table[c].nunique(dropna=False) < 2]
        left_out += (
            ["trials"]
            if len(table) and table["trials"].eq(table["setting"].astype(str)).all()
            else []
        )
        names = {c: c.removeprefix("params.") for c in params}
        names |= {"n_seeds": "seeds", "estimate": self.of, "low": "95 % low", "high": "95 % high"}
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
            _table(trials, {}, pd.Series(dtype=float)),
            "objective",
            False,
            math.nan,
            "none",
            math.nan,
            None,
            ("No trial has run.",),
        )
    trials = _with_infeasible(trials[~trials["why"].astype(str).str.startswith("duplicate")])
    done = trials[trials["state"].eq("complete") & np.isfinite(trials["objective"].astype(float))]
    sign = sweep.objective_sign
    settings = {int(s): i for i, s in enumerate(dict.fromkeys(done["setting"]))}
    index = done["setting"].map(settings).to_numpy(np.int64)
    if not len(done):
        known, of, source = None, "objective", "none"
    elif len(settings) < len(done):
        seed = done["seed"].astype(float).fillna(-1).to_numpy(np.int64)
        known = tiers.from_seeds(index, seed, sign * done["objective"].to_numpy(np.float64))
        of, source = "objective", "seeds"
    else:
        known, of, source = _by_curves(sweep, done, sign)
    rows: dict[int, dict[str, float]] = {}
    if known is not None:
        tier = tiers.tiers(known)
        half = t.isf(0.025, np.maximum(known.df, 1e-9)) * known.standard_error
        rows = {
            setting: {
                "estimate": sign * known.mean[i],
                "low": sign * known.mean[i] - half[i],
                "high": sign * known.mean[i] + half[i],
                "tier": int(tier[i]),
            }
            for setting, i in settings.items()
        }
    return Ranking(
        table=_table(trials, rows, _preview(sweep, trials), sign),
        of=of,
        larger_is_better=sign < 0,
        noise=known.noise if known else math.nan,
        noise_source=source,  # type: ignore[arg-type]
        smallest_difference=tiers.smallest_difference(known) if known else math.nan,
        seeds_to_settle=_seeds_to_settle(known, tier, source) if known else None,
        warnings=tuple(_warnings(sweep, trials, done, known, source)),
    )


def _with_infeasible(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials, those that completed in a setting that breaks a constraint in the state `infeasible`."""
    if "infeasible" not in trials:
        return trials
    completed = trials["state"].eq("complete")
    broken = trials["infeasible"].fillna("").where(completed, "").groupby(trials["setting"])
    of_setting = broken.transform(lambda names: ", ".join(dict.fromkeys(filter(None, names))))
    is_infeasible = completed & of_setting.ne("")
    return trials.assign(
        state=trials["state"].mask(is_infeasible, "infeasible"),
        why=trials["why"].mask(is_infeasible, "infeasible: breaks " + of_setting.astype(str)),
    )


def _seeds_to_settle(known: tiers.Estimates, tier: tiers.Indices, source: str) -> int | None:
    needed = tiers.seeds_to_settle(known, tier)
    return (
        max(needed, N_SEEDS_FIRST)
        if source == "curve" and needed is not None and len(tier) > 1
        else needed
    )


def _by_curves(sweep: Sweep, done: pd.DataFrame, sign: float) -> tuple[tiers.Estimates, str, str]:
    """One run per setting: the level of the curve that the objective was taken from, if there is one."""
    source = objective_source(sweep, done)
    if source is None:
        unknown = np.full(len(done), np.nan)
        values = sign * done["objective"].to_numpy(np.float64)
        return tiers.from_curves(values, unknown, np.ones(len(done))), "objective", "none"
    metric, kind = source
    of_trial = reported(sweep, metric)
    known = [
        level(
            of_trial[n]["step"].to_numpy(), sign * of_trial[n]["value"].to_numpy(np.float64), kind
        )
        if is_whole
        else (math.nan, math.nan, 1.0)
        for n, is_whole in zip(done.index, _is_written(sweep, done), strict=True)
    ]
    levels, errors, df = np.array(known).T
    levels = np.where(
        np.isnan(levels), sign * done["objective"], levels
    )  # not written yet, or it began with NaN
    name = f"{'level' if kind == 'final' else 'smoothed best'} of {metric}"
    return tiers.from_curves(levels, errors, df), name, "curve"


def _is_written(sweep: Sweep, done: pd.DataFrame) -> pd.Series:
    """Whether each trial's curve is on disk to its last report.

    While a sweep runs, a result may be there before.
    """
    last = sweep.curves[sweep.curves["metric"] == sweep.metric].groupby("trial")["step"].max()
    return ~(
        last.reindex(done.index).fillna(-1)
        < done.get("steps", pd.Series(np.nan, done.index)).astype(float)
    )


def reported(sweep: Sweep, metric: str) -> dict[int, pd.DataFrame]:
    """Each trial's rows of a metric, by rising step.

    Of a step that was reported twice the last row.
    """
    rows = sweep.curves[sweep.curves["metric"] == metric].sort_values(
        ["trial", "step"], kind="stable"
    )
    rows = rows.drop_duplicates(["trial", "step"], keep="last")
    return {int(str(trial)): own for trial, own in rows.groupby("trial", sort=False)}


def level(
    steps: tiers.Indices, losses: tiers.Array, kind: Literal["final", "best"]
) -> tuple[float, float, float]:
    """(level, standard error, degrees of freedom) of the end of one curve, or of its smoothed best with that error.

    The end is where a line through the last points stands at the last step, so that a loss that
    still falls is not behind itself, and what came before has no say; but never beyond what the
    last three have shown. Single spikes are clipped, except in the last two reports: those may be a
    drop. The error is widened by the autocorrelation of the last 32 points (none is seen in fewer
    than 16); infinite for fewer than 4. NaN for a curve that begins with NaN.
    """
    said = signals(steps, losses)
    n = said.n_reports
    _, x = thin(steps[:n], steps[:n].astype(np.float64))
    _, y = thin(steps[:n], losses[:n])
    if len(y) < LEAST_POINTS:
        return said.level if kind == "final" else said.best, math.inf, 1.0
    m = max(LEAST_POINTS, min(len(y) // 2, END_POINTS))
    r = 0.0
    if (
        len(y) >= 2 * END_POINTS
    ):  # fewer say nothing of what is a spike, nor how long the noise lasts
        y, r = np.append(despike(y)[:-2], y[-2:]), said.autocorrelation
    end, error, df = _end_of_line(x[-m:], y[-m:], float(steps[n - 1]), r)
    shown = (*y[-3:], losses[n - 1])  # a bent curve is no reason to foresee more than it has shown
    end = min(max(end, float(min(shown))), float(max(shown)))
    return end if kind == "final" else said.best, error, df


def _end_of_line(
    x: tiers.Array, y: tiers.Array, at: float, autocorrelation: float
) -> tuple[float, float, float]:
    """(value at `at`, standard error, degrees of freedom) of a line through points with autocorrelated noise.

    Positive values are fitted by an exponential if that is nearer to them: what has exploded comes
    down by factors.
    """
    scale = float(np.abs(y).max()) or 1.0  # squares of losses that exploded overflow
    m, ahead, x, y = len(x), at - float(x.mean()), x - x.mean(), y / scale
    squares = float(x @ x)
    widened = (1 + autocorrelation) / (1 - autocorrelation)
    df = max(m - 2 * widened, 1.0)  # two terms take up as much as so many independent points
    relative = math.sqrt((1 / m + ahead**2 / squares) * widened / df)
    line = y.mean() + (x @ y) / squares * x
    end = float(y.mean() + (x @ y) / squares * ahead)
    error = float(np.linalg.norm(y - line)) * relative
    if y.min() > 0:
        logs = np.log(y)
        log_line = logs.mean() + (x @ logs) / squares * x
        if np.linalg.norm(y - np.exp(log_line)) < np.linalg.norm(y - line):
            end = math.exp(logs.mean() + (x @ logs) / squares * ahead)
            error = end * float(np.linalg.norm(logs - log_line)) * relative
    return end * scale, error * scale, df


def objective_source(
    sweep: Sweep, done: pd.DataFrame
) -> tuple[str, Literal["final", "best"]] | None:
    """The metric whose last ("final") or best value is the objective of the completed trials.

    None if none is. Trials whose curve is not all on disk yet do not count.
    """
    is_largest = sweep.objective_sign < 0
    done = done[_is_written(sweep, done)]
    curves = sweep.curves[sweep.curves["trial"].isin(done.index)]
    names = curves["metric"].unique()
    for metric in sorted(names, key=lambda name: (name != sweep.metric, name)):
        own = (
            curves[curves["metric"] == metric]
            .sort_values("step", kind="stable")
            .groupby("trial")["value"]
        )
        for kind, values in (
            ("final", own.last()),
            ("best", own.max() if is_largest else own.min()),
        ):
            objective = done["objective"].astype(float)
            same = np.isclose(values.reindex(done.index), objective, rtol=1e-5, atol=0.0)
            if same.mean() >= SAME_SHARE:
                whole = done.index.isin(values.index).all()
                return (str(metric), kind) if whole else None  # type: ignore[return-value]
    return None


_REPEATS = "Repeats would tell: runs with a column `setting` that names the first of each."
_STATES = ("complete", "infeasible", "pruned", "running", "fail")


def _preview(sweep: Sweep, trials: pd.DataFrame) -> pd.Series:
    """What trials without tier are ordered by, smaller is better.

    Their best, of running ones the likely end, of infeasible ones the objective.
    """
    sign = sweep.metric_sign
    found = sign * trials["best"].astype(float)
    objective = sweep.objective_sign * trials["objective"].astype(float)
    found = found.mask(trials["state"].eq("infeasible"), objective)
    running = trials.index[trials["state"] == "running"]
    curves = reported(sweep, sweep.metric) if len(running) else {}
    n_steps = int(sweep.curves["step"].max()) + 1 if curves else 0
    for number in running.intersection(list(curves)):
        steps, losses = (
            curves[number]["step"].to_numpy(),
            sign * curves[number]["value"].to_numpy(np.float64),
        )
        planned = trials["n_steps"].get(number) if "n_steps" in trials else None
        found[number] = likely_end(
            signals(steps, losses),
            n_steps if planned is None or planned != planned else int(planned),
        )
    return found


def _table(
    trials: pd.DataFrame, ranked: dict[int, dict[str, float]], preview: pd.Series, sign: float = 1.0
) -> pd.DataFrame:
    columns = ["setting", "trials", "n_seeds", "state", "estimate", "low", "high", "tier", "why"]
    columns += [c for c in ("sweep", "name") if c in trials]
    rows: list[dict[str, Any]] = []
    for setting, runs in trials.groupby("setting", sort=True) if len(trials) else ():
        number = int(str(setting))
        state = min(runs["state"], key=_STATES.index)
        lead = runs.loc[number] if number in runs.index else runs.iloc[0]
        ended = runs[runs["state"] != "complete"]
        best = float(preview[runs.index].mean())
        place: tuple[object, ...] = (len(trials), _STATES.index(state), math.isnan(best), best)
        if own := ranked.get(number):
            place = (own["tier"], sign * float(own["estimate"]))
        rows.append(
            {
                "setting": number,
                **({"name": lead["name"]} if "name" in runs else {}),
                "trials": tuple(int(n) for n in runs.get("number", runs.index)),
                "n_seeds": int(runs["state"].eq("complete").sum()),
                "state": state,
                **(own or {"estimate": math.nan, "low": math.nan, "high": math.nan, "tier": None}),
                "why": _why((ended if len(ended) else runs).iloc[0]),
                **({"sweep": lead["sweep"]} if "sweep" in runs else {}),
                **{c: lead[c] for c in trials.columns if c.startswith("params.")},
                "_place": place,
            }
        )
    rows.sort(key=lambda row: row.pop("_place"))
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.astype({"tier": "Int64"})


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
            f"Of {len(sweep.directions)} objectives only the first is ranked; `iolaus rank DIR --pareto` "
            "goes by all of them."
        )
    versions = (
        done["code"].fillna("unknown").astype(str).value_counts()
        if "code" in done
        else pd.Series(dtype=int)
    )
    if len(versions) > 1:
        counts = ", ".join(f"{n} of {code}" for code, n in versions.items())
        found.append(
            f"Trials of different code versions are ranked together ({counts}): the code may be the difference."
        )
    examples = (
        done["examples"].astype(float).dropna() if "examples" in done else pd.Series(dtype=float)
    )
    if len(examples) > 1 and examples.max() > (1 + EXAMPLES_APART) * examples.min():
        found.append(
            f"The settings saw different numbers of examples ({examples.min():,.0f} to {examples.max():,.0f}): "
            "those with more had more data for the same number of steps."
        )
    ended = trials[trials["setting"].isin(done["setting"]) & ~trials.index.isin(done.index)]
    ended = ended[ended["state"] != "running"]
    if len(ended):
        which = ", ".join(str(int(n)) for n in dict.fromkeys(ended["setting"]))
        found.append(
            f"Not every seed of {which} completed; those that did not are left out, which flatters the rest."
        )
    if source == "curve":
        found.append(
            "No setting was repeated: the noise is that of each curve, and another seed may differ by more. "
            + (
                "`iolaus top-up DIR` runs the seeds that would tell."
                if sweep.provenance
                else _REPEATS
            )
        )
    elif source == "none" and len(done) > 1:
        found.append(
            "Nothing is known about the noise (no repeats, no curve of the objective): no order is certain."
        )
    elif source == "seeds" and known.df_all < FEW_DEGREES:
        found.append(
            f"The spread between seeds is known from {known.df_all:.0f} degrees of freedom only."
        )
    return found


def _outcome(ranking: Ranking) -> list[str]:
    first, table = ranking.first, ranking.table
    if not first:
        return []
    n_ranked = int(table["tier"].notna().sum())
    if n_ranked == 1:
        return [f"Setting {first[0]} is the only one that completed."]
    names = ", ".join(map(str, first[:8])) + (
        f" and {len(first) - 8} more" if len(first) > 8 else ""
    )
    if len(first) == 1:
        whose = {"seeds": "seeds", "curve": "their curves, with one seed each"}[
            ranking.noise_source
        ]
        said = [
            f"Setting {first[0]} is better than the other {n_ranked - 1}, beyond the noise of {whose}."
        ]
    else:
        said = [f"{len(first)} of {n_ranked} settings share first place: {names}."]
        if ranking.noise_source == "none":
            pass
        elif ranking.seeds_to_settle is None:
            said.append(
                f"More than {tiers.N_SEEDS_MOST} more seeds each would be needed to settle it."
            )
        else:
            least = "At least" if ranking.noise_source == "curve" else "About"
            said.append(
                f"{least} {_seeds(ranking.seeds_to_settle)} for each of them would settle it."
            )
    if math.isfinite(ranking.noise):
        whose = {"seeds": "between seeds of one setting", "curve": "of a curve's level"}[
            ranking.noise_source
        ]
        said.append(
            f"Noise {whose}: {ranking.noise:.3g}; a lead of {ranking.smallest_difference:.3g} would be seen in 90 % of "
            "such sweeps, a smaller one in fewer."
        )
    return said


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
            f"these sweeps optimise in different directions: {sorted(directions)}; compare each by itself"
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
        trials=pd.concat(all_trials),
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
            f"The sweeps were started with different options, so they may be of different tasks ({own})."
        )
    ranking = rank(joint)
    return replace(ranking, warnings=(*found, *ranking.warnings))


def _fixed(sweep: Sweep) -> set[str]:
    """What a sweep's last command fixed by options of the app's own, such as task=digits.

    Also +sweep=NAME.
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
