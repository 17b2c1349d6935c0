"""Exported networks for boxes: run by other programs, by eenet, and on the clock."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
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


@pytest.mark.parametrize("format", ["onnx", "onnx-single", "openvino"])
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
