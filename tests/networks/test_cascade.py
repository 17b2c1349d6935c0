"""Cascades: each network says what it said alone, fast engines agree, and checkpoints come back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runtime_cases import images_of, policy_with_shares

import eenet
from eenet.backbones import create_backbone
from eenet.cli import main
from eenet.data.image_sets import ImageSet
from eenet.networks import EENet, create_model, in_cascade, name_backbone, open_network, without_exits
from eenet.runtime import create_backend, run_batch, run_one, segments_of

SHIPPED = "digits-eenet8"


def small(digits: ImageSet, seed: int, *, mean: float = 0.3, exits: int = 1) -> EENet:
    """Random weights, an exit, and a normalisation of its own."""
    torch.manual_seed(seed)
    size = digits.image_size
    if exits:
        network = create_model("resnet8_cifar", num_classes=10, input_size=size, num_exits=exits, head="pool")
    else:
        made = {"in_chans": size[0]}
        network = without_exits(create_backbone("resnet8_cifar", made), size)
        name_backbone(network, "resnet8_cifar", made)
    network.config.mean, network.config.std = [mean], [0.4]
    network.config.class_names = digits.class_names
    return network.eval()


@pytest.fixture
def members(trained: EENet, digits: ImageSet) -> list[EENet]:
    """With three exits, one and none."""
    plain = small(digits, 2, mean=0.1, exits=0)
    return [trained, small(digits, 1), plain]


def test_every_network_says_what_it_said_alone(members: list[EENet], digits: ImageSet) -> None:
    network = in_cascade(members)
    pixels = np.asarray(digits.pixels_BCHW[:40])
    with torch.inference_mode():
        found = network(images_of(network, pixels))
        alone = [each(images_of(each, pixels)) for each in members]
    wanted = [logits_BN for outputs in alone for logits_BN in outputs.logits_KBN]
    assert len(found.logits_KBN) == len(wanted) == 4 + 2 + 1
    for logits_BN, wanted_BN in zip(found.logits_KBN, wanted, strict=True):
        torch.testing.assert_close(logits_BN, wanted_BN, rtol=1e-4, atol=1e-4)
    # until gates are fitted, the confidence is max softmax, also of the last answers of networks
    for k, confidence_B in enumerate(found.confidence_logits_KB):
        largest_B = found.logits_KBN[k].softmax(1).amax(1)
        torch.testing.assert_close(confidence_B.sigmoid(), largest_B, rtol=1e-4, atol=1e-5)


def test_costs_add_up(members: list[EENet]) -> None:
    """All of a network and its heads before the next one's first stage; relative to the last network."""
    network, configs = in_cascade(members), [each.config for each in members]
    spent, wanted = 0, []
    for config in configs:
        for macs, head in zip(config.stage_macs, [*config.head_macs, 0], strict=True):
            spent += macs + head
            wanted.append(spent / configs[-1].backbone_macs)
    assert network.costs_K == pytest.approx(wanted)
    names = [f"0.{name}" for name in configs[0].exits]
    assert network.config.exits == [*names, "0", *(f"1.{name}" for name in configs[1].exits), "1"]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("off", [(), (1, 4), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5)])
def test_fast_engines_equal_the_reference(
    members: list[EENet], digits: ImageSet, backend: str, off: tuple[int, ...]
) -> None:
    """Also where a network, or all but the last, has no exit that is on."""
    network = in_cascade(members)
    network.config.ensemble = [[[0.7, 0.2 * (j + 1)] for j in range(k)] for k in range(7)]
    enabled = [k not in off for k in range(6)]
    policy = policy_with_shares(network, digits, "max_softmax", enabled)
    pixels = np.asarray(digits.pixels_BCHW[:50])
    slow = [run_one(network, policy, image) for image in images_of(network, pixels)]
    assert len({exit_index for _, exit_index in slow}) > (1 if any(enabled) else 0)
    fast = create_backend(backend, network, segments_of(policy, network.config.ensemble), policy.score)
    for batch_size in (1, 50):
        answers = [run_batch(fast, policy, pixels[i : i + batch_size]) for i in range(0, 50, batch_size)]
        assert [k for a in answers for k in a.exits_B.tolist()] == [k for _, k in slow]
        given_BN = np.concatenate([a.probabilities_BN for a in answers])
        wanted_BN = np.stack([p.numpy() for p, _ in slow])
        np.testing.assert_allclose(given_BN, wanted_BN, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_comes_back(members: list[EENet], digits: ImageSet, tmp_path: Path) -> None:
    network = in_cascade(members)
    network.save_pretrained(tmp_path, graph=True)
    pixels = np.asarray(digits.pixels_BCHW[:10])
    wanted = network.answers(pixels)
    stored = open_network(tmp_path)
    assert stored.config.parts == network.config.parts
    for found in (EENet.from_pretrained(tmp_path), stored):
        for given, expected in zip(found.answers(pixels), wanted, strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    for parts, told in (
        ([kept["parts"][0]], "'parts' is"),
        ([{**kept["parts"][0], "head": 3}, kept["parts"][1]], "'parts', 0: 'head' is 3"),
        (kept["parts"][:2], "'backbone_macs'|'stage_macs'"),
        ([{**kept, "parts": kept["parts"]}, kept["parts"][1]], "'parts' is"),
    ):
        path.write_text(json.dumps({**kept, "parts": parts}))
        with pytest.raises(ValueError, match=told):
            EENet.from_pretrained(tmp_path)


def test_the_networks_given_stay_as_they_are(members: list[EENet]) -> None:
    before = [{k: v.clone() for k, v in each.state_dict().items()} for each in members]
    network = in_cascade(members)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for each, kept in zip(members, before, strict=True):
        assert all(torch.equal(v, kept[k]) for k, v in each.state_dict().items())


def test_refusals(members: list[EENet], digits: ImageSet) -> None:
    with pytest.raises(ValueError, match="two networks or more"):
        in_cascade(members[:1])
    with pytest.raises(ValueError, match="give the networks that it is made of"):
        in_cascade([members[0], in_cascade(members)])
    for setting, value, told in (
        ("num_classes", 5, "numbers of classes: 10 and 5"),
        ("input_size", (1, 16, 16), "image sizes"),
    ):
        other = create_model(
            "resnet8_cifar", **{"num_classes": 10, "input_size": (1, 8, 8), "num_exits": 1, setting: value}
        )
        other.config.mean, other.config.std = [0.5], [0.5]
        with pytest.raises(ValueError, match=told):
            in_cascade([members[0], other])
    with pytest.raises(ValueError, match="pruning doesn't work for a cascade"):
        eenet.prune(in_cascade(members))
    with pytest.raises(ValueError, match="choose another one"):
        eenet.Predictor(in_cascade(members), backend="torch-compile")
    renamed = small(digits, 1)
    renamed.config.class_names = [str(n) for n in reversed(range(10))]
    with pytest.raises(ValueError, match="other classes than the first"):
        in_cascade([members[0], renamed])
    renamed.config.mean = None
    with pytest.raises(ValueError, match="no mean and std"):
        in_cascade([members[0], renamed])
    masks = create_model(
        "resnet8_cifar", num_exits=1, task="segmentation", num_classes=3, input_size=(1, 32, 32)
    )
    with pytest.raises(ValueError, match="cascade doesn't work for segmentation"):
        in_cascade([masks, masks])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two networks that are there give a checkpoint that every verb takes."""
    other = tmp_path / "other"
    made = eenet.train("digits", tmp_path / "plain", plain=True, epochs=2)
    assert made.num_examples
    out = tmp_path / "both"
    words = ["cascade", SHIPPED, str(tmp_path / "plain"), "--data", "digits", "--out", str(out)]
    assert main([*words, "--budget", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_examples"] == 360
    assert found["relative_cost"] < 0.2
    assert found["accuracy"] > 0.9
    assert {path.name for path in out.iterdir()} >= {"config.json", "graph.onnx", "report.html", "README.md"}
    assert "cascade of" in (out / "README.md").read_text()
    assert main(["eval", str(out), "--data", "digits", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["accuracy"] == pytest.approx(found["accuracy"])
    exported = eenet.export(out, tmp_path / "int8", precision="int8", data="digits")
    assert exported
    assert main(["eval", str(tmp_path / "int8"), "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(found["accuracy"], abs=0.03)
    for wrong, told in (
        (words, "already holds a run"),
        (["cascade", SHIPPED, "--data", "digits"], "two networks or more"),
        (["cascade", str(tmp_path / "plain"), SHIPPED, "--data", "digits"], "cheapest network first"),
        (["cascade", SHIPPED, "cifar10-eenet20", "--data", "digits"], "image sizes"),
        (["cascade", SHIPPED, str(other), "--data", "digits"], "no checkpoint directory"),
        (
            ["export", str(out), "--format", "aoti", "--out", str(other)],
            "format aoti doesn't work for a cascade",
        ),
        (["batch", str(tmp_path), str(tmp_path / "answers"), str(out)], "batch doesn't work for a cascade"),
        (["train", "--model", str(out), "--data", "digits"], "for a cascade; train its networks"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
