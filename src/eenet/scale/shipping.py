"""A network on its way to other machines: the files it needs, as bytes, and opened again there."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from eenet.networks import (
    CONFIG_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Network,
    StoredNetwork,
    open_network,
)
from eenet.policies import ExitPolicy

PLAIN = ("CPUExecutionProvider",)
"""Named, so that features are in no layout of a processor's own: the next segment may run on another."""
Files = dict[str, bytes]
"""What lies in a checkpoint's directory, as far as running it needs it."""


@dataclass(frozen=True)
class How:
    """By what images are run, the same on every machine."""

    policy: ExitPolicy
    backend: str = "onnxruntime"
    providers: Sequence[str] = ()
    batch_size: int = 64
    """Images run together, at most."""
    top_k: int = 0
    """Likeliest classes told of every image; 0: the label alone."""
    threads: int = 1


def packed(network: Network) -> Files:
    """The files of a network. One in memory is written as a checkpoint first."""
    if not isinstance(network, StoredNetwork):
        with TemporaryDirectory() as directory:
            network.save_pretrained(directory, graph=True)
            return _files(Path(directory))
    return _files(network.directory)


def _files(directory: Path) -> Files:
    names = {CONFIG_FILE, WEIGHTS_FILE, GRAPH_FILE, MANIFEST_FILE}
    if (directory / MANIFEST_FILE).is_file():
        names |= json.loads((directory / MANIFEST_FILE).read_text()).get("hashes", {}).keys()
    return {name: (directory / name).read_bytes() for name in sorted(names) if (directory / name).is_file()}


@contextmanager
def unpacked(files: Files) -> Iterator[Network]:
    """The network of these files, which are checked as those of any checkpoint; to be prepared in here."""
    with TemporaryDirectory() as directory:
        for name, content in files.items():
            (Path(directory) / name).write_bytes(content)
        yield open_network(directory)


def fingerprint(files: Files) -> str:
    """By which the same network is known again: SHA-256 of what runs."""
    digest = sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + sha256(files[name]).digest())
    return digest.hexdigest()
