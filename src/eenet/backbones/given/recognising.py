"""A network in memory → the name and arguments by which timm or torchvision builds it again, if they do."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import nn

from eenet.backbones.cost import eval_mode, example_tensor
from eenet.backbones.given.widths import Widths, note_widths, set_widths, widths_between
from eenet.backbones.names import TORCHVISION, classifier_name, create_backbone, is_backbone

HARMLESS = (ValueError, RuntimeError, TypeError, AttributeError, KeyError)


def recognised(module: nn.Module, input_size: Sequence[int]) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a network of timm or torchvision; none if it can't be built again by a name.

    A network that was pruned is recognised too; its widths are noted in it, see `noted_widths`.

    What is built by them has the same tensors in names and shapes and, with the same weights, the same answer
    to a random image, to the bit.

    Args:
        module: any network.
        input_size: (channels, height, width) of its images.
    """
    with torch.random.fork_rng(devices=[]):
        found: list[tuple[str, dict[str, Any], Widths]] = []
        for name, args in _candidates(module):
            with suppress(*HARMLESS):  # what the network's own code raises on arguments it wasn't made with
                fresh = create_on_meta(name, args)
                widths = widths_between(fresh, module)
                if _shapes(set_widths(fresh, widths)) == _shapes(module):
                    found.append((name, args, widths))
        for name, args, widths in sorted(found, key=lambda each: len(each[2])):
            with suppress(*HARMLESS):
                if _same(name, args, widths, module, input_size):
                    note_widths(module, widths)
                    return name, args
    return None


def create_on_meta(name: str, args: dict[str, Any]) -> nn.Module:
    """A network without values, for its tensors' names and shapes."""
    with torch.device("meta"):
        return create_backbone(name, args)


def _candidates(module: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        last: Any = module.get_submodule(classifier_name(module))
        classes = int(last.weight.shape[0])
    except (AttributeError, ValueError):
        return
    configured: Any = getattr(module, "pretrained_cfg", None)
    if configured and isinstance(configured.get("architecture"), str):
        first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
        channels = first.in_channels if first is not None else 3
        if is_backbone(name := configured["architecture"]):
            yield name, {"num_classes": classes, "in_chans": channels}
    home = type(module).__module__
    if home.startswith("torchvision.models."):
        models: Any = import_module("torchvision.models")
        for name in models.list_models(module=models):
            if models.get_model_builder(name).__module__ == home:
                yield TORCHVISION + name, {"num_classes": classes}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _same(
    name: str, args: dict[str, Any], widths: Widths, module: nn.Module, input_size: Sequence[int]
) -> bool:
    again = set_widths(create_backbone(name, args), widths).to(example_tensor(module))
    if type(again) is not type(module):
        return False
    again.load_state_dict(module.state_dict())
    image = torch.randn(1, *input_size).to(example_tensor(module))
    with eval_mode(module), eval_mode(again), torch.inference_mode():
        answers = [network(image.clone()) for network in (module, again)]
    return bool(torch.equal(*answers))
