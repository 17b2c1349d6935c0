"""Several networks as one: what a cheap one isn't sure about goes on to a better one."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

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
            features = image
            if self.scale is not None and self.shift is not None:
                features = image * self.scale + self.shift
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


class _Exit(NamedTuple):
    head: CascadeHead
    name: str
    macs: int


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
        least = one.stage_macs[0] + sum(one.head_macs[:1])
        if least > following.backbone_macs:
            raise ValueError(
                f"give the cheapest network first: leaving network {i} takes {least:,} MACs or more, "
                f"all of network {i + 1} takes {following.backbone_macs:,}"
            )
    networks = [copy.deepcopy(network) for network in networks]
    first, last = networks[0].config, networks[-1].config
    stages: list[nn.Module] = []
    exits: list[_Exit] = []
    for i, network in enumerate(networks):
        ends = network is networks[-1]
        stages += _stages(network, first, ends=ends)
        exits += _exits(network, i, ends=ends)
    parts = [network.config for network in networks]
    config = Config(
        backbone=None,
        backbone_args={},
        exits=[each.name for each in exits],
        head=last.head,
        gate=GATE,
        num_classes=last.num_classes,
        input_size=last.input_size,
        backbone_macs=last.backbone_macs,
        stage_macs=[macs for part in parts for macs in part.stage_macs],
        head_macs=[each.macs for each in exits],
        mean=first.mean,
        std=first.std,
        class_names=next((part.class_names for part in parts if part.class_names), None),
        plugins=sorted({plugin for part in parts for plugin in part.plugins}),
        parts=parts,
    )
    return EENet(stages, [each.head for each in exits], config).eval()


def _stages(network: EENet, first: Config, *, ends: bool) -> Iterator[CascadeStage]:
    """The stages of a network; `first`: of the one that gives the image, `ends`: it is the last one."""
    image = torch.zeros(2, *first.input_size)
    copies = [mutates_input(network.stages[0], image), *network.copies]
    for k, (stage, copied) in enumerate(zip(network.stages, copies, strict=True)):
        answers = k == network.num_exits
        yield CascadeStage(
            stage,
            starts=k == 0,
            answers=answers,
            ends=ends and answers,
            copies=copied,
            renormalised=None if k else _renormalised(first, network.config),
        )


def _exits(network: EENet, number: int, *, ends: bool) -> Iterator[_Exit]:
    """The early exits of a network, and its last answer where others follow."""
    config, heads = network.config, cast(list[Any], [*network.heads])
    for head, name, macs in zip(heads, config.exits, config.head_macs, strict=True):
        yield _Exit(CascadeHead(head.trunk, head.classifier, config.num_classes), f"{number}.{name}", macs)
    if not ends:
        yield _Exit(CascadeHead(nn.Flatten(), nn.Identity(), config.num_classes), str(number), 0)


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
