"""Shuffled batches of images with their truth, varied together, decided by seed, epoch and step alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from eenet.data.batching import derived_seed, loaded, own_rows, shuffled
from eenet.data.paired.sets import PairedImages


def paired_batches(
    images: PairedImages[Any],
    batch_size: int,
    vary: Callable[[Any, Any], Any],
    joined: Callable[[Sequence[Any]], Any],
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
) -> Iterator[Any]:
    """The shuffled batches of one epoch from step `start` on; see `eenet.data.batches`.

    Args:
        images: with truths.
        batch_size: of all parts together.
        vary: pixels and truth of an image → both varied, from torch's random numbers.
        joined: several of these → a batch.
        seed, epoch, start, part, workers: as of `eenet.data.batches`.
    """
    steps = _Steps(images, batch_size, vary, joined, seed, epoch, part)
    yield from loaded(steps, range(start, len(images) // batch_size), images, workers)


@dataclass
class _Steps(Dataset[Any]):
    images: PairedImages[Any]
    batch_size: int
    vary: Callable[[Any, Any], Any]
    joined: Callable[[Sequence[Any]], Any]
    seed: int
    epoch: int
    part: tuple[int, int]

    def __post_init__(self) -> None:
        self.order = shuffled(len(self.images), self.seed, self.epoch).tolist()

    def __getitem__(self, step: int) -> Any:
        size = self.batch_size
        chosen = self.order[step * size : (step + 1) * size][own_rows(size, self.part)]
        return self.joined([self._varied(i, derived_seed(self.seed, self.epoch, i + 1)) for i in chosen])

    def _varied(self, index: int, seed: int) -> Any:
        pair = self.images.pair(index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.vary(*pair)
