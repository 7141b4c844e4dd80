"""Several scores of the same settings at once, such as BLEU and TER on two sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.ranking.rank import Ranking, rank
from iolaus.analysis.ranking.seed_noise import SeedNoise
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.metric import infer_goal

__all__ = ["Scores", "end_scores", "scores"]


@dataclass(frozen=True)
class Scores:
    """The settings by each of several scores.

    rankings: by score, each with the score's last value in the place of the objective.
    """

    rankings: Mapping[str, Ranking]

    @property
    def table(self) -> pd.DataFrame:
        """A row per completed setting, in the order of the first score.

        Columns setting, name where runs have one, the parameters that vary, and of each score its
        mean over the seeds, half its 95 % interval (`± SCORE`; NaN where nothing is known of it)
        and, where settings were repeated, its tier (`tier SCORE`; 1 is first place).
        """
        (_, first), *_ = self.rankings.items()
        done = first.table[first.table["tier"].notna()]
        about = ["setting", *(["name"] if "name" in done else [])]
        params = varied(done)
        found = done[[*about, *params.values()]].rename(columns={c: k for k, c in params.items()})
        for name, ranking in self.rankings.items():
            own = ranking.table.set_index("setting").reindex(found["setting"])
            half = (own["high"].astype(float) - own["low"].astype(float)).to_numpy() / 2
            found[name] = own["objective"].to_numpy(np.float64)
            found[f"± {name}"] = np.where(np.isfinite(half) & (half > 0), half, np.nan)
            if ranking.is_repeated:
                found[f"tier {name}"] = own["tier"].to_numpy()
        return found.reset_index(drop=True)

    def sentences(self) -> list[str]:
        """What each score tells apart, and by which noise; the warnings once."""
        said = [f"By {name}: {_verdict(ranking)}" for name, ranking in self.rankings.items()]
        warnings = (text for ranking in self.rankings.values() for text in ranking.warnings)
        return [*said, *dict.fromkeys(warnings)]


def _verdict(ranking: Ranking) -> str:
    n = int(ranking.table["tier"].notna().sum())
    if n < 2:
        noise = f"; one run has a noise of {ranking.noise:.3g} between seeds"
        known = noise if ranking.is_repeated and np.isfinite(ranking.noise) else ""
        return f"fewer than two settings have completed{known}."
    values = ranking.table.loc[ranking.table["tier"].notna(), "objective"].astype(float)
    spread = float(values.max() - values.min())
    if spread == 0 and not ranking.noise > 0:  # else the means are the same by chance
        return f"all {n} settings have the same value, {values.iloc[0]:.4g}."
    between = f"they lie within {spread:.3g}"
    if ranking.is_repeated:
        noise = f"one run has a noise of {ranking.noise:.3g} between seeds"
        if np.isfinite(ranking.smallest_difference):
            noise += (
                f", and a lead of {ranking.smallest_difference:.3g} would be seen 9 times in 10"
            )
        if len(ranking.first) == n:
            return f"all {n} settings are one tier, they cannot be told apart; {between}; {noise}."
        return f"{len(ranking.first)} of {n} settings share first place; {between}; {noise}."
    if not np.isfinite(ranking.seed_difference):
        return (
            f"which of the {n} is better is not known: each ran with one seed, and how much seeds "
            f"differ has not been measured; {between}."
        )
    difference = (
        f"two seeds of one setting may differ by {ranking.seed_difference:.3g} (95 %, by "
        f"{ranking.noise_evidence})"
    )
    if spread <= ranking.seed_difference:
        return f"the {n} cannot be told apart: {between}, and {difference}."
    return (
        f"the {n} lie further apart ({spread:.3g}) than {difference}; which is better one seed "
        "each cannot tell."
    )


def end_scores(sweep: Sweep) -> list[str]:
    """The metrics that the completed trials reported once, in their last report, in its order.

    Those of which the name says no direction are left out, and so are those of a sweep that has no
    other reports.
    """
    done = sweep.trials.index[sweep.trials["state"].eq("complete")]
    rows = sweep.curves[sweep.curves["trial"].isin(done)]
    last = rows.groupby("trial")["step"].transform("max")
    if rows.empty or rows["step"].eq(last).all():
        return []
    is_once = rows.groupby(["trial", "metric"])["step"].transform("size").eq(1)
    at_end = rows[is_once & rows["step"].eq(last)].groupby("metric", sort=False)["trial"].nunique()
    more = rows[~(is_once & rows["step"].eq(last))]["metric"].unique()
    return [
        str(name)
        for name, n in at_end.items()
        if n == len(done) and name not in more and infer_goal(str(name)) is not None
    ]


def scores(
    sweep: Sweep, names: Sequence[str], noise: Mapping[str, SeedNoise] | None = None
) -> Scores:
    """The settings by the last value of each of these metrics in every trial.

    noise: by score, how much seeds of one setting differ, where each ran with one; used as by
    `rank`. Raises BadInputError for a metric that no trial reported, or whose name does not say
    whether lower or higher is better.

    >>> found = scores(iolaus.load("runs.csv"), ["loss"])
    """
    rankings = {}
    for name in names:
        rows = sweep.curves[sweep.curves["metric"] == name]
        if rows.empty:
            known = ", ".join(map(str, sweep.curves["metric"].unique()[:12]))
            raise BadInputError(f"{sweep.name} has no metric {name}; it has {known}")
        goal = infer_goal(name)
        if goal is None:
            raise BadInputError(
                f"is {name} better when it is lower or higher? Its name does not say; name it as "
                "accuracy, bleu, loss or error are"
            )
        last = rows.sort_values("step", kind="stable").groupby("trial")["value"].last()
        own = sweep.trials.assign(objective=last.reindex(sweep.trials.index))
        by_name = replace(
            sweep, metric=name, metric_goal=goal, directions=(goal,), trials=own, earlier=()
        )
        rankings[name] = rank(by_name, (noise or {}).get(name))
    return Scores(rankings)
