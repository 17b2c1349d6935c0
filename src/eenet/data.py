"""Data sets by name or folder, held in memory as uint8; splits, batches, augmentation."""

import difflib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from eenet.images import to_pixels

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """What a name stands for, and how its training images may be varied."""

    hub_id: str | None = None
    crop_padding: int = 0
    """Random shifts by up to this many pixels."""
    flip: bool = False
    """Mirror images left to right; never for digits."""
    validation_share: float = 0.1
    """Part of the training images held out for validation."""


SOURCES: dict[str, Source] = {
    "digits": Source(crop_padding=1, validation_share=0.2),
    "mnist": Source("ylecun/mnist", crop_padding=2),
    "cifar10": Source("uoft-cs/cifar10", crop_padding=4, flip=True),
}


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory."""

    pixels_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    """int64."""
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.labels_B)

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.pixels_BCHW.shape
        return channels, height, width

    def subset(self, indices: Any) -> "ImageSet":
        """The images at these indices."""
        return ImageSet(self.pixels_BCHW[indices], self.labels_B[indices], self.class_names)

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, on a scale of 0 to 1."""
        channels = self.pixels_BCHW.transpose(0, 1).flatten(1)
        histograms = torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()
        weights, values = histograms / histograms.sum(1, keepdim=True), torch.arange(256) / 255
        mean = weights @ values.double()
        std = (weights @ values.double() ** 2 - mean**2).clamp_min(0).sqrt().clamp_min(1e-3)
        return mean.tolist(), std.tolist()


def load(name: str, split: str) -> ImageSet:
    """Load one split of a data set.

    `train` and `validation` are disjoint parts of the training images, stratified by
    class and the same in every run.

    Args:
        name: `digits` (bundled with scikit-learn), `mnist`, `cifar10`, or a folder with
            `train*.parquet` and `test*.parquet` in the Hugging Face layout. A name is
            looked up under `$EENET_DATA` before the Hugging Face hub.
        split: `train`, `validation` or `test`.

    Raises:
        FileNotFoundError: no such data set here, and the hub can't be reached.
        ValueError: unknown split or name, or images and labels not as expected.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    official = "test" if split == "test" else "train"
    images = _official_split(name, official)
    if split == "test":
        return images
    kept, held_out = train_test_split(
        np.arange(len(images)),
        test_size=source_of(name).validation_share,
        stratify=images.labels_B.numpy(),
        random_state=0,
    )
    return images.subset(np.sort(kept if split == "train" else held_out))


def source_of(name: str) -> Source:
    """The settings of a named data set; the defaults for a folder."""
    return SOURCES.get(name, Source())


def augment(pixels_BCHW: Tensor, source: Source, generator: torch.Generator) -> Tensor:
    """Shift and mirror every image at random, on whatever device the images are.

    torchvision's transforms draw once per call, so a batch would share one shift;
    calling them per image costs more than a training step on a GPU.
    """
    count, channels, height, width = pixels_BCHW.shape
    device, pad = pixels_BCHW.device, source.crop_padding
    flips = torch.rand(count, generator=generator) < 0.5
    columns = torch.arange(width).expand(count, width)
    if source.flip:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    offsets = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + offsets[0]).to(device)
    columns = (columns + offsets[1]).to(device)
    padded = F.pad(pixels_BCHW, (pad, pad, pad, pad))
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def batches(
    images: ImageSet, batch_size: int, *, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """The shuffled batches of one epoch from step `start` on; the last, smaller one is left out.

    Order and randomness depend on seed, epoch and step alone, so a run can be taken up
    anywhere. Yields pixels uint8 [B, C, H, W], labels [B] and a generator for `augment`.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_mix(seed, epoch)))
    for step in range(start, len(images) // batch_size):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        generator = torch.Generator().manual_seed(_mix(seed, epoch, step + 1))
        yield images.pixels_BCHW[chosen], images.labels_B[chosen], generator


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@lru_cache(maxsize=2)
def _official_split(name: str, official: str) -> ImageSet:
    return _digits(official) if name == "digits" else _hugging_face(name, official)


def _digits(official: str) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits, 8×8; a fixed fifth of them is the test split."""
    bunch: Any = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=bunch.target, random_state=0
    )
    everything = ImageSet(pixels, labels, [str(name) for name in bunch.target_names])
    return everything.subset(np.sort(test if official == "test" else train))


def _hugging_face(name: str, official: str) -> ImageSet:
    import datasets  # slow to import, and not needed for the bundled digits

    datasets.disable_progress_bars()
    folder = _local_folder(name)
    if folder is not None:
        files: list[Any] = [str(path) for path in sorted(folder.glob(f"{official}*.parquet"))]
        if not files:
            raise FileNotFoundError(f"{folder} holds no {official}*.parquet")
        table = datasets.Dataset.from_parquet(files)
    elif (hub_id := source_of(name).hub_id) is not None:
        try:
            table: Any = datasets.load_dataset(hub_id, split=official)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"data set {name!r} is not under $EENET_DATA ({os.environ.get('EENET_DATA', 'not set')}) "
                f"and could not be fetched from the Hugging Face hub: {str(error).splitlines()[0]}"
            ) from error
    else:
        near = difflib.get_close_matches(name, SOURCES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(SOURCES)}"
        raise ValueError(f"unknown data set {name!r}, neither a known name nor a folder; {hint}")
    kinds = table.features.items()
    image_column = next((c for c, kind in kinds if isinstance(kind, datasets.Image)), None)
    label_column = next((c for c, kind in kinds if isinstance(kind, datasets.ClassLabel)), None)
    if image_column is None or label_column is None:
        raise ValueError(f"data set {name!r} needs an Image and a ClassLabel column, it has {table.features}")
    arrow: Any = table.with_format("arrow")[:]
    encoded = [row["bytes"] for row in arrow.column(image_column).to_pylist()]
    first = table[0][image_column]
    size = (1 if first.mode == "L" else 3, first.height, first.width)
    pixels = [_decode(image, size) for image in encoded]  # threads are slower: Python's lock
    labels = torch.tensor(table[label_column][:], dtype=torch.int64)
    return ImageSet(torch.stack(pixels), labels, table.features[label_column].names)


def _local_folder(name: str) -> Path | None:
    root = os.environ.get("EENET_DATA")
    candidates = [Path(root) / name] if root else []
    return next((path for path in [*candidates, Path(name)] if path.is_dir()), None)


def _decode(encoded: bytes, size: tuple[int, int, int]) -> Tensor:
    image = Image.open(io.BytesIO(encoded))
    if (image.mode, image.height, image.width) == ("L" if size[0] == 1 else "RGB", *size[1:]):
        pixels = torch.from_numpy(np.array(image))  # as it is: five times faster than the general way
        return pixels[None] if size[0] == 1 else pixels.permute(2, 0, 1).contiguous()
    return to_pixels(image, size)
