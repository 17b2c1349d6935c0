"""How an early-exit network is made: a backbone, its cuts, a head at each."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from eenet.backbones import (
    BACKBONES,
    Placement,
    TracedBackbone,
    Widths,
    count_macs,
    create_backbone,
    default_input_size,
    full_name,
    noted_widths,
    place,
    preprocessing_of,
    recognised,
    set_widths,
    trace,
    trusted_name,
)
from eenet.networks.config import Config, versions
from eenet.networks.network import EENet
from eenet.policies import GATES
from eenet.tasks import HEADS, task_of

HEAD_WIDER = 16
"""So many times as wide a pruned head may be as one that is made for the pruned features before it."""


def create_model(
    backbone: str,
    *,
    num_exits: int | None = None,
    placement: Placement = "linear",
    task: str = "classification",
    head: str | None = None,
    gate: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    input_size: Sequence[int] | None = None,
    task_settings: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    **backbone_args: Any,
) -> EENet:
    """Build an early-exit network on a backbone that has a name.

    Args:
        backbone: any timm name, one of torchvision's (`torchvision:resnet18`), or a function of your own that
            makes the network (`package.module:function`). `eenet` adds `resnet{8,14,20,32,44,56,110}_cifar`
            and `resnet8_w{2,4}_cifar`, and the paper's names `eenet8`, `eenet18` … `eenet152`, `eenet20` …
            `eenet110` for the ResNets of that depth.
        num_exits: number of early exits, without the final one.
        placement: `linear`, `pareto`, `golden`, `fine` (Demir & Akbas 2024), a list of
            fractions of the backbone's MACs, or a list of block names.
        task: what the exits answer: `classification`; or `segmentation` or `detection`, which need
            `num_classes`.
        head: the kind of exit head, see `eenet.networks.HEADS`. Default: as suits the task.
        gate: what the confidence is computed from, see `eenet.policies.gates`. Default: likewise.
        num_classes: default: as the backbone's own configuration says.
        in_chans: channels of the images. Default: as `input_size` says, else 3.
        input_size: (channels, height, width), or (height, width). Default: the backbone's own.
        task_settings: of the task, such as the width of a decoder. Default: its own.
        pretrained: load the backbone's pretrained weights.
        backbone_args: passed on to `timm.create_model`, torchvision's `get_model` or your function.

    Raises:
        ValueError: unknown name, or the backbone can't take these exits.
    """
    backbone, args = full_name(trusted_name(backbone)), dict(backbone_args)
    size = tuple(input_size) if input_size is not None else None
    if in_chans is None and size is not None and len(size) == 3:
        in_chans = size[0]
    if num_classes is not None and task_of(task).keeps_classifier:
        args["num_classes"] = num_classes
    if in_chans is not None:
        args["in_chans"] = in_chans
    module = create_backbone(backbone, args, pretrained=pretrained)
    if size is None:
        size = default_input_size(module, backbone)[1:]
    if len(size) == 2:
        size = (in_chans or 3, *size)
    if in_chans is not None and size[0] != in_chans:
        raise ValueError(f"in_chans is {in_chans}, but input_size {size} has {size[0]} channels")
    traced = trace(module, size, _names(placement))
    cuts = choose_cuts(traced, num_exits, placement)
    network = assemble(traced, cuts, head, gate, task=task, num_classes=num_classes, settings=task_settings)
    name_backbone(network, backbone, args)
    if pretrained and (known := preprocessing_of(backbone)):
        network.config.mean, network.config.std = (
            per_channel(values, size[0]) for values in (known.mean, known.std)
        )
    return network


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """A number for each channel of the images, from those of colour images if there are others."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def convert(
    backbone: nn.Module | Sequence[nn.Module],
    input_size: Sequence[int],
    *,
    num_exits: int | None = None,
    placement: Placement = "linear",
    task: str = "classification",
    head: str | None = None,
    gate: str | None = None,
    num_classes: int | None = None,
    task_settings: Mapping[str, Any] | None = None,
    recognise: bool = True,
) -> EENet:
    """Give a network of your own early exits. Its modules and weights are used, not copied.

    A network of timm or torchvision is recognised, so that its checkpoints can be loaded by their name alone.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N] of two classes or more, in float32. Its
            outermost forward may look at sizes, not at pixels. If it can't be traced, a list of
            its stages `[stage0, stage1, ..., classifier]`: nothing inside them is traced, and
            exits can go between them, named "0", "1", ... `DataParallel` and `torch.compile`
            around the network are taken off.
        input_size: (channels, height, width).
        num_exits: number of early exits, without the final one.
        placement, task, head, gate: see `create_model`.
        num_classes: that are answered, by tasks that don't keep the network's classifier.
        task_settings: see `create_model`.
        recognise: look for the name by which timm or torchvision builds it.

    Raises:
        ValueError: the network can't be cut, with the reason and a way out.
    """
    traced = trace(backbone, input_size, _names(placement))
    cuts = choose_cuts(traced, num_exits, placement)
    found = recognised(traced.backbone, traced.input_size) if recognise else None
    network = assemble(traced, cuts, head, gate, task=task, num_classes=num_classes, settings=task_settings)
    if found:
        name_backbone(network, *found)
    return network


def name_backbone(network: EENet, name: str, args: Mapping[str, Any]) -> None:
    """Note in a network's configuration by which name its backbone is built again."""
    config, name = network.config, full_name(name)
    config.backbone, config.backbone_args = name, dict(args)
    if origin := BACKBONES.origin(name):
        config.plugins = sorted({*config.plugins, origin})


def without_exits(
    backbone: nn.Module,
    input_size: Sequence[int],
    *,
    task: str = "classification",
    num_classes: int | None = None,
    task_settings: Mapping[str, Any] | None = None,
) -> EENet:
    """The plain network as an `EENet` of one stage, to be trained and measured in the same way."""
    head = "pool" if task_of(task).keeps_classifier else None
    traced = trace(backbone, input_size)
    return assemble(traced, [], head, None, task=task, num_classes=num_classes, settings=task_settings)


def assemble(
    traced: TracedBackbone,
    chosen: Sequence[int],
    head: str | None = None,
    gate: str | None = None,
    *,
    task: str = "classification",
    num_classes: int | None = None,
    settings: Mapping[str, Any] | None = None,
    head_widths: Widths | None = None,
    prove: bool = True,
) -> EENet:
    """A network from a traced backbone, exits behind the chosen cuts.

    Args:
        traced: see `eenet.backbones.trace`.
        chosen: increasing indices into its cuts.
        head: name of the kind of exit head. Default: the task's own.
        gate: name of the kind of gate. Default: likewise.
        task: what the exits answer.
        num_classes: that are answered. Default: those of the backbone.
        settings: of the task. Default: its own.
        head_widths: of heads that were pruned.
        prove: that the division is exact. Left out where that is known.
    """
    kind = task_of(task)
    head, gate = head or kind.head, gate or kind.gate
    own, answered = dict(settings or {}), num_classes
    kind.must_know(own)
    if kind.keeps_classifier:
        answered = traced.num_classes
    parts = kind.parts(traced, chosen, num_classes=answered, head=head, gate=gate, settings=own, prove=prove)
    assert answered is not None
    if head_widths:
        set_widths(nn.ModuleList(parts.heads), head_widths, wider=HEAD_WIDER)
        sizes = [traced.cuts[i].feature_size for i in chosen]
        parts.head_macs[:] = [_head_macs(head, size) for head, size in zip(parts.heads, sizes, strict=True)]
    config = Config(
        backbone=None,
        backbone_args={},
        exits=[traced.cuts[i].name for i in chosen],
        head=head,
        gate=gate,
        num_classes=answered,
        input_size=traced.input_size,
        backbone_macs=parts.plain_macs,
        stage_macs=parts.stage_macs,
        head_macs=parts.head_macs,
        backbone_widths=noted_widths(traced.backbone),
        head_widths=head_widths or {},
        proved_with=versions(),
        plugins=sorted({module for module in (HEADS.origin(head), GATES.origin(gate)) if module}),
        task=task,
        task_settings=own,
    )
    network = EENet(parts.stages, parts.heads, config, copies=parts.copies)
    network.training = network.stages.training = traced.backbone.training
    network.heads.train(network.training)
    return network


def _head_macs(head: nn.Module, size: Sequence[int]) -> int:
    try:
        return count_macs(head, (1, *size))
    except Exception as error:  # with widths that don't fit each other
        raise ValueError(f"an exit head doesn't run on features of size {tuple(size)}: {error}") from error


def _names(placement: Placement) -> list[object]:
    return [place for place in placement if isinstance(place, str)] if not isinstance(placement, str) else []


def choose_cuts(traced: TracedBackbone, num_exits: int | None, placement: Placement) -> list[int]:
    """Indices of the cuts that get an exit, see `place`."""
    if traced.tokens and not traced.cuts:
        raise ValueError(
            f"this {type(traced.backbone).__name__} works on tokens [batch, tokens, channels], as a Vision "
            "Transformer does; exits need feature maps [batch, channels, height, width], so give a "
            "convolutional or hybrid network"
        )
    return place([(cut.name, cut.fraction) for cut in traced.cuts], num_exits, placement)
