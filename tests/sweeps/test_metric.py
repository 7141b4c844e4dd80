"""A metric's goal: what its name says of it, and what follows from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.metric import Metric, choose_metric, infer_goal

DOWN = [
    "loss",
    "val_loss",
    "valLoss",
    "train/CrossEntropy",
    "l2loss",
    "err",
    "top1_err",
    "nll",
    "ppl",
    "Val-PPL",
    "mse",
    "trainRMSE",
    "WER",
    "test.cer",
    "ter",
    "mae",
    "regret",
    "fid_score",
    "brier_score",
    "f1_loss",
    "accuracy_loss",
    "error_rate",
    "false_positive_rate",
    "negative_log_likelihood",
    "neg_reward",
    "kl",
    "perplexity",
]
UP = [
    "accuracy",
    "val_acc",
    "ROC_AUC",
    "macro/f1",
    "R2",
    "mIoU",
    "episode_reward",
    "acc@1",
    "mAP",
    "mAP50",
    "ndcg@10",
    "F1Score",
    "AUROC",
    "return",
    "episode_returns",
    "bleu",
    "rouge",
    "dice",
    "iou",
    "precision",
    "recall@5",
    "score",
    "log_likelihood",
    "elbo",
    "neg_log_loss",
    "val_neg_log_loss",
    "neg_mean_squared_error",
    "negative_mae",
]
UNKNOWN = [
    "elo",
    "speed",
    "f10",
    "macro",
    "grad_norm",
    "lr",
    "seconds",
    "terminal",
    "accurate",
    "f12",
    "laplace",
    "metric",
    "x",
]


@pytest.mark.parametrize(
    ("names", "goal"), [(DOWN, "minimize"), (UP, "maximize"), (UNKNOWN, None)], ids=str
)
def test_a_name_says_its_goal_or_nothing(names: list[str], goal: str | None) -> None:
    """Losses go down, scores up, negatives the other way, and nothing is guessed."""
    assert {name: infer_goal(name) for name in names} == dict.fromkeys(names, goal)


@given(st.floats(), st.floats(), st.sampled_from(["minimize", "maximize"]))
def test_better_is_strict_and_never_of_what_is_not_finite(a: float, b: float, goal: str) -> None:
    """Of two values at most one is better; turned round, the same one is under the other goal."""
    one, other = Metric("m", goal), Metric("m", "maximize" if goal == "minimize" else "minimize")  # type: ignore[arg-type]
    assert not (one.is_better(a, b) and one.is_better(b, a))
    assert one.is_better(a, b) == other.is_better(-a, -b)
    assert not one.is_better(a, a) or math.isnan(a)
    assert not (one.is_better(a, b) and not math.isfinite(a))
    assert one.is_better(a, math.nan) == math.isfinite(a)


@pytest.mark.parametrize(
    ("name", "goal", "directions", "objective", "chosen", "sentence"),
    [
        ("loss", None, ["minimize"], None, "minimize", ""),
        ("loss", None, ["maximize"], None, "minimize", "objective, which the task must return"),
        ("loss", None, ["maximize"], "return", "minimize", ""),
        ("loss", "maximize", ["maximize"], None, "maximize", ""),
        ("accuracy", "minimize", ["minimize"], "best", "minimize", ""),
        ("loss", None, ["maximize", "minimize"], None, "minimize", ""),
        ("acc", None, ["minimize", "minimize"], None, "maximize", ""),
        ("elo", None, ["maximize"], None, "maximize", "as the objective is (maximized)"),
        ("elo", None, ["maximize", "maximize"], None, "minimize", "as a loss is"),
        ("elo", "maximize", ["minimize", "maximize"], None, "maximize", ""),
    ],
)
def test_the_goal_is_asked_for_named_or_the_objectives(
    name: str, goal: str | None, directions: list[str], objective: str | None, chosen: str,
    sentence: str,
) -> None:  # fmt: skip
    """In this order; where nobody said it, or two say different things, a sentence does."""
    metric, note = choose_metric(name, goal, directions, objective)
    assert metric == Metric(name, chosen)  # type: ignore[arg-type]
    assert (sentence in note) if sentence else note == ""


def test_a_goal_that_is_none_is_refused() -> None:
    """The sentence names the metric and what there is."""
    with pytest.raises(ValueError, match="metric 'loss' has goal 'down': choose minimize or max"):
        Metric("loss", "down")  # type: ignore[arg-type]
