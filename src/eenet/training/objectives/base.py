"""The objectives by name, and what they share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eenet.common import Registry
from eenet.networks import ExitOutputs

Objective = Callable[..., Tensor]
"""(outputs, targets_B, costs_K) and settings of its own as keywords → the loss."""
OBJECTIVES: Registry[Objective] = Registry("objective", "objective")
"""By name. Those marked `trains_confidence` train the gates; the others leave it to held-out images.

With the mark `evens_gradients` each stage learns from the mean of the losses behind it, see `even_gradients`.
"""


def losses_of(outputs: ExitOutputs, targets_B: Tensor) -> Tensor:
    """Cross-entropy of every exit and input: [K, B]."""
    return torch.stack([F.cross_entropy(wide(z), targets_B, reduction="none") for z in outputs.logits_KBN])


def wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
