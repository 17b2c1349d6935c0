"""Networks for boxes: their costs, what places are to find, their loss, and boxes made of their answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from box_cases import NAMES
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import batched_nms, generalized_box_iou_loss

import eenet
from eenet.backbones import create_backbone
from eenet.data import UNCOUNTED
from eenet.networks import without_exits
from eenet.policies import SCORES, score_of
from eenet.tasks import task_of
from eenet.tasks.detection.boxes import SAME_OBJECT, answers_of, boxes_of, logits_of, suppressed
from eenet.tasks.detection.head import BoxGate, answered, assigned, detection_loss
from eenet.training.objectives import joint_cross_entropy

N = 2
TASK = task_of("detection")


def made(
    backbone: str = "resnet8_cifar", size: tuple[int, ...] = (3, 64, 64), **settings: int
) -> eenet.EENet:
    network = eenet.create_model(
        backbone,
        task="detection",
        num_classes=N,
        num_exits=2,
        input_size=size,
        task_settings={"width": 8, **settings},
    )
    network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    network.config.class_names = NAMES
    return network.eval()


@pytest.mark.parametrize(
    ("backbone", "size", "stride"),
    [("resnet8_cifar", (3, 64, 64), 8), ("test_resnet", (3, 64, 96), 8),
     ("test_efficientnet", (3, 96, 64), 4)],
)  # fmt: skip
def test_costs_count_decoder_and_heads(backbone: str, size: tuple[int, ...], stride: int) -> None:
    network = made(backbone, size, stride=stride)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = network(torch.zeros(1, *size))
    assert counter.get_total_flops() // 2 == sum(network.config.stage_macs) + sum(network.config.head_macs)
    shapes = {tuple(logits.shape) for logits in outputs.logits_KBN}
    assert shapes == {(1, N + 4, size[1] // stride, size[2] // stride)}
    assert network.costs_K == sorted(network.costs_K)


def test_the_network_without_exits_costs_one() -> None:
    module = create_backbone("resnet8_cifar", {"num_classes": 10, "in_chans": 3})
    plain = without_exits(module, (3, 64, 64), task="detection", num_classes=N, task_settings={"width": 8})
    assert plain.costs_K == [1.0]
    assert plain.config.backbone_macs == made().config.backbone_macs


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    network = made()
    network.heads[0].get_submodule("confidence").get_buffer("empty_above").fill_(0.75)
    network.save_pretrained(tmp_path / "c", graph=False)
    again, images = eenet.EENet.from_pretrained(tmp_path / "c"), torch.randn(1, 3, 64, 96)
    assert again.config.task == "detection"
    assert again.config.task_settings == {"width": 8, "stride": 8, "most": 100}
    with torch.no_grad():
        for one, other in zip(network(images), again(images), strict=True):
            assert all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_classes": None}, "num_classes is None; give how many kinds of objects"),
        ({"head": "deep"}, "unknown exit head 'deep' for detection; choose from boxes"),
        ({"gate": "answer"}, "unknown gate 'answer' for detection"),
        ({"task_settings": {"width": 0}}, "width is 0"),
        ({"task_settings": {"stride": 5}}, "stride is 5; boxes are found at one of 4, 8, 16"),
        ({"task_settings": {"most": 0}}, "most is 0"),
    ],
)
def test_what_cannot_be_made_is_one_line(given: dict[str, object], said: str) -> None:
    asked = {"task": "detection", "num_classes": N, "num_exits": 1, "input_size": (3, 64, 64), **given}
    with pytest.raises(ValueError, match=said):
        eenet.create_model("resnet8_cifar", **asked)  # type: ignore[arg-type]


def test_places_find_the_smallest_object_near_them() -> None:
    cells = torch.tensor([[0.0, 0, 0, 8, 8], [1.0, 3, 3, 5, 5], [-1.0] + [0.0] * 4, [UNCOUNTED, 9, 0, 12, 3]])
    objects = cells.clone()
    objects[:, [1, 3]] /= 12
    objects[:, [2, 4]] /= 8
    found = assigned(objects[None], (8, 12))[0]
    for y in range(8):
        for x in range(12):
            label, *distances = found[:, y, x].tolist()
            near = []
            for number, left, top, right, bottom in cells.tolist():
                sides = x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5
                away = max(abs(x + 0.5 - (left + right) / 2), abs(y + 0.5 - (top + bottom) / 2))
                if number >= 0 and ((away < 1.5 and min(sides) > 0) or away <= 0.5):
                    near.append(((right - left) * (bottom - top), number, sides))
            if near:
                _, number, sides = min(near)
                assert label == number
                assert distances == pytest.approx(sides, abs=1e-4)
            else:
                assert label == (UNCOUNTED if x >= 9 and y < 3 else -1)
    nothing = (
        assigned(objects[None, :0], (8, 12)) if len(objects[:0]) else assigned(objects[None, 2:3], (8, 12))
    )
    assert (nothing[:, 0] == -1).all()


def test_the_loss_against_plain_python() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, N + 4, 2, 3, generator=random, requires_grad=True)
    targets = torch.full((1, 5, 2, 3), -1.0)
    targets[0, :, 1, 2] = torch.tensor([1.0, 0.5, 1.0, 2.0, 1.5])
    targets[0, 0, 0, 0] = UNCOUNTED
    answers = answered(logits)[0].detach()
    left, top, right, bottom = answers[-4:, 1, 2]
    ours, true = torch.stack([-left, -top, right, bottom]), torch.tensor([-0.5, -1.0, 2.0, 1.5])
    both = (torch.minimum(ours[2:], true[2:]) - torch.maximum(ours[:2], true[:2])).prod()
    fit = both / ((left + right) * (top + bottom) + 2.5 * 2.5 - both)
    expected = 2.0 * float(generalized_box_iou_loss(ours, true))
    for n in range(N):
        for y in range(2):
            for x in range(3):
                p = answers[n, y, x]
                wanted = fit if (n, y, x) == (1, 1, 2) else torch.tensor(0.0)
                if (y, x) != (0, 0):
                    cross = -(wanted * p.log() + (1 - wanted) * (1 - p).log())
                    expected += float((wanted - p) ** 2 * cross)
    loss = detection_loss(logits, targets)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    empty = detection_loss(logits, torch.full((1, 5, 2, 3), -1.0))  # an image without objects trains too
    empty.backward()
    assert torch.isfinite(empty)


def test_every_part_is_trained() -> None:
    network = made().train()
    outputs = network(torch.randn(4, 3, 64, 64))
    objects = torch.tensor([[[0.0, 0.1, 0.1, 0.5, 0.6]]]).repeat(4, 1, 1)
    targets = TASK.targets(objects, outputs.logits_KBN[-1])
    joint_cross_entropy(outputs, targets, network.costs_K, exit_loss=TASK.exit_loss()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert all(".confidence." in name for name in idle)  # gates are fitted afterwards


def test_arrays_say_what_tensors_say() -> None:
    random = np.random.default_rng(0)
    logits = 4 * random.standard_normal((3, N + 4, 5, 6)).astype(np.float32)
    answers = answers_of(logits)
    assert np.allclose(answers, answered(torch.from_numpy(logits)).numpy(), rtol=1e-5)
    kept = np.abs(logits) < 4
    assert np.allclose(logits_of(answers)[kept], logits[kept], atol=1e-4)
    said = np.zeros(3, np.float32)
    for name in TASK.scores():
        of_tensor = SCORES[name]([torch.from_numpy(logits)], [torch.from_numpy(said)]).numpy()
        assert score_of(name, [logits], [said]) == pytest.approx(of_tensor, rel=1e-5)
    p = 1 / (1 + np.exp(-logits[:, :-4].astype(np.float64)))
    highest = p.reshape(3, N, -1).max(1)
    doubt = (highest * (1 - highest)).sum(1)
    assert score_of("emptiness", [logits], [said]) == pytest.approx(1 - highest.max(1), abs=1e-6)
    assert score_of("clearness", [logits], [said]) == pytest.approx(-np.log(1 + doubt), rel=1e-4)


def test_boxes_lie_where_cells_say() -> None:
    answer = np.full((N + 4, 8, 8), 1e-4, np.float32)  # of an image 48 × 64, seen as 64 × 64 with grey below
    answer[-4:] = 1.0
    answer[1, 2, 4] = 0.9
    answer[-4:, 2, 4] = 1.5, 0.5, 2.5, 1.0  # left, top, right, bottom in cells of 8 pixels
    answer[0, 7, 7] = 0.8  # in what was added
    found = boxes_of(answer, (96, 128), 64)  # the image itself is twice as large
    assert found.scores_M[0] == pytest.approx(0.9)
    assert found.labels_M[0] == 1
    assert found.boxes_M4[0].tolist() == [2 * 8 * 3.0, 2 * 8 * 2.0, 2 * 8 * 7.0, 2 * 8 * 3.5]
    assert (found.boxes_M4[:, [1, 3]] <= 96).all()
    assert 0.8 not in found.scores_M.round(3)
    assert len(boxes_of(answer, (96, 128), 64, 5).scores_M) == 5


def test_suppression_is_torchvisions() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 60, (400, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 30, (400, 2))], 1)
    labels, scores = random.integers(0, 3, 400), np.sort(random.random(400))[::-1]
    first, second, third = [torch.from_numpy(np.ascontiguousarray(each)) for each in (boxes, scores, labels)]
    assert suppressed(boxes, labels).tolist() == batched_nms(first, second, third, SAME_OBJECT).tolist()


def test_a_surely_empty_image_leaves_whatever_going_on_gains() -> None:
    gate, logits = BoxGate(), torch.randn(4, N + 4, 3, 3)
    with torch.no_grad():
        gate.gain.bias.fill_(-50.0)
    logits[1, :N] = -8.0
    assert (gate(logits).sigmoid() < 0.5).all()
    gate.empty_above.fill_(0.99)
    assert (gate(logits).sigmoid() == 1).tolist() == [False, True, False, False]
