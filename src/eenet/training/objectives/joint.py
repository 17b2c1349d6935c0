"""The objective of this library: every exit learns by itself, gates are fitted afterwards."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from eenet.networks import ExitOutputs
from eenet.training.objectives.base import OBJECTIVES

IGNORED = -100
"""The target of what counts for nothing, such as pixels without a class."""


@OBJECTIVES.add("joint")
def joint_cross_entropy(
    outputs: ExitOutputs,
    targets_B: Tensor,
    costs_K: Sequence[float],  # noqa: ARG001
    *,
    early_weight: float = 1.0,
    distillation: float = 0.0,
    label_smoothing: float = 0.0,
    class_weights_N: Tensor | None = None,
    teacher_BN: Tensor | None = None,
    exit_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Cross-entropy of the final exit, plus `early_weight` times the loss of each early exit.

    A task may have an `exit_loss` of its own instead, of logits and targets.

    With weight 1 and no distillation, that is the paper's ablation v0. It is cross-entropy
    too, of which a share of `distillation` is replaced by imitating
    the final exit (`imitation`). Given a teacher's logits, all exits imitate these instead, the final
    one too. The confidence branches get no gradient.
    """
    if exit_loss is not None:
        *early, final = [exit_loss(logits, targets_B) for logits in outputs.logits_KBN]
        return final + early_weight * sum(early)
    targets_B = targets_B.flatten()
    truth = partial(
        F.cross_entropy,
        target=targets_B,
        weight=class_weights_N,
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    )
    *early_KBN, final_BN = [_rows(logits).float() for logits in outputs.logits_KBN]
    shown_BN = final_BN if teacher_BN is None else teacher_BN.float()

    def loss(logits_BN: Tensor) -> Tensor:
        if not distillation:
            return truth(logits_BN)
        return (1 - distillation) * truth(logits_BN) + distillation * imitation(logits_BN, shown_BN)

    last = truth(final_BN) if teacher_BN is None else loss(final_BN)
    return torch.stack([*(early_weight * loss(logits_BN) for logits_BN in early_KBN), last]).sum()


def _rows(logits: Tensor) -> Tensor:
    """Every pixel as an input of its own: [B, N, ...] → [B', N]."""
    return logits if logits.ndim == 2 else logits.movedim(1, -1).flatten(0, -2)


def imitation(student_BN: Tensor, teacher_BN: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Kullback–Leibler divergence from the softened teacher, times temperature².

    The teacher gets no gradient. Hinton et al. 2015; from the final exit to early ones:
    Phuong & Lampert 2019.
    """
    log_q = F.log_softmax(student_BN / temperature, 1)
    log_p = F.log_softmax(teacher_BN.detach() / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
