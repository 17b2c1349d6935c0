"""The input tensor of a request: pixels as UINT8 or FP32, or encoded images as BYTES."""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.networks import Config
from eenet.tasks import task_of

INPUT = "images"
DATATYPES = {
    "UINT8": "pixels of the network's size, 0 to 255",
    "FP32": "pixels of the network's size, 0 to 1, or normalised with the parameter normalized",
    "BYTES": "encoded images of any size",
}
OUTPUTS = {"exit_index": "INT64", "confidence": "FP32", "relative_cost": "FP32"}
"""Of every task."""
HALF_A_GREY_LEVEL = 0.501 / 255

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Takes:
    """What a model takes."""

    input_size: Sequence[int]
    """(channels, height, width)."""
    most_images: int
    """In one request."""
    mean: Sequence[float] | None = None
    """By which the network normalises, from 0 to 1."""
    std: Sequence[float] | None = None
    any_size: bool = False
    """Pixels may have another height and width."""
    outputs: Mapping[str, str] = field(default_factory=lambda: OUTPUTS)
    """What it gives, name → datatype."""


def takes(config: Config, most_images: int) -> Takes:
    """What a network of this configuration takes and gives."""
    task = task_of(config.task)
    outputs = {**task.outputs, **OUTPUTS}
    return Takes(config.input_size, most_images, config.mean, config.std, task.any_size, outputs)


def read_images(
    given: Mapping[str, Any], binary: bytes, takes: Takes, *, normalized: Any = False
) -> Pixels | list[bytes]:
    """Pixels [B, C, H, W], or encoded images still to be decoded.

    Args:
        given: the input in a request's JSON.
        binary: what followed the JSON.
        takes: what the model takes.
        normalized: the request's parameter: FP32 pixels are (0 to 1 - `mean`) / `std`.

    Raises:
        ValueError: what is wrong with it.
    """
    if given.get("name") != INPUT:
        raise ValueError(f"unknown input {given.get('name')!r}; the input is {INPUT!r}")
    datatype = given.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        choices = "; ".join(f"{name}: {meaning}" for name, meaning in DATATYPES.items())
        raise ValueError(f"input {INPUT!r} has datatype {datatype!r}; give {choices}")
    if type(normalized) is not bool:
        raise ValueError(f"normalized is {normalized!r}; give true or false")
    if normalized and datatype != "FP32":
        raise ValueError(f"normalized is for FP32; input {INPUT!r} has datatype {datatype}")
    if datatype == "BYTES":
        return _encoded(given, binary, takes)
    values = _numbers(given, binary, takes, np.dtype("u1" if datatype == "UINT8" else "<f4"))
    return values if datatype == "UINT8" else _to_uint8(values, takes, normalized)


def parameters_of(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request, an input or an output.

    Raises:
        ValueError: they are no object.
    """
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError("'parameters' must be an object")
    return parameters


def _binary(given: Mapping[str, Any], binary: bytes, needed: int | None, why: str) -> bytes | None:
    """The input's bytes; none if its data are in the JSON. `needed`: so many, if that is known."""
    size = parameters_of(given).get("binary_data_size")
    if size is None:
        if binary:
            raise ValueError("bytes follow the JSON, but the input has no binary_data_size")
        return None
    if type(size) is not int or size != len(binary) or needed not in (None, size):
        raise ValueError(f"binary_data_size is {size!r} and {len(binary)} bytes follow the JSON; {why}")
    return binary


def _shape(given: Mapping[str, Any], most: int, *rest: Sequence[int]) -> list[int]:
    """Checked: a number of images, then one of the `rest`."""
    shape = given.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int for size in shape)
        or shape[1:] not in list(map(list, rest))
        or not 1 <= shape[0] <= most
    ):
        raise ValueError(f"input {INPUT!r} has shape {shape}; give {[-1, *rest[0]]}, 1 to {most} images")
    return shape


def _sizes_like(given: Mapping[str, Any], takes: Takes) -> Sequence[int]:
    """What an image has to be: of the network's size, or where any does, of that given."""
    shape, size = given.get("shape"), list(takes.input_size)
    if takes.any_size and isinstance(shape, list) and len(shape) == len(size) + 1:
        size[1:] = [n if type(n) is int and n > 0 else -1 for n in shape[2:]]
    return size


def _numbers(given: Mapping[str, Any], binary: bytes, takes: Takes, kind: np.dtype[Any]) -> NDArray[Any]:
    shape = _shape(given, takes.most_images, _sizes_like(given, takes))
    count = math.prod(shape)
    needed = count * kind.itemsize
    raw = _binary(given, binary, needed, f"the shape {shape} needs {needed}")
    if raw is not None:
        return np.frombuffer(raw, kind).reshape(shape)
    data = given.get("data")
    if not isinstance(data, list):
        raise ValueError(f"input {INPUT!r} has no list 'data'")
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"'data' of input {INPUT!r} is ragged") from error
    if values.dtype.kind not in ("iu" if kind.kind == "u" else "iuf") or values.size != count:
        raise ValueError(
            f"'data' of input {INPUT!r} holds {values.size} values of kind {values.dtype}; "
            f"the shape {shape} needs {count} {'integers' if kind.kind == 'u' else 'numbers'}"
        )
    if kind.kind == "u" and (values.min() < 0 or values.max() > 255):
        raise ValueError(f"'data' of input {INPUT!r} must lie within 0 and 255")
    with np.errstate(over="ignore"):  # what is too large for FP32 is refused for that
        return values.astype(kind).reshape(shape)


def _to_uint8(values: NDArray[Any], takes: Takes, normalized: bool) -> Pixels:
    """The network normalises uint8 pixels itself; from normalised ones these are had back without loss."""
    slack, low, high = 0.0, float(values.min()), float(values.max())
    if normalized:
        if takes.mean is None or takes.std is None:
            raise ValueError(
                "the network has no mean and std to undo a normalisation by; leave normalized out"
            )
        std, mean = (np.array(part, np.float32)[:, None, None] for part in (takes.std, takes.mean))
        with np.errstate(all="ignore"):
            values = values * std + mean
        slack = HALF_A_GREY_LEVEL
    if not bool(((values >= -slack) & (values <= 1 + slack)).all()):
        held = f"input {INPUT!r} holds {low:g} to {high:g}"
        if normalized:
            by = f"mean {list(takes.mean or ())} and std {list(takes.std or ())}"
            raise ValueError(f"{held}, which is not what normalising 0 to 1 by {by} gives")
        raise ValueError(
            f"{held}; FP32 pixels hold 0 to 1. For 0 to 255 give UINT8; for pixels normalised by the "
            "network's mean and std add the parameter normalized: true"
        )
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _encoded(given: Mapping[str, Any], binary: bytes, takes: Takes) -> list[bytes]:
    count = _shape(given, takes.most_images, [], [1])[0]
    raw = _binary(given, binary, None, "it must be all of them")
    found = _from_json(given.get("data")) if raw is None else _from_binary(raw)
    if len(found) != count:
        raise ValueError(f"input {INPUT!r} holds {len(found)} elements; the shape says {count}")
    return found


def _from_binary(raw: bytes) -> list[bytes]:
    """Elements, each behind its length in four bytes, little-endian."""
    found, at = [], 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw) or start > len(raw):
            raise ValueError(
                f"element {len(found)} of input {INPUT!r} is cut off; "
                "each is its length in 4 bytes, little-endian, then its bytes"
            )
        found.append(raw[start:at])
    return found


def _from_json(data: Any) -> list[bytes]:
    if not isinstance(data, list):
        raise ValueError(f"input {INPUT!r} has no list 'data'")
    found = []
    for index, element in enumerate(data):
        if isinstance(element, list) and len(element) == 1:
            (element,) = element  # shape [B, 1], nested
        try:
            if not isinstance(element, str):
                raise TypeError("no text")
            found.append(base64.b64decode(element, validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise ValueError(
                f"element {index} of input {INPUT!r} is no base64 ({error}); in JSON, give image files as "
                "base64 text, or send binary tensors"
            ) from error
    return found
