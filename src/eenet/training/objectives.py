"""Training losses over all exits, computed in log space.

With class probabilities `p_k`, confidences `h_k`, relative costs `c_k` and the final exit F:

    P_F = p_F    P_k = h_k p_k + (1 - h_k) P_{k+1}
    C_F = c_F    C_k = h_k c_k + (1 - h_k) C_{k+1}

Demir & Akbas 2024, section 3. Only the probability of the true class enters the
cross-entropy, so the recursion runs on vectors [B].
"""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eenet.common import Registry
from eenet.networks import ExitOutputs
from eenet.training.planning.settings import TrainConfig, changed

Objective = Callable[..., Tensor]
"""(outputs, targets_B, costs_K) and settings of its own as keywords → the loss."""
OBJECTIVES: Registry[Objective] = Registry("objective", "objective")
"""By name. Those marked `trains_confidence` train the gates; the others leave it to held-out images.

With the mark `evens_gradients` each stage learns from the mean of the losses behind it, see `even_gradients`.
"""
CARRIED = 0.5  # of what earlier exits say together, in `boosted`
IGNORED = -100
"""The target of what counts for nothing, such as pixels without a class."""
WEIGHTS = ("cost_weight", "early_weight", "distillation", "label_smoothing")
"""Settings of a run that an objective may take."""


def trains_confidence(name: str) -> bool:
    """Whether an objective trains the gates, to be compared with 0.5."""
    return OBJECTIVES.mark(name, "trains_confidence")


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
        together_BN = _wide(logits_BN) if before_BN is None else _wide(logits_BN) + CARRIED * before_BN
        losses.append(F.cross_entropy(together_BN, targets_B, label_smoothing=label_smoothing))
        before_BN = together_BN.detach()
    return torch.stack(losses).sum()


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
    early = [torch.sigmoid(_wide(z)).mean() for z in outputs.confidence_logits_KB]
    means_K = torch.stack([*early, torch.ones_like(early[0])])
    losses_K = _losses(outputs, targets_B).mean(1) + cost_weight * means_K.new_tensor(costs_K)
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
    losses_KB = _losses(outputs, targets_B)
    costs_K1 = losses_KB.new_tensor(costs_K)[:, None]
    tags_B = (losses_KB + cost_weight * costs_K1).detach().argmin(0)
    loss = (losses_KB + cost_weight * costs_K1).gather(0, tags_B[None]).mean()
    for k, z_B in enumerate(outputs.confidence_logits_KB):
        tagged_B = (tags_B == k).to(losses_KB.dtype)
        share = tagged_B.mean()
        weights_B = tagged_B * (1 - share) + (1 - tagged_B) * share
        loss = loss + F.binary_cross_entropy_with_logits(_wide(z_B), tagged_B, weights_B)
    return loss


@OBJECTIVES.add()
def shallow_deep(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> Tensor:
    """Cross-entropy of every exit, an early one weighted by its relative cost. After Kaya et al. 2019."""
    losses_K = _losses(outputs, targets_B).mean(1)
    return (losses_K * losses_K.new_tensor([*costs_K[:-1], 1.0])).sum()


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
    losses_KB = _losses(outputs, targets_B) + cost_weight * halt_KB.new_tensor(costs_K)[:, None]
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
    losses_KB = _losses(outputs, targets_B)
    priced_KB = (losses_KB + cost_weight * losses_KB.new_tensor(costs_K)[:, None]).detach()
    leaving_KB = len(losses_KB) * log_leaving(outputs).exp().detach()
    loss = ((1 + leaving_KB) / 2 * losses_KB).mean(1).sum()
    for k, z_B in enumerate(outputs.confidence_logits_KB):
        best_here_B = (priced_KB[k] <= priced_KB[k + 1 :].amin(0)).to(losses_KB.dtype)
        loss = loss + F.binary_cross_entropy_with_logits(_wide(z_B), best_here_B)
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
    log_stayed, rows = torch.zeros_like(_wide(outputs.logits_KBN[-1])[:, 0]), []
    for z_B in outputs.confidence_logits_KB:
        rows.append(log_stayed + F.logsigmoid(_wide(z_B)))
        log_stayed = log_stayed + F.logsigmoid(-_wide(z_B))
    return torch.stack([*rows, log_stayed])


def _losses(outputs: ExitOutputs, targets_B: Tensor) -> Tensor:
    """Cross-entropy of every exit and input: [K, B]."""
    return torch.stack([F.cross_entropy(_wide(z), targets_B, reduction="none") for z in outputs.logits_KBN])


def mixtures(outputs: ExitOutputs, targets_B: Tensor, costs_K: Sequence[float]) -> tuple[Tensor, Tensor]:
    """`-log P_k[target]` and `C_k` for every exit and input, both [K, B], in float32 or wider."""
    log_p_KB = -_losses(outputs, targets_B)
    log_mixed, spent = log_p_KB[-1], torch.full_like(log_p_KB[-1], costs_K[-1])
    losses, costs = [-log_mixed], [spent]
    for k in range(len(log_p_KB) - 2, -1, -1):
        z = _wide(outputs.confidence_logits_KB[k])
        log_leave, log_stay = F.logsigmoid(z), F.logsigmoid(-z)
        log_mixed = torch.logaddexp(log_leave + log_p_KB[k], log_stay + log_mixed)
        spent = log_leave.exp() * costs_K[k] + log_stay.exp() * spent
        losses.append(-log_mixed)
        costs.append(spent)
    return torch.stack(losses[::-1]), torch.stack(costs[::-1])


def get_objective(
    name: str,
    *,
    class_weights_N: Tensor | None = None,
    exit_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    **settings: float,
) -> Objective:
    """An objective by name, with those of the settings that it takes.

    Args:
        name: of the objective.
        class_weights_N: how much an image of each class counts. Default: all the same.
        exit_loss: of the task, see `joint_cross_entropy`.
        settings: by name, see `WEIGHTS`.

    Raises:
        ValueError: there is no objective of this name.
    """
    taken = settings_of(name)
    given: dict[str, Any] = {key: value for key, value in settings.items() if key in taken}
    if class_weights_N is not None and takes_class_weights(name):
        given["class_weights_N"] = class_weights_N
    if exit_loss is not None:
        given["exit_loss"] = exit_loss
    return partial(OBJECTIVES[name], **given)


def takes_class_weights(name: str) -> bool:
    """Whether an objective has them."""
    return "class_weights_N" in inspect.signature(OBJECTIVES[name]).parameters


def settings_of(name: str) -> list[str]:
    """Which of `WEIGHTS` an objective takes."""
    taken = inspect.signature(OBJECTIVES[name]).parameters
    return [weight for weight in WEIGHTS if weight in taken]


def unused(config: TrainConfig, asked: Collection[str]) -> list[str]:
    """What of a configuration does nothing, though it was `asked` for or a recipe sets it, and why."""
    if not config.num_exits:
        idle = ["placement", "head", "budget", "cost_weight", "early_weight"]
        idle += [] if config.teacher else ["distillation"]
        told = [f"{name} {getattr(config, name)}" for name in idle if name in asked]
        return [f"not used: {', '.join(told)}, as there are no early exits"] if told else []
    known, notable = settings_of(config.objective), {*asked, *changed(config)}
    notes = [
        f"not used: {name} {getattr(config, name)}, which objective {config.objective} doesn't have"
        for name in WEIGHTS
        if name in notable and name not in known
    ]
    if config.class_weights and not takes_class_weights(config.objective):
        notes.append(
            f"not used: class_weights {config.class_weights}, which objective {config.objective} doesn't "
            "have; balanced does the like"
        )
    if trains_confidence(config.objective):
        notes.append(
            f"not used: budget {config.budget}, as objective {config.objective} trains confidences to be "
            "compared with 0.5; for a budget, set thresholds by `eenet calibrate --budget`"
        )
    return notes


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
