"""A checkpoint directory: where it is, its weights, and the network in it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from eenet.backbones import FACTORY, as_module, create_backbone, set_widths, trace, trusted_name
from eenet.common import blaming, cache_directory
from eenet.networks.building import assemble, choose_cuts
from eenet.networks.cascading import in_cascade
from eenet.networks.config import Config, asking_for, read_config, versions
from eenet.networks.directories import CONFIG_FILE, WEIGHTS_FILE, checkpoint_directory
from eenet.networks.network import EENet

PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Nothing is ever unpickled.

    Raises:
        FileNotFoundError: `model.safetensors` is missing.
        ValueError: it is damaged.
    """
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_why_no_weights(directory)}")
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def check_weights(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Whether tensors fit a network and are finite, else a `ValueError` that names the first that doesn't."""
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


def load_checkpoint(
    name: str | Path,
    backbone: nn.Module | Sequence[nn.Module] | None = None,
    *,
    trust_model_code: bool = False,
) -> EENet:
    """See `EENet.from_pretrained`.

    That the division is exact was proved when the network was made. With other versions of torch or timm it
    is proved again, once on this machine; with a class of the user's own, which may have changed, each time.
    """
    directory = checkpoint_directory(name)
    config = read_config(directory)
    weights = read_weights(directory)
    path = directory / CONFIG_FILE
    if config.parts:
        made = [_built(part, path, None, trust_model_code=trust_model_code) for part in config.parts]
        with blaming(path, "'parts'"):
            network = in_cascade(made)
        _must_agree(network.config, config, path)
    else:
        network = _built(config, path, backbone, trust_model_code=trust_model_code)
    network.config = config
    check_weights(directory / WEIGHTS_FILE, weights, network.state_dict())
    network.load_state_dict(weights)
    return network.eval()


def _built(
    config: Config,
    path: Path,
    backbone: nn.Module | Sequence[nn.Module] | None,
    *,
    trust_model_code: bool,
) -> EENet:
    """A network with other weights by its configuration, which `path` holds."""
    directory = path.parent
    if backbone is None and config.backbone is None:
        raise ValueError(
            f"{directory} holds a network of a user's own class; pass an instance of it, or the list "
            "of stages it was made of: EENet.from_pretrained(directory, backbone=MyNetwork())"
        )
    made_by = str(config.backbone)
    if trust_model_code and made_by.startswith(FACTORY):
        trusted_name(made_by.removeprefix(FACTORY))
    proof = None if backbone is not None or made_by.startswith(FACTORY) else _proof(config)
    with blaming(path, "'backbone' and 'backbone_args'"), asking_for(config.plugins):
        if backbone is None:
            backbone = create_backbone(made_by, config.backbone_args)
    if config.backbone_widths:
        with blaming(path, "'backbone_widths'"):
            backbone = set_widths(as_module(backbone), config.backbone_widths)
    pruned = " or 'backbone_widths'" if config.backbone_widths else ""
    with blaming(path, f"'input_size'{pruned}"):
        traced = trace(backbone, config.input_size, config.exits)
    with blaming(path, "'exits'"):
        chosen = choose_cuts(traced, None, config.exits) if config.exits else []
    pruned = " and 'head_widths'" if config.head_widths else ""
    with blaming(path, f"'head' and 'gate'{pruned}"), asking_for(config.plugins):
        known = proof is not None and (config.proved_with == versions() or proof.exists())
        network = assemble(
            traced,
            chosen,
            config.head,
            config.gate,
            task=config.task,
            num_classes=config.num_classes,
            settings=config.task_settings,
            head_widths=config.head_widths,
            prove=not known,
        )
    if proof is not None and not known:
        with suppress(OSError):  # a read-only home costs seconds, no answers
            proof.parent.mkdir(parents=True, exist_ok=True)
            proof.touch()
    _must_agree(network.config, config, path)
    network.config = config
    return network


def _must_agree(built: Config, config: Config, path: Path) -> None:
    """Whether a network is what its configuration says."""
    for key in ("backbone_macs", "stage_macs", "head_macs", "num_classes", "exits"):
        if getattr(built, key) != getattr(config, key):
            raise ValueError(
                f"{path}: {key!r} is {getattr(config, key)}, but this network has {getattr(built, key)}"
            )


def _proof(config: Config) -> Path:
    """A file that is there if this division was proved exact with the versions that are installed."""
    division = [config.backbone, config.backbone_args, config.exits, config.input_size, versions()]
    division += [config.backbone_widths] if config.backbone_widths else []
    digest = hashlib.sha256(json.dumps(division, sort_keys=True).encode()).hexdigest()
    return cache_directory() / "proofs" / digest


def trained_backbone(name: str | Path) -> tuple[nn.Module, EENet]:
    """The backbone of a checkpoint as an ordinary network with its trained weights, and the whole network.

    Raises:
        FileNotFoundError, ValueError: as `EENet.from_pretrained`.
    """
    network = load_checkpoint(name)
    config = network.config
    config.must_support("starting from a trained checkpoint")
    assert config.backbone is not None
    backbone = set_widths(create_backbone(config.backbone, config.backbone_args), config.backbone_widths)
    prefix = re.compile(r"stages\.\d+\.")
    stages = {key: value for key, value in network.state_dict().items() if prefix.match(key)}
    backbone.load_state_dict({prefix.sub("", key, count=1): value for key, value in stages.items()})
    return backbone.eval(), network
