"""How the learning rate went over each run, and what became of its loss.

A rate is *flat* if its highest, after warm-up, is less than 1.5 times its lowest; *spent* if it is
as good as gone before half of the run (`Features.is_spent`); otherwise it *falls over the run*. A
run has stalled where the signals say so (`iolaus.sweeps.signals`: no progress that its noise does
not hide). Seeds of one setting count as one in the order of settings, and as several runs
otherwise. Differences are between the seeds of two settings, with the 95 % interval of Welch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iolaus.analysis.data.curves import Curve, Points, curves_of, planned_rates
from iolaus.analysis.data.pairs import N_SEEDS, difference_text, setting_text
from iolaus.analysis.data.parameters import varied
from iolaus.analysis.data.sweep import Sweep
from iolaus.analysis.diagnosis._features import Features, gather
from iolaus.analysis.diagnosis.diagnose import diagnose
from iolaus.analysis.diagnosis.shapes import REBOUND
from iolaus.analysis.distributions import t_quantile
from iolaus.analysis.ranking.rank import finalists_of
from iolaus.sweeps.text import counted, ordinal

__all__ = ["KINDS", "Decays", "by_batch", "decays"]

FLAT_FACTOR = 1.5
# Kind -> what the rate does.
KINDS = {
    "flat": "is flat over the run",
    "spent": "is spent before half of the run",
    "falls": "falls over the run",
}
N_NAMED = 6
N_AROUND = 5  # reports before and after a change of the batch
JUMP = 0.05  # of the rate, from one step to the next, between two stages ...
N_STAGE = 5  # ... of so many reports each
LEAST_STAGES = 3  # a single jump says nothing that the rate's course does not
N_STAGED = 3  # settings whose stages are said
SAME_EXAMPLES = 1.05  # the most that a last batch, or a last report, tells apart


@dataclass(frozen=True)
class Decays:
    """What became of the runs of a sweep, by how their rates went.

    trials: one row per run with a curve and a rate, index number; columns setting, kind (of KINDS),
        highest and lowest (rates), spent_at (step from which it is; NaN if not before half),
        fallen_then (share of the way from the start to the lowest loss of the sweep that its loss
        had fallen by that step, NaN if it is not spent), stalled_at (step, NaN if it has not),
        level and noise (of the loss at the end), objective (NaN unless completed), batch (sizes in
        the order of the run), batch_at (step at which it changes, NaN if it does not), rest (its
        setting but for the batch, in words), rebound (by how much the loss has climbed back, NaN if
        it is no rebound), rebound_at (step), kept (the weights that it kept from before this and
        any other rebound: a dict from step to file), came_down (whether its loss ends as low as at
        the last of these, and as at the start), is_ranked (whether its setting has a place beside
        the first: where there are finalists, they alone).
        stage_ends (steps at which the planned rate jumps, and the last), stage_losses (the mean of
        the loss over the last fifth of each of these stages).
    metric: the training loss. objective_sign: -1 if the objective is maximised.
    """

    trials: pd.DataFrame
    metric: str = "loss"
    objective_sign: float = 1.0

    @property
    def sentences(self) -> tuple[str, ...]:
        """What there is to say; of the rates only where they went in different ways."""
        said: list[str] = []
        if self.trials.empty:
            return ()
        if self.trials["kind"].nunique() > 1:
            said += [*_kinds(self), *_first(self)]
        return (*said, *_stages(self), *_batches(self), *_rebounds(self))


def decays(
    sweep: Sweep,
    diagnosis: pd.DataFrame | None = None,
    features: Mapping[int, Features] | None = None,
) -> Decays:
    """How the rates went in a sweep, and what became of the losses.

    diagnosis, features: of `diagnose` and of each trial, where they have been made before.

    >>> decays(iolaus.load("multirun/summarise")).sentences[0]
    """
    features = gather(sweep) if features is None else features
    known = {n: f for n, f in features.items() if f.signals is not None and f.rates is not None}
    shapes = (diagnose(sweep, features) if diagnosis is None else diagnosis)["shape"]
    metric = next((f.metric for f in known.values()), "loss")
    seen = curves_of(sweep.curves, metric, "examples")
    rest = _without_batch(sweep)
    plans, rows, finalists = planned_rates(sweep), [], finalists_of(sweep.trials)
    for number, f in known.items():
        rate = _rate(f, plans.get(number))
        assert f.signals is not None
        batch, batch_at = _batch(seen.get(number))
        is_rebound = shapes.get(number) == "rebound"
        rows.append(
            {
                "trial": number,
                "setting": int(sweep.trials["setting"][number]),
                **rate,
                "stalled_at": _or_nan(f.signals.stalled_since),
                "level": f.own(f.signals.level),
                "noise": f.noise,
                "objective": float(sweep.trials["objective"][number]),
                "batch": batch,
                "batch_at": batch_at,
                "around_change": _around(f, batch_at),
                "examples": float(sweep.trials["examples"][number]),
                "rest": rest.get(number, ""),
                "rebound": f.signals.rebound if is_rebound else math.nan,
                "rebound_at": _or_nan(f.signals.rebound_since) if is_rebound else math.nan,
                "kept": (kept := sweep.kept_weights(number)),
                "came_down": _came_down(f, max(kept, default=0)),
                "is_ranked": not finalists or int(sweep.trials["setting"][number]) in finalists,
                **_stages_of(f, plans.get(number)),
            }
        )
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial"])
    return Decays(table.set_index("trial"), metric, sweep.objective_sign)


def _or_nan(step: float | None) -> float:
    return math.nan if step is None else float(step)


def _rate(features: Features, plan: Points | None) -> dict[str, float | str]:
    assert features.rates is not None
    steps, rates = features.rates
    after = rates[int(rates.argmax()) :]  # a warm-up is no fall
    highest, lowest = float(after.max()), float(after.min())
    if plan is not None:  # a rate that falls at once is lower by the first report
        highest = max(highest, float(plan[:, 1].max()))
        # The rate of a run that ended early had not fallen yet: it is flat only if it was to stay.
        lowest = min(lowest, float(plan[int(plan[:, 1].argmax()) :, 1].min()))
    told: dict[str, float | str] = {"highest": highest, "lowest": lowest}
    if highest < FLAT_FACTOR * lowest:
        return told | {"kind": "flat", "spent_at": math.nan, "fallen_then": math.nan}
    if not features.is_spent:
        return told | {"kind": "falls", "spent_at": math.nan, "fallen_then": math.nan}
    spent_at = next(float(step) for step in steps if features.spent_at(float(step)))
    then = features.losses[features.steps <= spent_at]
    fallen = features.start - float(np.median(then[-3:])) if len(then) else 0.0
    share = fallen / features.room if features.room > 0 else math.nan
    return told | {"kind": "spent", "spent_at": spent_at, "fallen_then": share}


def _came_down(features: Features, step: int) -> bool:
    """Whether a loss ends as low as at a step, but for a tenth of its fall by then and its noise.

    Where it had not fallen by then: as low as at the start.
    """
    assert features.signals is not None
    then = min(float(np.interp(step, features.steps, features.losses)), features.start)
    near = max(REBOUND * (features.start - then), 2 * features.noise)
    return features.signals.level <= then + near


def _around(features: Features, step: float) -> tuple[float, float]:
    """The mean loss in the reports up to a step, and in those after it; NaN where there are few."""
    at = int(np.searchsorted(features.steps, step, "right"))
    before, after = features.losses[max(0, at - N_AROUND) : at], features.losses[at:][:N_AROUND]
    if math.isnan(step) or min(len(before), len(after)) < N_AROUND:
        return math.nan, math.nan
    return features.own(float(before.mean())), features.own(float(after.mean()))


def _stages_of(features: Features, plan: Points | None) -> dict[str, tuple[float, ...]]:
    """Where each stage of a rate that jumps ended, and how the loss was there."""
    steps, losses = features.steps, features.losses
    ends: list[float] = []
    for (step, rate), (after, new) in pairwise([] if plan is None else plan.tolist()):
        jumps = after == step + 1 and abs(new - rate) > JUMP * rate
        if jumps and _n_between(steps, ends[-1] if ends else 0, after) >= N_STAGE:
            ends.append(after)
    while ends and _n_between(steps, ends[-1], steps[-1]) < N_STAGE:
        ends.pop()
    levels = []
    for begin, end in pairwise([0.0, *ends, float(steps[-1])]):
        own = losses[(begin < steps) & (steps <= end)]
        levels.append(features.own(float(own[-max(1, len(own) // 5) :].mean())))
    return {"stage_ends": (*ends, float(steps[-1])), "stage_losses": tuple(levels)}


def _n_between(steps: NDArray[np.float64], begin: float, end: float) -> int:
    return int(((begin < steps) & (steps <= end)).sum())


def _batch(seen: Curve | None) -> tuple[str, float]:
    """(sizes of the batch in the order of the run, step at which it first changes)."""
    if seen is None or not len(seen[0]) or not np.isfinite(seen[1]).all():
        return "", math.nan
    steps, examples = np.r_[0.0, seen[0]], np.r_[0.0, seen[1]]
    sizes = np.diff(examples) / np.diff(steps)
    whole = [
        (int(size), step) for size, step in zip(sizes, steps[:-1], strict=True) if size % 1 == 0
    ]
    runs = [one for i, one in enumerate(whole) if not i or one[0] != whole[i - 1][0]]
    changed = runs[1][1] if len(runs) > 1 else math.nan
    return ", then ".join(str(size) for size, _ in runs), changed


def _without_batch(sweep: Sweep) -> dict[int, str]:
    """Each trial's varied parameters, but for those of its batch and its seed, in words."""
    params = {k: c for k, c in varied(sweep.trials).items() if "batch" not in k and k != "seed"}
    return {
        int(str(number)): setting_text({key: row[column] for key, column in params.items()})
        for number, row in sweep.trials.iterrows()
    }


def _kinds(found: Decays) -> list[str]:
    """Of each kind that is no good: which settings, where they stall, at what level and noise."""
    sentences = []
    for kind in ("flat", "spent"):
        own = found.trials[found.trials["kind"] == kind]
        if own.empty:
            continue
        said = (
            f"The rate {KINDS[kind]} in {_settings(own)}: "
            f"from {_range(own['highest'])} to {_range(own['lowest'])}"
        )
        if kind == "spent":
            said += (
                f", spent from step {_middle(own['spent_at'])} on, when the {found.metric} had "
                f"fallen {100 * own['fallen_then'].median():.0f} % (median) of the way to the "
                "lowest of the sweep"
            )
        stalled = own[own["stalled_at"].notna()]
        said += (
            f". Of {counted(len(own), 'such run')} {len(stalled)} stall{'s' * (len(stalled) == 1)}"
        )
        if len(stalled):
            said += (
                f", from step {_middle(stalled['stalled_at'])} on, at a {found.metric} of "
                f"{_middle(stalled['level'])}, with a noise of {stalled['noise'].median():.2g} "
                "between reports"
            )
        sentences.append(f"{said}.")
    return sentences


def _first(found: Decays) -> list[str]:
    """Which places each kind of rate has, and how far the best of each are apart.

    A kind is said to rank first where all of its settings come before all others.
    """
    done = found.trials[found.trials["objective"].notna() & found.trials["is_ranked"]]
    of = "finalists" if not found.trials["is_ranked"].all() else "settings"
    means = (found.objective_sign * done.groupby("setting")["objective"].mean()).sort_values()
    kinds = done.groupby("setting")["kind"].first()
    best = {kind: [s for s in means.index if kinds[s] == kind] for kind in KINDS}
    present = {kind: own for kind, own in best.items() if own}
    if len(present) < 2:
        return []
    first = kinds[means.index[0]]
    places = [list(means.index).index(s) + 1 for s in present[first]]
    told = ", ".join(map(ordinal, places[:N_NAMED])) + (", ..." if len(places) > N_NAMED else "")
    # One seed each ranks runs, not settings.
    who, by = (of.capitalize(), "mean ") if len(done) > len(means) else ("Runs", "")
    rank_first = "rank first: they are" if places[-1] == len(places) else "are"
    sentences = [
        f"{who} whose rate {KINDS[str(first)]} {rank_first} {told} of {len(means)} by "
        f"the {by}objective{'' if by else ', of one seed each'}."
    ]
    winner = done[done["setting"] == means.index[0]]
    for kind, settings in present.items():
        if kind != first:
            other = done[done["setting"] == settings[0]]
            sentences.append(
                f"The best of these, setting {means.index[0]}, ends at "
                f"{winner['objective'].mean():.4g}, the best whose rate {KINDS[kind]}, setting "
                f"{settings[0]}, at {other['objective'].mean():.4g}{_difference(winner, other)}."
            )
    return sentences


def _stages(found: Decays) -> list[str]:
    """How far each stage brought the loss, where rates jump at least twice; the best settings."""
    is_staged = found.trials["stage_ends"].map(len) >= LEAST_STAGES
    own = found.trials[is_staged & found.trials["objective"].notna()]
    sentences = []
    order = found.objective_sign * own.groupby("setting")["objective"].mean()
    for setting in order.sort_values().index[:N_STAGED]:
        rows = own[own["setting"] == setting]
        first = rows["stage_ends"].iloc[0]
        same = rows[rows["stage_ends"].map(len) == len(first)]
        levels = np.mean(same["stage_losses"].tolist(), axis=0)
        at = ", ".join(f"{step:,.0f}" for step in first[:-1])
        ends = ", ".join(f"{level:.4g}" for level in levels)
        sentences.append(
            f"The rate of setting {setting} jumps after steps {at}: at the ends of these "
            f"{len(first)} stages the {found.metric} is {ends}"
            + (f" (mean of {len(same)} seeds)." if len(same) > 1 else ".")
        )
    return sentences


def by_batch(found: Decays) -> dict[str, list[pd.DataFrame]]:
    """The completed runs of settings that differ in their batch alone, best setting first.

    By what else they have set, in words, "" for nothing.
    """
    if found.trials.empty:
        return {}
    done = found.trials[found.trials["objective"].notna()]
    groups = {
        str(rest): sorted(
            (rows for _, rows in own.groupby("setting")),
            key=lambda rows: found.objective_sign * rows["objective"].mean(),
        )
        for rest, own in done.groupby("rest")
    }
    return {
        rest: settings
        for rest, settings in groups.items()
        if len({str(rows["batch"].iloc[0]) for rows in settings}) > 1
    }


def _batches(found: Decays) -> list[str]:
    """Settings that differ in their batch alone, side by side."""
    sentences = []
    for rest, ordered in by_batch(found).items():
        ends = [
            f"at {rows['objective'].mean():.4g} with a batch of {rows['batch'].iloc[0]}"
            + _at_change(rows, found.metric)
            for rows in ordered
        ]
        apart = _difference(*ordered[:2])
        examples = pd.concat([rows["examples"] for rows in ordered])
        fewest, most = examples.min(), examples.max()
        of = "equally many" if most <= SAME_EXAMPLES * fewest else f"{fewest:,.0f} to {most:,.0f}"
        sentences.append(
            f"{rest or 'All else equal'}: runs of {of} examples end {', '.join(ends)}"
            f"{apart.replace(': a difference', ': between the first two a difference')}."
        )
    return sentences


def _at_change(rows: pd.DataFrame, metric: str) -> str:
    """From which step on the batch is another, and the loss before and after; "" if it never is."""
    if not rows["batch_at"].notna().any():
        return ""
    said = f" (from step {rows['batch_at'].iloc[0]:.0f}"
    around = np.array(rows["around_change"].tolist())
    if not np.isfinite(around).all():
        return f"{said})"
    before, after = around.mean(axis=0)
    return (
        f"{said}; the {metric} is {before:.4g} in the {N_AROUND} reports before and {after:.4g} in "
        "those after)"
    )


def _rebounds(found: Decays) -> list[str]:
    """Who rebounded, when, and the weights kept before; who else did, and whether it came down."""
    trials = found.trials
    is_rebound = trials["rebound"].notna()
    own, others = trials[is_rebound], trials[~is_rebound & trials["kept"].map(bool)]
    rebounded = [
        f"trial {number} from step {row['rebound_at']:.0f}, by {row['rebound']:.2g}"
        + (f" ({_kept(row['kept'])})" if row["kept"] else "")
        for number, row in own.head(N_NAMED).iterrows()
    ]
    kinds = [("rebounded", own, rebounded)]
    for what, came_down in (("came down", True), ("did not come down", False)):
        rows = others[others["came_down"] == came_down]
        named = [
            f"trial {number} ({_kept(row['kept'])})"
            for number, row in rows.head(N_NAMED).iterrows()
        ]
        kinds.append((f"rebounded and {what}", rows, named))
    return [
        f"{counted(len(rows), 'run')} {what}: {'; '.join(named)}"
        f"{'; ...' if len(rows) > N_NAMED else ''}."
        for what, rows, named in kinds
        if len(rows)
    ]


def _kept(kept: Mapping[int, Path]) -> str:
    """Which weights there are from before a rebound: the last of them, and how many others."""
    step, path = list(kept.items())[-1]
    others = f", and {len(kept) - 1} earlier beside it" if len(kept) > 1 else ""
    return f"the weights of step {step}, before the rebound, are kept in {path}{others}"


def _settings(own: pd.DataFrame) -> str:
    numbers = [str(int(n)) for n in dict.fromkeys(own["setting"].tolist())]
    named = ", ".join(numbers[:N_NAMED]) + (" ..." if len(numbers) > N_NAMED else "")
    return f"{counted(len(numbers), 'setting')} ({named})"


def _range(values: pd.Series) -> str:
    low, high = float(values.min()), float(values.max())
    if math.isclose(low, high, rel_tol=1e-3):
        return f"{low:.3g}"
    between, and_ = ("", "or") if values.nunique() == 2 else ("between ", "and")
    return f"{between}{low:.3g} {and_} {high:.3g}"


def _middle(values: pd.Series) -> str:
    low, middle, high = (float(f) for f in (values.min(), values.median(), values.max()))
    if low == high:
        return f"{middle:.4g}"
    return f"{middle:.4g} (median; {low:.4g} to {high:.4g})"


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """The difference of two settings' means in words, with its interval if there are seeds."""
    one, other = (rows["objective"].to_numpy(dtype=np.float64) for rows in (a, b))
    if min(len(one), len(other)) < N_SEEDS:
        return ""
    of_one, of_other = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    spread = of_one + of_other
    if not spread > 0:
        return ""
    freedom = spread**2 / (of_one**2 / (len(one) - 1) + of_other**2 / (len(other) - 1))
    middle, margin = (
        one.mean() - other.mean(),
        float(t_quantile(0.975, freedom)) * math.sqrt(spread),
    )
    return difference_text(middle, margin, f"{len(one)} and {len(other)} seeds")
