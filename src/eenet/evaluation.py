"""Records and a policy → accuracy, cost, where inputs left, dead exits, curves."""

from typing import Any

import torch
from torch import Tensor

from eenet.policies import SCORES, ExitPolicy
from eenet.records import Records

DEAD_SHARE = 0.005
DEAD_ACCURACY = 1.5  # times chance


def evaluate(records: Records, policy: ExitPolicy) -> dict[str, Any]:
    """What a policy does on recorded inputs.

    Returns:
        `num_examples`; `accuracy` and mean `relative_cost` of the policy; `exit_counts`,
        how many inputs leave at each exit; `exit_accuracy`, each exit's own accuracy over
        all inputs; `leaving_accuracy`, over those that leave there (none if nobody does);
        `full_accuracy`, of the final exit on all inputs, with all exits on; `dead_exits`: early exits,
        switched on, where under 0.5 % leave or whose own accuracy is below 1.5 × chance;
        `switched_off`: early exits that the policy doesn't run; `costs`, relative, per exit.
    """
    if not len(records):
        raise ValueError("there are no inputs to evaluate")
    exits_B = decide(records, policy)
    correct_KB = records.correct(policy.enabled)
    num_exits, num_classes = len(correct_KB), records.logits_KBN.shape[2]
    counts_K = torch.bincount(exits_B, minlength=num_exits)
    chosen_B = correct_KB.gather(0, exits_B[None])[0]
    accuracy_K = correct_KB.double().mean(1)
    costs = records.costs(policy.enabled)
    costs_K = torch.tensor(costs, dtype=torch.float64)
    dead = [
        k
        for k in range(num_exits - 1)
        if policy.enabled[k]
        and (counts_K[k] < DEAD_SHARE * len(records) or accuracy_K[k] < DEAD_ACCURACY / num_classes)
    ]
    left_right = [int(chosen_B[exits_B == k].sum()) for k in range(num_exits)]
    return {
        "num_examples": len(records),
        "accuracy": chosen_B.double().mean().item(),
        "relative_cost": costs_K[exits_B].mean().item(),
        "exit_counts": counts_K.tolist(),
        "exit_accuracy": accuracy_K.tolist(),
        "leaving_accuracy": [
            right / count if count else None
            for right, count in zip(left_right, counts_K.tolist(), strict=True)
        ],
        "full_accuracy": records.full_accuracy,
        "dead_exits": dead,
        "switched_off": [k for k in range(num_exits - 1) if not policy.enabled[k]],
        "costs": costs,
    }


def decide(records: Records, policy: ExitPolicy) -> Tensor:
    """The exit at which each recorded input leaves: int64 [B]."""
    return policy.decide(list(records.logits_KBN), list(records.confidence_logits_KB))


def recorded_scores(records: Records, score: str) -> Tensor:
    """Score of every early exit and input: float32 [K - 1, B]."""
    pairs = zip(records.logits_KBN[:-1], records.confidence_logits_KB, strict=True)
    return torch.stack([SCORES[score](logits_BN, z_B) for logits_BN, z_B in pairs])


def accuracy_cost_curve(
    records: Records, score: str = "max_softmax", *, points: int = 200
) -> list[tuple[float, float, float]]:
    """Threshold, mean relative cost and accuracy when all early exits share one threshold.

    The thresholds are quantiles of the scores seen, from "all leave at exit 0" to "none
    leaves early".
    """
    scores_KB = recorded_scores(records, score)
    costs_K = torch.tensor(records.costs(), dtype=torch.float64)
    quantiles = scores_KB.flatten().sort().values
    picks = torch.linspace(0, len(quantiles) - 1, points).long()
    thresholds = [float("-inf"), *quantiles[picks].tolist()]
    curve, correct_KB = [], records.correct()
    for threshold in thresholds:
        exits_B = first_above(scores_KB, threshold)
        right = correct_KB.gather(0, exits_B[None])[0].double().mean().item()
        curve.append((threshold, costs_K[exits_B].mean().item(), right))
    return curve


def first_above(scores_KB: Tensor, threshold: float | Tensor) -> Tensor:
    """The first exit at which each input's score is above the threshold, else the final one: int64 [B].

    `threshold` is shared, or one per exit: [K - 1, 1].
    """
    above_KB = torch.cat([scores_KB > threshold, torch.ones(1, scores_KB.shape[1], dtype=torch.bool)])
    return above_KB.int().argmax(0)
