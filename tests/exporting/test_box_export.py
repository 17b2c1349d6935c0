"""Exported networks for boxes: run by other programs, by eenet, and on the clock."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import openvino
import pytest
from box_cases import made_detector, middling, pictures, write_coco

import eenet
from eenet.evaluation import bench
from eenet.exporting import comparing

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/eenet.schema.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("boxes") / "my", {"train": 4, "test": 12})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = made_detector()
    network.config.policy = eenet.ExitPolicy("confidence", middling(network, "confidence")).to_dict()
    return network.save_pretrained(tmp_path_factory.mktemp("boxes") / "c", graph=True)


@pytest.mark.parametrize("format", ["onnx", "onnx-single", "openvino", "openvino-single"])
def test_every_format_runs_and_still_predicts(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(comparing, "RUNS", 1)
    out = tmp_path / "out"
    found = eenet.export(checkpoint, out, format=format, data=str(data))
    assert found.compared == 12
    manifest = json.loads((out / "eenet.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["task"] == "detection"
    assert "longer side is 64" in manifest["input"]["resize"]
    ours, theirs, seen = eenet.Predictor(checkpoint), eenet.Predictor(out), set()
    for picture in pictures(8):
        one, other = ours.predict(picture), theirs.predict(picture)
        assert one.exit == other.exit
        assert np.allclose(one.answer_Chw[:-4], other.answer_Chw[:-4], atol=1e-3)
        seen.add(one.exit)
    assert len(seen) >= 2


def run(path: Path, given: dict[str, Any], wanted: list[str]) -> list[Any]:
    """A file, by the program that it is for."""
    if path.suffix == ".onnx":
        return list(onnxruntime.InferenceSession(path).run(wanted, given))
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}  # else it may be bfloat16
    found = openvino.compile_model(path, "CPU", exactly)(given)
    return [found[name] for name in wanted]


@pytest.mark.parametrize("format", ["onnx", "onnx-single", "openvino", "openvino-single"])
def test_boxes_without_code_of_ones_own(checkpoint: Path, tmp_path: Path, format: str) -> None:
    """The files alone give the boxes that eenet gives; images are of the size that the network sees."""
    network = eenet.EENet.from_pretrained(checkpoint)
    scales = [[1.0 + 0.1 * k, -0.2 * k] for k in range(network.num_exits + 1)]
    network.config.task_settings["scales"] = scales
    out = tmp_path / "out"
    eenet.export(network, out, format=format)
    manifest = json.loads((out / "eenet.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    boxes, predictor = manifest["boxes"], eenet.Predictor(out)
    thresholds = [np.array([stage["threshold"]], np.float32) for stage in manifest["stages"][:-1]]
    for picture in np.random.default_rng(0).integers(256, size=(6, 3, 32, 64), dtype=np.uint8):
        wanted = predictor.predict(picture.transpose(1, 2, 0))
        inputs = [picture[None], *thresholds]
        if not manifest["single"]:
            inputs = [wanted.answer_Chw[None], np.array([wanted.exit])]
        given = dict(zip(boxes["inputs"], inputs, strict=True))
        found = run(out / boxes["file"], given, list(boxes["outputs"].values()))
        count = len(wanted.boxes.scores_M)
        assert count > 3
        for ours, theirs in zip(wanted.boxes, found, strict=True):
            assert np.allclose(theirs[0, :count], ours, atol=1e-3)
        assert (found[1][0, count:] == 0).all()
        assert (found[2][0, count:] == -1).all()


def test_boxes_of_several_images(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    eenet.export(checkpoint, out, format="onnx-single")
    pixels = np.random.default_rng(0).integers(256, size=(5, 3, 64, 64), dtype=np.uint8)
    together = run(out / "network.onnx", {"pixels": pixels}, ["boxes", "scores", "classes"])
    for i in range(len(pixels)):
        alone = run(out / "network.onnx", {"pixels": pixels[i : i + 1]}, ["boxes", "scores", "classes"])
        for one, other in zip(alone, together, strict=True):
            assert np.allclose(one[0], other[i], atol=1e-3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"precision": "fp16"}, "fp16 doesn't work for detection yet"),
     ({"precision": "int8"}, "int8 doesn't work for detection yet"),
     ({"format": "aoti"}, "format aoti doesn't work for detection yet")],
)  # fmt: skip
def test_what_cannot_be_written_is_one_line(
    checkpoint: Path, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        eenet.export(checkpoint, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_bench_times_images_of_one_size(checkpoint: Path, data: Path) -> None:
    found = bench(checkpoint, data=str(data), backends=["onnxruntime"], repeats=1)
    assert [row.batch_size for row in found.rows] == [1, 16]
    for row in found.rows:
        assert sum(row.exit_shares) == pytest.approx(1)
        assert row.efficiency > 0
