"""Networks and weights of a user's own: found under every name and wrapper, or refused in one clear line."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from eenet.backbones.given import factories
from eenet.backbones.given.factories import trusted_name
from eenet.backbones.given.recognising import recognised
from eenet.backbones.given.weights import read_weights_file
from eenet.backbones.names import create_backbone, full_name, preprocessing_of
from eenet.networks.building import convert, create_model
from eenet.networks.network import EENet

SIZE = (3, 32, 32)


@pytest.fixture
def network() -> nn.Module:
    return torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()


# Weights -----------------------------------------------------------------------------


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "as it is": lambda own: own,
    "parallel": lambda own: {f"module.{name}": tensor for name, tensor in own.items()},
    "parallel and compiled": lambda own: {f"module._orig_mod.{name}": tensor for name, tensor in own.items()},
    "lightning": lambda own: {"state_dict": {f"model.{n}": t for n, t in own.items()}, "epoch": 3},
    "with a criterion": lambda own: {
        "criterion.weight": torch.ones(4),
        **{f"net.{n}": t for n, t in own.items()},
    },
    "timm": lambda own: {"state_dict": own, "args": argparse.Namespace(lr=0.1), "metric": np.float64(0.9)},
    "averaged": lambda own: {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in own.items()}},
    "both": lambda own: {"model": own, "model_ema": {n: t * 0 for n, t in own.items()}},
    "averages only": lambda own: {"state_dict_ema": {f"ema_model.{n}": t for n, t in own.items()}},
    "without counters": lambda own: {n: t for n, t in own.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_their_wrapping(
    wrapping: str, zipped: bool, network: nn.Module, tmp_path: Path
) -> None:
    torch.save(
        WRAPPED[wrapping](network.state_dict()),
        tmp_path / "mine.pth",
        _use_new_zipfile_serialization=zipped,
    )
    again = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    weights = read_weights_file(tmp_path / "mine.pth").fitted(again)
    assert (weights.num_classes(again), weights.channels(again)) == (4, 3)
    weights.load_into(again)
    images = torch.rand(2, *SIZE)
    assert torch.equal(again(images), network(images))


def test_what_was_taken_off_is_said(network: nn.Module, tmp_path: Path) -> None:
    own = {f"module.model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": own | {"loss.scale": torch.ones(1)}}, tmp_path / "mine.pth")
    notes = read_weights_file(tmp_path / "mine.pth").fitted(network).notes
    assert notes == (
        "weights found under 'state_dict'",
        "prefix 'module.model.' taken off",
        "left out, as they don't begin with it: loss.scale",
    )


def test_a_new_classifier_leaves_the_rest(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    other = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    own = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    read_weights_file(tmp_path / "mine.safetensors").load_into(other, keep_classifier=False)
    for name, tensor in other.state_dict().items():
        expected = own[name] if name.startswith("fc.") else network.state_dict()[name]
        assert torch.equal(tensor, expected)


class Pickled(nn.Linear):
    """A class of a user's own, saved whole."""


def _written(kind: str, path: Path) -> Path:
    own = torchvision.models.shufflenet_v2_x0_5(num_classes=4).state_dict()
    broken = {**own, "fc.bias": torch.full((4,), float("nan"))}
    renamed = {name.replace("conv1.0", "stem.0"): tensor for name, tensor in own.items()}
    saved = {
        "module": Pickled(2, 2),
        "list": [1, 2],
        "epochs": {"epoch": 1, "lr": 0.1},
        "nan": broken,
        "renamed": renamed,
        "good": own,
    }
    if kind in saved:
        torch.save(saved[kind], path / f"{kind}.pth")
        return path / f"{kind}.pth"
    if kind == "script":
        with warnings.catch_warnings(action="ignore"):
            torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path / "script.pth")
    elif kind == "text":
        (path / "text.pth").write_text("hello")
    elif kind == "cut":
        torch.save(own, path / "whole.pth")
        (path / "cut.pth").write_bytes((path / "whole.pth").read_bytes()[:9000])
    elif kind == "directory":
        (path / "directory.pth").mkdir()
    elif kind == "safetensors":
        (path / "safetensors.safetensors").write_text("hello")
        return path / "safetensors.safetensors"
    return path / f"{kind}.pth"


WRONG = {
    "module": r"holds pickled objects \(.*Pickled.*network = torch.load\('module.pth', weights_only=False\); "
    r"torch.save\(network.state_dict\(\), 'weights.pth'\)",
    "list": "holds a list, not a state dict",
    "epochs": "holds no weights: its keys are epoch, lr",
    "nan": "'fc.bias' holds NaN or infinity",
    "renamed": "1 tensors missing: conv1.0.weight; most like it there is stem.0.weight",
    "script": r"is TorchScript; save its weights where it was made: torch.save\(torch.jit.load",
    "text": "not a file of weights, or damaged",
    "cut": "not a file of weights, or damaged",
    "directory": "is a directory",
    "safetensors": "not a readable safetensors file",
    "absent": "no weights file",
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights_are_refused(kind: str, network: nn.Module, tmp_path: Path) -> None:
    path = _written(kind, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=WRONG[kind]) as caught:
        read_weights_file(path).fitted(network).load_into(network)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = _written("good", tmp_path)
    other = torchvision.models.shufflenet_v2_x1_0(num_classes=4)
    with pytest.raises(ValueError, match=r"has shape .* are these the weights of another network\?"):
        read_weights_file(path).load_into(other)


# Names -------------------------------------------------------------------------------


def test_a_name_of_torchvision() -> None:
    assert full_name("shufflenet_v2_x0_5") == full_name("torchvision:shufflenet_v2_x0_5")
    assert full_name("resnet18") == "resnet18"  # timm's comes first
    network = create_model("torchvision:resnet18", num_classes=3, input_size=(3, 32, 32), num_exits=1)
    assert network.config.backbone == "torchvision:resnet18"
    assert network.config.num_classes == 3
    known = preprocessing_of("torchvision:resnet18")
    assert known is not None
    assert known.input_size == (3, 224, 224)
    with pytest.raises(ValueError, match="did you mean torchvision:resnet18"):
        full_name("torchvision:resnet19")
    with pytest.raises(ValueError, match="takes images of 3 channels, not 1"):
        create_backbone("torchvision:resnet18", {"in_chans": 1})


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user's own, beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(factories, "_trusted", set())
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n"
        "def small(num_classes=5, width=8, in_chans=3):\n"
        "    first = [nn.Conv2d(in_chans, width, 3), nn.ReLU()]\n"
        "    layers = [nn.Conv2d(width, width, 3), nn.ReLU()] * 2\n"
        "    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]\n"
        "    return nn.Sequential(*first, *layers, *end)\n"
        "def fixed():\n"
        "    return small(3)\n"
        "def broken():\n"
        "    raise RuntimeError('no luck')\n"
        "def number():\n"
        "    return 1\n"
        "value = 3\n"
    )
    yield "nets_of_mine"
    sys.modules.pop("nets_of_mine", None)


def test_a_factory_is_run_only_if_named_or_trusted(
    own_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_model(f"{own_module}:small", input_size=(3, 16, 16), num_exits=1, num_classes=4, width=6)
    made.config.mean, made.config.std = [0.5] * 3, [0.5] * 3
    assert made.config.backbone == f"factory:{own_module}:small"
    made.save_pretrained(tmp_path / "net")
    monkeypatch.setattr(factories, "_trusted", set())
    with pytest.raises(
        ValueError, match=rf"is not run unasked: name it again \(--model {own_module}:small\)"
    ):
        EENet.from_pretrained(tmp_path / "net")
    images = torch.rand(2, 3, 16, 16)
    loaded = EENet.from_pretrained(tmp_path / "net", trust_model_code=True)
    assert torch.equal(loaded(images).logits_KBN[-1], made.eval()(images).logits_KBN[-1])
    monkeypatch.setattr(factories, "_trusted", set())
    trusted_name(f"{own_module}:small")
    EENet.from_pretrained(tmp_path / "net")


def test_a_checkpoint_cannot_name_any_function(network: nn.Module, tmp_path: Path) -> None:
    convert(network, SIZE, num_exits=1).save_pretrained(tmp_path / "net")
    config = tmp_path / "net/config.json"
    text = config.read_text()
    for name in ("os:getcwd", "factory:os:getcwd"):
        config.write_text(text.replace('"torchvision:shufflenet_v2_x0_5"', f'"{name}"'))
        with pytest.raises(ValueError, match=r"unknown backbone|not run unasked"):
            EENet.from_pretrained(tmp_path / "net")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MODULE:broken", r"fails with \{\}: RuntimeError\('no luck'\)"),
        ("MODULE:number", "returns int; expected a network"),
        ("MODULE:value", "is of type int; expected a function"),
        ("MODULE:absent", "has no attribute 'absent'"),
        ("absent_module:net", "can't import 'absent_module'"),
        ("MODULE.py:small", "give the module, not its file: nets_of_mine:small"),
        ("MODULE small:net", "package.module:function"),
    ],
)
def test_factories_that_cannot_be_used(own_module: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(trusted_name(name.replace("MODULE", own_module)), {})


def test_a_factory_is_given_what_it_takes(own_module: str) -> None:
    made: Any = create_backbone(trusted_name(f"{own_module}:fixed"), {"num_classes": 9, "in_chans": 1})
    assert made[-1].out_features == 3


# Recognition -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "name", "args"),
    [
        (lambda: timm.create_model("test_resnet", num_classes=7), "test_resnet", {"in_chans": 3}),
        (lambda: timm.create_model("test_resnet", num_classes=7, in_chans=1), "test_resnet", {"in_chans": 1}),
        (lambda: torchvision.models.squeezenet1_1(num_classes=7), "torchvision:squeezenet1_1", {}),
        (lambda: torchvision.models.resnet34(num_classes=7), "torchvision:resnet34", {}),
    ],
)
def test_known_networks_are_recognised(
    made: Callable[[], nn.Module], name: str, args: dict[str, int], tmp_path: Path
) -> None:
    """And so a checkpoint needs nothing beside it."""
    backbone = made()
    network = convert(backbone, (args.get("in_chans", 3), 64, 64), num_exits=1)
    assert (network.config.backbone, network.config.backbone_args) == (name, {"num_classes": 7, **args})
    network.config.mean = network.config.std = [0.5] * args.get("in_chans", 3)
    network.save_pretrained(tmp_path)
    images = torch.rand(2, args.get("in_chans", 3), 64, 64)
    assert torch.equal(
        EENet.from_pretrained(tmp_path)(images).logits_KBN[-1], network.eval()(images).logits_KBN[-1]
    )


@pytest.mark.parametrize(
    "made",
    [
        lambda: timm.create_model("test_resnet", num_classes=7, act_layer="silu"),
        lambda: torchvision.models.resnet18(num_classes=7, norm_layer=lambda n: nn.GroupNorm(1, n)),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7)),
    ],
)
def test_changed_networks_are_not_taken_for_what_they_were(made: Callable[[], nn.Module]) -> None:
    """Same names and shapes of tensors aren't enough: the answers must be the same too."""
    assert recognised(made(), SIZE) is None


def test_looking_for_a_name_draws_no_random_numbers() -> None:
    backbone = timm.create_model("test_resnet", num_classes=7)
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    recognised(backbone, SIZE)
    assert torch.equal(torch.rand(2), before)
