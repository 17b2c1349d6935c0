"""Records → thresholds: one threshold, shared by all early exits, that keeps a budget."""

import torch

from eenet.evaluation import recorded_scores
from eenet.policies import ExitPolicy
from eenet.records import Records


def policy_for_budget(records: Records, budget: float, *, score: str = "max_softmax") -> ExitPolicy:
    """The policy that spends as much as it may: the highest shared threshold within the budget.

    Exact: mean cost grows with the threshold and changes only at recorded scores, so a
    binary search over these finds the optimum.

    Args:
        records: of held-out inputs, not those trained on.
        budget: wanted mean relative cost.
        score: see `eenet.policies.SCORES`.

    Raises:
        ValueError: the budget is below the cheapest exit's cost, or there are no inputs.
    """
    if not len(records):
        raise ValueError("there are no inputs to calibrate on")
    costs_K = torch.tensor(records.costs(), dtype=torch.float64)
    if not budget >= costs_K[0]:
        raise ValueError(
            f"budget {budget} is impossible: leaving at the first exit already costs {costs_K[0]:.3f}"
        )
    scores_KB = recorded_scores(records, score)
    candidates = torch.cat([torch.tensor([-torch.inf]), scores_KB.flatten().unique()])

    def mean_cost(threshold: torch.Tensor) -> float:
        reached = (scores_KB <= threshold).cumprod(0).sum(0)
        return costs_K[reached].mean().item()

    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if mean_cost(candidates[middle]) <= budget:
            low = middle
        else:
            high = middle - 1
    threshold = candidates[low].item()
    if low + 1 < len(candidates):  # halfway to the next score: rounding elsewhere can't flip an input
        threshold = (threshold + candidates[low + 1].item()) / 2 if low else candidates[1].item() - 1e-6
    return ExitPolicy(score, (threshold,) * (len(costs_K) - 1))
