"""Images in classes: what all such tasks share, and images in a user's own class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iolaus.trainer.data import Examples, Splits
from iolaus.trainer.tasks.base import Classification

__all__ = ["ImageClassification", "ImageFolder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Classification):
    """Images [n, n_channels, height, width] and their class, augmented while training.

    max_shift: pixels by which an image is moved at most, in each direction and each example by
    itself; what comes in is 0 (He et al., arXiv 1512.03385, section 4.2, where it is 4). flip: the
    chance of its mirror image, left to right (0.5 there; digits are not to be mirrored).
    """

    max_shift: int = 0
    flip: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_shift < 0 or not 0 <= self.flip <= 1:
            raise ValueError(
                f"task.max_shift is a number of pixels from 0 up and task.flip a chance; got "
                f"{self.max_shift} and {self.flip}"
            )

    @property
    def n_draws(self) -> int:
        """Three where images are changed: for both shifts and the mirror."""
        return 3 if self.max_shift or self.flip else 0

    def augment(self, batch: Examples, uniform: Tensor) -> Examples:
        """The images shifted and mirrored by uniform [n_examples, 3]."""
        images = batch.inputs
        mirrored = (uniform[:, 2] < self.flip)[:, None, None, None]
        images = torch.where(mirrored, images.flip(-1), images)
        shifts = torch.floor(uniform[:, :2] * (2 * self.max_shift + 1)).long() - self.max_shift
        for dim, by in zip((-2, -1), shifts.unbind(1), strict=True):
            images = _shifted(images, by, dim)
        return Examples(images, batch.targets)


def _shifted(images: Tensor, by: Tensor, dim: int) -> Tensor:
    """Images [n, n_channels, height, width] moved by [n] pixels along a dimension; 0 comes in."""
    size = images.shape[dim]
    places = torch.arange(size, device=images.device) - by[:, None]  # of what comes to each place
    shape = (-1, 1, size, 1) if dim == -2 else (-1, 1, 1, size)
    index = places.clamp(0, size - 1).view(shape).expand(images.shape)
    is_inside = ((places >= 0) & (places < size)).view(shape)
    return torch.where(is_inside, images.gather(dim, index), torch.zeros_like(images))


@dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageClassification):
    """The images in a folder with one folder per class: `folder/cat/001.png`.

    Classes are numbered in the order of their names. folder: with `~` for the home. size: height
    and width to which images are brought, pixels, or null where all are alike. n_channels: 1 for
    grey, 3 for colour. val_share, test_share: of each class, set aside by data_seed, at least one
    image each. Pixels are from 0 to 1. Raises ValueError, with file or folder, for what cannot be
    read. PNG is read with matplotlib or Pillow, other formats and sizes with Pillow.
    """

    folder: str
    size: int | None = None
    n_channels: int = 3
    val_share: float = 0.1
    test_share: float = 0.1
    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_channels not in (1, 3):
            raise ValueError(f"task.n_channels is 1 (grey) or 3 (colour); got {self.n_channels}")
        shares = (self.val_share, self.test_share)
        if min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(
                "task.val_share and task.test_share are above 0 and leave some for training; got "
                f"{self.val_share} and {self.test_share}"
            )

    def data(self) -> Splits:
        """Inputs float32 [n, n_channels, height, width], targets int64 [n]."""
        parts: tuple[list[NDArray[np.float32]], ...] = ([], [], [])
        targets: tuple[list[int], ...] = ([], [], [])
        rng = np.random.default_rng(self.data_seed)
        for label, files in enumerate(self._files()):
            order = rng.permutation(len(files))
            n_val, n_test = (max(1, int(s * len(files))) for s in (self.val_share, self.test_share))
            for i, place in enumerate(order):
                part = 1 if i < n_val else 2 if i < n_val + n_test else 0
                parts[part].append(self._read(files[place]))
                targets[part].append(label)
        shapes = {image.shape for part in parts for image in part}
        if len(shapes) > 1:
            raise ValueError(
                f"the images in {self.folder} are of {len(shapes)} sizes, such as "
                f"{' and '.join('x'.join(map(str, s[1:])) for s in sorted(shapes)[:2])}: "
                "give task.size"
            )
        return Splits(
            *(
                Examples(torch.from_numpy(np.stack(part)), torch.tensor(own))
                for part, own in zip(parts, targets, strict=True)
            )
        )

    def _files(self) -> list[list[Path]]:
        """The files of each class, in the order of their names."""
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise ValueError(f"task.folder={self.folder} is no folder")
        classes = {
            inner.name: sorted(p for p in inner.iterdir() if p.suffix.lower() in SUFFIXES)
            for inner in sorted(folder.iterdir())
            if inner.is_dir()
        }
        few = [name for name, files in classes.items() if len(files) < 3]
        if len(classes) < 2 or few:
            raise ValueError(
                f"task.folder={self.folder} needs two class folders or more with three images or "
                f"more each ({', '.join(SUFFIXES)}); "
                + (f"fewer are in {', '.join(few)}" if few else f"there are {len(classes)}")
            )
        return list(classes.values())

    def _read(self, path: Path) -> NDArray[np.float32]:
        """One image, [n_channels, height, width]."""
        try:
            pixels = _pixels(path, self.size)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises a SyntaxError for some
            raise ValueError(f"cannot read the image {path}: {error}") from error
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.shape[-1] in (2, 4):  # the last channel is opacity
            pixels = pixels[..., :-1]
        if pixels.shape[-1] != self.n_channels:
            pixels = (
                pixels.mean(-1, keepdims=True) if self.n_channels == 1 else pixels.repeat(3, -1)
            )
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pixels(path: Path, size: int | None) -> NDArray[np.float32]:
    """Pixels of an image from 0 to 1, [height, width] or [height, width, channels]."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        if path.suffix.lower() != ".png" or size is not None:
            raise ValueError(
                "formats but PNG, and task.size, need Pillow: pip install pillow"
            ) from error
        from matplotlib.image import imread

        return np.asarray(imread(path), np.float32)
    with Image.open(path) as image:
        plain = image if image.mode in ("L", "RGB", "RGBA", "LA") else image.convert("RGB")
        if size is not None:
            plain = plain.resize((size, size))
        return np.asarray(plain, np.float32) / 255.0
