"""Records made up for tests."""

import torch

from eenet.policies.records import Records


def make_records(count: int = 200, exits: int = 4, classes: int = 5, seed: int = 0) -> Records:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=random)
    logits = torch.randn(exits, count, classes, generator=random)
    logits += (
        2 * torch.nn.functional.one_hot(labels, classes) * torch.arange(1, exits + 1)[:, None, None] / exits
    )
    confidence = torch.randn(exits - 1, count, generator=random)
    return Records(logits, confidence, labels, [100] * exits, [3] * (exits - 1), 100 * exits)
