"""Boxes for images: engines against the slow reference, and what `eenet predict` writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from box_cases import NAMES, SIZES, made_boxes, made_detector, middling, pictures
from PIL import Image

import eenet
from eenet.cli import main
from eenet.data import boxed_images, letterboxed, normalize, open_image
from eenet.networks import open_network
from eenet.runtime import run_one
from eenet.tasks.detection.boxes import boxes_of


@pytest.mark.parametrize("score", ["confidence", "emptiness", "clearness"])
@pytest.mark.parametrize(("backend", "batch_size"), [("torch", 1), ("torch", 16), ("onnxruntime", 16)])
def test_engines_answer_as_the_reference_does(score: str, backend: str, batch_size: int) -> None:
    network = made_detector()
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
    network = made_detector()
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
    return made_detector().save_pretrained(tmp_path / "c")


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
