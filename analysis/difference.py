"""Two runs side by side: what differs in their settings and code, and where their curves part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from iolaus.analysis.data.sweep import Sweep
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.fingerprint import Fingerprint, differences

__all__ = ["Difference", "diff", "identical"]

FIRST_WEIGHTS = "first_weights"  # what the trainer calls their checksum
TERMS = "term/"  # before the raw values of a loss's extra terms, which only some trials have


@dataclass(frozen=True)
class Difference:
    """How one run differs from another.

    settings: what differs in parameters, fixed settings, versions and code, in words. is_recorded:
    whether that is known of both. curves: one row per metric that both reported, columns metric,
    n_alike (reports in common before they part), step (of the first report at which they part, NaN
    where none does), value_a and value_b there. The first to part comes first. only_a, only_b:
    reports, of all metrics, that one of them made at steps of which the other has none.
    began_alike: whether their first weights are the same; None where not both reported it.
    """

    settings: Sequence[str]
    is_recorded: bool
    curves: pd.DataFrame
    only_a: int
    only_b: int
    began_alike: bool | None = None

    @property
    def identical(self) -> bool:
        """Whether both made the same reports, to the last bit."""
        parts = bool(self.curves["step"].notna().any())
        return not (self.curves.empty or parts or self.only_a or self.only_b)

    def sentences(self) -> list[str]:
        """What to tell a person: where they part, then what differs."""
        return [self._where(), *self._begin(), *self._why()]

    def _begin(self) -> list[str]:
        if self.began_alike is None or self.identical:
            return []
        if self.began_alike:
            return ["Their first weights are the same."]
        return [
            "Their first weights differ: the seed, or the order in which the parameters are made, "
            "is another."
        ]

    def _where(self) -> str:
        if self.curves.empty:
            return "They have no metric in common."
        n_alike, first = int(self.curves["n_alike"].sum()), self.curves.iloc[0]
        if np.isnan(first["step"]):
            more = [
                f"the {name} made {n:,} more"
                for name, n in (("first", self.only_a), ("second", self.only_b))
                if n
            ]
            return f"They are identical in all {n_alike:,} reports that both made" + (
                f"; {', '.join(more)}." if more else "."
            )
        values = f"{first['metric']} is {float(first['value_a'])} and {float(first['value_b'])}"
        if first["n_alike"] == 0:
            return f"They differ from the first report on: at step {first['step']:,.0f} {values}."
        return (
            f"They part at step {first['step']:,.0f}: {values}; {first['n_alike']:,.0f} reports of "
            "it before that are identical."
        )

    def _why(self) -> list[str]:
        if not self.is_recorded:
            known = "What they ran with besides (fixed settings, code, versions) is not recorded."
            return [*self._settings(), known]
        return self._settings() or ["No difference in settings, code or versions is recorded."]

    def _settings(self) -> list[str]:
        return (
            [f"From the first to the second: {'; '.join(self.settings)}."] if self.settings else []
        )


def diff(a: Sweep, trial_a: int, b: Sweep, trial_b: int) -> Difference:
    """What differs between two trials, of one sweep or of two.

    Values are compared to the last bit; two NaNs are alike. Raises BadInputError for a trial that
    is not there.
    """
    ran_a, ran_b = _ran_with(a, trial_a), _ran_with(b, trial_b)
    one, other = _reports(a, trial_a), _reports(b, trial_b)
    begun = [r.xs(FIRST_WEIGHTS)["value"].iloc[0] for r in (one, other) if FIRST_WEIGHTS in r.index]
    one, other = (r.drop(FIRST_WEIGHTS, level="metric", errors="ignore") for r in (one, other))
    both = one.merge(other, left_index=True, right_index=True, suffixes=("_a", "_b"))
    rows = []
    for metric, values in both.groupby(level="metric", sort=False):
        differ = ~_alike(values["value_a"], values["value_b"])
        at = int(differ.to_numpy().argmax()) if differ.any() else len(values)
        parts = values.iloc[at] if differ.any() else None
        rows.append(
            {
                "metric": metric,
                "n_alike": at,
                "step": np.nan if parts is None else values.index.get_level_values("step")[at],
                "value_a": np.nan if parts is None else float(parts["value_a"]),
                "value_b": np.nan if parts is None else float(parts["value_b"]),
            }
        )
    columns = ["metric", "n_alike", "step", "value_a", "value_b"]
    curves = pd.DataFrame(rows, columns=columns).sort_values("step", ignore_index=True)
    return Difference(
        differences(ran_a, ran_b),
        _is_recorded(a, trial_a) and _is_recorded(b, trial_b),
        curves,
        len(one) - len(both),
        len(other) - len(both),
        bool(begun[0] == begun[1]) if len(begun) == 2 else None,
    )


def identical(sweep: Sweep, trials: Iterable[int] | None = None) -> list[tuple[int, ...]]:
    """The groups of trials that made the same reports to the last bit, the largest first.

    trials: those to look at; all if left out. The raw values of a loss's extra terms, which may be
    there or not where nothing else differs, do not count. Trials that reported nothing, and those
    that are like no other, are in none.
    """
    groups: dict[bytes, list[int]] = {}
    terms = [
        m for m in sweep.curves.get("metric", pd.Series()).unique() if str(m).startswith(TERMS)
    ]
    if terms:
        sweep = replace(sweep, curves=sweep.curves[~sweep.curves["metric"].isin(terms)])
    for trial in sweep.trials.index if trials is None else trials:
        reports = _reports(sweep, int(trial)).sort_index(kind="stable")
        if len(reports):
            key = pd.util.hash_pandas_object(reports).to_numpy().tobytes()
            groups.setdefault(key, []).append(int(trial))
    return sorted((tuple(g) for g in groups.values() if len(g) > 1), key=len, reverse=True)


def _reports(sweep: Sweep, trial: int) -> pd.DataFrame:
    """A trial's values by metric, step and how often that step was reported before."""
    if trial not in sweep.trials.index:
        known = ", ".join(map(str, sweep.trials.index[:10]))
        raise BadInputError(f"{sweep.name} has no trial {trial}; there are {known or 'none'}")
    rows = sweep.curves[sweep.curves["trial"] == trial][["metric", "step", "value"]]
    again = rows.groupby(["metric", "step"]).cumcount().rename("again")
    return rows.assign(again=again).set_index(["metric", "step", "again"])


def _alike(a: pd.Series, b: pd.Series) -> pd.Series:
    return (a == b) | (a.isna() & b.isna())


def _is_recorded(sweep: Sweep, trial: int) -> bool:
    return _fingerprint_id(sweep, trial) in sweep.fingerprints


def _fingerprint_id(sweep: Sweep, trial: int) -> str:
    """Empty for runs of other tools."""
    return str(sweep.trials["fingerprint"][trial]) if "fingerprint" in sweep.trials else ""


def _ran_with(sweep: Sweep, trial: int) -> Fingerprint:
    """What a trial ran with, its parameters and seed among the settings."""
    if trial not in sweep.trials.index:
        return Fingerprint()
    row = {str(name): value for name, value in sweep.trials.loc[trial].items()}
    kept = sweep.fingerprints.get(_fingerprint_id(sweep, trial), Fingerprint())
    params = {
        name.removeprefix("params."): str(value)
        for name, value in row.items()
        if name.startswith("params.") and not pd.isna(value)
    }
    seed = row.get("seed", np.nan)
    own = params | ({} if pd.isna(seed) else {"seed": f"{seed:.0f}"})
    return replace(kept, fixed={**kept.fixed, **own})
