"""Several networks as one: what a cheap one isn't sure about goes on to a better one."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from eenet.backbones import mutates_input
from eenet.networks.config import Config
from eenet.networks.network import EENet
from eenet.policies import create_gate
from eenet.tasks import ExitHead

Carried = tuple[Tensor, Tensor]
"""Features, and the normalised image."""
Fold = Callable[[nn.Module, Any], nn.Module]
GATE = "answer"  # the kind that is fitted to whatever networks say


class CascadeStage(nn.Module):
    """A stage that carries the image along, so that the next network can start from it."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        stage: nn.Module,
        *,
        starts: bool,
        answers: bool,
        ends: bool,
        copies: bool,
        renormalised: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """`starts`: a network; `answers`: it gives its logits; `ends`: those of the last network.

        `copies`: `stage` writes into its input.

        `renormalised`: scale and shift that turn the image into one as this network takes it.
        """
        super().__init__()
        self.stage = stage
        self.starts, self.answers, self.ends, self.copies = starts, answers, ends, copies
        scale, shift = renormalised or (None, None)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def _given(self, carried: Tensor | Carried) -> tuple[Tensor, Tensor]:
        """What the stage takes, and the image."""
        features, image = carried if isinstance(carried, tuple) else (carried, carried)
        if self.starts:
            features = image if self.scale is None else image * self.scale + self.shift
        return features.clone() if self.copies else features, image

    def forward(self, carried: Tensor | Carried) -> Tensor | Carried:
        features, image = self._given(carried)
        found = self.stage(features)
        if self.ends:
            return found
        if self.answers:
            found = found[:, :, None, None]  # as features are everywhere
        return found, image

    def folded(self, fold: Fold, carried: Any) -> "CascadeStage":
        """The same with the norms of its parts folded, as `fold` does it."""
        found = copy.copy(self)
        found._modules = {"stage": fold(self.stage, self._given(carried)[0].clone())}
        return found


class CascadeHead(ExitHead):
    """The head of an exit, or the answer of a network that others follow; its gate is to be fitted anew."""

    def __init__(self, trunk: nn.Module, classifier: nn.Module, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.trunk, self.classifier = trunk, classifier
        self.confidence = create_gate(GATE, 0, num_classes)

    def seen(self, features: Any) -> Tensor:
        """The features, without the image."""
        return features[0]

    def forward(self, features: Any) -> tuple[Tensor, Tensor]:
        return super().forward(self.seen(features))


def in_cascade(networks: Sequence[EENet]) -> EENet:
    """Networks one behind the other as one network, with copies of their weights.

    An image that leaves at no exit of one, its last answer included, goes on to the next, which starts from
    the image. So all exits are early exits, and so are the last answers of all networks but the last. Cost is
    relative to the last network without exits. After "Wisdom of Committees", Wang et al. 2022, arXiv
    2012.01988; here images also leave within a network.

    Args:
        networks: two or more, the cheapest first; they may have exits or none.

    Raises:
        ValueError: fewer than two, one of another task, with other images or classes than the first, or one
            that costs no more than the first exit of the one before it.
    """
    if len(networks) < 2:
        raise ValueError("a cascade takes two networks or more")
    for i, network in enumerate(networks):
        _must_fit(networks[0].config, network.config, i)
    for i, (one, following) in enumerate(pairwise(network.config for network in networks)):
        first = one.stage_macs[0] + sum(one.head_macs[:1])
        if first > following.backbone_macs:
            raise ValueError(
                f"give the cheapest network first: leaving network {i} takes {first:,} MACs or more, "
                f"all of network {i + 1} takes {following.backbone_macs:,}"
            )
    networks = [copy.deepcopy(network) for network in networks]
    image = torch.zeros(2, *networks[0].config.input_size)
    stages: list[nn.Module] = []
    heads: list[nn.Module] = []
    exits: list[str] = []
    head_macs: list[int] = []
    last = networks[-1].config
    for i, network in enumerate(networks):
        ends = i == len(networks) - 1
        copies = [mutates_input(network.stages[0], image), *network.copies]
        for k, stage in enumerate(network.stages):
            stages.append(
                CascadeStage(
                    stage,
                    starts=not k,
                    answers=k == network.num_exits,
                    ends=ends and k == network.num_exits,
                    copies=copies[k],
                    renormalised=None if k else _renormalised(networks[0].config, network.config),
                )
            )
        told = network.config
        heads += [CascadeHead(head.trunk, head.classifier, told.num_classes) for head in network.heads]
        exits += [f"{i}.{name}" for name in told.exits]
        head_macs += told.head_macs
        if not ends:
            heads.append(CascadeHead(nn.Flatten(), nn.Identity(), told.num_classes))
            exits.append(str(i))
            head_macs.append(0)
    parts = [network.config for network in networks]
    config = Config(
        backbone=None,
        backbone_args={},
        exits=exits,
        head=last.head,
        gate=GATE,
        num_classes=last.num_classes,
        input_size=last.input_size,
        backbone_macs=last.backbone_macs,
        stage_macs=[macs for part in parts for macs in part.stage_macs],
        head_macs=head_macs,
        mean=parts[0].mean,
        std=parts[0].std,
        class_names=next((part.class_names for part in parts if part.class_names), None),
        plugins=sorted({plugin for part in parts for plugin in part.plugins}),
        parts=parts,
    )
    return EENet(stages, heads, config).eval()


def _must_fit(first: Config, other: Config, number: int) -> None:
    other.must_support("a cascade")
    other.normalization(f"network {number}")
    compared = {"task": "tasks", "input_size": "image sizes", "num_classes": "numbers of classes"}
    for key, told in compared.items():
        mine, its = getattr(first, key), getattr(other, key)
        if mine != its:
            raise ValueError(f"the networks have different {told}: {mine} and {its}")
    named = first.class_names and other.class_names
    if named and first.class_names != other.class_names:
        raise ValueError(
            f"network {number} has other classes than the first, or in another order: "
            f"{', '.join(other.named_classes[:5])}, …"
        )


def _renormalised(first: Config, other: Config) -> tuple[Tensor, Tensor] | None:
    """Scale and shift from images of one to those of the other; none where they are the same."""
    (mean, std), (its_mean, its_std) = first.normalization(), other.normalization()
    if (mean, std) == (its_mean, its_std):
        return None
    of = [torch.tensor(values)[:, None, None] for values in (mean, std, its_mean, its_std)]
    return of[1] / of[3], (of[0] - of[2]) / of[3]
