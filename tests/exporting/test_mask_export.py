"""Exported networks for masks: run by other programs, by eenet, and on the clock."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime as ort
import pytest
from mask_cases import made_network, middling, pictures, write_folders

import eenet
from eenet.data import open_image
from eenet.evaluation import bench
from eenet.exporting import comparing
from eenet.tasks import task_of

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/eenet.schema.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("masks") / "my", {"test": 12})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = made_network()
    network.config.policy = eenet.ExitPolicy("confidence", middling(network, "confidence")).to_dict()
    return network.save_pretrained(tmp_path_factory.mktemp("masks") / "c", graph=True)


@pytest.mark.parametrize(
    ("format", "precision"),
    [("onnx", "fp32"), ("onnx-single", "fp32"), ("openvino", "fp32"), ("openvino-single", "fp32"),
     ("onnx-single", "fp16")],
)  # fmt: skip
def test_every_format_runs_and_still_predicts(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, precision: str
) -> None:
    monkeypatch.setattr(comparing, "RUNS", 1)
    out = tmp_path / "out"
    found = eenet.export(checkpoint, out, format=format, precision=precision, data=str(data))
    rounded = int(precision == "fp16")  # images near a threshold that may leave elsewhere
    assert 9 - rounded <= found.compared <= 9  # of 12: those of the commonest size
    manifest = json.loads((out / "eenet.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["task"] == "segmentation"
    assert manifest["input"]["any_size"]
    if precision == "fp16":
        assert list(found.milliseconds or {}) == ["1", "16"]
    ours, theirs = eenet.Predictor(checkpoint), eenet.Predictor(out)
    elsewhere = 0
    for picture in pictures(8):
        one, other = ours.predict(picture), theirs.predict(picture)
        elsewhere += one.exit != other.exit
        if one.exit == other.exit:
            assert (one.mask == other.mask).mean() > (0.99 if precision == "fp32" else 0.95)
    assert elsewhere <= rounded


def test_any_program_runs_stages_on_images_of_any_size(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    eenet.export(checkpoint, tmp_path, data=str(data))
    manifest = json.loads((tmp_path / "eenet.json").read_text())
    sessions = [ort.InferenceSession(tmp_path / stage["file"]) for stage in manifest["stages"]]
    predictor, seen = eenet.Predictor(checkpoint, backend="torch"), set()
    for picture in pictures(12):
        read = task_of("segmentation").read(picture, predictor.network.config)
        given: list[Any] = [read.pixels_CHW[None]]
        stage: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for stage, session in zip(manifest["stages"], sessions, strict=True):
            outputs = session.run(None, dict(zip(stage["inputs"], given, strict=True)))
            found = dict(zip(stage["outputs"], outputs, strict=True))
            if "threshold" not in stage or found["score"][0] > stage["threshold"]:
                break
            given = [found["features"], found["state"]]
        expected = predictor.predict(picture)
        assert stage["exit"] == expected.exit
        assert np.allclose(found["probabilities"][0], expected.probabilities_Nhw, atol=1e-4)
        seen.add(expected.exit)
    assert len(seen) >= 2


def test_predict_writes_masks_from_exported_files(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    eenet.export(checkpoint, tmp_path / "out", format="onnx-single", data=str(data))
    rows = list(eenet.predict(tmp_path / "out", data / "test" / "images", out=tmp_path / "masks"))
    assert len(rows) == 12
    assert all(open_image(str(row.mask)).mode == "P" for row in rows)


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"precision": "int8"}, "int8 doesn't work for segmentation yet"),
     ({"format": "aoti"}, "format aoti doesn't work for segmentation yet")],
)  # fmt: skip
def test_what_cannot_be_written_is_one_line(
    checkpoint: Path, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        eenet.export(checkpoint, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_bench_times_images_of_one_size(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    eenet.export(checkpoint, tmp_path / "out", data=str(data))
    found = bench(checkpoint, data=str(data), backends=["onnxruntime"], repeats=1, exported=tmp_path / "out")
    assert [row.batch_size for row in found.rows] == [1, 16]
    for row in found.rows:
        assert row.exported_ms
        assert sum(row.exit_shares) == pytest.approx(1)
        assert row.efficiency > 0
