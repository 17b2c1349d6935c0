"""Responses of the Open Inference Protocol: answers as JSON or binary tensors."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eenet.serving.protocol.requests import InferRequest

DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "UINT8": np.dtype("u1")}


def write_response(
    request: InferRequest,
    values: Mapping[str, Any],
    datatypes: Mapping[str, str],
    *,
    model: str,
    version: str,
    parameters: Mapping[str, Any],
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if binary tensors follow it.

    Args:
        request: says which outputs are wanted, and how.
        values: arrays for the wanted outputs; of the datatype BYTES lists of strings.
        datatypes: of outputs, by name.
        model, version: names for the response.
        parameters: of the response.
    """
    outputs, blobs = [], []
    for name, binary in request.outputs.items():
        array, datatype = values[name], datatypes[name]
        texts = datatype == "BYTES"
        shape = [len(array)] if texts else list(array.shape)
        described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            blobs.append(_bytes(array) if texts else array.astype(DTYPES[datatype]).tobytes())
            described["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            described["data"] = list(array) if texts else array.ravel().tolist()
        outputs.append(described)
    found: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        found["id"] = request.id
    text = json.dumps({**found, "parameters": dict(parameters), "outputs": outputs}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _bytes(strings: Sequence[str]) -> bytes:
    encoded = [string.encode() for string in strings]
    return b"".join(len(one).to_bytes(4, "little") + one for one in encoded)
