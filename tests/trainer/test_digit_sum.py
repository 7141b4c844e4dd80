from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from iolaus.trainer.models.rnn import RNN
from iolaus.trainer.tasks.digit_sum import DigitSum


def test_the_label_is_the_sum_of_the_first_two_digits() -> None:
    """20 digits from 0 to 9, 19 classes, the rest zero but for a few."""
    splits = DigitSum(n_distractors=3).data()
    for examples in (splits.train, splits.val, splits.test):
        assert torch.equal(examples.inputs[:, :2].sum(1), examples.targets)
        assert examples.inputs.shape[1] == 20
        assert examples.inputs.min() >= 0
        assert examples.inputs.max() <= 9
        assert ((examples.inputs[:, 2:] != 0).sum(1) <= 3).all()
    assert set(splits.train.targets.tolist()) == set(range(19))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6400, 1000, 1000)


def test_the_first_two_digits_are_even_and_distractors_are_everywhere() -> None:
    """Digits are uniform (chi-square below the 0.1 % point of 9 degrees) and every place behind
    them gets its share.
    """
    inputs = DigitSum(n_train=20_000).data().train.inputs
    for place in (0, 1):
        counts = torch.bincount(inputs[:, place], minlength=10).double()
        assert ((counts - 2000) ** 2 / 2000).sum() < 27.9
    shares = (inputs[:, 2:] != 0).double().mean(0)
    assert (
        shares - 2 / 18 * 0.9
    ).abs().max() < 0.01  # two of 18 places, and a tenth of the draws are zeros


def test_the_sets_come_from_the_data_seed_and_differ_from_each_other() -> None:
    """Equal seeds give equal sets, other seeds others, and a set's size does not change the
    others.
    """
    a, b, c = DigitSum().data(), DigitSum().data(), DigitSum(data_seed=1).data()
    assert torch.equal(a.train.inputs, b.train.inputs)
    assert not torch.equal(a.train.inputs, c.train.inputs)
    assert not torch.equal(a.val.inputs, a.test.inputs)
    assert torch.equal(DigitSum(n_train=10).data().val.inputs, a.val.inputs)


def test_the_recurrence_is_torchs_rnn() -> None:
    """With equal weights RNN gives what nn.Embedding, nn.RNN and nn.Linear give, to rounding."""
    torch.manual_seed(0)
    model = RNN(n_symbols=10, n_classes=19, n_embedding=8, n_hidden=16).double()
    assert [name for name, _ in model.named_parameters()][:3] == ["W", "U", "b"]
    torch.nn.init.normal_(model.b)
    reference = torch.nn.RNN(8, 16, batch_first=True).double()
    with torch.no_grad():
        reference.weight_ih_l0.copy_(model.W)
        reference.weight_hh_l0.copy_(model.U)
        reference.bias_ih_l0.copy_(model.b)
        reference.bias_hh_l0.zero_()
    tokens = DigitSum(n_train=7).data().train.inputs
    hidden = reference(model.embedding(tokens))[0][:, -1]
    torch.testing.assert_close(
        model(tokens), F.linear(hidden, model.output.weight, model.output.bias), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    "settings",
    [{"n_distractors": 19}, {"n_distractors": -1}, {"n_val": 0}, {"label_smoothing": 1.0}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, int]) -> None:
    """Too many distractors, empty sets and a smoothing of everything are refused."""
    with pytest.raises(ValueError, match=r"task\.|each set"):
        DigitSum(**settings)
