"""A network's graph in its directory: written once, its weights left where they are already."""

import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eenet.common import sha256, write_atomically
from eenet.networks.directories import GRAPH_FILE, WEIGHTS_FILE
from eenet.networks.graphs.messages import HALF, Place, copy_of, parse, put_outside
from eenet.networks.graphs.stored import check_hashes

if TYPE_CHECKING:
    from eenet.networks.network import EENet

SMALL = 256  # bytes of a tensor that stays in the graph


def put_graph(network: "EENet", directory: Path, wanted: bool | None) -> dict[str, str]:
    """Write a network's graph beside its weights, or keep the one that is there; see `save_pretrained`.

    Returns:
        The hashes for its configuration; none without a graph.
    """
    path, before = directory / GRAPH_FILE, network.config.hashes
    if wanted is not False and {GRAPH_FILE, WEIGHTS_FILE} <= before.keys():
        with suppress(ValueError, FileNotFoundError):
            check_hashes(directory, before)
            return before
    if wanted or (wanted is None and network.config.backbone is None and network.config.mean is not None):
        from eenet.networks.graphs.whole import network_graph

        return write_graph(network_graph(network), directory, [WEIGHTS_FILE])
    path.unlink(missing_ok=True)
    return {}


def write_graph(model: Any, directory: Path, files: Iterable[str]) -> dict[str, str]:
    """Write a graph whose weights lie in these files of the directory, as far as they are found there.

    Returns:
        Hashes of the graph and of the files that it refers to.
    """
    where = {content: place for file in files for content, place in _contents(directory / file)}
    model, used = copy_of(model), set[str]()
    for tensor in model.graph.initializer:
        place = where.get(tensor.raw_data) if len(tensor.raw_data) > SMALL else None
        if place is not None:
            put_outside(tensor, place)
            used.add(place.file)
    write_atomically(directory / GRAPH_FILE, model.SerializeToString())
    return {name: sha256(directory / name) for name in (GRAPH_FILE, *sorted(used))}


def _contents(path: Path) -> Iterator[tuple[bytes, Place]]:
    """The tensors in a file: their bytes, and where they are."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        for name, about in header.items():
            if name != "__metadata__":
                start, end = (8 + length + offset for offset in about["data_offsets"])
                held = content[start:end]
                if about["dtype"] == "F16":
                    wide = np.frombuffer(held, "<f2").astype("<f4").tobytes()
                    yield wide, Place(path.name, start, end - start, HALF)
                yield held, Place(path.name, start, end - start)
    elif path.suffix == ".onnx":
        at = 0
        for tensor in parse(content, str(path)).graph.initializer:
            found = content.find(tensor.raw_data, at) if len(tensor.raw_data) > SMALL else -1
            if found >= 0:
                yield tensor.raw_data, Place(path.name, found, len(tensor.raw_data))
                at = found + len(tensor.raw_data)
