"""The Open Inference Protocol: what is read is what was sent, and mistakes are named."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from eenet.serving.protocol import decompress, parse_request, write_response

SIZE = (1, 2, 3)


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 1, 2, 3], "data": list(range(12))}
    return {"inputs": [tensor | changes]}


def parse(asked: Any, binary: bytes | None = None) -> Any:
    text = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return parse_request(text + (binary or b""), None if binary is None else str(len(text)), SIZE, 4)


@pytest.mark.parametrize("data", [list(range(12)), np.arange(12).reshape(2, 1, 2, 3).tolist()])
def test_json_flat_and_nested(data: Any) -> None:
    assert parse(request(data=data)).pixels_BCHW.ravel().tolist() == list(range(12))


def test_binary() -> None:
    asked = request(parameters={"binary_data_size": 12})
    del asked["inputs"][0]["data"]
    found = parse(asked, bytes(range(12)))
    assert found.pixels_BCHW.shape == (2, 1, 2, 3)
    assert found.pixels_BCHW.ravel().tolist() == list(range(12))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": NaN}', "NaN is no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "JSON object"),
        ({}, "one input"),
        ({"inputs": [1]}, "one input"),
        ({"inputs": [*request()["inputs"], *request()["inputs"]]}, "one input"),
        (request(name="pixels"), "unknown input 'pixels'"),
        (request(datatype="FP32"), "give UINT8"),
        (request(shape=[2, 1, 3, 2]), "has shape"),
        (request(shape=[0, 1, 2, 3], data=[]), "1 to 4 images"),
        (request(shape=[5, 1, 2, 3], data=[0] * 30), "1 to 4 images"),
        (request(shape=[-2, 1, 2, 3]), "has shape"),
        (request(shape=[2.0, 1, 2, 3]), "has shape"),
        (request(shape=[True, 1, 2, 3]), "has shape"),
        (request(shape="2"), "has shape"),
        (request(data=list(range(11))), "needs 12 integers"),
        (request(data=[[1, 2], [3]]), "ragged"),
        (request(data=[0.5] * 12), "integers"),
        (request(data=["1"] * 12), "integers"),
        (request(data=[True] * 12), "integers"),
        (request(data=[256] * 12), "within 0 and 255"),
        (request(data=[-1] * 12), "within 0 and 255"),
        (request(data=[10**30] * 12), "integers"),
        (request(data=None), "no list 'data'"),
        (request(parameters={"binary_data_size": 12}), "binary_data_size is 12"),
        (request(parameters=[]), "'parameters' must be an object"),
        (request() | {"outputs": [{"name": "nothing"}]}, "unknown output 'nothing'"),
        (request() | {"outputs": "label"}, "list of objects"),
        (
            request() | {"outputs": [{"name": "label", "parameters": {"classification": 2}}]},
            "not supported",
        ),
        (request() | {"id": 5}, "'id' must be a string"),
    ],
)
def test_mistakes_are_named(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(asked)


@pytest.mark.parametrize("length", ["-1", "1000", "x", "²", ""])
def test_lying_json_length(length: str) -> None:
    with pytest.raises(ValueError, match="the body has"):
        parse_request(json.dumps(request()).encode(), length, SIZE, 4)


@pytest.mark.parametrize("size", [11, 13, 12.0, "12", True, -1])
def test_lying_binary_size(size: Any) -> None:
    with pytest.raises(ValueError, match="binary_data_size is"):
        parse(request(parameters={"binary_data_size": size}), bytes(12))
    with pytest.raises(ValueError, match="bytes follow"):
        parse(request(), bytes(12))


def test_response_holds_what_was_asked() -> None:
    values = {
        "probabilities": np.array([[0.25, 0.75]], np.float32),
        "label": ["zwölf"],
        "exit_index": np.array([3]),
        "confidence": np.array([0.5], np.float32),
        "relative_cost": np.array([0.25], np.float32),
    }
    wanted = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "label", "parameters": {"binary_data": True}},
        {"name": "exit_index"},
    ]
    asked = parse(request() | {"outputs": wanted, "id": "seven"})
    body, length = write_response(asked, values, model="m", version="1", parameters={"policy": "own"})
    assert length is not None
    head, blobs = json.loads(body[:length]), body[length:]
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", "seven")
    assert [o["name"] for o in head["outputs"]] == ["probabilities", "label", "exit_index"]
    assert [o["shape"] for o in head["outputs"]] == [[1, 2], [1], [1]]
    assert head["outputs"][2]["data"] == [3]
    sizes = [o["parameters"]["binary_data_size"] for o in head["outputs"][:2]]
    assert np.frombuffer(blobs[: sizes[0]], "<f4").tolist() == [0.25, 0.75]
    assert blobs[sizes[0] :] == (6).to_bytes(4, "little") + "zwölf".encode()
    assert sum(sizes) == len(blobs)


def test_without_binary_all_is_json() -> None:
    asked = parse(request())
    assert set(asked.outputs.values()) == {False}
    assert len(asked.outputs) == 5
    assert set(parse(request() | {"parameters": {"binary_data_output": True}}).outputs.values()) == {True}


def test_decompression_is_bounded() -> None:
    text = b"x" * 1000
    assert decompress(gzip.compress(text), "gzip", 1000) == text
    assert decompress(zlib.compress(text), "deflate", 1000) == text
    assert decompress(text, None, 10) == text
    for packed, message in (
        (gzip.compress(b"x" * 10**8), "more than 1000"),
        (text, "no gzip"),
        (gzip.compress(text)[:-4], "cut off"),
    ):
        with pytest.raises(ValueError, match=message):
            decompress(packed, "gzip", 1000)
    with pytest.raises(ValueError, match="unknown Content-Encoding"):
        decompress(text, "br", 1000)
