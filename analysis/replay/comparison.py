"""What each pruner would have done on curves known to their end.

Trials of a task start in random order on W workers, each at a speed of its own; a rule sees only
what had been reported by then. The truth of a trial is the lowest finite loss of its whole curve.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr, t

from iolaus.analysis.replay._curves import Curve
from iolaus.analysis.replay.rules import RULES, Move, Nothing, Rule, SweepInfo
from iolaus.sweeps.signals import Array, signals

__all__ = [
    "BASELINE",
    "Run",
    "Score",
    "Truth",
    "best_after",
    "draw_pareto",
    "rank_agreement",
    "replay",
    "score",
    "simulate",
    "summary",
    "table",
    "truth",
]

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a task's trials under a rule.

    n_seen: reports made [trials]. stopped: whether the rule itself ended them, or paused them for
    good. n_again: reports that thawed trials made once more, of all. ended: when each ended, in the
    time of a report; infinite if it was paused for good; empty where no time was kept.
    """

    n_seen: Indices
    stopped: Flags
    n_again: int = 0
    ended: Array = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True)
class Score:
    """How a rule did on one task.

    All but the regret are shares; those without any case are NaN. compute: reports made of all
    reports, with those made once more. kept: of the true top (a tenth, at most ten) that ran to its
    end. kept_checkpoint: of the top that had shown its best. regret: best found above the true
    best, in units of the median trial's distance from it. false_prune: of the stopped trials, those
    that belong to the true best tenth.
    precision: of the stopped trials, those that would not have improved by more than their noise.
    recall: of the trials that for their last tenth or longer did not, those that were stopped after
    their last such improvement.
    """

    compute: float
    kept: float
    kept_checkpoint: float
    regret: float
    false_prune: float
    precision: float
    recall: float


BASELINE = "stop all at one step, continue the best"
MEASURES = tuple(Score.__dataclass_fields__)


def simulate(
    curves: Sequence[Curve],
    rule: Rule,
    n_workers: int,
    seed: int,
    stop_diverged: bool = True,
    repeats: bool = False,
) -> Run:
    """Run the trials in random order on n_workers workers under a rule.

    A seed fixes their order and speeds. A thawed trial goes on from where it was paused, or begins
    anew if it repeats: tasks that save nothing; what it reports again is old.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(curves))
    pace = rng.uniform(0.8, 1.25, len(curves))  # time per report, for workers are never in step
    n_seen = np.zeros(len(curves), dtype=np.int64)
    stopped = np.zeros(len(curves), dtype=bool)
    n_finite = [curves[i].n_finite for i in order]
    waiting = iter(range(len(curves)))
    ended = np.full(len(curves), math.inf)
    last_call, n_again = False, 0
    paused: set[int] = set()
    free: list[float] = [0.0] * n_workers  # when idle workers became so
    due: list[tuple[float, int]] = []  # (time of the next report, trial), a heap

    def hire(now: float) -> bool:
        nonlocal last_call, n_again
        trial = None if last_call else rule.resume(last_call=False)
        trial = next(waiting, None) if trial is None else trial
        if trial is None:
            last_call = True
            trial = rule.resume(last_call=True)
        if trial is None:
            return False
        again = int(n_seen[trial]) if repeats else 0
        paused.discard(trial)
        n_again += again
        heapq.heappush(due, (now + (again + 1) * float(pace[trial]), trial))
        return True

    free = [0.0 for _ in free if not hire(0.0)]
    while due:
        now, trial = heapq.heappop(due)
        curve = curves[order[trial]]
        n = n_seen[trial] = n_seen[trial] + 1
        if n > n_finite[trial]:
            move = Move.STOP if stop_diverged else Move.GO
        else:
            move = rule.report(trial, curve.steps[:n], curve.losses[:n], curve.plan)
            if n == len(curve.steps):  # nothing is left to stop
                move = Move.GO
        if move is Move.GO and n < len(curve.steps):
            heapq.heappush(due, (now + float(pace[trial]), trial))
            continue
        if move is Move.PAUSE:
            paused.add(trial)
        else:
            ended[trial] = now
            stopped[trial] = move is Move.STOP and n <= n_finite[trial]
            whole = n_finite[trial] == len(curve.steps) and n == len(curve.steps)
            rule.end(trial, float(curve.losses[: n_finite[trial]][:n].min(initial=math.inf)), whole)
        free = [at for at in [*free, now] if not hire(max(at, now))]
    stopped[list(paused)] = True
    back = np.empty_like(order)  # from the curves' order to that of the start
    back[order] = np.arange(len(curves))
    return Run(n_seen[back], stopped[back], n_again, ended[back])


@dataclass(frozen=True, slots=True)
class Truth:
    """What the whole curves of a task say.

    best: lowest loss [trials], infinite if never finite. top, tenth: indices of the best ten or
    fewer, of the best tenth. still_improves: per trial, by number of reports - 1, whether more than
    its noise was still to come.
    """

    best: Array
    top: Indices
    tenth: Indices
    still_improves: Sequence[Flags]


def truth(curves: Sequence[Curve]) -> Truth:
    """Judge the curves of one task by their ends."""
    best = np.array([c.losses[: c.n_finite].min(initial=math.inf) for c in curves])
    rank = np.argsort(best, kind="stable").astype(np.int64)
    n_tenth = -(-len(curves) // 10)
    improves = []
    for curve in curves:
        losses = curve.losses[: curve.n_finite]
        if not len(losses):
            improves.append(np.zeros(0, dtype=bool))
            continue
        so_far = np.minimum.accumulate(losses)
        to_come = np.append(np.minimum.accumulate(losses[::-1])[::-1][1:], math.inf)
        improves.append(so_far - to_come > signals(curve.steps[: len(losses)], losses).noise)
    return Truth(best, rank[: min(10, n_tenth)], rank[:n_tenth], improves)


def score(curves: Sequence[Curve], run: Run, known: Truth) -> Score:
    """Compare what a rule let run with the truth."""
    n_finite = np.array([c.n_finite for c in curves])
    n_all = np.array([len(c.steps) for c in curves])
    shown = np.array(
        [
            c.losses[: min(int(n), int(f))].min(initial=math.inf)
            for c, n, f in zip(curves, run.n_seen, n_finite, strict=True)
        ]
    )
    finite = known.best[known.best < math.inf]
    above = spread = 0.0
    if len(finite):  # a trial that was never finite counts as the worst that was
        spread = float(np.median(np.minimum(known.best, finite.max())) - finite.min())
        above = float(shown.min() - finite.min())
    stopped = [int(i) for i in np.flatnonzero(run.stopped)]
    needless = [not known.still_improves[i][int(run.n_seen[i]) - 1] for i in stopped]
    stalls = [_last_improvement(improves) for improves in known.still_improves]
    stalled = [
        i for i, at in enumerate(stalls) if len(known.still_improves[i]) and at <= 0.9 * n_all[i]
    ]
    return Score(
        compute=float((run.n_seen.sum() + run.n_again) / n_all.sum()),
        kept=float(np.mean(run.n_seen[known.top] >= n_finite[known.top])),
        kept_checkpoint=float(np.mean(shown[known.top] <= known.best[known.top])),
        regret=above / spread if spread > 0 else 0.0,
        false_prune=float(np.isin(stopped, known.tenth).mean()) if len(stopped) else math.nan,
        precision=float(np.mean(needless)) if len(stopped) else math.nan,
        recall=float(np.mean([run.stopped[i] and run.n_seen[i] >= stalls[i] for i in stalled]))
        if stalled
        else math.nan,
    )


def best_after(run: Run, whole: Run, known: Truth) -> float:
    """When the truly best trial had finished, in the time that `whole` takes for all trials.

    whole: the same trials, workers and seed under no rule. Infinite if the rule ended the trial.
    """
    best = int(known.top[0])
    return math.inf if run.stopped[best] else float(run.ended[best] / whole.ended.max())


def _last_improvement(improves: Flags) -> int:
    """After how many reports nothing beyond noise was to come any more."""
    later = np.flatnonzero(improves)
    return int(later[-1]) + 2 if len(later) else 1


def replay(
    tasks: Mapping[str, Sequence[Curve]],
    rules: Sequence[str],
    n_workers: int = 8,
    n_seeds: int = 5,
    tell: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """One row per rule, task and seed with the measures of `Score` and `best_after`.

    Raises ValueError for an unknown rule.
    """
    unknown = [name for name in rules if name not in RULES]
    if unknown:
        raise ValueError(f"no pruner called {', '.join(unknown)}; there are {', '.join(RULES)}")
    truths = {task: truth(curves) for task, curves in tasks.items()}
    wholes = {
        (task, seed): simulate(curves, Nothing(), n_workers, seed, stop_diverged=False)
        for task, curves in tasks.items()
        for seed in range(n_seeds)
    }
    rows = []
    for name in rules:
        tell(name)
        for task, curves in tasks.items():
            n_steps = max(c.plan.n_steps or 1 for c in curves)
            n_reports = max(len(c.steps) for c in curves)
            for seed in range(n_seeds):
                rule = RULES[name](SweepInfo(n_steps, n_reports, seed))
                run = simulate(curves, rule, n_workers, seed, stop_diverged=name != "none")
                rows.append(
                    {
                        "rule": name,
                        "task": task,
                        "seed": seed,
                        **asdict(score(curves, run, truths[task])),
                        "best_after": best_after(run, wholes[task, seed], truths[task]),
                    }
                )
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> list[dict[str, object]]:
    """Per rule the means over tasks and seeds, regret_worst (the worst task's mean), and the tasks.

    best_after, best_after_worst: median and largest over tasks and seeds, None for never.
    intervals: half-width of the 95 % interval of each mean over seeds (Student's t), NaN for one
    seed.
    """
    found: list[dict[str, object]] = []
    for rule, own in scores.groupby("rule", sort=False):
        measures = list(MEASURES)
        tasks = own.groupby("task")[measures].mean()
        seeds = own.groupby("seed")[measures].mean()
        n = len(seeds)
        half = seeds.std(ddof=1) * (t.ppf(0.975, n - 1) / math.sqrt(n) if n > 1 else math.nan)
        means = tasks.mean()
        found.append(
            {
                "rule": rule,
                **{name: _number(means[name]) for name in measures},
                "regret_worst": _number(tasks["regret"].max()),
                "best_after": _number(own["best_after"].median()),
                "best_after_worst": _number(own["best_after"].max()),
                "intervals": {name: _number(half[name]) for name in measures},
                "tasks": {
                    str(task): {name: _number(row[name]) for name in measures}
                    for task, row in tasks.iterrows()
                },
            }
        )
    return found


def _number(value: object) -> float | None:
    """A float for JSON, which knows no NaN."""
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def rank_agreement(
    tasks: Mapping[str, Sequence[Curve]], shares: Sequence[float] = (0.1, 0.25, 0.5)
) -> pd.DataFrame:
    """Spearman's correlation of the order of the trials at a share of the run with its end.

    One row per task, one column per share; diverged trials are last in both. NaN where all trials
    are equal.
    """
    rows = {}
    for task, curves in tasks.items():
        end = rankdata(truth_order(curves, 1.0))
        rows[task] = [_spearman(truth_order(curves, share), end) for share in shares]
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=[f"at {share:.0%}" for share in shares]
    )


def truth_order(curves: Sequence[Curve], share: float) -> Array:
    """The lowest loss of each trial in the first share of the run.

    Infinite for one that is not finite by then.
    """
    n_steps = max(c.plan.n_steps or 1 for c in curves)
    lowest = []
    for c in curves:
        n = max(1, int(np.searchsorted(c.steps, share * n_steps)))
        lowest.append(float(c.losses[:n].min()) if n <= c.n_finite else math.inf)
    return np.array(lowest)


def _spearman(a: Array, b: Array) -> float:
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(spearmanr(rankdata(a), b).statistic)


def table(found: Sequence[Mapping[str, object]]) -> str:
    """The summary as text, one line per rule, each mean with the half-width of its interval."""
    head = (
        "rule",
        "compute",
        "kept",
        "kept checkpoint",
        "regret (worst)",
        "best after (worst)",
        "false prune",
        "precision",
        "recall",
    )
    lines: list[tuple[str, ...]] = [head]
    for row in found:
        half = row["intervals"]
        assert isinstance(half, dict)
        cells = {name: _cell(row[name], half[name]) for name in MEASURES}
        regret = f"{cells['regret']} ({_cell(row['regret_worst'], None)})"
        after, latest = (
            "never" if row[name] is None else _cell(row[name], None)
            for name in ("best_after", "best_after_worst")
        )
        lines.append(
            (
                str(row["rule"]),
                *(cells[m] for m in MEASURES[:3]),
                regret,
                f"{after} ({latest})",
                *(cells[m] for m in MEASURES[4:]),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: object, half: object) -> str:
    if not isinstance(value, float):
        return "-"
    return _shown(value) + (f" ±{_shown(half)}" if isinstance(half, float) else "")


def _shown(value: float) -> str:
    return f"{value:.3f}" if value < 1e6 else f"{value:.3g}"


def draw_pareto(
    axes: Axes,
    found: Sequence[Mapping[str, object]],
    baseline: Sequence[tuple[float, float]] = (),
) -> None:
    """Compute against the share of the true top that ran to its end, a point per rule.

    The line joins the points of the Pareto front, the dashed one those of the baseline (compute,
    kept).
    """
    if baseline:
        axes.plot(*zip(*baseline, strict=True), "--", color="C2", linewidth=1.2, label=BASELINE)
        axes.legend(loc="lower right", fontsize=8)
    points = sorted(
        (float(str(r["compute"])), float(str(r["kept"])), str(r["rule"])) for r in found
    )
    front: list[tuple[float, float]] = []
    for compute, kept, _ in points:
        if not front or kept > front[-1][1]:
            front.append((compute, kept))
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, zorder=1)
    for i, (compute, kept, rule) in enumerate(points):
        ours = rule.startswith("stalled")
        axes.plot(
            compute,
            kept,
            "D" if ours else "o",
            color="C1" if ours else "C0",
            markersize=7 if ours else 5,
        )
        height = 7 if i % 2 else -13
        offset, side = ((-6, height), "right") if ours else ((6, height), "left")
        axes.annotate(
            rule, (compute, kept), offset, textcoords="offset points", ha=side, fontsize=8
        )
    axes.set(
        xlabel="compute, share of all reports",
        ylabel="true top trials that ran to their end",
        xlim=(0, 1.12),
    )
    axes.set_ylim(min(k for _, k, _ in points) - 0.08, 1.05)
    axes.grid(alpha=0.3)
