"""The whole network as one ONNX graph, from which every segment, prefix and the plain backbone are cut."""

import hashlib
import inspect
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from eenet.common import cache_directory, require, working, write_atomically
from eenet.networks.graphs.messages import parse
from eenet.networks.graphs.stored import (
    PIXELS,
    confidence_logits_name,
    features_name,
    logits_name,
    probabilities_name,
    score_name,
    state_name,
)
from eenet.networks.network import EENet
from eenet.policies import SCORES, graph_scores
from eenet.tasks import task_of

KEPT = 8  # graphs in the cache
NOT_IN_THE_GRAPH = (
    "policy", "budgets", "policies", "timings", "provenance", "class_names", "ensemble", "proved_with",
    "plugins", "hashes", "format_version",
)  # fmt: skip


def network_graph(network: EENet) -> Any:
    """The network in eval mode as an ONNX model with all that any policy may ask for, for any batch size.

    It takes uint8 `pixels`, and gives for every early exit `features_K`, `logits_K`, `probabilities_K`,
    `confidence_logits_K` and each kind of score, and `logits_K` and `probabilities_K` of the final exit.
    Weights are the network's own: runtimes fold BatchNorm. Kept in `$EENET_CACHE`, by default
    `~/.cache/eenet`: making it takes seconds to a minute.

    Raises:
        ValueError: torch can't export the network.
    """
    network.check_format()
    path = cache_directory() / f"{_fingerprint(network)}.onnx"
    if path.exists():
        os.utime(path)
        return parse(path.read_bytes(), str(path))
    with working("making an ONNX graph of the network, once"):
        graph = _export(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, graph)
    for old in sorted(path.parent.glob("*.onnx"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return parse(graph, "the graph that torch exported")


class _Everything(nn.Module):
    def __init__(self, network: EENet) -> None:
        super().__init__()
        self.normalize = normalization(network)
        self.network = network
        self.task = task_of(network.config.task)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features, outputs = self.normalize(pixels), []
        for k, head in enumerate(self.network.heads):
            features = _each(self.network.stages[k](features))  # the next stage may write into it
            logits_BN, confidence_logits_B = head(features)
            scores = [SCORES[name]([logits_BN], [confidence_logits_B]) for name in self.task.scores()]
            carried = _each(features)
            outputs += carried if isinstance(carried, tuple) else (carried,)
            outputs += [logits_BN, self.task.answered(logits_BN), confidence_logits_B, *scores]
        logits_BN = self.network.stages[-1](features)
        return *outputs, logits_BN, self.task.answered(logits_BN)


def _each(features: Any) -> Any:
    """A copy of all that is carried on."""
    return tuple(part.clone() for part in features) if isinstance(features, tuple) else features.clone()


def _open_sizes(*, any_size: bool) -> dict[int, Any]:
    """The dimensions of the images that a graph leaves open: how many, and of masks their sizes."""
    found = {0: torch.export.Dim("batch", min=1)}
    if any_size:
        found |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}  # type: ignore[dict-item]
    return found


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an exporter's error, in a line; an operator is named."""
    while error.__cause__ is not None:
        error = error.__cause__
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error)):
        return f"ONNX has no operator for {found[1]}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _export(network: EENet) -> bytes:
    names: list[str] = []
    task = task_of(network.config.task)
    for k in range(network.num_exits):
        names += [
            *(name(k) for name in (features_name, state_name)[: 1 + network.config.has_state]),
            logits_name(k),
            probabilities_name(k),
            confidence_logits_name(k),
            *(score_name(score, k) for score in task.scores()),
        ]
    names += [logits_name(network.num_exits), probabilities_name(network.num_exits)]
    optimizer: Any = require("onnxscript.optimizer", "a graph of the network")
    training = network.training
    pixels = torch.zeros(2, *network.config.input_size, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Everything(network),
                (pixels.to(next(network.parameters()).device),),
                dynamo=True,
                dynamic_shapes=(_open_sizes(any_size=task.any_size),),
                input_names=[PIXELS],
                output_names=names,
                optimize=False,  # it would fold BatchNorm into the weights, which then had to be kept twice
                verbose=False,
            )
    except Exception as error:  # whatever export may raise
        reason = _reason(error)
        raise ValueError(f"this network can't be exported to ONNX; use backend='torch': {reason}") from error
    finally:
        network.train(training)
    assert program is not None
    with _quiet():
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    model = parse(program.model_proto.SerializeToString(), "the graph that torch exported")
    model.DiscardUnknownFields()  # where each operation came from: nine tenths of a small network's graph
    return model.SerializeToString()


class Normalize(nn.Module):
    """uint8 pixels → images with mean and standard deviation taken out, as `eenet.data.normalize`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(mean)[:, None, None] * 255)
        self.register_buffer("scale", torch.tensor(std)[:, None, None] * 255)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return (pixels_BCHW - self.shift) / self.scale


def normalization(network: EENet) -> Normalize:
    """The network's own.

    Raises:
        ValueError: it has no mean and standard deviation.
    """
    return Normalize(*network.config.normalization()).to(next(network.parameters()).device)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes on its own workings are not for users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _fingerprint(network: EENet) -> str:
    """Of all that the graph depends on."""
    config = asdict(network.config)
    for key in NOT_IN_THE_GRAPH:
        del config[key]
    own = [(name, inspect.getsource(SCORES[name])) for name in graph_scores() if SCORES.origin(name)]
    versions = [version(name) for name in ("eenet", "torch", "onnx", "onnxscript")]
    code = "".join(str(getattr(stage, "code", "")) for stage in network.stages)
    found = hashlib.sha256(json.dumps([config, versions, code, own], sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
