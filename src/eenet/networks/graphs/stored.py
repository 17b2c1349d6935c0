"""A network that is the graph in its directory: run without torch, and without its class."""

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from eenet.backbones import FACTORY
from eenet.common import blaming, cores, require, write_atomically
from eenet.networks.config import read_config, write_config
from eenet.networks.directories import CARD_FILE, CONFIG_FILE, GRAPH_FILE, WEIGHTS_FILE, checkpoint_directory
from eenet.networks.graphs.manifest import MANIFEST_FILE, check_hashes, follow, read_manifest
from eenet.networks.graphs.messages import extract, read_model
from eenet.policies import logit
from eenet.tasks import task_of

if TYPE_CHECKING:
    from eenet.networks.network import EENet

PIXELS = "pixels"
"""What goes in: uint8 [B, C, H, W]."""


def features_name(stage: int | str) -> str:
    """The features behind a stage."""
    return f"features_{stage}"


def state_name(stage: int | str) -> str:
    """What is carried beside the features behind a stage, where a task has a state."""
    return f"state_{stage}"


def logits_name(exit_index: int | str) -> str:
    """Class logits of an exit."""
    return f"logits_{exit_index}"


def confidence_logits_name(exit_index: int | str) -> str:
    """The confidence of an early exit, before the sigmoid."""
    return f"confidence_logits_{exit_index}"


def probabilities_name(exit_index: int | str) -> str:
    """Class probabilities of an exit."""
    return f"probabilities_{exit_index}"


def score_name(score: str, exit_index: int) -> str:
    """A kind of score at an early exit."""
    return f"{score}_{exit_index}"


class StoredNetwork:
    """A network by its graph. What trains or cuts networks needs `to_torch`; all that runs them doesn't."""

    def __init__(self, directory: str | Path) -> None:
        """Read and check what lies in a directory.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or was changed since the graph was written.
        """
        self.directory = Path(directory)
        exported = (self.directory / MANIFEST_FILE).is_file()
        checked = read_manifest(self.directory).get("hashes", {}) if exported else {}
        self.config = read_config(self.directory)
        if GRAPH_FILE not in self.config.hashes:
            raise ValueError(f"{self.directory / CONFIG_FILE}: 'hashes' says nothing of {GRAPH_FILE}")
        rest = {name: each for name, each in self.config.hashes.items() if checked.get(name) != each}
        check_hashes(self.directory, rest)
        self.graph = read_model(self.directory / GRAPH_FILE)
        self._check()

    def _check(self) -> None:
        """Whether the graph is one of a network with this configuration."""
        config, final, task = self.config, self.num_exits, task_of(self.config.task)
        given = {info.name: info.type.tensor_type.shape.dim for info in self.graph.graph.input}
        with blaming(self.directory / GRAPH_FILE, CONFIG_FILE):
            size = [d.dim_value for d in given.get(PIXELS, [])[1:]]
            left_open = [config.input_size[0], 0, 0]
            if size != list(config.input_size) and (size != left_open or not task.any_size):
                raise ValueError(f"the graph doesn't take {PIXELS} of size {config.input_size}")
            outputs = {info.name: info.type.tensor_type.shape.dim for info in self.graph.graph.output}
            for k in range(final + 1):
                dims = outputs.get(probabilities_name(k), [])
                if len(dims) < 2 or dims[1].dim_value not in (0, task.channels(config.num_classes)):
                    raise ValueError(f"the graph has no exit {k} with {config.num_classes} classes")
            if probabilities_name(final + 1) in outputs:
                raise ValueError(f"the graph has more than {final} early exits")

    @property
    def num_exits(self) -> int:
        """Number of early exits, K - 1."""
        return len(self.config.exits)

    @property
    def costs_K(self) -> list[float]:
        """Relative cost of leaving at each exit, heads included; the final exit is above 1."""
        return self.costs()

    def costs(self, enabled: Sequence[bool] | None = None) -> list[float]:
        """Relative cost of leaving at each exit when only the `enabled` early exits are on."""
        return self.config.costs(enabled)

    def answers(self, pixels_BCHW: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What every exit says about images: logits [K, B, N], confidence logits [K - 1, B]."""
        found = self._session.run(None, {PIXELS: np.ascontiguousarray(pixels_BCHW)})
        logits, confidences = found[: self.num_exits + 1], found[self.num_exits + 1 :]
        if not self._has_logits:
            task = task_of(self.config.task)
            logits, confidences = map(task.unanswered, logits), map(logit, confidences)
        none = np.empty((0, len(pixels_BCHW)), np.float32)
        return np.stack(list(logits)), np.stack([*confidences]) if self.num_exits else none

    @property
    def _has_logits(self) -> bool:
        return any(info.name == logits_name(self.num_exits) for info in self.graph.graph.output)

    @cached_property
    def _session(self) -> Any:
        ort = require("onnxruntime", "running a network")
        wanted = [
            (logits_name if self._has_logits else probabilities_name)(k) for k in range(self.num_exits + 1)
        ]
        for k in range(self.num_exits):
            wanted.append(confidence_logits_name(k) if self._has_logits else score_name("confidence", k))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = cores(), 3
        part = extract(self.graph, [PIXELS], wanted).SerializeToString()
        return ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])

    @property
    def has_modules(self) -> bool:
        """Whether `to_torch` can make it: with its weights there, and no code of a user's own."""
        names = [part.backbone for part in self.config.parts or [self.config]]
        own = any(name is None or name.startswith(FACTORY) for name in names)
        return not own and (self.directory / WEIGHTS_FILE).is_file()

    def to_torch(self) -> "EENet":
        """The same network as modules.

        Raises:
            FileNotFoundError, ValueError: as `EENet.from_pretrained`; torch isn't installed.
        """
        require("torch", f"{self.directory} as modules")
        from eenet.networks.network import EENet

        network = EENet.from_pretrained(self.directory)
        network.config = self.config
        return network

    def save_pretrained(self, directory: str | Path, *, card: str = "") -> Path:
        """Write the configuration as it is now, and in another directory a copy of all the rest."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if directory.resolve() != self.directory.resolve():
            for file in sorted(self.directory.iterdir()):
                if file.is_file() and file.name not in (CONFIG_FILE, CARD_FILE):
                    shutil.copyfile(file, directory / file.name)
        write_config(self.config, directory)
        if (directory / MANIFEST_FILE).is_file():
            follow(self.config, directory)
        if card:
            write_atomically(directory / CARD_FILE, card.encode())
        return directory


Network: TypeAlias = Union["EENet", StoredNetwork]
"""What runs: modules, or a graph."""


def open_network(source: Network | str | Path) -> Network:
    """What every verb that only runs a network takes: a network as it is, or that of a checkpoint.

    Of a checkpoint its graph, if it has one; then neither torch nor the network's class is needed.

    Raises:
        FileNotFoundError, ValueError: it can't be read; it has no graph, and torch isn't installed.
    """
    if not isinstance(source, str | Path):
        return source
    directory = checkpoint_directory(source)
    if (directory / GRAPH_FILE).is_file():
        return StoredNetwork(directory)
    if (directory / MANIFEST_FILE).is_file():
        manifest = read_manifest(directory)
        old = " by eenet 0.1" * (manifest["format_version"] == 1)
        raise ValueError(
            f"{directory} was exported{old} as {manifest['format']}, without the network's graph; export the "
            "network again as onnx, onnx-single, openvino or openvino-single"
        )
    require("torch", f"{directory}, which has no {GRAPH_FILE},")
    from eenet.networks.network import EENet

    return EENet.from_pretrained(directory)


def name_of(source: Network | str | Path) -> str:
    """What to call it in messages and titles."""
    if isinstance(source, StoredNetwork):
        return str(source.directory)
    if isinstance(source, str | Path):
        return str(source)
    return source.config.backbone or "the network"


def graph_of(network: Network) -> Any:
    """A network as an ONNX model, see `network_graph`."""
    if isinstance(network, StoredNetwork):
        return network.graph
    from eenet.networks.graphs.whole import network_graph

    return network_graph(network)
