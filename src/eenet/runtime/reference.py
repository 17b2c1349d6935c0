"""The slow and obviously right way: one image at a time through stage, head, decision.

Every faster engine must leave at the same exit with the same answer.
"""

import torch
from torch import Tensor

from eenet.network import EENet
from eenet.policies import ExitPolicy


def run_one(network: EENet, policy: ExitPolicy, image_CHW: Tensor) -> tuple[Tensor, int]:
    """Run one normalised image until it leaves.

    Stages behind the exit it takes are not run; the head of an exit that is switched
    off isn't either. The network must be in eval mode.

    Returns:
        Class probabilities [N] of the exit it left at, and that exit's number.
    """
    assert not network.training
    with torch.inference_mode():
        features = image_CHW[None]
        for k, head in enumerate(network.heads):
            features = network.stages[k](features)
            if not policy.enabled[k]:
                continue
            logits_BN, confidence_logits_B = head(features)
            if policy.leaves(k, logits_BN, confidence_logits_B).item():
                return logits_BN.softmax(1)[0], k
        return network.stages[-1](features).softmax(1)[0], network.num_exits
