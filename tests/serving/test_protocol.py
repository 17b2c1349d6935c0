"""The Open Inference Protocol: what is read is what was sent, and mistakes are named."""

import base64
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from eenet.serving.protocol.describing import absent
from eenet.serving.protocol.requests import decompress, parse_request
from eenet.serving.protocol.responses import write_response
from eenet.serving.protocol.tensors import OUTPUTS, Takes

GIVES = {"probabilities": "FP32", "label": "BYTES", **OUTPUTS}
TAKES = Takes((1, 2, 3), most_images=4, mean=[0.25], std=[0.5], outputs=GIVES)


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 1, 2, 3], "data": list(range(12))}
    return {"inputs": [tensor | changes]}


def parse(asked: Any, binary: bytes | None = None) -> Any:
    text = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return parse_request(text + (binary or b""), None if binary is None else str(len(text)), TAKES)


@pytest.mark.parametrize("data", [list(range(12)), np.arange(12).reshape(2, 1, 2, 3).tolist()])
def test_json_flat_and_nested(data: Any) -> None:
    assert parse(request(data=data)).images.ravel().tolist() == list(range(12))


def test_binary() -> None:
    asked = request(parameters={"binary_data_size": 12})
    del asked["inputs"][0]["data"]
    found = parse(asked, bytes(range(12)))
    assert found.images.shape == (2, 1, 2, 3)
    assert found.images.ravel().tolist() == list(range(12))


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
        (request(datatype="INT8"), "give UINT8: pixels .*; FP32: .*; BYTES: encoded"),
        (request(datatype=["UINT8"]), "give UINT8"),
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
        parse_request(json.dumps(request()).encode(), length, TAKES)


@pytest.mark.parametrize("size", [11, 13, 12.0, "12", True, -1])
def test_lying_binary_size(size: Any) -> None:
    with pytest.raises(ValueError, match="binary_data_size is"):
        parse(request(parameters={"binary_data_size": size}), bytes(12))
    with pytest.raises(ValueError, match="bytes follow"):
        parse(request(), bytes(12))


# Other datatypes: FP32 pixels, and encoded images -------------------------------------


def floats(values: Any, **parameters: Any) -> dict[str, Any]:
    return request(datatype="FP32", data=values) | {"parameters": parameters}


def test_fp32_is_rounded_to_the_nearest_grey() -> None:
    values = [0, 1, 0.5, 1 / 255, 0.4 / 255, 254.6 / 255] * 2
    expected = [round(255 * value) for value in values]
    assert parse(floats(values)).images.ravel().tolist() == expected
    asked = floats(None)
    asked["inputs"][0]["parameters"] = {"binary_data_size": 48}
    found = parse(asked, np.array(values, "<f4").tobytes())
    assert found.images.dtype == np.uint8
    assert found.images.ravel().tolist() == expected


def test_normalised_fp32_gives_back_every_grey() -> None:
    """Whatever of 0 to 255 was normalised by the network's mean and std, in single precision."""
    for start in range(0, 256, 12):
        grey = np.arange(start, start + 12).clip(0, 255)
        values = (grey.astype(np.float32) / 255 - np.float32(0.25)) / np.float32(0.5)
        found = parse(floats(values.tolist(), normalized=True))
        assert found.images.ravel().tolist() == grey.tolist()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (floats([0, 255] * 6), "holds 0 to 255; FP32 pixels hold 0 to 1. For 0 to 255 give UINT8"),
        (floats([-2.1, 2.6] * 6), "normalized: true"),
        (floats([1e300] * 12), "hold 0 to 1"),
        (floats([-2.1, 2.6] * 6, normalized=True), "not what normalising 0 to 1 by mean"),
        (floats([0.5] * 12, normalized="yes"), "give true or false"),
        (floats(["0.5"] * 12), "needs 12 numbers"),
        (floats([True] * 12), "needs 12 numbers"),
        (floats([0.5] * 11), "needs 12 numbers"),
        (request() | {"parameters": {"normalized": True}}, "normalized is for FP32"),
    ],
)
def test_other_fp32_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(asked)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1.01])
@pytest.mark.parametrize("normalized", [False, True])
def test_binary_fp32_out_of_range_is_refused(value: float, normalized: bool) -> None:
    asked = floats(None, normalized=normalized)
    asked["inputs"][0]["parameters"] = {"binary_data_size": 48}
    values = np.full(12, (value - 0.25) / 0.5 if normalized else value, "<f4")
    with pytest.raises(ValueError, match="input 'images' holds"):
        parse(asked, values.tobytes())


def test_without_mean_and_std_nothing_is_undone() -> None:
    whole = json.dumps(floats([0.5] * 12, normalized=True)).encode()
    with pytest.raises(ValueError, match="no mean and std"):
        parse_request(whole, None, Takes((1, 2, 3), 4))


ENCODED = [b"first", b"", b"\xff\xd8\xff third"]


def encoded(data: Any = None, **changes: Any) -> dict[str, Any]:
    return request(datatype="BYTES", shape=[3], data=data, **changes)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_encoded_images_come_as_they_are(shape: list[int]) -> None:
    texts: Any = [base64.b64encode(one).decode() for one in ENCODED]
    assert parse(encoded(texts)).images == ENCODED
    if len(shape) == 2:
        texts = [[text] for text in texts]
    asked = encoded(texts)
    asked["inputs"][0]["shape"] = shape
    assert parse(asked).images == ENCODED
    raw = b"".join(len(one).to_bytes(4, "little") + one for one in ENCODED)
    asked["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    assert parse(asked, raw).images == ENCODED


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "holds 0 elements; the shape says 3"),
        (b"\x01\0\0\0a" * 2, "holds 2 elements"),
        (b"\x01\0\0\0a" * 4, "holds 4 elements"),
        (b"\x01\0\0\0a" * 2 + b"\x02\0\0\0a", "element 2 .* cut off"),
        (b"\x01\0\0\0a" * 2 + b"\x02\0", "element 2 .* cut off"),
        (b"\xff\xff\xff\xffa", "element 0 .* cut off"),
    ],
)
def test_damaged_bytes_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(encoded(parameters={"binary_data_size": len(raw)}), raw)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (encoded(), "no list 'data'"),
        (encoded(["YQ=="]), "holds 1 elements; the shape says 3"),
        (encoded(["YQ==", "no base64!", "YQ=="]), "element 1 .* is no base64"),
        (encoded(["YQ==", 5, "YQ=="]), "element 1 .* is no base64"),
        (encoded(["YQ==", "ä", "YQ=="]), "element 1 .* is no base64"),
        (request(datatype="BYTES", data=["YQ=="] * 2), r"has shape .*; give \[-1\], 1 to 4 images"),
    ],
)
def test_wrong_encoded_images_are_named(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(asked)


@pytest.mark.parametrize(
    "path",
    [
        "systemsharedmemory/status",
        "cudasharedmemory/region/a/register",
        "trace/setting",
        "models/m/trace/setting",
        "models/m/versions/1/generate_stream",
        "logging",
        "repository/models/m/unload",
    ],
)
def test_absent_extensions_are_known(path: str) -> None:
    assert "statistics" in (absent(f"/v2/{path}") or "")


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/nothing", "/logging", "/v2/models/trace"])
def test_other_paths_are_no_extension(path: str) -> None:
    assert absent(path) is None


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
    body, length = write_response(
        asked, values, TAKES.outputs, model="m", version="1", parameters={"policy": "own"}
    )
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
