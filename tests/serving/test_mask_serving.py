"""A server for masks: tensors, files of any size, images of several sizes at once, the page."""

import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import nothing_wrong
from fastapi.testclient import TestClient
from mask_cases import NAMES, made_network, middling, pictures
from PIL import Image
from playwright.sync_api import Page, expect

import eenet
from eenet.data import open_image
from eenet.runtime import Predictor
from eenet.serving.app import create_app
from eenet.serving.metrics import Metrics
from eenet.serving.model import ServeOptions
from eenet.serving.models import Models
from eenet.serving.run import named_checkpoints

INFER = "/v2/models/masks/infer"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = made_network()
    network.config.policy = eenet.ExitPolicy("confidence", middling(network, "confidence")).to_dict()
    return network.save_pretrained(tmp_path_factory.mktemp("served") / "masks", graph=True)


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


def asked(datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "datatype": datatype, "shape": shape, "data": data}]}


def encoded(*those: Any) -> dict[str, Any]:
    return asked("BYTES", [len(those)], [base64.b64encode(png(each)).decode() for each in those])


def outputs_of(answer: Any) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json()["outputs"]}


def test_what_it_takes_and_gives(client: TestClient) -> None:
    about = client.get("/v2/models/masks").json()
    assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    assert about["outputs"][0] == {"name": "mask", "datatype": "UINT8", "shape": [-1, -1, -1]}
    config = client.get("/v2/models/masks/config").json()
    assert config["output"][0] == {"name": "mask", "data_type": "TYPE_UINT8", "dims": [-1, -1]}


def test_masks_are_those_of_the_predictor(client: TestClient, checkpoint: Path) -> None:
    predictor, exits = Predictor(checkpoint), set()
    for picture in pictures(8):
        expected = predictor.predict(picture)
        found = outputs_of(client.post(INFER, json=encoded(picture)))
        assert np.array_equal(found["mask"][0], expected.mask)
        assert found["exit_index"].tolist() == [expected.exit]
        exits.add(expected.exit)
    assert len(exits) >= 2
    pair = [picture for picture in pictures(8) if picture.shape == (33, 47, 3)]
    assert outputs_of(client.post(INFER, json=encoded(*pair)))["mask"].shape == (2, 33, 47)


@pytest.mark.parametrize("size", [(32, 32), (32, 40), (45, 32)])
def test_tensors_of_any_height_and_width(client: TestClient, checkpoint: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(2, 3, *size), dtype=np.uint8)
    found = outputs_of(client.post(INFER, json=asked("UINT8", [*pixels.shape], pixels.ravel().tolist())))
    assert found["mask"].shape == (2, *size)
    one = Predictor(checkpoint).predict(pixels[0])
    assert np.array_equal(found["mask"][0], one.mask)


def test_requests_of_different_sizes_at_once(client: TestClient, checkpoint: Path) -> None:
    """Only images of one size can run together."""
    those = pictures(16)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: client.post(INFER, json=encoded(each)), those))
    predictor = Predictor(checkpoint)
    for picture, answer in zip(those, answers, strict=True):
        assert (outputs_of(answer)["mask"][0] == predictor.predict(picture).mask).mean() > 0.995


def test_files_of_several_sizes(client: TestClient, checkpoint: Path) -> None:
    files = [("image", (f"{k}.png", png(picture))) for k, picture in enumerate(pictures(4))]
    answer = client.post("/predict", files=files).json()
    for picture, found in zip(pictures(4), answer["predictions"], strict=True):
        expected = Predictor(checkpoint).predict(picture)
        assert found["exit"] == expected.exit
        assert found["shares"] == pytest.approx(expected.shares)
        mask = open_image(base64.b64decode(found["mask"].split(",")[1]))
        assert np.array_equal(np.array(mask), expected.mask)
        assert "picture" not in found
    (first,) = client.post("/predict?pictures=true", content=png(pictures(1)[0])).json()["predictions"]
    assert first["picture"].startswith("data:image/webp")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (INFER, encoded(*pictures(2)), "images of 32 x 32, 47 x 33 pixels don't fit into one tensor"),
        (INFER, encoded(*pictures(1)) | {"outputs": [{"name": "label"}]}, "unknown output 'label'; choose"),
        (INFER, asked("UINT8", [1, 3, 0, 4], []), "has shape [1, 3, 0, 4]"),
        ("/classify", None, "masks gives mask; POST to /predict"),
        ("/predict", None, "not an image"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line(client: TestClient, path: str, body: Any, said: str) -> None:
    answer = client.post(path, json=body) if body else client.post(path, content=b"no image")
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_labels_by_the_general_door() -> None:
    metrics = Metrics()
    models = Models(named_checkpoints(["digits-eenet8"]), ServeOptions(), metrics)
    with TestClient(create_app(models, metrics)) as client:
        image = png(np.zeros((8, 8), np.uint8))
        (general,) = client.post("/predict", content=image).json()["predictions"]
        (own,) = client.post("/classify", content=image).json()["predictions"]
    models.close()
    assert {**general, "probabilities": None} == {**own, "probabilities": None}
    assert general["probabilities"] == pytest.approx(own["probabilities"])


def test_the_page_shows_the_overlay_and_the_exit(page: Page, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(pictures(1)[0]))
    with subprocess.Popen(
        [sys.executable, "-m", "eenet", "serve", str(checkpoint), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr
            address = next(line for line in server.stderr if "http://" in line).split("http://")[1].split()[0]
            with nothing_wrong(page):
                page.goto(f"http://{address}/")
                page.wait_for_selector("body[data-ready]", timeout=60_000)
                page.set_input_files("#files", tmp_path / "a.png")
                row = page.locator("article")
                expect(row).to_have_count(1)
                expect(row).to_have_attribute(
                    "data-exit", str(Predictor(checkpoint).predict(pictures(1)[0]).exit)
                )
                assert any(name in row.inner_text() for name in NAMES)
                assert (row.locator("img.large").get_attribute("src") or "").startswith("data:image/webp")
        finally:
            server.terminate()
