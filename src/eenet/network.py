"""The early-exit network: stages and exit heads, how it is made, and its checkpoint directory."""

import difflib
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor, nn

from eenet import cost
from eenet.backbones import ALIASES
from eenet.heads import create_head
from eenet.placement import Placement, place
from eenet.policies import ExitPolicy
from eenet.stages import TracedBackbone, checked_input_size, divide, mutates_input, trace

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


class ExitOutputs(NamedTuple):
    """What every exit says, in train and in eval mode alike."""

    logits_KBN: list[Tensor]
    """K tensors [B, N]: the classification branches, the final exit last."""
    confidence_logits_KB: list[Tensor]
    """K - 1 tensors [B]: the confidence branches of the early exits, before the sigmoid."""


@dataclass
class Config:
    """All that a checkpoint says beside its weights. Written to `config.json`."""

    backbone: str | None
    """timm name; none for a network of a user's own class."""
    backbone_args: dict[str, Any]
    exits: list[str]
    """The names of the cuts behind which the early exits sit."""
    head: str
    num_classes: int
    input_size: tuple[int, int, int]
    """Channels, height, width."""
    backbone_macs: int
    stage_macs: list[int]
    head_macs: list[int]
    mean: list[float] | None = None
    std: list[float] | None = None
    class_names: list[str] | None = None
    policy: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


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
            name: a checkpoint directory, or the id of a model on the Hugging Face hub.
            backbone: for a network made by `convert` from a class of your own: an instance
                of that class, or the same list of stages; its weights are overwritten.

        Raises:
            FileNotFoundError: no such directory, or a file is missing in it.
            ValueError: the checkpoint is damaged or of an unknown format version; the
                message names the file and the key.
        """
        directory = checkpoint_directory(name)
        config = read_config(directory)
        path = directory / WEIGHTS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {_why_no_weights(directory)}")
        if backbone is None and config.backbone is None:
            raise ValueError(
                f"{directory} holds a network of a user's own class; pass an instance of it, or the list "
                "of stages it was made of: EENet.from_pretrained(directory, backbone=MyNetwork())"
            )
        with _blaming(directory / CONFIG_FILE, "'backbone' and 'backbone_args'"):
            if backbone is None:
                backbone = timm_backbone(str(config.backbone), config.backbone_args)
        with _blaming(directory / CONFIG_FILE, "'input_size'"):
            traced = trace(backbone, config.input_size)
        with _blaming(directory / CONFIG_FILE, "'exits'"):
            chosen = _choose(traced, None, config.exits) if config.exits else []
        with _blaming(directory / CONFIG_FILE, "'head'"):
            network = _assemble(traced, chosen, config.head)
        for key in ("backbone_macs", "stage_macs", "head_macs", "num_classes"):
            if getattr(network.config, key) != getattr(config, key):
                raise ValueError(
                    f"{directory / CONFIG_FILE}: {key!r} is {getattr(config, key)}, "
                    f"but this network has {getattr(network.config, key)}"
                )
        network.config = config
        try:
            weights = safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        _check_weights(path, weights, network.state_dict())
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
    head: str = "pool",
    num_classes: int | None = None,
    in_chans: int | None = None,
    input_size: Sequence[int] | None = None,
    pretrained: bool = False,
    **backbone_args: Any,
) -> EENet:
    """Build an early-exit network on a timm backbone.

    Args:
        backbone: any timm name; `eenet` adds `resnet{20,32,44,56,110}_cifar` and
            `resnet8_w{2,4}_cifar`, and the paper's names `eenet8`, `eenet18` … `eenet152`,
            `eenet20` … `eenet110` for the ResNets of that depth.
        num_exits: number of early exits, without the final one.
        placement: `linear`, `pareto`, `golden`, `fine` (Demir & Akbas 2024), a list of
            fractions of the backbone's MACs, or a list of block names.
        head: the kind of exit head, see `eenet.heads`.
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
    network = _assemble(traced, _choose(traced, num_exits, placement), head)
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
    head: str = "pool",
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

    Raises:
        ValueError: the network can't be cut, with the reason and a way out.
    """
    traced = trace(backbone, input_size)
    return _assemble(traced, _choose(traced, num_exits, placement), head)


def without_exits(backbone: nn.Module, input_size: Sequence[int]) -> EENet:
    """The plain backbone as an `EENet` of one stage, to be trained and measured in the same way."""
    return _assemble(trace(backbone, input_size), [], "pool")


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


def checkpoint_directory(name: str | Path) -> Path:
    """The local directory of a checkpoint: a directory, or the id of a model on the hub.

    Raises:
        FileNotFoundError: neither a directory nor a model on the hub.
    """
    directory = Path(name)
    if directory.is_dir():
        return directory
    if directory.exists():
        raise FileNotFoundError(f"{name} is a file; a checkpoint is a directory with {CONFIG_FILE}")
    hint = f"no checkpoint directory {name}"
    if len(directory.parts) != 2 or directory.is_absolute() or str(name).startswith("."):
        raise FileNotFoundError(f"{hint}; make one with `eenet train`, or give a hub id (owner/name)")
    try:
        allowed = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
        return Path(snapshot_download(str(name), allow_patterns=allowed))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise FileNotFoundError(f"{hint}, and the hub has no such model or can't be reached") from error


def read_config(directory: Path) -> Config:
    """Read and check a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is not JSON, of an unknown version, or a key is missing, unknown or
            holds something else than it should.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {directory} is not a checkpoint")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(values).__name__}")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: 'format_version' is {version!r}; this eenet reads version {FORMAT_VERSION}"
        )
    known = {f.name for f in fields(Config)}
    for key in sorted(known - values.keys()):
        raise ValueError(f"{path}: key {key!r} is missing")
    for key in sorted(values.keys() - known):
        raise ValueError(f"{path}: unknown key {key!r}")
    for key, (wanted, fits) in _CONFIG_CHECKS.items():
        if not fits(values[key], values):
            shown = textwrap.shorten(json.dumps(values[key]), 80, placeholder=" …")
            raise ValueError(f"{path}: {key!r} is {shown}; expected {wanted}")
    if values["policy"] is not None:
        with _blaming(path, "'policy'"):
            ExitPolicy.from_dict(values["policy"], len(values["exits"]))
    values["input_size"] = tuple(values["input_size"])
    return Config(**values)


@contextmanager
def _blaming(path: Path, keys: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {keys}: {error}") from error


def _list_of(value: Any, kinds: Sequence[type], count: int | None = None) -> bool:
    """Exactly of these types: to Python, `true` is an `int` as well."""
    return isinstance(value, list) and all(type(v) in kinds for v in value) and count in (None, len(value))


def _macs(value: Any, count: int) -> bool:
    return _list_of(value, [int], count) and all(v >= 0 for v in value)


def _per_channel(value: Any, values: Mapping[str, Any]) -> bool:
    """Numbers that survive in float32, so no NaN either."""
    return _list_of(value, [int, float], values["input_size"][0]) and all(abs(v) < 1e30 for v in value)


# What each key of `config.json` must hold, in an order in which later checks may rely on earlier ones.
_CONFIG_CHECKS: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "backbone": ("a timm name, or null", lambda v, _: v is None or isinstance(v, str)),
    "backbone_args": ("an object", lambda v, _: isinstance(v, dict)),
    "exits": ("a list of cut names", lambda v, _: _list_of(v, [str])),
    "head": ("the name of an exit head", lambda v, _: isinstance(v, str)),
    "num_classes": ("a whole number above 0", lambda v, _: type(v) is int and v > 0),
    "input_size": (
        "[channels, height, width], all above 0",
        lambda v, _: _list_of(v, [int], 3) and min(v) > 0,
    ),
    "backbone_macs": ("a whole number above 0", lambda v, _: type(v) is int and v > 0),
    "stage_macs": ("a whole number per stage", lambda v, c: _macs(v, len(c["exits"]) + 1)),
    "head_macs": ("a whole number per early exit", lambda v, c: _macs(v, len(c["exits"]))),
    "mean": ("a number per channel", lambda v, c: _per_channel(v, c) or v is c["std"] is None),
    "std": (
        "a number above 0 per channel",
        lambda v, c: (_per_channel(v, c) and min(v) > 0) or v is c["mean"] is None,
    ),
    "class_names": (
        "a name per class, or null",
        lambda v, c: v is None or _list_of(v, [str], c["num_classes"]),
    ),
    "policy": ("an object, or null", lambda v, _: v is None or isinstance(v, dict)),
    "provenance": ("an object", lambda v, _: isinstance(v, dict)),
}


def _why_no_weights(directory: Path) -> str:
    files = [path.name for path in sorted(directory.iterdir()) if path.suffix in PICKLE_SUFFIXES]
    pickled = [name for name in files if name != "training_state.pt"]
    if not pickled:
        return f"{directory} is not a complete checkpoint"
    return (
        f"{pickled[0]} is pickled, and is not loaded because unpickling can run any code; if you trust it, "
        f"convert it: safetensors.torch.save_file(torch.load({pickled[0]!r}, weights_only=True), "
        f"{WEIGHTS_FILE!r})"
    )


def _assemble(traced: TracedBackbone, chosen: Sequence[int], head: str) -> EENet:
    stages = divide(traced, chosen)
    sizes = [traced.cuts[i].feature_size for i in chosen]
    example = cost.example_tensor(traced.backbone)
    heads = [create_head(head, size, traced.num_classes).to(example) for size in sizes]
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
    """A timm model.

    Raises:
        ValueError: unknown name, with near ones suggested, or the model can't be built with `args`.
    """
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


def _check_weights(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for key in sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{path}: tensor {key!r} is missing")
    for key in sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path}: unknown tensor {key!r}")
    for key, tensor in found.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{path}: tensor {key!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[key].shape)}"
            )
        if tensor.is_floating_point() != wanted[key].is_floating_point():
            raise ValueError(f"{path}: tensor {key!r} is {tensor.dtype}, expected {wanted[key].dtype}")
        if not tensor.to(wanted[key].dtype).isfinite().all():
            raise ValueError(f"{path}: tensor {key!r} holds NaN or infinity")


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that a file is never half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"can't write {path}: {error.strerror or error}") from error
