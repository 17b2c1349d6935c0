"""Networks that answer with masks: their costs, their state, and that they come back as they were saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import eenet
from eenet.backbones import create_backbone
from eenet.networks import without_exits
from eenet.policies import SCORES, graph_scores, score_of
from eenet.scale.ray_serve import Arguments, app
from eenet.tasks import TASKS, task_of
from eenet.tasks.segmentation.maps import class_map
from eenet.training.objectives import IGNORED, joint_cross_entropy

N = 4


def made(
    backbone: str = "resnet8_cifar", size: tuple[int, ...] = (3, 32, 32), num_exits: int = 2
) -> eenet.EENet:
    network = eenet.create_model(
        backbone,
        task="segmentation",
        num_classes=N,
        num_exits=num_exits,
        input_size=size,
        task_settings={"width": 8},
    )
    network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    return network.eval()


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("resnet8_cifar", (3, 32, 32)), ("test_resnet", (3, 64, 96)), ("test_efficientnet", (3, 96, 64)),
     ("test_convnext", (3, 64, 64)), ("vgg11_bn", (3, 64, 64))],
)  # fmt: skip
def test_costs_count_decoder_and_heads(backbone: str, size: tuple[int, ...]) -> None:
    network = made(backbone, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = network(torch.zeros(1, *size))
    assert counter.get_total_flops() // 2 == sum(network.config.stage_macs) + sum(network.config.head_macs)
    shapes = {tuple(logits.shape) for logits in outputs.logits_KBN}
    assert len(shapes) == 1  # the state has one stride
    assert [each.shape for each in outputs.confidence_logits_KB] == [(1,)] * 2
    assert network.costs_K == sorted(network.costs_K)


def test_the_network_without_exits_costs_one() -> None:
    module = create_backbone("resnet8_cifar", {"num_classes": 10, "in_chans": 3})
    plain = without_exits(module, (3, 32, 32), task="segmentation", num_classes=N, task_settings={"width": 8})
    assert plain.costs_K == [1.0]
    assert plain.config.backbone_macs == made().config.backbone_macs


def test_early_answers_need_no_later_stage() -> None:
    network, images = made(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs = network(images)
        carried = network.stages[0](images)
        logits, confidence_logits = network.heads[0](carried)
        assert torch.equal(logits, outputs.logits_KBN[0])
        assert torch.equal(confidence_logits, outputs.confidence_logits_KB[0])
        carried = network.stages[1](carried)
        assert torch.equal(network.stages[2](carried), outputs.logits_KBN[2])


def test_rows_of_what_is_carried_are_images() -> None:
    """Compaction takes some rows of features and state alike."""
    network, images = made(), torch.randn(5, 3, 32, 40)
    rows = torch.tensor([0, 3])
    with torch.no_grad():
        carried = tuple(part[rows] for part in network.stages[0](images))
        found = network.stages[2](network.stages[1](carried))
        assert torch.allclose(found, network(images).logits_KBN[-1][rows], atol=1e-5)


def test_images_of_any_size() -> None:
    network = made()
    for size in ((32, 32), (40, 56), (33, 47)):
        found = network.answers(np.zeros((2, 3, *size), np.uint8))[0]
        assert found.shape == (3, 2, N, -(-size[0] // 4), -(-size[1] // 4))


def test_every_part_is_trained() -> None:
    network = made().train()
    outputs = network(torch.randn(4, 3, 32, 32))
    targets = torch.randint(N, (4, 8, 8))
    joint_cross_entropy(outputs, targets, network.costs_K).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert all(".confidence." in name for name in idle)  # gates are fitted afterwards


def test_pixels_without_a_class_count_for_nothing() -> None:
    network, task = made(), task_of("segmentation")
    outputs = network(torch.randn(2, 3, 32, 32))
    truth = torch.randint(N, (2, 8, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    truth[:, :16] = 255
    targets = task.targets(truth, outputs.logits_KBN[0])
    assert targets.shape == (2, 8, 8)
    assert (targets[:, :4] == IGNORED).all()
    expected = sum(
        F.cross_entropy(logits[:, :, 4:].movedim(1, -1).reshape(-1, N), targets[:, 4:].flatten())
        for logits in outputs.logits_KBN
    )
    assert torch.allclose(joint_cross_entropy(outputs, targets, network.costs_K), torch.as_tensor(expected))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    network = made()
    network.save_pretrained(tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["task"] == "segmentation"
    assert config["task_settings"] == {"width": 8}
    again, images = eenet.EENet.from_pretrained(tmp_path / "c"), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for one, other in zip(network(images).logits_KBN, again(images).logits_KBN, strict=True):
            assert torch.equal(one, other)


def test_a_checkpoint_without_a_task_is_one_of_classification(tmp_path: Path, network: eenet.EENet) -> None:
    network.save_pretrained(tmp_path / "c")
    path = tmp_path / "c" / "config.json"
    config = json.loads(path.read_text())
    del config["task"], config["task_settings"]
    path.write_text(json.dumps(config))
    assert eenet.EENet.from_pretrained(tmp_path / "c").config.task == "classification"
    path.write_text(json.dumps({**config, "task": "detecting"}))
    with pytest.raises(ValueError, match="'task' is \"detecting\"; expected one of classification, segm"):
        eenet.EENet.from_pretrained(tmp_path / "c")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_classes": None}, "give num_classes"),
        ({"num_classes": 1}, "num_classes is 1; masks have at least 2"),
        ({"head": "deep"}, "unknown exit head 'deep' for segmentation; choose from separable"),
        ({"gate": "answer"}, "unknown gate 'answer' for segmentation"),
        ({"task": "segmenting"}, "unknown task 'segmenting'"),
        ({"task_settings": {"width": 0}}, "width is 0"),
        ({"task_settings": {"stride": 8}}, "unknown task setting 'stride'; segmentation has: width"),
        ({"input_size": (3, 4, 4)}, "no feature map of more than one pixel|nothing is left"),
    ],
)
def test_what_cannot_be_made_is_one_line(given: dict[str, object], said: str) -> None:
    asked = {"task": "segmentation", "num_classes": N, "num_exits": 1, "input_size": (3, 32, 32), **given}
    with pytest.raises(ValueError, match=said):
        eenet.create_model("resnet8_cifar", **asked)  # type: ignore[arg-type]


def test_full_size_answers_are_those_of_bilinear_logits() -> None:
    random = np.random.default_rng(0)
    for size, full in (((9, 12), (36, 48)), ((7, 5), (33, 18)), ((1, 3), (8, 8)), ((8, 8), (8, 8))):
        logits = random.standard_normal((N, *size)).astype(np.float32)
        wide = F.interpolate(torch.from_numpy(logits)[None], full, mode="bilinear")[0]
        assert (class_map(logits, full) == wide.argmax(0).numpy()).mean() > 0.999  # ties may differ


def test_scores_of_pixels() -> None:
    """Against plain Python, from arrays and from tensors."""
    random = np.random.default_rng(0)
    before, now = (3 * random.standard_normal((3, N, 5, 6)).astype(np.float32) for _ in range(2))
    sure = np.zeros(3, np.float32)
    tops = torch.from_numpy(now).softmax(1).amax(1).flatten(1).numpy()
    expected = {
        "sure_share": [np.mean([p > 0.9 for p in row]) for row in tops],
        "low_quantile": [sorted(row)[1] for row in tops],  # 5 % of 30 pixels: two of them
        "max_softmax": tops.mean(1),
        "agreement": (before.argmax(1) == now.argmax(1)).mean((1, 2)),
    }
    for name, values in expected.items():
        assert score_of(name, [before, now], [sure, sure]) == pytest.approx(values, abs=1e-6)
        given = [torch.from_numpy(before), torch.from_numpy(now)]
        assert SCORES[name](given, [torch.from_numpy(sure)] * 2).numpy() == pytest.approx(values, abs=1e-6)
    assert "sure_share" not in graph_scores()
    assert "sure_share" in graph_scores(dense=True)
    zeros = np.zeros((2, 3, N), np.float32)
    records = eenet.Records(zeros, zeros[:1, :, 0], np.zeros(3, np.int64), [1, 1], [1], 2)
    with pytest.raises(ValueError, match="'sure_share' is for answers of pixels; choose from"):
        eenet.policy_for_budget(records, 1.5, scores=("sure_share",))


def test_verbs_that_cannot_be_had_yet_say_so(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "c")
    for verb in TASKS["segmentation"].unsupported:
        with pytest.raises(ValueError, match=f"{verb} doesn't work for segmentation yet"):
            TASKS["segmentation"].must_support(verb)
    with pytest.raises(ValueError, match="measuring damaged images doesn't work for segmentation yet"):
        eenet.evaluate_under_corruptions(tmp_path / "c", data="camvid")
    with pytest.raises(ValueError, match="batch doesn't work for segmentation yet"):
        eenet.batch(tmp_path, tmp_path / "c", out=tmp_path / "out")
    with pytest.raises(ValueError, match="serving by stage doesn't work for segmentation yet"):
        app(Arguments(checkpoints=str(tmp_path / "c"), by="stage"))


def test_a_configuration_knows_what_its_task_takes() -> None:
    config = eenet.TrainConfig("x", "resnet18", task="segmentation")
    assert config.head == "separable"
    assert eenet.TrainConfig("x", "resnet18").head == "deep"
    with pytest.raises(ValueError, match="objective is 'v2'; for segmentation choose from joint"):
        replace(config, objective="v2")
    with pytest.raises(ValueError, match="balanced draws images by class"):
        replace(config, balanced=True)
