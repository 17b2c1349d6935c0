"""Boxes for images: engines against the slow reference, and what `eenet predict` writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from box_cases import NAMES, made_boxes
from PIL import Image

import eenet
from eenet.cli import main
from eenet.data import boxed_images, letterboxed, normalize, open_image
from eenet.networks import open_network
from eenet.policies import score_of
from eenet.runtime import run_one
from eenet.tasks import task_of
from eenet.tasks.detection.boxes import boxes_of

SIZES = ((64, 64), (48, 64), (40, 90), (57, 36))


def made() -> eenet.EENet:
    torch.manual_seed(1)
    network = eenet.create_model(
        "resnet8_w4_cifar",
        task="detection",
        num_classes=2,
        num_exits=2,
        input_size=(3, 64, 64),
        task_settings={"width": 8, "scales": [[1.2, 0.3], [0.9, -0.1], [1.0, 0.0]]},
    )
    network.config.mean, network.config.std = [0.4] * 3, [0.3] * 3
    network.config.class_names = NAMES
    network.train()
    with torch.no_grad():  # norms that do something
        for seed in range(20):
            pixels = np.stack([made_boxes(seed)[0].transpose(2, 0, 1)] * 2)
            network(normalize(torch.from_numpy(pixels), [0.4] * 3, [0.3] * 3))
        for head in network.heads:  # answers that differ from image to image
            head.get_parameter("answer.12.weight").mul_(8)
    return network.eval()


def pictures(count: int = 16) -> list[np.ndarray]:
    return [made_boxes(k, *SIZES[k % len(SIZES)])[0] for k in range(count)]


def middling(network: eenet.EENet, score: str) -> tuple[float, ...]:
    """Thresholds at which some images leave at every exit."""
    scores = []
    for k in range(2):
        found = []
        for picture in pictures():
            seen = task_of("detection").read(picture, network.config)
            logits, confidences = network.answers(seen.pixels_CHW[None])
            found.append(score_of(score, [logits[k]], [confidences[k]])[0])
        scores.append(float(np.quantile(found, 0.6)) + 1e-6)
    return tuple(scores)


@pytest.mark.parametrize("score", ["confidence", "emptiness", "clearness"])
@pytest.mark.parametrize(("backend", "batch_size"), [("torch", 1), ("torch", 16), ("onnxruntime", 16)])
def test_engines_answer_as_the_reference_does(score: str, backend: str, batch_size: int) -> None:
    network = made()
    policy = eenet.ExitPolicy(score, middling(network, score))
    predictor = eenet.Predictor(network, policy=policy, backend=backend, batch_size=batch_size)
    seen = set()
    for picture, found in zip(pictures(), predictor.predict_many(pictures()), strict=True):
        pixels = torch.from_numpy(letterboxed(picture.transpose(2, 0, 1), 64))
        answer, exit_index = run_one(network, policy, normalize(pixels, [0.4] * 3, [0.3] * 3))
        assert found.exit == exit_index
        assert np.allclose(found.answer_Chw, answer.numpy(), rtol=1e-3, atol=1e-4)
        expected = boxes_of(found.answer_Chw, picture.shape[:2], 64)
        assert np.array_equal(found.boxes.boxes_M4, expected.boxes_M4)
        a, b = network.config.task_settings["scales"][exit_index]
        odds = expected.scores_M / (1 - expected.scores_M)
        assert found.boxes.scores_M == pytest.approx(1 / (1 + odds**-a * np.exp(-b)), rel=1e-4)
        seen.add(exit_index)
    assert len(seen) >= 2


def test_a_graph_says_what_modules_say(tmp_path: Path) -> None:
    network = made()
    stored = open_network(network.save_pretrained(tmp_path / "c", graph=True))
    pairs = [made_boxes(k, *SIZES[k % len(SIZES)]) for k in range(8)]
    images = boxed_images([image for image, _ in pairs], [objects for _, objects in pairs], NAMES, side=64)
    ours, other = (eenet.collect(each, images) for each in (network, stored))
    assert np.allclose(ours.statistics_SKB, other.statistics_SKB, atol=1e-3)
    assert np.allclose(ours.confidence_logits_KB, other.confidence_logits_KB, atol=1e-2)
    assert np.array_equal(ours.truths_ABN, other.truths_ABN)
    assert np.allclose(ours.scores_D, other.scores_D, atol=1e-3)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return made().save_pretrained(tmp_path / "c")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for k, picture in enumerate(pictures(4)):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{k}.png")
    return tmp_path / "photos"


def test_predict_writes_rows_pictures_and_coco(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = ["predict", str(checkpoint), str(photos), "--out"], tmp_path / "out"
    assert main([*words, str(out)]) == 0
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert [Path(row["picture"]).name for row in rows] == [f"{k}-boxes.jpg" for k in range(4)]
    predictor = eenet.Predictor(checkpoint)
    found = [predictor.predict(row["file"]) for row in rows]
    for row, each in zip(rows, found, strict=True):
        assert json.loads(row["objects"]) == each.objects
        assert int(row["exit"]) == each.exit
        assert open_image(row["picture"]).size == open_image(row["file"]).size
    (photos / "bad.png").write_bytes(b"no image")
    assert main([*words, str(tmp_path / "coco.json")]) == 1
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [each["name"] for each in content["categories"]] == NAMES
    assert len(content["images"]) == 4
    for image, each in zip(content["images"], found, strict=True):
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert (image["height"], image["width"]) == each.size
        assert [a["score"] for a in own] == [o["score"] for o in each.objects]
        for annotation, told in zip(own, each.objects, strict=True):
            left, top, width, height = annotation["bbox"]
            assert [left, top, left + width, top + height] == pytest.approx(told["box"])
            assert NAMES[annotation["category_id"] - 1] == told["label"]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "again.json"), "--resume"]) == 2
    assert "is written whole, so there is nothing to resume" in capsys.readouterr().err
    assert main(["predict", "digits-eenet8", str(photos), "--out", str(tmp_path / "digits.json")]) == 2
    assert "answers of classification are no JSON document; give a .csv" in capsys.readouterr().err


def test_predict_prints_what_is_seen(
    checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    assert main(["predict", str(checkpoint), str(photos)]) == 1
    shown = capsys.readouterr().out
    assert "objects" in shown
    assert "error: not an image" in shown
    rows = eenet.predict(checkpoint, photos)
    assert rows[0].objects is not None
    assert rows[0].label is None
    assert main(["predict", str(checkpoint), str(photos), "--top-k", "2"]) == 2
    assert "--top-k doesn't work for detection yet" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["bench", "export", "report", "serve"])
def test_verbs_that_cannot_be_had_yet_say_so(verb: str) -> None:
    if verb in (unsupported := task_of("detection").unsupported):
        with pytest.raises(ValueError, match=f"{verb} doesn't work for detection yet"):
            task_of("detection").must_support(verb)
    assert "predict" not in unsupported
