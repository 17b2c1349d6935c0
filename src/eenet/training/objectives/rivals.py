"""Objectives of other methods, to compare with."""

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eenet.networks import ExitOutputs
from eenet.training.objectives.base import OBJECTIVES, losses_of, wide

CARRIED = 0.5  # of what earlier exits say together, in `boosted`
STRESS = 0.8  # by which an input weighs more where it would leave, in `weighted`


@OBJECTIVES.add()
def shallow_deep(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> Tensor:
    """Cross-entropy of every exit, an early one weighted by its relative cost. After Kaya et al. 2019."""
    losses_K = losses_of(outputs, targets_B).mean(1)
    return (losses_K * losses_K.new_tensor([*costs_K[:-1], 1.0])).sum()


@OBJECTIVES.add(evens_gradients=True)
def boosted(
    outputs: ExitOutputs,
    targets_B: Tensor,
    costs_K: Sequence[float],  # noqa: ARG001
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Every exit learns to add to what the exits before it say together.

    `sum_k CE(F_k)`, where `F_k` are the exit's logits and half of `F_{k-1}`, which gets no gradient from
    it. Answers are joined over exits when thresholds are set. After BoostNet (Yu et al. 2023).
    """
    losses, before_BN = [], None
    for logits_BN in outputs.logits_KBN:
        together_BN = wide(logits_BN) if before_BN is None else wide(logits_BN) + CARRIED * before_BN
        losses.append(F.cross_entropy(together_BN, targets_B, label_smoothing=label_smoothing))
        before_BN = together_BN.detach()
    return torch.stack(losses).sum()


@OBJECTIVES.add()
def weighted(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> Tensor:  # noqa: ARG001
    """Cross-entropy of every exit, where an input weighs most at the exit that it would leave at.

    Exits share a batch equally: of what is left, those with the highest class probability leave.
    There an input weighs 1.8 times as much as on average, at all other exits less. After L2W-DEN (Han et
    al. 2022), which learns such weights in a held-out step; here they follow from the answers.
    """
    losses_KB = losses_of(outputs, targets_B)
    exits, count = losses_KB.shape
    left_B = torch.ones(count, dtype=torch.bool, device=losses_KB.device)
    weights_KB = torch.full_like(losses_KB, 1 - STRESS / max(exits - 1, 1))
    for k, logits_BN in enumerate(outputs.logits_KBN):
        sure_B = wide(logits_BN).detach().softmax(1).amax(1).masked_fill(~left_B, -1)
        leaving = sure_B.topk(count * (k + 1) // exits - count * k // exits).indices
        weights_KB[k, leaving] = 1 + STRESS
        left_B[leaving] = False
    return (weights_KB * losses_KB).mean(1).sum()


@OBJECTIVES.add(trains_confidence=True)
def halting(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """Expected cross-entropy and cost over where an input halts, with a pull to halting anywhere.

    The confidence is the probability of halting if not halted before. The pull is 0.01 times
    the Kullback–Leibler divergence from the uniform distribution over exits. After
    PonderNet (Banino et al. 2021) and adaptive computation time (Graves 2016).
    """
    log_halt_KB = log_leaving(outputs)
    halt_KB = log_halt_KB.exp()
    losses_KB = losses_of(outputs, targets_B) + cost_weight * halt_KB.new_tensor(costs_K)[:, None]
    divergence_KB = halt_KB * (log_halt_KB + math.log(len(log_halt_KB)))
    return (halt_KB * losses_KB + 0.01 * divergence_KB).sum(0).mean()


@OBJECTIVES.add(trains_confidence=True)
def joint_gates(
    outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float], *, cost_weight: float = 1.0
) -> Tensor:
    """Classifiers and gates trained together, each for the inputs that reach it.

    A gate learns whether leaving here has no larger loss plus cost than any later exit. Half
    of an exit's loss is over all inputs alike, half weighted by how likely they are to leave
    there. After JEI-DNN (Regol et al. 2024).
    """
    losses_KB = losses_of(outputs, targets_B)
    priced_KB = (losses_KB + cost_weight * losses_KB.new_tensor(costs_K)[:, None]).detach()
    leaving_KB = len(losses_KB) * log_leaving(outputs).exp().detach()
    loss = ((1 + leaving_KB) / 2 * losses_KB).mean(1).sum()
    for k, z_B in enumerate(outputs.confidence_logits_KB):
        best_here_B = (priced_KB[k] <= priced_KB[k + 1 :].amin(0)).to(losses_KB.dtype)
        loss = loss + F.binary_cross_entropy_with_logits(wide(z_B), best_here_B)
    return loss


def even_gradients(network: nn.Module) -> list[RemovableHandle]:
    """From now on each stage learns from the mean of the losses of the exits behind it, not from their sum.

    So stages with many exits behind them take no larger steps than the last one. After the gradient
    equilibrium of Li et al. 2019. Until what is returned is removed.
    """
    handles = []
    stages, heads = (list(cast(nn.ModuleList, network.get_submodule(name))) for name in ("stages", "heads"))
    for k, head in enumerate(heads):
        behind = len(stages) - k  # exits behind stage k
        for part, factor in ((head, 1 / behind), (stages[k + 1], 1 - 1 / behind)):
            handles.append(part.register_forward_pre_hook(partial(_scaled, factor)))
    return handles


def _scaled(factor: float, _: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
    """The features, whose gradient will be multiplied by a factor."""
    if not torch.is_grad_enabled():
        return None
    (features,) = given
    return (factor * features + (1 - factor) * features.detach(),)


def log_leaving(outputs: ExitOutputs) -> Tensor:
    """Log-probability that an input leaves at each exit, if confidences are probabilities: [K, B]."""
    log_stayed, rows = torch.zeros_like(wide(outputs.logits_KBN[-1])[:, 0]), []
    for z_B in outputs.confidence_logits_KB:
        rows.append(log_stayed + F.logsigmoid(wide(z_B)))
        log_stayed = log_stayed + F.logsigmoid(-wide(z_B))
    return torch.stack([*rows, log_stayed])
