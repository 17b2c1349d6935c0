"""Masks for images: engines against the slow reference, and what `eenet predict` writes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_cases import NAMES, SIZES, made_network, made_pair, middling, pictures
from PIL import Image

import eenet
from eenet.cli import main
from eenet.data import masked_images, normalize, open_image
from eenet.networks import open_network
from eenet.runtime import run_one
from eenet.tasks.segmentation.maps import class_map


@pytest.mark.parametrize("score", ["confidence", "sure_share", "low_quantile", "entropy", "agreement"])
@pytest.mark.parametrize(
    ("backend", "batch_size"),
    [("torch", 1), ("torch", 16), ("onnxruntime", 1), ("onnxruntime", 16), ("openvino", 1), ("openvino", 16)],
)
def test_engines_answer_as_the_reference_does(score: str, backend: str, batch_size: int) -> None:
    network = made_network()
    policy = eenet.ExitPolicy(score, middling(network, score))
    predictor = eenet.Predictor(network, policy=policy, backend=backend, batch_size=batch_size)
    seen = set()
    for picture, found in zip(pictures(), predictor.predict_many(pictures()), strict=True):
        side = min(picture.shape[:2])
        size = [round(n * 32 / side) for n in picture.shape[:2]]
        shown = Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(shown).transpose(2, 0, 1))
        probabilities, exit_index = run_one(network, policy, normalize(pixels, [0.4] * 3, [0.3] * 3))
        assert found.exit == exit_index
        assert np.allclose(found.probabilities_Nhw, probabilities.numpy(), atol=1e-4)
        assert found.mask.shape == picture.shape[:2]
        expected = class_map(np.log(probabilities.numpy()), picture.shape[:2])
        assert (found.mask == expected).mean() > 0.995  # ties and rounding
        seen.add(exit_index)
    assert len(seen) >= 2


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_an_exit_that_is_off_is_passed(backend: str) -> None:
    network = made_network()
    policy = eenet.ExitPolicy("confidence", (-1.0, -1.0), (False, True))
    found = eenet.Predictor(network, policy=policy, backend=backend).predict(pictures(1)[0])
    assert found.exit == 1
    assert found.relative_cost == network.costs(policy.enabled)[1]


def test_a_graph_says_what_modules_say(tmp_path: Path) -> None:
    network = made_network()
    stored = open_network(network.save_pretrained(tmp_path / "c", graph=True))
    pairs = [made_pair(k, *SIZES[k % len(SIZES)]) for k in range(8)]
    images = masked_images([image for image, _ in pairs], [mask for _, mask in pairs], NAMES, side=32)
    ours, other = (eenet.collect(each, images) for each in (network, stored))
    assert np.allclose(ours.scores_SKB, other.scores_SKB, atol=1e-4)
    assert np.allclose(ours.confidence_logits_KB, other.confidence_logits_KB, atol=1e-3)
    assert np.abs(ours.confusion_KBNN.astype(int) - other.confusion_KBNN.astype(int)).max() <= 3
    for backend in ("torch-compile",):
        with pytest.raises(ValueError, match=f"backend {backend} doesn't work for segmentation yet"):
            eenet.Predictor(network, backend=backend)


def test_a_prediction_as_picture_and_as_numbers() -> None:
    image = pictures(2)[1]
    found = eenet.Predictor(made_network()).predict(image)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert np.array_equal(np.array(found.picture()), found.mask)
    assert found.picture().mode == "P"
    assert found.overlay(image).size == (image.shape[1], image.shape[0])
    assert found.to_dict()["mask"] == found.mask.tolist()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return made_network().save_pretrained(tmp_path / "c")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, picture in zip(("a/x.png", "b/x.png", "b/y.png", "b/y.jpg"), pictures(), strict=False):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path / "photos"


def test_predict_writes_masks_and_overlays(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    words = ["predict", str(checkpoint), str(photos), "--out", str(out)]
    assert main(words) == 0
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert {Path(row["mask"]).name for row in rows} == {"a-x.png", "b-x.png", "b-y-png.png", "b-y-jpg.png"}
    predictor = eenet.Predictor(checkpoint)
    for row in rows:
        found = predictor.predict(row["file"])
        mask, shown = open_image(row["mask"]), open_image(row["overlay"])
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), found.mask)
        assert shown.size == mask.size
        assert int(row["exit"]) == found.exit
    assert main(words) == 2
    assert "is there already; go on with --resume" in capsys.readouterr().err
    Image.fromarray(pictures(1)[0]).save(photos / "b" / "z.png")
    assert main([*words, "--resume"]) == 0
    assert len(list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))) == 5


def test_predict_prints_what_is_seen(
    checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a" / "bad.png").write_bytes(b"no image")
    assert main(["predict", str(checkpoint), str(photos)]) == 1
    shown = capsys.readouterr().out
    assert "most of it" in shown
    assert "error: not an image" in shown
    rows = eenet.predict(checkpoint, photos)
    assert set(rows[1].shares or {}) == set(NAMES)
    assert rows[1].label is None
    assert main(["predict", str(checkpoint), str(photos), "--top-k", "2"]) == 2
    assert "--top-k doesn't work for segmentation yet" in capsys.readouterr().err
