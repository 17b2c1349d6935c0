"""Pruned networks: the share that was asked for by our counter, the same kind back, checkpoints as ever."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import eenet
from eenet.backbones.cost import count_macs
from eenet.backbones.given.factories import trusted_name
from eenet.backbones.given.widths import set_widths, widths_between
from eenet.backbones.names import create_backbone
from eenet.cli import main
from eenet.compress.pruning import pruned, sparsity_of
from eenet.data import from_dataset
from eenet.networks.network import EENet, ExitOutputs

SIZE = (3, 32, 32)
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet8_w4_cifar": {},
    "test_resnet": {},
    "test_convnext": {},  # with parameters of its own, outside layers
    "mobilenetv3_small_050": {},  # depthwise, with squeeze and excitation
    "densenet121": {"block_config": (1, 2), "growth_rate": 16},  # concatenates
    "regnetx_002": {},  # grouped convolutions
    "torchvision:mobilenet_v3_small": {},
}


class Own(nn.Module):
    """Residual and grouped, of no library; one layer runs twice."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(4, width)
        self.twice = nn.Conv2d(width, width, 3, padding=1, groups=4)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.twice(self.twice(x).relu())
        return self.head(self.down(x).relu().mean((2, 3)))


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, {"num_classes": 10, **NETWORKS[name]}).eval()


def everything(outputs: ExitOutputs) -> list[Tensor]:
    return [*outputs.logits_KBN, *outputs.confidence_logits_KB]


def same_answers(one: EENet, other: EENet) -> bool:
    images = torch.randn(4, *one.config.input_size)
    with torch.inference_mode():
        pairs = zip(everything(one.eval()(images)), everything(other.eval()(images)), strict=True)
        return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_backbone_costs_what_was_asked_for_and_its_checkpoint_loads_by_its_name(
    name: str, tmp_path: Path
) -> None:
    network = made(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    found = eenet.prune(network, 0.5, SIZE)
    share = count_macs(found, (1, *SIZE)) / count_macs(network, (1, *SIZE))
    assert share == pytest.approx(0.5, abs=0.1)
    assert type(found) is type(network)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    with torch.inference_mode():
        logits_BN = found(torch.randn(2, *SIZE))
    assert logits_BN.shape == (2, 10)
    assert logits_BN.isfinite().all()
    with_exits = eenet.convert(found, SIZE, num_exits=1, placement=[0.4])
    with_exits.save_pretrained(tmp_path / "checkpoint")
    known = None if with_exits.config.backbone == name else made(name)
    assert (known is None) == (not NETWORKS[name]), "by its name if that alone builds it"
    assert same_answers(with_exits, EENet.from_pretrained(tmp_path / "checkpoint", backbone=known))


@pytest.mark.parametrize(("keep", "multiple"), [(0.5, 16), (0.4, 8), (0.1, 4)])
def test_channels_are_the_largest_multiples_with_which_the_share_is_near(keep: float, multiple: int) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet20_cifar", {"num_classes": 10})
    network = eenet.convert(backbone, SIZE, num_exits=1, placement=[0.5])
    found, pruning = pruned(network, keep)
    assert pruning.round_to == multiple
    assert pruning.share == pytest.approx(keep, rel=0.1)
    widths = [layer.out_channels for layer in found.modules() if isinstance(layer, nn.Conv2d)]
    assert all(width % multiple == 0 for width in widths)
    with pytest.raises((AssertionError, ValueError)):  # coarser: too far away, or refused
        assert pruned(network, keep, round_to=2 * multiple)[1].share == pytest.approx(keep, rel=0.1)


@pytest.mark.parametrize("how", ["uniform", "global"])
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet8_w4_cifar", "deep"),
        ("resnet8_w4_cifar", "separable"),
        ("mobilenetv3_small_050", "deep"),
    ],
)
def test_a_network_with_exits_is_pruned_heads_and_all(name: str, head: str, how: str, tmp_path: Path) -> None:
    network = eenet.convert(made(name), SIZE, num_exits=1, placement=[0.5], head=head)
    found, pruning = pruned(network, 0.4, how=how)
    assert isinstance(found, EENet)
    assert pruning.share == pytest.approx(0.4, abs=0.08)
    assert (
        pruning.macs == count_macs(found, (1, *SIZE)) == sum(found.config.stage_macs + found.config.head_macs)
    )
    assert pruning.macs_before == count_macs(network, (1, *SIZE))
    assert found.config.exits == network.config.exits
    assert found.config.backbone_macs == sum(found.config.stage_macs)
    assert sum(found.config.head_macs) < sum(network.config.head_macs)
    outputs = found(torch.randn(3, *SIZE))
    assert {logits.shape for logits in outputs.logits_KBN} == {(3, 10)}
    assert {confidence.shape for confidence in outputs.confidence_logits_KB} == {(3,)}
    found.save_pretrained(tmp_path / "checkpoint")
    again = EENet.from_pretrained(tmp_path / "checkpoint")
    assert same_answers(found, again)
    twice, _ = pruned(again, 0.6)
    assert isinstance(twice, EENet)
    twice.save_pretrained(tmp_path / "twice")
    assert same_answers(twice, EENet.from_pretrained(tmp_path / "twice"))


def test_channels_of_the_smallest_weights_go() -> None:
    """Uniform: the oracle is the norm of all weights that a channel has, here of two layers alone."""
    first, last = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 4)
    network = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last)
    with torch.no_grad():
        first.weight *= torch.tensor([5.0, 1, 6, 2, 7, 3, 8, 4]).view(-1, 1, 1, 1)
        last.weight.fill_(0.001)
    kept = eenet.prune(network, 0.5, (3, 3, 3), round_to=4).state_dict()
    assert torch.equal(kept["0.weight"], first.weight[[0, 2, 4, 6]])
    assert torch.equal(kept["3.weight"], last.weight[:, [0, 2, 4, 6]])


def test_channels_are_multiples_and_no_layer_is_lost() -> None:
    for how in ("uniform", "global"):
        network = create_backbone("resnet14_cifar", {})
        found = eenet.prune(network, 0.25, SIZE, how=how, round_to=8)
        widths = [part.out_channels for part in found.modules() if isinstance(part, nn.Conv2d)]
        assert min(widths) >= 8
        assert all(width % 8 == 0 for width in widths)


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    found = eenet.prune(Own(), 0.5, SIZE)
    network = eenet.convert(found, SIZE, num_exits=1, placement=["add"])
    network.save_pretrained(tmp_path / "checkpoint")
    for backbone in (Own(), found):
        again = EENet.from_pretrained(tmp_path / "checkpoint", backbone=backbone)
        assert same_answers(network, again)


def test_what_was_pruned_elsewhere_is_recognised() -> None:
    network = made("resnet8_w4_cifar")
    narrow = eenet.prune(network, 0.5, SIZE)
    widths = widths_between(network, narrow)
    elsewhere = set_widths(made("resnet8_w4_cifar"), widths)
    elsewhere.load_state_dict(narrow.state_dict())
    del elsewhere.eenet_widths
    config = eenet.convert(elsewhere, SIZE, num_exits=1).config
    assert config.backbone == "resnet8_w4_cifar"
    assert config.backbone_widths == widths


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda n: eenet.prune(n, 1.0, SIZE), "keep is 1.0; give the share"),
        (lambda n: eenet.prune(n, 0.5, SIZE, how="some"), "how is 'some'; choose from uniform, global"),
        (lambda n: eenet.prune(n, 0.5, SIZE, round_to=0), "round_to is 0"),
        (lambda n: eenet.prune(n, 0.5), "give input_size"),
        (lambda n: eenet.prune(n, 0.0001, SIZE), "can't be pruned to 0.0001 of its MACs; the nearest is"),
        (
            lambda _: eenet.prune(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 0.5, (3, 2, 2)),
            "nothing that",
        ),
        (
            lambda _: eenet.prune(create_backbone("torchvision:shufflenet_v2_x0_5", {}), 0.5, SIZE),
            "Torch-Pruning can't follow this ShuffleNetV2",
        ),
    ],
)
def test_what_cannot_be_pruned_is_said(call: Callable[[nn.Module], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        call(made("resnet8_w4_cifar"))
    assert "\n" not in str(error.value)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ValueError, match=r"pruning needs torch-pruning; pip install 'eenet\[compress\]'"):
        eenet.prune(made("resnet8_w4_cifar"), 0.5, SIZE)


# Checkpoints -------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    network = eenet.prune(eenet.convert(made("resnet8_w4_cifar"), SIZE, num_exits=1), 0.5)
    assert isinstance(network, EENet)
    return network.save_pretrained(tmp_path / "checkpoint")


def test_a_checkpoint_from_before_has_no_widths(checkpoint: Path, network: EENet) -> None:
    network.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    del config["backbone_widths"], config["head_widths"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert same_answers(network, EENet.from_pretrained(checkpoint))


@pytest.mark.parametrize(
    ("key", "change", "told"),
    [
        ("backbone_widths", [1], "'backbone_widths' is .*; expected an object of layers and their widths"),
        ("backbone_widths", {"conv1": {"out_channels": 0}}, "expected an object of layers"),
        ("backbone_widths", {"conv9": {"out_channels": 1}}, "has no layer 'conv9'"),
        ("backbone_widths", {"conv1": {"colour": 1}}, "'conv1' has no 'colour', but in_channels"),
        ("backbone_widths", {"conv1": {"out_channels": 999}}, "out_channels is 999; expected at most 4"),
        ("backbone_widths", {"conv1": {"groups": 2}}, "groups is 2; expected at most 1"),
        ("backbone_widths", {"conv1": {"out_channels": 1}}, "'input_size' or 'backbone_widths'"),
        ("backbone_widths", {}, "'backbone_macs' is"),
        ("head_widths", {"0.trunk.1": {"out_channels": 3}}, "'head' and 'gate' and 'head_widths'"),
        ("head_widths", {"0.trunk.9": {"out_channels": 3}}, "has no layer '0.trunk.9'"),
    ],
)
def test_damaged_widths_are_one_line(checkpoint: Path, key: str, change: Any, told: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config[key] = change
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=told) as error:
        EENet.from_pretrained(checkpoint)
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


# Training ----------------------------------------------------------------------------

MINE = ["train", "--data", "digits", "--model", "resnet8_w4_cifar"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network: Any = timm.create_model("resnet8_w4_cifar", num_classes=10, in_chans=1)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(network.state_dict(), path)
    return path


def test_training_prunes_first_and_all_verbs_take_what_it_writes(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*MINE, "--weights", str(weights), "--mean", "0.3", "--std", "0.4", "--prune", "0.5"]
    assert main([*words, "--epochs", "1", "--num-exits", "1", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert "pruned to 0.5" in captured.err or "pruned to 0.4" in captured.err
    assert "is pruned, and trained on" in captured.err
    accuracy = json.loads(captured.out)["full_accuracy"]
    config = json.loads((out / "config.json").read_text())
    assert config["provenance"]["pruning"]["macs"] == config["backbone_macs"]
    assert main(["eval", str(out), "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["full_accuracy"] == accuracy
    assert main(["calibrate", str(out), "--data", "digits", "--budget", "0.9", "--json"]) == 0
    exported = tmp_path / "exported"
    assert main(["export", str(out), "--precision", "int8", "--out", str(exported), "--json"]) == 0
    for place in (out, exported):
        assert main(["bench", str(place), "--backends", "onnxruntime", "--repeats", "1", "--json"]) == 0
    again = tmp_path / "again"
    assert main(["train", "digits", "--model", str(out), "--prune", "0.5", "--plain", "--epochs", "1",
                 "--out", str(again), "--json"]) == 0  # fmt: skip
    narrower = json.loads((again / "config.json").read_text())
    assert narrower["backbone_macs"] < 0.6 * config["backbone_macs"]
    assert EENet.from_pretrained(again).num_exits == 0


def test_an_interrupted_run_goes_on_with_the_same_channels(weights: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": "digits", "model": "resnet8_w4_cifar", "weights": str(weights)}
    settings |= {
        "mean": [0.3],
        "std": [0.4],
        "prune": 0.5,
        "prune_how": "global",
        "num_exits": 1,
        "epochs": 1,
    }
    whole = eenet.train(None, tmp_path / "whole", **settings)
    eenet.train(None, tmp_path / "parts", **settings)
    (tmp_path / "parts" / "model.safetensors").unlink()  # as if killed after the last epoch
    resumed = eenet.train(None, tmp_path / "parts", resume=True, **settings)
    assert same_answers(EENet.from_pretrained(whole.checkpoint), EENet.from_pretrained(resumed.checkpoint))


def test_networks_in_memory_and_of_a_function(tmp_path: Path) -> None:
    rows = [(torch.rand(3, 16, 16), i % 5) for i in range(60)]
    images = {split: from_dataset(rows) for split in ("train", "validation", "test")}
    settings: dict[str, Any] = {"epochs": 1, "num_exits": 1, "placement": ["add"], "prune": 0.5}
    result = eenet.train(model=Own(), out=tmp_path / "own", images=images, **settings)
    assert EENet.from_pretrained(result.checkpoint, backbone=Own()).config.backbone_widths
    module: Any = SimpleNamespace(make=Own)
    sys.modules["own_networks"] = module
    try:
        torch.save(Own().state_dict(), tmp_path / "own.pth")
        named = trusted_name("own_networks:make")
        settings |= {"weights": str(tmp_path / "own.pth"), "mean": [0.5], "std": [0.2]}
        made_by = eenet.train(model="own_networks:make", out=tmp_path / "named", images=images, **settings)
        assert EENet.from_pretrained(made_by.checkpoint).config.backbone == named
    finally:
        del sys.modules["own_networks"]
    network = eenet.convert(Own(), (3, 16, 16), num_exits=1, placement=["add"])
    config = eenet.TrainConfig("own", "own", epochs=1, batch_size=32, budget=0.99, prune=0.5)
    given = eenet.train(config, tmp_path / "given", network=network, images=images)
    assert EENet.from_pretrained(given.checkpoint, backbone=Own()).config.head_widths


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "prune takes out channels of small weights, and resnet8_w4_cifar starts from random"),
        (["--prune", "0"], "prune is 0.0; give the share"),
        (["--prune", "1.5"], "prune is 1.5; give the share"),
        (["--freeze-backbone"], "freeze_backbone keeps the backbone as it is, prune changes it"),
        (["--set", "prune_how=some"], "prune_how is 'some'; choose from uniform, global"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--prune" in words else ["--prune", "0.5"]
    assert main([*MINE, *given, *words, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err


def least_of_largest(network: EENet) -> float:
    """How much smaller the least channel of a layer is than its largest, on average over the layers."""
    found = []
    for layer in network.stages.modules():
        if isinstance(layer, nn.Conv2d):
            norms_C = layer.weight.detach().flatten(1).norm(dim=1)
            found.append(float(norms_C.min() / norms_C.max()))
    return sum(found) / len(found)


def test_the_penalty_of_sparsity_makes_whole_channels_small() -> None:
    network = eenet.create_model("resnet20_cifar", num_classes=10, num_exits=2, input_size=SIZE)
    penalty, before = sparsity_of(network, 0.05), least_of_largest(network)
    gates = [p for head in network.heads for p in head.get_submodule("confidence").parameters()]
    kept = [parameter.detach().clone() for parameter in gates]
    for _ in range(10):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        penalty.add_gradient()
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
    assert least_of_largest(network) < 0.8 * before
    assert all(torch.equal(a, b) for a, b in zip(gates, kept, strict=True))


def test_training_with_sparsity(tmp_path: Path) -> None:
    """The least channels are smaller than those of the same run without it, relative to the largest."""
    settings = {"model": "resnet8_cifar", "num_exits": 2, "epochs": 2, "batch_size": 64, "budget": "auto"}
    found = []
    for sparsity in (None, 0.01):
        out = tmp_path / str(sparsity)
        eenet.train("digits", out, sparsity=sparsity, **settings)
        found.append(least_of_largest(EENet.from_pretrained(out)))
    assert found[1] < 0.95 * found[0]


def test_sparsity_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="sparsity is -1; it must be above 0"):
        eenet.TrainConfig("digits", "resnet8_cifar", sparsity=-1)
    with pytest.raises(ValueError, match="sparsity changes it; give one of them"):
        eenet.TrainConfig("digits", "digits-eenet8", sparsity=1e-4, freeze_backbone=True)
