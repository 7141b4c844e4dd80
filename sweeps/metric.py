"""The watched metric and which way it is better: said once, asked by everyone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

__all__ = [
    "METRIC_ATTR",
    "Goal",
    "Metric",
    "choose_metric",
    "highest_of",
    "infer_goal",
    "metric_of",
]

Goal = Literal["minimize", "maximize"]
GOALS: Final[tuple[Goal, ...]] = ("minimize", "maximize")

# The study's user attribute of the watched metric: {"name": ..., "goal": ...}.
METRIC_ATTR = "metric"

# Words of a metric's name, in small letters and with a space for every separator. Where a name has
# words of both kinds, as `f1_loss` and `brier_score` do, it is a loss.
_LOWER_IS_BETTER = re.compile(
    r"loss|error|perplexity|brier|regret|cross ?entropy|false (?:positive|negative)"
    r"|(?<![a-z])(?:errs?|nll|ppl|mse|rmse|rmsle|mae|mape|smape|bpc|bpb|wer|cer|ter|fid|kl|xent|ece"
    r"|fpr|fnr)(?![a-z])"
)
_HIGHER_IS_BETTER = re.compile(
    r"accuracy|precision|recall|reward|score|bleu|rouge|auroc|auprc|dice|meteor|likelihood|success"
    r"|(?<![a-z])(?:acc|auc|f1(?!\d)|r2(?!\d)|m?iou|m?ap|psnr|ssim|chrf|ndcg|mrr|mcc|kappa|elbo"
    r"|returns?|tpr|tnr)(?![a-z])"
)
# Shares of something, which end at 1, or as per cent at 100.
_SHARE = re.compile(
    r"accuracy|precision|recall|auroc|auprc|dice|success"
    r"|(?<![a-z])(?:acc|auc|f1(?!\d)|m?iou|m?ap|tpr|tnr)(?![a-z])"
)
# What splits a name is no part of a word; what it was measured on says nothing of its direction.
_SEPARATORS = re.compile(r"[^a-z0-9@]+")
_WHERE = re.compile(r"^(?:(?:train(?:ing)?|valid(?:ation)?|val|dev|test|eval(?:uation)?) )+")
# As in scikit-learn's neg_log_loss: the negative of something, better the other way round.
_NEGATIVE = re.compile(r"^neg(?:ative)? ")


def infer_goal(name: str) -> Goal | None:
    """What a metric's name says of its direction, or None if it does not say.

    Words such as loss, error, nll, perplexity, mse or wer are to be minimised; accuracy, f1, auc,
    bleu, reward or r2 are to be maximised; a name with both is a loss. Parts of a name are split at
    separators (`val_loss`, `test/acc`, `macro.f1`) and at capitals (`valLoss`). A leading `neg_` or
    `negative_` turns it round, as in `neg_log_loss` and `negative_log_likelihood`.

    >>> infer_goal("val_loss"), infer_goal("test/Accuracy"), infer_goal("neg_log_loss")
    ('minimize', 'maximize', 'maximize')
    >>> infer_goal("elo") is None
    True
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z]|[A-Z]{2})", " ", name)
    words = _WHERE.sub("", _SEPARATORS.sub(" ", apart.lower()).strip())
    positive = _NEGATIVE.sub("", words)
    goal: Goal
    if _LOWER_IS_BETTER.search(positive):
        goal = "minimize"
    elif _HIGHER_IS_BETTER.search(positive):
        goal = "maximize"
    else:
        return None
    return goal if positive == words else _opposite(goal)


def highest_of(name: str, seen: float) -> float:
    """The highest value that a metric can have, by its name and the highest seen so far.

    1 or 100 of shares such as an accuracy, else infinity.

    >>> highest_of("val_acc", 0.93), highest_of("val_acc", 93.1), highest_of("reward", 0.93)
    (1.0, 100.0, inf)
    """
    if infer_goal(name) != "maximize" or not _SHARE.search(_SEPARATORS.sub(" ", name.lower())):
        return math.inf
    return next((bound for bound in (1.0, 100.0) if seen <= bound), math.inf)


def _opposite(goal: Goal) -> Goal:
    return "maximize" if goal == "minimize" else "minimize"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and which way it is better. ValueError for a goal that is none.

    >>> Metric("accuracy", "maximize").is_better(0.9, than=0.8)
    True
    """

    name: str
    goal: Goal = "minimize"

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ValueError(
                f"metric {self.name!r} has goal {self.goal!r}: choose minimize or maximize"
            )

    @property
    def sign(self) -> int:
        """What its values are multiplied by to be minimised: 1, or -1 if it is maximised."""
        return -1 if self.goal == "maximize" else 1

    @property
    def way(self) -> str:
        """The goal in a word: lower or higher (is better)."""
        return "higher" if self.goal == "maximize" else "lower"

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better. Infinity and NaN never are; any number beats NaN."""
        return math.isfinite(value) and not self.sign * value >= self.sign * than


def metric_of(study: Any) -> Metric | None:
    """The watched metric that a sweep has noted in its study; None where only others wrote."""
    try:
        return Metric(**study.user_attrs[METRIC_ATTR])
    except (KeyError, TypeError, ValueError):
        return None


def choose_metric(
    name: str, goal: str | None, directions: Sequence[str], objective: str | None
) -> tuple[Metric, str]:
    """The watched metric of a sweep, and a sentence for its user, "" if there is nothing to say.

    The goal is the one asked for, or what the name says, or else the objective's direction; with
    several objectives a metric whose name does not say it is a loss. goal: as asked for, or None.
    directions: of the objectives. objective: "return", "best", "final", or None, as in
    `iolaus.sweeps.run.settings.OBJECTIVES`. The sentence says what was taken to be, where nobody
    said it, and where the metric goes another way than the objective.
    """
    known = goal or infer_goal(name)
    single = directions[0] if len(directions) == 1 else None
    if known is None:
        metric = Metric(name, cast(Goal, single or "minimize"))
        like = f"as the objective is ({single}d)" if single else "as a loss is"
        return metric, (
            f"is {name} better when it is lower or higher? Its name does not say; taken to be "
            f"better when it is {metric.way}, {like}. hydra.sweeper.metric_goal says otherwise"
        )
    metric = Metric(name, cast(Goal, known))
    if single is None or single == known or objective == "return":
        return metric, ""
    return metric, (
        f"the pruner takes {name} to be better when it is {metric.way}; the objective, which the "
        f"task must return, is {single}d. If {name} is better when it is "
        f"{Metric(name, cast(Goal, single)).way}, set hydra.sweeper.metric_goal={single}"
    )
