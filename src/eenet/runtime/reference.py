"""The slow and obviously right way: one image at a time through stage, head, decision.

Every faster engine must leave at the same exit with the same answer.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from eenet.networks import EENet
from eenet.policies import ExitPolicy, chain, join, probabilities, score_of
from eenet.tasks import task_of


def run_one(network: EENet, policy: ExitPolicy, image_CHW: Tensor) -> tuple[Tensor, int]:
    """Run one normalised image until it leaves.

    Stages behind the exit it takes are not run; the head of an exit that is switched
    off isn't either. The network must be in eval mode.

    Returns:
        Class probabilities [N] at the exit it left at, and that exit's number.
    """
    assert not network.training
    task = task_of(network.config.task)
    weights_K, joined_BN = chain(network.config.ensemble, policy.enabled), None
    seen: list[list[NDArray[Any]]] = []
    with torch.inference_mode():
        features = image_CHW[None]
        for k, stage in enumerate(network.stages):
            features, leaves = stage(features), True
            if k < network.num_exits:
                if not policy.enabled[k]:
                    continue
                logits_BN, confidence_logits_B = network.heads[k](features)
                seen.append([logits_BN.cpu().numpy(), confidence_logits_B.cpu().numpy()])
                score_B = score_of(policy.score, *map(list, zip(*seen, strict=True)))
                leaves = score_B.item() > policy.thresholds[k]
            else:
                logits_BN = features
            answer_BN = task.answered(logits_BN)
            if (weights := weights_K[k]) is not None:
                joined_BN = join(answer_BN.cpu().numpy(), joined_BN, weights)
                answer_BN = torch.from_numpy(probabilities(joined_BN))
            if leaves:
                return answer_BN[0], k
    raise AssertionError("the final exit lets all leave")
