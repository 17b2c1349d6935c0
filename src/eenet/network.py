"""The early-exit network: stages and exit heads, how it is made, saved and loaded."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from eenet import cost
from eenet.backbones import ALIASES
from eenet.checkpoint import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Config,
    blaming,
    check_weights,
    checkpoint_directory,
    read_config,
    read_weights,
    write_atomically,
)
from eenet.heads import create_head
from eenet.placement import Placement, place
from eenet.stages import TracedBackbone, checked_input_size, divide, mutates_input, trace


class ExitOutputs(NamedTuple):
    """What every exit says, in train and in eval mode alike."""

    logits_KBN: list[Tensor]
    """K tensors [B, N]: the classification branches, the final exit last."""
    confidence_logits_KB: list[Tensor]
    """K - 1 tensors [B]: the confidence branches of the early exits, before the sigmoid."""


class EENet(nn.Module):
    """A backbone divided into K stages, with an exit head after each stage but the last.

    Made by `create_model`, `convert` or `EENet.from_pretrained`.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        config: Config,
        *,
        copies: Sequence[bool] | None = None,
    ) -> None:
        """`copies[k]`: the stage after exit k writes into its input and must be given a copy."""
        super().__init__()
        assert len(stages) == len(heads) + 1
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.config = config
        self._copies = list(copies) if copies is not None else [False] * len(heads)

    @property
    def num_exits(self) -> int:
        """Number of early exits, K - 1."""
        return len(self.heads)

    @property
    def costs_K(self) -> list[float]:
        """Relative cost of leaving at each exit, heads included; the final exit is above 1."""
        return self.costs()

    def costs(self, enabled: Sequence[bool] | None = None) -> list[float]:
        """Relative cost of leaving at each exit when only the `enabled` early exits are on."""
        c = self.config
        return cost.relative_costs(c.stage_macs, c.head_macs, c.backbone_macs, enabled)

    @property
    def memory_format(self) -> torch.memory_format:
        """The faster layout of images and weights: channels last, where that is safe.

        On a CPU, oneDNN's backward pass writes past its buffers for strided 1×1 convolutions
        of fewer than 8 channels in channels-last layout (seen with torch 2.14.1 on AVX2).
        """
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        narrow = (
            max(c.kernel_size) == 1 and max(c.stride) > 1 and c.in_channels // c.groups < 8
            for c in convolutions
            if c.weight.device.type == "cpu"
        )
        return torch.contiguous_format if any(narrow) else torch.channels_last

    def forward(self, images_BCHW: Tensor) -> ExitOutputs:
        """Run every stage and every head; leaving early is the runtime's work."""
        features = images_BCHW
        logits: list[Tensor] = []
        confidence_logits: list[Tensor] = []
        for k, head in enumerate(self.heads):
            features = self.stages[k](features)
            exit_logits, confidence_logit = head(features)
            logits.append(exit_logits)
            confidence_logits.append(confidence_logit)
            if self._copies[k]:
                features = features.clone()
        logits.append(self.stages[-1](features))
        return ExitOutputs(logits, confidence_logits)

    # Checkpoints ---------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path, *, card: str = "") -> Path:
        """Write `config.json`, `model.safetensors` and, if given, the model card `README.md`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        weights, written = {}, set()
        for name, tensor in self.state_dict().items():
            storage = tensor.untyped_storage().data_ptr()
            # A block that two stages share is written for each: safetensors holds no aliases.
            shared = storage in written
            weights[name] = tensor.detach().clone() if shared else tensor.detach().contiguous()
            written.add(storage)
        config = json.dumps(asdict(self.config), indent=2) + "\n"
        write_atomically(directory / WEIGHTS_FILE, safetensors.torch.save(weights))
        write_atomically(directory / CONFIG_FILE, config.encode())
        if card:
            write_atomically(directory / CARD_FILE, card.encode())
        return directory

    @staticmethod
    def from_pretrained(
        name: str | Path, *, backbone: nn.Module | Sequence[nn.Module] | None = None
    ) -> "EENet":
        """Load a checkpoint.

        Args:
            name: a checkpoint directory, a shipped name such as `digits-eenet8`, or the id of a model
                on the Hugging Face hub.
            backbone: for a network made by `convert` from a class of your own: an instance
                of that class, or the same list of stages; its weights are overwritten.

        Raises:
            FileNotFoundError: no such directory, or a file is missing in it.
            ValueError: the checkpoint is damaged or of an unknown format version; the
                message names the file and the key.
        """
        directory = checkpoint_directory(name)
        config = read_config(directory)
        weights = read_weights(directory)
        if backbone is None and config.backbone is None:
            raise ValueError(
                f"{directory} holds a network of a user's own class; pass an instance of it, or the list "
                "of stages it was made of: EENet.from_pretrained(directory, backbone=MyNetwork())"
            )
        with blaming(directory / CONFIG_FILE, "'backbone' and 'backbone_args'"):
            if backbone is None:
                backbone = timm_backbone(str(config.backbone), config.backbone_args)
        with blaming(directory / CONFIG_FILE, "'input_size'"):
            traced = trace(backbone, config.input_size)
        with blaming(directory / CONFIG_FILE, "'exits'"):
            chosen = _choose(traced, None, config.exits) if config.exits else []
        with blaming(directory / CONFIG_FILE, "'head' and 'gate'"):
            network = _assemble(traced, chosen, config.head, config.gate)
        for key in ("backbone_macs", "stage_macs", "head_macs", "num_classes"):
            if getattr(network.config, key) != getattr(config, key):
                raise ValueError(
                    f"{directory / CONFIG_FILE}: {key!r} is {getattr(config, key)}, "
                    f"but this network has {getattr(network.config, key)}"
                )
        network.config = config
        check_weights(directory / WEIGHTS_FILE, weights, network.state_dict())
        network.load_state_dict(weights)
        return network.eval()

    def push_to_hub(self, repo_id: str, directory: str | Path, *, private: bool = False) -> str:
        """Save to `directory`, upload that directory to the Hugging Face hub, return its address."""
        self.save_pretrained(directory)
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        allowed = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
        return str(api.upload_folder(repo_id=repo_id, folder_path=directory, allow_patterns=allowed))


def create_model(
    backbone: str,
    *,
    num_exits: int | None = None,
    placement: Placement = "linear",
    head: str = "deep",
    gate: str = "answer",
    num_classes: int | None = None,
    in_chans: int | None = None,
    input_size: Sequence[int] | None = None,
    pretrained: bool = False,
    **backbone_args: Any,
) -> EENet:
    """Build an early-exit network on a timm backbone.

    Args:
        backbone: any timm name; `eenet` adds `resnet{8,14,20,32,44,56,110}_cifar` and
            `resnet8_w{2,4}_cifar`, and the paper's names `eenet8`, `eenet18` … `eenet152`,
            `eenet20` … `eenet110` for the ResNets of that depth.
        num_exits: number of early exits, without the final one.
        placement: `linear`, `pareto`, `golden`, `fine` (Demir & Akbas 2024), a list of
            fractions of the backbone's MACs, or a list of block names.
        head: the kind of exit head, see `eenet.heads`.
        gate: what the confidence is computed from, see `eenet.gates`.
        num_classes: default: as the backbone's own configuration says.
        in_chans: channels of the images. Default: as `input_size` says, else 3.
        input_size: (channels, height, width), or (height, width). Default: the backbone's own.
        pretrained: load the backbone's pretrained weights.
        backbone_args: passed on to `timm.create_model`.

    Raises:
        ValueError: unknown name, or the backbone can't take these exits.
    """
    backbone, args = ALIASES.get(backbone, backbone), dict(backbone_args)
    size = tuple(input_size) if input_size is not None else None
    if in_chans is None and size is not None and len(size) == 3:
        in_chans = size[0]
    if num_classes is not None:
        args["num_classes"] = num_classes
    if in_chans is not None:
        args["in_chans"] = in_chans
    module = timm_backbone(backbone, args, pretrained=pretrained)
    if size is None:
        size = default_input_size(module)[1:]
    if len(size) == 2:
        size = (in_chans or 3, *size)
    if in_chans is not None and size[0] != in_chans:
        raise ValueError(f"in_chans is {in_chans}, but input_size {size} has {size[0]} channels")
    traced = trace(module, size)
    network = _assemble(traced, _choose(traced, num_exits, placement), head, gate)
    network.config.backbone, network.config.backbone_args = backbone, args
    if pretrained:
        configured: Any = module.pretrained_cfg
        network.config.mean, network.config.std = (
            list(v) if len(v) == size[0] else [sum(v) / len(v)] * size[0]
            for v in (configured["mean"], configured["std"])
        )
    return network


def convert(
    backbone: nn.Module | Sequence[nn.Module],
    input_size: Sequence[int],
    *,
    num_exits: int | None = None,
    placement: Placement = "linear",
    head: str = "deep",
    gate: str = "answer",
) -> EENet:
    """Give a network of your own early exits. Its modules and weights are used, not copied.

    Args:
        backbone: maps images [B, C, H, W] to logits [B, N]. If it can't be traced, a list of
            its stages `[stage0, stage1, ..., classifier]`: nothing inside them is traced,
            and exits can go between them, named "0", "1", ... `DataParallel` and
            `torch.compile` around the network are taken off.
        input_size: (channels, height, width).
        num_exits: number of early exits, without the final one.
        placement: see `create_model`.
        head: the kind of exit head, see `eenet.heads`.
        gate: what the confidence is computed from, see `eenet.gates`.

    Raises:
        ValueError: the network can't be cut, with the reason and a way out.
    """
    traced = trace(backbone, input_size)
    return _assemble(traced, _choose(traced, num_exits, placement), head, gate)


def without_exits(backbone: nn.Module, input_size: Sequence[int]) -> EENet:
    """The plain backbone as an `EENet` of one stage, to be trained and measured in the same way."""
    return _assemble(trace(backbone, input_size), [], "pool", "answer")


def trained_backbone(name: str | Path) -> tuple[nn.Module, Config]:
    """The backbone of a checkpoint as an ordinary network with its trained weights, and the configuration.

    Raises:
        FileNotFoundError, ValueError: as `EENet.from_pretrained`.
    """
    network = EENet.from_pretrained(name)
    config = network.config
    assert config.backbone is not None
    backbone = timm_backbone(config.backbone, config.backbone_args)
    prefix = re.compile(r"stages\.\d+\.")
    stages = {key: value for key, value in network.state_dict().items() if prefix.match(key)}
    backbone.load_state_dict({prefix.sub("", key, count=1): value for key, value in stages.items()})
    return backbone.eval(), config


def _assemble(traced: TracedBackbone, chosen: Sequence[int], head: str, gate: str) -> EENet:
    stages = divide(traced, chosen)
    sizes = [traced.cuts[i].feature_size for i in chosen]
    example = cost.example_tensor(traced.backbone)
    heads = [create_head(head, size, traced.num_classes, gate).to(example) for size in sizes]
    copies = [
        mutates_input(stage, torch.zeros(2, *size).to(example))
        for stage, size in zip(stages[1:], sizes, strict=True)
    ]
    ends = [*(traced.cuts[i].macs for i in chosen), traced.macs]
    config = Config(
        backbone=None,
        backbone_args={},
        exits=[traced.cuts[i].name for i in chosen],
        head=head,
        gate=gate,
        num_classes=traced.num_classes,
        input_size=traced.input_size,
        backbone_macs=traced.macs,
        stage_macs=[end - start for start, end in zip([0, *ends], ends, strict=False)],
        head_macs=[cost.count_macs(h, (1, *size)) for h, size in zip(heads, sizes, strict=True)],
    )
    network = EENet(stages, heads, config, copies=copies)
    network.training = network.stages.training = traced.backbone.training
    network.heads.train(network.training)
    return network


def _choose(traced: TracedBackbone, num_exits: int | None, placement: Placement) -> list[int]:
    return place([(cut.name, cut.fraction) for cut in traced.cuts], num_exits, placement)


def timm_backbone(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """A timm model, also by one of the paper's names.

    Raises:
        ValueError: unknown name, with near ones suggested, or the model can't be built with `args`.
    """
    name = ALIASES.get(name, name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"unknown backbone {name!r}; {hint}")
    if "checkpoint_path" in args:
        raise ValueError(
            "checkpoint_path is not taken: timm would unpickle that file, which can run any code"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, **args)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(f"can't build backbone {name!r} with {dict(args)}: {error}") from error


def default_input_size(module: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) that a timm model is configured for."""
    configured: Any = module.pretrained_cfg
    return checked_input_size(configured["input_size"])
