"""A network's graph in its directory: written once, its weights left where they are already."""

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eenet.common import say, sha256, write_atomically
from eenet.networks.directories import GRAPH_FILE, WEIGHTS_FILE
from eenet.networks.graphs.manifest import check_hashes
from eenet.networks.graphs.messages import FLOAT16, HALF, Place, copy_of, parse, put_outside
from eenet.networks.graphs.stored import graph_of

if TYPE_CHECKING:
    from eenet.networks.network import EENet

SMALL = 256  # bytes of a tensor that stays in the graph


def put_graph(network: "EENet", directory: Path, wanted: bool | None) -> dict[str, str]:
    """Write a network's graph beside its weights, or keep the one that is there; see `save_pretrained`.

    Returns:
        The hashes for its configuration; none without a graph.
    """
    before = network.config.hashes
    if wanted is not False and {GRAPH_FILE, WEIGHTS_FILE} <= before.keys():
        with suppress(ValueError, FileNotFoundError):
            check_hashes(directory, before)
            return before
    config = network.config
    worth_it = config.mean is not None and (config.backbone is None or config.provenance)
    if wanted or (wanted is None and worth_it):
        try:
            return write_graph(graph_of(network), directory, [WEIGHTS_FILE])
        except ValueError as error:
            if wanted:
                raise
            say(
                f"{directory} gets no {GRAPH_FILE}, so to run it takes torch and the network's class: {error}"
            )
    (directory / GRAPH_FILE).unlink(missing_ok=True)
    return {}


def write_graph(model: Any, directory: Path, files: Sequence[str]) -> dict[str, str]:
    """Write a graph whose weights lie in these files of the directory, as far as they are found there.

    Returns:
        Hashes of the graph and of the files that it refers to.
    """
    where = {content: place for file in files for content, place in _contents(directory / file)}
    blocks = {file: (directory / file).read_bytes() for file in files if file.endswith(".bin")}
    model, used = copy_of(model), set[str]()
    for tensor in model.graph.initializer:
        place = None
        if len(tensor.raw_data) > SMALL:
            place = where.get(tensor.raw_data) or _inside(blocks, tensor.raw_data)
        if place is not None:
            put_outside(tensor, place)
            used.add(place.file)
    write_atomically(directory / GRAPH_FILE, model.SerializeToString())
    return {name: sha256(directory / name) for name in (GRAPH_FILE, *sorted(used))}


def _inside(blocks: dict[str, bytes], content: bytes) -> Place | None:
    """In a file that doesn't say what lies where."""
    for file, block in blocks.items():
        if (found := block.find(content)) >= 0:
            return Place(file, found, len(content))
    return None


def _contents(path: Path) -> Iterator[tuple[bytes, Place]]:
    """The tensors in a file: their bytes, and where they are."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        for name, about in header.items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in about["data_offsets"])
                yield from _place(content[start:end], about["dtype"] == "F16", path.name, start)
    elif path.suffix == ".onnx":
        at = 0
        for tensor in parse(content, str(path)).graph.initializer:
            found = content.find(tensor.raw_data, at) if len(tensor.raw_data) > SMALL else -1
            if found >= 0:
                yield from _place(tensor.raw_data, tensor.data_type == FLOAT16, path.name, found)
                at = found + len(tensor.raw_data)


def _place(content: bytes, half: bool, file: str, offset: int) -> Iterator[tuple[bytes, Place]]:
    """A tensor as it is, and one in half precision also as what float32 makes of it."""
    yield content, Place(file, offset, len(content))
    if half:
        wide = np.frombuffer(content, "<f2").astype("<f4").tobytes()
        yield wide, Place(file, offset, len(content), HALF)
