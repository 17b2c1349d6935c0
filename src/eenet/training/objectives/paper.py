"""The paper's training losses over all exits, computed in log space.

With class probabilities `p_k`, confidences `h_k`, relative costs `c_k` and the final exit F:

    P_F = p_F    P_k = h_k p_k + (1 - h_k) P_{k+1}
    C_F = c_F    C_k = h_k c_k + (1 - h_k) C_{k+1}

Demir & Akbas 2024, section 3. Only the probability of the true class enters the
cross-entropy, so the recursion runs on vectors [B].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eenet.networks import ExitOutputs
from eenet.training.objectives.base import OBJECTIVES, losses_of, wide


@OBJECTIVES.add(trains_confidence=True)
def v1(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """`CE(P_0) + cost_weight * mean(C_0)`. Demir & Akbas 2024."""
    losses_KB, spent_KB = mixtures(outputs, targets_B, costs_K)
    return losses_KB[0].mean() + cost_weight * spent_KB[0].mean()


@OBJECTIVES.add(trains_confidence=True)
def v2(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """`sum_k [CE(P_k) + cost_weight * mean(C_k)]`, the paper's choice. Demir & Akbas 2024."""
    losses_KB, spent_KB = mixtures(outputs, targets_B, costs_K)
    return losses_KB.mean(1).sum() + cost_weight * spent_KB.mean(1).sum()


@OBJECTIVES.add(trains_confidence=True)
def v3(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """Cross-entropy and cost of every exit, weighted by its mean confidence, normalised to sum 1.

    The final exit's confidence is 1. An ablation of Demir & Akbas 2024.
    """
    early = [torch.sigmoid(wide(z)).mean() for z in outputs.confidence_logits_KB]
    means_K = torch.stack([*early, torch.ones_like(early[0])])
    losses_K = losses_of(outputs, targets_B).mean(1) + cost_weight * means_K.new_tensor(costs_K)
    return (means_K / means_K.sum() * losses_K).sum()


@OBJECTIVES.add(trains_confidence=True)
def v4(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """Every input is tagged with the exit where cross-entropy plus cost is least.

    That exit's classifier learns from it, and every confidence learns whether the input is
    tagged with its exit; those tagged and those not weigh the same in a batch. An ablation
    of Demir & Akbas 2024.
    """
    losses_KB = losses_of(outputs, targets_B)
    costs_K1 = losses_KB.new_tensor(costs_K)[:, None]
    tags_B = (losses_KB + cost_weight * costs_K1).detach().argmin(0)
    loss = (losses_KB + cost_weight * costs_K1).gather(0, tags_B[None]).mean()
    for k, z_B in enumerate(outputs.confidence_logits_KB):
        tagged_B = (tags_B == k).to(losses_KB.dtype)
        share = tagged_B.mean()
        weights_B = tagged_B * (1 - share) + (1 - tagged_B) * share
        loss = loss + F.binary_cross_entropy_with_logits(wide(z_B), tagged_B, weights_B)
    return loss


def mixtures(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`-log P_k[target]` and `C_k` for every exit and input, both [K, B], in float32 or wider."""
    log_p_KB = -losses_of(outputs, targets_B)
    log_mixed, spent = log_p_KB[-1], torch.full_like(log_p_KB[-1], costs_K[-1])
    losses, costs = [-log_mixed], [spent]
    for k in range(len(log_p_KB) - 2, -1, -1):
        z = wide(outputs.confidence_logits_KB[k])
        log_leave, log_stay = F.logsigmoid(z), F.logsigmoid(-z)
        log_mixed = torch.logaddexp(log_leave + log_p_KB[k], log_stay + log_mixed)
        spent = log_leave.exp() * costs_K[k] + log_stay.exp() * spent
        losses.append(-log_mixed)
        costs.append(spent)
    return torch.stack(losses[::-1]), torch.stack(costs[::-1])
