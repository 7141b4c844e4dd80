from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.trainer.data import Examples
from iolaus.trainer.loop import augmented, train
from iolaus.trainer.settings import read
from iolaus.trainer.tasks.digits import Digits
from iolaus.trainer.tasks.images import ImageFolder

Compose = Callable[..., DictConfig]


@given(shift=st.integers(0, 4), flip=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
def test_an_augmented_image_is_a_shifted_or_mirrored_one(
    shift: int, flip: float, seed: int
) -> None:
    """Each is one of the images that padding, cropping and mirroring by hand make; labels stay."""
    task = Digits(max_shift=shift, flip=flip)
    images = torch.rand((5, 2, 8, 6), generator=torch.Generator().manual_seed(seed))
    batch = Examples(images, torch.arange(5))
    if not task.n_draws:
        assert (shift, flip) == (0, 0.0)
        return
    found = augmented(task, batch, torch.tensor([seed, 3]))
    assert torch.equal(found.targets, batch.targets)
    for image, changed in zip(images, found.inputs, strict=True):
        mirrors = {0.0: [image], 1.0: [image.flip(-1)]}.get(flip, [image, image.flip(-1)])
        possible = [
            torch.nn.functional.pad(m, [shift] * 4)[..., i : i + 8, j : j + 6]
            for m in mirrors
            for i in range(2 * shift + 1)
            for j in range(2 * shift + 1)
        ]
        assert any(torch.equal(changed, one) for one in possible)
    assert torch.equal(found.inputs, augmented(task, batch, torch.tensor([seed, 3])).inputs)


def test_all_shifts_come_equally_often() -> None:
    """Of 9,000 images at max_shift=1 each of the nine places is drawn about 1,000 times.

    The largest of nine standardised deviations is above 4.5 once in 16,000 times.
    """
    point = torch.zeros((9000, 1, 3, 3))
    point[:, :, 1, 1] = 1
    batch = Examples(point, torch.zeros(9000, dtype=torch.int64))
    places = augmented(Digits(max_shift=1), batch, torch.tensor([0, 0])).inputs.sum(0).flatten()
    assert places.sum() == 9000
    assert float((places - 1000).abs().max()) / np.sqrt(1000 * 8 / 9) < 4.5


def test_digits_can_be_spoiled() -> None:
    """Fewer, wrongly labelled or ordered training examples; validation stays as it was."""
    plain, spoiled = Digits().data(), Digits(n_train=500, wrong_labels=0.4, in_order=True).data()
    assert len(spoiled.train) == 500
    assert torch.equal(spoiled.val.targets, plain.val.targets)
    assert bool((spoiled.train.targets.diff() >= 0).all())
    few = Digits(n_train=500, wrong_labels=0.4).data().train
    assert torch.equal(few.inputs, plain.train.inputs[:500])
    share = float((few.targets != plain.train.targets[:500]).double().mean())
    assert share == pytest.approx(0.36, abs=0.08)  # a tenth of those drawn are right again


def test_a_folder_of_class_folders_is_a_task(image_folder: Path, compose: Compose) -> None:
    """Every file is in one split, each class in all three, and a few steps tell dark from light."""
    run = read(
        compose("task=images", f"task.folder={image_folder}", "model.n_classes=2", "steps=30")
    )
    sizes = [len(s) for s in (run.splits.train, run.splits.val, run.splits.test)]
    assert sizes == [16, 2, 2]
    assert run.splits.train.inputs.shape == (16, 3, 32, 32)
    for split in (run.splits.train, run.splits.val, run.splits.test):
        is_light = split.inputs.mean((1, 2, 3)) > 0.5
        assert torch.equal(is_light.long(), split.targets)
    assert train(run, report=lambda step, **_: None).final["val_accuracy"] == 1.0
    grey = ImageFolder(folder=str(image_folder), n_channels=1, size=8).data()
    assert grey.test.inputs.shape == (2, 1, 8, 8)


def test_what_is_wrong_with_a_folder_is_said(image_folder: Path, tmp_path: Path) -> None:
    """No folder, too few images, other sizes, a file that is no image: named, with what to do."""
    from matplotlib.image import imsave

    with pytest.raises(ValueError, match=r"task\.folder=/nowhere is no folder"):
        ImageFolder(folder="/nowhere").data()
    with pytest.raises(ValueError, match=r"needs two class folders or more.*there are 0"):
        ImageFolder(folder=str(image_folder / "cat")).data()
    imsave(image_folder / "cat" / "other.png", np.zeros((5, 7, 3)))
    with pytest.raises(ValueError, match=r"of 2 sizes, such as 5x7 and 32x32: give task\.size"):
        ImageFolder(folder=str(image_folder)).data()
    (image_folder / "dog" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read the image .*broken\.png"):
        ImageFolder(folder=str(image_folder), size=32).data()
    (image_folder / "eel").mkdir()
    with pytest.raises(ValueError, match=r"fewer are in eel"):
        ImageFolder(folder=str(image_folder)).data()
