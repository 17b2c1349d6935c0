"""A server for boxes: tensors, files of any size, pictures with boxes on them."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_cases import made_detector, middling, pictures
from fastapi.testclient import TestClient
from PIL import Image

import eenet
from eenet.data import open_image
from eenet.runtime import Predictor
from eenet.serving.app import create_app
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServeOptions
from eenet.serving.models import Models
from eenet.serving.run import named_checkpoints

INFER = "/v2/models/boxes/infer"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = made_detector()
    network.config.policy = eenet.ExitPolicy("confidence", middling(network, "confidence")).to_dict()
    return network.save_pretrained(tmp_path_factory.mktemp("served") / "boxes", graph=True)


@pytest.fixture(scope="module")
def client(checkpoint: Path) -> Iterator[TestClient]:
    metrics = Metrics()
    models = Models(named_checkpoints([str(checkpoint)]), ServeOptions(), metrics)
    with TestClient(create_app(models, metrics)) as client:
        yield client
    models.close()


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_what_it_takes_and_gives(client: TestClient) -> None:
    about = client.get("/v2/models/boxes").json()
    assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    assert about["outputs"][:3] == [
        {"name": "boxes", "datatype": "FP32", "shape": [-1, 100, 4]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 100]},
        {"name": "classes", "datatype": "INT64", "shape": [-1, 100]},
    ]


def test_boxes_are_those_of_the_predictor(client: TestClient, checkpoint: Path) -> None:
    predictor, exits = Predictor(checkpoint), set()
    for picture in pictures(8):
        data = [base64.b64encode(png(picture)).decode()]
        asked = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": data}]}
        answer = client.post(INFER, json=asked).json()
        found = {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer["outputs"]}
        expected = predictor.predict(picture)
        count = len(expected.boxes.labels_M)
        assert found["classes"][0, :count].tolist() == expected.boxes.labels_M.tolist()
        assert (found["classes"][0, count:] == -1).all()
        assert np.allclose(found["boxes"][0, :count], expected.boxes.boxes_M4, atol=1e-2)
        assert np.allclose(found["scores"][0, :count], expected.boxes.scores_M, atol=1e-4)
        assert found["exit_index"].tolist() == [expected.exit]
        exits.add(expected.exit)
    assert len(exits) >= 2


def test_files_of_several_sizes(client: TestClient, checkpoint: Path) -> None:
    files = [("image", (f"{k}.png", png(picture))) for k, picture in enumerate(pictures(4))]
    answer = client.post("/predict", files=files).json()
    for picture, found in zip(pictures(4), answer["predictions"], strict=True):
        expected = Predictor(checkpoint).predict(picture)
        assert found["exit"] == expected.exit
        assert found["counts"] == expected.counts
        assert [each["label"] for each in found["objects"]] == [each["label"] for each in expected.objects]
    again = client.post("/detect", files=files).json()
    assert again["predictions"] == answer["predictions"]
    (first,) = client.post("/predict?pictures=true", content=png(pictures(1)[0])).json()["predictions"]
    assert open_image(base64.b64decode(first["picture"].split(",")[1])).size == (64, 64)
    refused = client.post("/classify", content=png(pictures(1)[0]))
    assert refused.status_code == 400
    assert "boxes gives boxes, scores, classes; POST to /predict" in refused.json()["error"]
