"""A pruned network with exits: what its configuration says of widths and costs, so that it is built again."""

from dataclasses import replace

import torch
from torch import nn

from eenet.backbones import Widths, count_macs, eval_mode, example_tensor, joined, widths_between
from eenet.networks import EENet
from eenet.tasks import create_head


def with_widths(made: EENet, before: EENet) -> EENet:
    """A network whose layers were made narrower, with its costs and widths; thresholds start anew.

    Args:
        made: a copy of `before`, pruned; its modules are used.
        before: the network as it was.
    """
    config, sizes = made.config, [(1, *made.config.input_size)]
    features = torch.zeros(sizes[0]).to(example_tensor(made))
    with eval_mode(made), torch.no_grad():
        for stage in list(made.stages)[:-1]:
            features = stage(features)
            sizes.append(tuple(features.shape))
    stage_macs = [count_macs(stage, size) for stage, size in zip(made.stages, sizes, strict=True)]
    usual = nn.ModuleList(
        create_head(config.head, size[1:], config.num_classes, config.gate) for size in sizes[1:]
    )
    found: Widths = {}
    for old, new in zip(before.stages, made.stages, strict=True):
        found = joined(found, widths_between(old, new))
    made.config = replace(
        config,
        backbone_macs=sum(stage_macs),
        stage_macs=stage_macs,
        head_macs=[count_macs(head, size) for head, size in zip(made.heads, sizes[1:], strict=True)],
        backbone_widths=joined(config.backbone_widths, found),
        head_widths=widths_between(usual, made.heads),
        ensemble=None,
        policy=None,
        budgets={},
        policies={},
        timings=[],
        hashes={},
    )
    return made
