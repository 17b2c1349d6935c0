"""The whole network as one ONNX graph, from which every segment, prefix and the plain backbone are cut."""

import hashlib
import inspect
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version

import onnx
import torch
from torch import Tensor, nn

from eenet.common import cache_directory, working, write_atomically
from eenet.networks import EENet
from eenet.policies import SCORES, graph_scores
from eenet.runtime.graphs.cutting import PIXELS, features_name, probabilities_name, score_name
from eenet.runtime.segments import normalization

KEPT = 8  # graphs in the cache
NOT_IN_THE_GRAPH = (
    "policy", "budgets", "policies", "timings", "provenance", "class_names", "ensemble", "proved_with",
    "plugins", "format_version",
)  # fmt: skip


def network_graph(network: EENet) -> onnx.ModelProto:
    """The network in eval mode with all that any policy may ask for, for any batch size.

    It takes uint8 `pixels`, and gives for every early exit `features_K`, `probabilities_K` and
    each kind of score, and `probabilities_K` of the final exit. BatchNorm is folded. Kept in
    `$EENET_CACHE`, by default `~/.cache/eenet`: making it takes seconds to a minute.

    Raises:
        ValueError: torch can't export the network.
    """
    network.check_format()
    path = cache_directory() / f"{_fingerprint(network)}.onnx"
    if path.exists():
        os.utime(path)
        return onnx.load(path)
    with working("making an ONNX graph of the network, once"):
        graph = _export(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, graph.SerializeToString())
    for old in sorted(path.parent.glob("*.onnx"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return graph


class _Everything(nn.Module):
    def __init__(self, network: EENet) -> None:
        super().__init__()
        self.normalize = normalization(network)
        self.network = network
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features, outputs = self.normalize(pixels), []
        for k, head in enumerate(self.network.heads):
            features = self.network.stages[k](features).clone()  # the next stage may write into it
            logits_BN, confidence_logits_B = head(features)
            scores = [SCORES[name]([logits_BN], [confidence_logits_B]) for name in graph_scores()]
            outputs += [features.clone(), logits_BN.softmax(1), *scores]
        return *outputs, self.network.stages[-1](features).softmax(1)


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an exporter's error, in a line; an operator is named."""
    while error.__cause__ is not None:
        error = error.__cause__
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error)):
        return f"ONNX has no operator for {found[1]}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _export(network: EENet) -> onnx.ModelProto:
    names: list[str] = []
    for k in range(network.num_exits):
        names += [
            features_name(k),
            probabilities_name(k),
            *(score_name(score, k) for score in graph_scores()),
        ]
    names.append(probabilities_name(network.num_exits))
    training = network.training
    pixels = torch.zeros(2, *network.config.input_size, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Everything(network),
                (pixels.to(next(network.parameters()).device),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[PIXELS],
                output_names=names,
                verbose=False,
            )
    except Exception as error:  # whatever export may raise
        reason = _reason(error)
        raise ValueError(f"this network can't be exported to ONNX; use backend='torch': {reason}") from error
    finally:
        network.train(training)
    assert program is not None
    return program.model_proto


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
