"""The Open Inference Protocol, version 2, with its binary tensors: requests → images, answers → responses.

https://github.com/kserve/open-inference-protocol and Triton's "binary tensor data extension".
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

JSON_LENGTH = "inference-header-content-length"
INPUT = "images"
OUTPUTS = {
    "probabilities": "FP32",
    "label": "BYTES",
    "exit_index": "INT64",
    "confidence": "FP32",
    "relative_cost": "FP32",
}
DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


@dataclass(frozen=True)
class InferRequest:
    """What a client asks."""

    pixels_BCHW: NDArray[np.uint8]
    outputs: Mapping[str, bool]
    """Wanted outputs → whether as binary data."""
    parameters: Mapping[str, Any]
    id: str | None


def parse_request(
    body: bytes, json_length: str | None, input_size: Sequence[int], most_images: int
) -> InferRequest:
    """Read a request.

    Args:
        body: JSON, behind it binary tensors if `json_length` is given.
        json_length: value of the header `Inference-Header-Content-Length`.
        input_size: (channels, height, width) that the network takes.
        most_images: in one request.

    Raises:
        ValueError: what is wrong with it.
    """
    length = len(body)
    if json_length is not None:
        if not json_length.isdecimal() or int(json_length) > len(body):
            raise ValueError(f"{JSON_LENGTH} is {json_length!r}; the body has {len(body)} bytes")
        length = int(json_length)
    asked = _object(body[:length])
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ValueError(f"give one input, {INPUT!r}, in the list 'inputs'")
    parameters = _parameters(asked)
    request_id = asked.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ValueError("'id' must be a string")
    return InferRequest(
        _pixels(inputs[0], body[length:], input_size, most_images),
        _outputs(asked.get("outputs"), parameters.get("binary_data_output") is True),
        parameters,
        request_id,
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # made once, not for every request


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("the request must be a JSON object")
    return found


def _parameters(holder: Mapping[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError("'parameters' must be an object")
    return parameters


def _pixels(
    given: Mapping[str, Any], binary: bytes, input_size: Sequence[int], most_images: int
) -> NDArray[np.uint8]:
    if given.get("name") != INPUT:
        raise ValueError(f"unknown input {given.get('name')!r}; the input is {INPUT!r}")
    if given.get("datatype") != "UINT8":
        raise ValueError(f"input {INPUT!r} has datatype {given.get('datatype')!r}; give UINT8, 0 to 255")
    shape = given.get("shape")
    wanted = [-1, *input_size]
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or shape[1:] != list(input_size)
        or not 1 <= shape[0] <= most_images
    ):
        raise ValueError(f"input {INPUT!r} has shape {shape}; give {wanted}, 1 to {most_images} images")
    count = math.prod(shape)
    size = _parameters(given).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != count or size != len(binary):
            raise ValueError(
                f"binary_data_size is {size!r} and {len(binary)} bytes follow the JSON; "
                f"the shape {shape} needs {count}"
            )
        return np.frombuffer(binary, np.uint8).reshape(shape)
    if binary:
        raise ValueError("bytes follow the JSON, but the input has no binary_data_size")
    return _from_json(given.get("data"), shape, count)


def _from_json(data: Any, shape: list[int], count: int) -> NDArray[np.uint8]:
    if not isinstance(data, list):
        raise ValueError(f"input {INPUT!r} has no list 'data'")
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"'data' of input {INPUT!r} is ragged") from error
    if values.dtype.kind not in "iu" or values.size != count:
        raise ValueError(
            f"'data' of input {INPUT!r} holds {values.size} values of kind {values.dtype}; "
            f"the shape {shape} needs {count} integers"
        )
    if values.min() < 0 or values.max() > 255:
        raise ValueError(f"'data' of input {INPUT!r} must lie within 0 and 255")
    return values.astype(np.uint8).reshape(shape)


def _outputs(asked: Any, binary: bool) -> dict[str, bool]:
    if asked is None:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise ValueError("'outputs' must be a list of objects")
    wanted = {}
    for output in asked:
        name, parameters = output.get("name"), _parameters(output)
        if not isinstance(name, str) or name not in OUTPUTS:
            raise ValueError(f"unknown output {name!r}; choose from {', '.join(OUTPUTS)}")
        if parameters.get("classification"):
            raise ValueError("the classification extension is not supported; ask for probabilities and label")
        wanted[name] = bool(parameters.get("binary_data", binary))
    return wanted or dict.fromkeys(OUTPUTS, binary)


def write_response(
    request: InferRequest,
    values: Mapping[str, Any],
    *,
    model: str,
    version: str,
    parameters: Mapping[str, Any],
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if binary tensors follow it.

    Args:
        request: says which outputs are wanted, and how.
        values: arrays for the wanted outputs; `label` is a list of strings.
        model, version: names for the response.
        parameters: of the response.
    """
    outputs, blobs = [], []
    for name, binary in request.outputs.items():
        array = values[name]
        count = len(array)
        shape = [count] if name == "label" else list(array.shape)
        described: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": shape}
        if binary:
            blobs.append(_bytes(array) if name == "label" else array.astype(DTYPES[OUTPUTS[name]]).tobytes())
            described["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            described["data"] = list(array) if name == "label" else array.ravel().tolist()
        outputs.append(described)
    found: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        found["id"] = request.id
    text = json.dumps({**found, "parameters": dict(parameters), "outputs": outputs}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _bytes(strings: Sequence[str]) -> bytes:
    encoded = [string.encode() for string in strings]
    return b"".join(len(one).to_bytes(4, "little") + one for one in encoded)


def describe_model(name: str, version: str, input_size: Sequence[int], classes: int) -> dict[str, Any]:
    """A model's metadata."""
    shapes = {"probabilities": [-1, classes]}
    return {
        "name": name,
        "versions": [version],
        "platform": "eenet",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *input_size]}],
        "outputs": [
            {"name": output, "datatype": kind, "shape": shapes.get(output, [-1])}
            for output, kind in OUTPUTS.items()
        ],
    }


def decompress(body: bytes, encoding: str | None, most: int) -> bytes:
    """Undo a request's `Content-Encoding`: gzip, deflate or none; never more than `most` bytes.

    Raises:
        ValueError: another encoding, damaged, or too large.
    """
    if encoding in (None, "", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ValueError(f"unknown Content-Encoding {encoding!r}; give gzip, deflate or none")
    unpacker = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise ValueError(f"the body is no {encoding}: {error}") from error
    if len(unpacked) > most:
        raise ValueError(f"the body holds more than {most} bytes when unpacked")
    if not unpacker.eof:
        raise ValueError(f"the body is cut off: no end of {encoding}")
    return unpacked
