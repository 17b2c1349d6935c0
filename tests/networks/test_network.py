"""Building, converting, saving, loading: what comes back is what was saved, or one clear error."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from runtime_cases import images_of
from torch import Tensor, nn

import eenet
from eenet.backbones.names import ALIASES, create_backbone
from eenet.data.image_sets import ImageSet
from eenet.evaluation.evaluating import collect
from eenet.networks.building import convert, create_model, without_exits
from eenet.networks.network import EENet
from eenet.tasks.classification.metrics import measure

IMAGES = torch.randn(2, 1, 8, 8)


def same(one: EENet, other: EENet) -> bool:
    pairs = zip(one(IMAGES), other(IMAGES), strict=True)
    return all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def test_one_return_type(network: EENet) -> None:
    for training in (True, False):
        outputs = network.train(training)(IMAGES)
        assert [tuple(z.shape) for z in outputs.logits_KBN] == [(2, 10)] * 4
        assert [tuple(z.shape) for z in outputs.confidence_logits_KB] == [(2,)] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_that_was_cast_is_refused(dtype: torch.dtype) -> None:
    """With the way back, whatever it is used for; not with torch's own error from within."""
    network = create_model("resnet8_w4_cifar", num_classes=2, in_chans=1, input_size=(8, 8), num_exits=1)
    network.config.mean, network.config.std = [0.5], [0.2]
    images = eenet.from_dataset([(torch.rand(1, 8, 8), i % 2) for i in range(8)])
    network.to(dtype)
    uses: list[Callable[[], Any]] = [
        lambda: network(torch.rand(2, 1, 8, 8)),
        lambda: eenet.collect(network, images),
        lambda: eenet.bench(network, data=images, backends=["torch"], repeats=1),
        *(partial(eenet.Predictor, network, backend=name) for name in ("torch", "onnxruntime", "openvino")),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=rf"weights are in {dtype}.*network\.float\(\)"):
            use()
    assert network(torch.rand(2, 1, 8, 8, dtype=dtype)).logits_KBN[0].dtype == dtype
    assert eenet.Predictor(network.float(), backend="torch").predict(torch.rand(1, 8, 8)).label in "01"


def test_answers_are_what_forward_says_in_eval_mode(network: EENet, digits: ImageSet) -> None:
    """Of any array of pixels, also one that can't be written to or runs backwards."""
    pixels = np.asarray(digits.pixels_BCHW[:20]).copy()
    outputs = network(images_of(network, pixels))
    logits_KBN, gates_KB = network.train().answers(pixels)
    assert network.training
    for found, wanted in ((logits_KBN, outputs.logits_KBN), (gates_KB, outputs.confidence_logits_KB)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, torch.stack(wanted).detach().numpy(), rtol=1e-4, atol=1e-5)
    pixels.flags.writeable = False
    np.testing.assert_allclose(network.answers(pixels[::-1])[0][:, ::-1], logits_KBN, rtol=1e-4, atol=1e-5)


def test_without_exits_there_is_one_answer(digits: ImageSet) -> None:
    """And no confidence, in records and in what is made of them."""
    network = without_exits(create_backbone("resnet8_w2_cifar", {"in_chans": 1}), (1, 8, 8))
    network.config.mean, network.config.std = [0.5], [0.25]
    records = collect(network, digits)
    count = len(digits)
    assert records.logits_KBN.shape == (1, count, 10)
    assert records.confidence_logits_KB.shape == (0, count)
    measured = measure(records, network.config.exit_policy())
    assert measured.exit_counts == [count]
    assert measured.accuracy == measured.full_accuracy == records.full_accuracy


def test_final_exit_is_the_plain_backbone() -> None:
    backbone = timm.create_model("resnet20_cifar", num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)
    network = convert(backbone, (3, 32, 32), num_exits=3)
    assert torch.equal(network(images).logits_KBN[-1], expected)
    assert not network.stages.training


def test_every_early_exit_learns() -> None:
    network = create_model("resnet20_cifar", num_exits=3, num_classes=10)
    outputs = network(torch.randn(2, 3, 32, 32))
    torch.stack([z.sum() for part in outputs for z in part]).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_placements_and_sizes() -> None:
    network = eenet.create_model(
        "resnet20_cifar", num_classes=10, in_chans=1, num_exits=3, placement="linear", input_size=(28, 28)
    )
    assert network.config.input_size == (1, 28, 28)
    assert network.config.exits == ["layer1.2", "layer2.1", "layer3.0"]
    assert eenet.create_model("resnet20_cifar", placement=["layer2.0"]).num_exits == 1
    assert eenet.create_model("resnet18", num_exits=2, num_classes=3).config.input_size == (3, 224, 224)


def test_round_trip(network: EENet, tmp_path: Path) -> None:
    network.config.policy = {"score": "margin", "thresholds": [0.1, 0.2, 0.3], "enabled": [True] * 3}
    network.save_pretrained(tmp_path / "new" / "place", card="# a card")
    loaded = EENet.from_pretrained(tmp_path / "new" / "place")
    assert same(network, loaded)
    assert loaded.config == network.config
    assert loaded.costs_K == network.costs_K
    assert (tmp_path / "new" / "place" / "README.md").read_text() == "# a card"


@pytest.mark.parametrize(("alias", "name"), [("eenet8", "resnet8_w4_cifar"), ("eenet20", "resnet20_cifar")])
def test_the_papers_names(alias: str, name: str) -> None:
    network = create_model(alias, num_exits=2, num_classes=10)
    assert network.config.backbone == name
    assert timm.is_model(ALIASES["eenet152"])


class OwnNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(1 if not i else 4, 4, 3), nn.ReLU()) for i in range(3))
        )
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def test_own_class_round_trip(tmp_path: Path) -> None:
    network = convert(OwnNetwork(), (1, 8, 8), num_exits=1).eval()
    network.save_pretrained(tmp_path)
    assert same(network, EENet.from_pretrained(tmp_path, backbone=OwnNetwork()))
    with pytest.raises(ValueError, match="backbone=MyNetwork"):
        EENet.from_pretrained(tmp_path)


def edit(key: str, value: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        if value is None:
            del config[key]
        else:
            config[key] = value
        path.write_text(json.dumps(config))

    return change


def retensor(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        weights = safetensors.torch.load_file(directory / "model.safetensors")
        change(weights)
        safetensors.torch.save_file(weights, directory / "model.safetensors")

    return rewrite


KEY = "stages.0.conv1.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_text("[1]"), "must hold a JSON object"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "not a readable safetensors"),
        (edit("format_version", 99), "'format_version' is 99"),
        (edit("exits", None), "key 'exits' is missing"),
        (edit("colour", 1), "unknown key 'colour'"),
        (edit("exits", ["conv1", "layer1.0", "layer9"]), "no cut named 'layer9'"),
        (edit("head_macs", [1, 2, 3]), "'head_macs' is"),
        (edit("backbone", "resnet21_cifar"), "unknown backbone"),
        (retensor(lambda w: w.pop(KEY)), f"tensor '{KEY}' is missing"),
        (retensor(lambda w: w.update(more=torch.ones(1))), "unknown tensor 'more'"),
        (retensor(lambda w: w.update({KEY: torch.ones(2)})), r"has shape \(2,\)"),
        (retensor(lambda w: w[KEY].fill_(torch.nan)), "NaN"),
    ],
)
def test_damaged_checkpoints(
    network: EENet, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    network.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EENet.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "no/where", "/no/where/at/all", "./here"])
def test_no_such_checkpoint(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        EENet.from_pretrained(name)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"backbone": "resnet2_cifar", "num_exits": 1}, "did you mean"),
        ({"backbone": "resnet20_cifar", "num_exits": 1, "head": "foot"}, "unknown exit head"),
        (
            {"backbone": "resnet20_cifar", "num_exits": 1, "in_chans": 1, "input_size": (3, 8, 8)},
            "3 channels",
        ),
        ({"backbone": "resnet20_cifar", "num_exits": 1, "depth": 3}, "can't build backbone"),
        ({"backbone": "resnet20_cifar"}, "needs num_exits"),
    ],
)
def test_bad_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**args)


def test_public_names() -> None:
    assert all(hasattr(eenet, name) for name in eenet.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        eenet.nothing  # noqa: B018
