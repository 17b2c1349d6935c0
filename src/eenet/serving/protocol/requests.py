"""Requests of the Open Inference Protocol: what a client asks, and in which form it wants it.

https://github.com/kserve/open-inference-protocol and Triton's "binary tensor data extension".
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eenet.serving.protocol.tensors import INPUT, Pixels, Takes, parameters_of, read_images

JSON_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class InferRequest:
    """What a client asks."""

    images: Pixels | list[bytes]
    """Pixels [B, C, H, W], or encoded images still to be decoded."""
    outputs: Mapping[str, bool]
    """Wanted outputs → whether as binary data."""
    parameters: Mapping[str, Any]
    id: str | None


def parse_request(body: bytes, json_length: str | None, takes: Takes) -> InferRequest:
    """Read a request.

    Args:
        body: JSON, behind it binary tensors if `json_length` is given.
        json_length: value of the header `Inference-Header-Content-Length`.
        takes: what the model takes.

    Raises:
        ValueError: what is wrong with it.
    """
    length = len(body)
    if json_length is not None:
        if not json_length.isdecimal() or int(json_length) > len(body):
            raise ValueError(f"{JSON_LENGTH} is {json_length!r}; the body has {len(body)} bytes")
        length = int(json_length)
    asked = parse_object(body[:length])
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ValueError(f"give one input, {INPUT!r}, in the list 'inputs'")
    parameters = parameters_of(asked)
    request_id = asked.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise ValueError("'id' must be a string")
    return InferRequest(
        read_images(inputs[0], body[length:], takes, normalized=parameters.get("normalized", False)),
        _outputs(asked.get("outputs"), takes.outputs, parameters.get("binary_data_output") is True),
        parameters,
        request_id,
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # made once, not for every request


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        found = _DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("the request must be a JSON object")
    return found


def _outputs(asked: Any, known: Mapping[str, str], binary: bool) -> dict[str, bool]:
    if asked is None:
        return dict.fromkeys(known, binary)
    if not isinstance(asked, list) or not all(isinstance(output, dict) for output in asked):
        raise ValueError("'outputs' must be a list of objects")
    wanted = {}
    for output in asked:
        name, parameters = output.get("name"), parameters_of(output)
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"unknown output {name!r}; choose from {', '.join(known)}")
        if parameters.get("classification"):
            raise ValueError(f"the classification extension is not supported; ask for {', '.join(known)}")
        wanted[name] = bool(parameters.get("binary_data", binary))
    return wanted or dict.fromkeys(known, binary)


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
