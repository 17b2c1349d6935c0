"""Training losses over all exits, computed in log space.

With class probabilities `p_k`, confidences `h_k`, relative costs `c_k` and the final exit F:

    P_F = p_F    P_k = h_k p_k + (1 - h_k) P_{k+1}
    C_F = c_F    C_k = h_k c_k + (1 - h_k) C_{k+1}

Demir & Akbas 2024, section 3. Only the probability of the true class enters the
cross-entropy, so the recursion runs on vectors [B].
"""

import difflib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eenet.network import ExitOutputs

Objective = Callable[[ExitOutputs, Tensor, Sequence[float]], Tensor]


def joint_cross_entropy(
    outputs: ExitOutputs,
    targets_B: Tensor,
    costs_K: Sequence[float],
    *,
    early_weight: float = 1.0,
    distillation: float = 0.0,
) -> Tensor:
    """Cross-entropy of the final exit, plus `early_weight * c_k` times the loss of each early exit.

    That is cross-entropy too, of which a share of `distillation` is replaced by imitating
    the final exit (`imitation`). Weights that grow with the exit's cost (as in Kaya et al.
    2019) favour late exits. With a small `early_weight` the shared layers serve the final
    exit first; the early classifiers stay alive with any. The confidence branches get no
    gradient.
    """
    *early_KBN, final_BN = [logits.float() for logits in outputs.logits_KBN]
    losses = []
    for c, logits_BN in zip(costs_K, early_KBN, strict=False):
        loss = (1 - distillation) * F.cross_entropy(logits_BN, targets_B)
        if distillation:
            loss = loss + distillation * imitation(logits_BN, final_BN)
        losses.append(early_weight * c * loss)
    return torch.stack([*losses, F.cross_entropy(final_BN, targets_B)]).sum()


def imitation(student_BN: Tensor, teacher_BN: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Kullback–Leibler divergence from the softened teacher, times temperature².

    The teacher gets no gradient. Hinton et al. 2015; from the final exit to early ones:
    Phuong & Lampert 2019.
    """
    log_q = F.log_softmax(student_BN / temperature, 1)
    log_p = F.log_softmax(teacher_BN.detach() / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def v1(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """`CE(P_0) + cost_weight * mean(C_0)`. Demir & Akbas 2024."""
    losses_KB, spent_KB = mixtures(outputs, targets_B, costs_K)
    return losses_KB[0].mean() + cost_weight * spent_KB[0].mean()


def v2(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """`sum_k [CE(P_k) + cost_weight * mean(C_k)]`, the paper's choice. Demir & Akbas 2024."""
    losses_KB, spent_KB = mixtures(outputs, targets_B, costs_K)
    return losses_KB.mean(1).sum() + cost_weight * spent_KB.mean(1).sum()


def mixtures(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`-log P_k[target]` and `C_k` for every exit and input, both [K, B], in float32 or wider."""
    logits_KBN = [_wide(logits) for logits in outputs.logits_KBN]
    log_p_KB = [F.log_softmax(z, 1).gather(1, targets_B[:, None])[:, 0] for z in logits_KBN]
    log_mixed, spent = log_p_KB[-1], torch.full_like(log_p_KB[-1], costs_K[-1])
    losses, costs = [-log_mixed], [spent]
    for k in range(len(logits_KBN) - 2, -1, -1):
        z = _wide(outputs.confidence_logits_KB[k])
        log_leave, log_stay = F.logsigmoid(z), F.logsigmoid(-z)
        log_mixed = torch.logaddexp(log_leave + log_p_KB[k], log_stay + log_mixed)
        spent = log_leave.exp() * costs_K[k] + log_stay.exp() * spent
        losses.append(-log_mixed)
        costs.append(spent)
    return torch.stack(losses[::-1]), torch.stack(costs[::-1])


OBJECTIVES: dict[str, Objective] = {"joint": joint_cross_entropy, "v1": v1, "v2": v2}


def get_objective(name: str) -> Objective:
    """An objective by name: `joint`, `v1` or `v2`.

    Raises:
        ValueError: there is no objective of this name.
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1)
        raise ValueError(f"unknown objective {name!r}; choose from {', '.join(near or OBJECTIVES)}")
    return OBJECTIVES[name]


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
