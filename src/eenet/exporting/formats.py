"""The forms a network is written in for other programs, each by a function that writes its files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from eenet.common import write_atomically
from eenet.exporting.finding import ANSWERED, FOUND, with_boxes
from eenet.networks import FLOAT16, PIXELS, Network, StoredNetwork, from_array, parse, to_array
from eenet.policies import ExitPolicy
from eenet.runtime import Segment, SegmentModule, examples, folded_segments, segments_of

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_BATCH = 1024  # of a library compiled by torch


@dataclass(frozen=True)
class Job:
    """What is to be written, and where."""

    network: Network
    policy: ExitPolicy
    precision: str
    target: Path
    graph: Any = None
    """The network's ONNX graph, in int8 if that is wanted, for the formats that are made of it."""
    finding: Any = None
    """For these and a network for boxes: what makes boxes of its answers, see `eenet.exporting.finding`."""

    @property
    def segments(self) -> list[Segment]:
        return segments_of(self.policy, self.network.config.ensemble)


@dataclass(frozen=True)
class Format:
    """A way to write a network."""

    about: str
    write: Callable[[Job], dict[str, Any]]
    """Writes files, and returns what the manifest has to say of them: `stages`, one for each
    segment, with `file`, `inputs`, `outputs`; or `single`, the same for the whole."""
    needs: tuple[str, ...]
    """Packages."""
    extra: str
    """Of eenet, which brings them."""
    precisions: tuple[str, ...] = ("fp32",)

    @property
    def from_onnx(self) -> bool:
        return "onnx" in self.needs


Save = Callable[[Job, Any, str], str]
"""Writes an ONNX model under a name; returns the file's."""


def _staged(job: Job, save: Save) -> dict[str, Any]:
    stages, models = _parts(job)
    for i, (stage, model) in enumerate(zip(stages, models, strict=True)):
        stage["file"] = save(job, _halved(job, model, save), f"stage_{i}")
    if job.finding is None:
        return {"stages": stages}
    return {"stages": stages, "boxes": _boxes(save(job, job.finding, "boxes"), ANSWERED)}


def _boxes(file: str, inputs: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of the model that gives boxes."""
    return {"file": file, "inputs": list(inputs), "outputs": {name: name for name in FOUND}}


def _single(job: Job, save: Save, *, defaults: bool, images: Literal["one", "any"]) -> dict[str, Any]:
    """The stages nested; thresholds are inputs, with defaults where the format has such."""
    from eenet.runtime import nest, threshold_name

    segments = job.segments
    parts = [_halved(job, part, save) for part in _parts(job)[1]]
    model = nest(parts, segments, images)
    names = [threshold_name(i) for i in range(len(segments) - 1)]
    for name, segment in zip(names, segments, strict=False):
        default = np.array([job.policy.thresholds[segment.exit or 0]], np.float32)
        if defaults:
            model.graph.initializer.append(from_array(default, name))
    if images == "one":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    outputs = {"probabilities": "probabilities", "exit_index": "exit_index"}
    if job.finding is not None:
        model = with_boxes(model, job.finding)
    file, inputs = save(job, model, "network"), [PIXELS, *names]
    written: dict[str, Any] = {"single": {"file": file, "inputs": inputs, "outputs": outputs}}
    return written if job.finding is None else written | {"boxes": _boxes(file, inputs)}


def _parts(job: Job) -> tuple[list[dict[str, Any]], list[Any]]:
    """For each segment the names of what goes in and out, and its ONNX model."""
    from eenet.runtime import Cutter, inputs_and_outputs

    cutter, final = Cutter(parse(job.graph.SerializeToString(), "the graph")), job.network.num_exits
    stages, models, state = [], [], job.network.config.has_state
    for segment in job.segments:
        inputs, outputs = inputs_and_outputs(segment, job.policy.score, final, with_state=state)
        kinds = _kinds(segment, final, with_state=state)
        stages.append({"inputs": inputs, "outputs": dict(zip(kinds, outputs, strict=True))})
        models.append(cutter.cut(inputs, outputs))
    return stages, models


def _halved(job: Job, model: Any, save: Save) -> Any:
    """In float16, if that is wanted and saving doesn't do it."""
    if job.precision != "fp16" or save is not _save_onnx:
        return model
    import onnx

    from eenet.exporting.quantize import to_float16

    given = onnx.ModelProto.FromString(model.SerializeToString())
    return parse(to_float16(given).SerializeToString(), "the graph in float16")


def whole_graph(job: Job) -> Any:
    """The network as a model with the weights of the files; with those of fp16 it computes in float32."""
    model = parse(job.graph.SerializeToString(), "the graph")
    if job.precision == "fp16":
        files = [parse(path.read_bytes(), path.name) for path in job.target.glob("*.onnx")]
        held = (tensor for file in files for tensor in file.graph.initializer)
        halves = {tensor.name for tensor in held if tensor.data_type == FLOAT16}
        for tensor in model.graph.initializer:
            if tensor.name in halves:
                values = to_array(tensor).astype(np.float16).astype(np.float32)
                tensor.CopyFrom(from_array(values, tensor.name))
    return model


def _kinds(segment: Segment, final: int, *, with_state: bool = False) -> list[str]:
    if segment.exit == final:
        return ["probabilities"]
    return ["features", *(["state"] if with_state else []), "probabilities", "score"]


def _save_onnx(job: Job, model: Any, name: str) -> str:
    file = f"{name}.onnx"
    write_atomically(job.target / file, model.SerializeToString())
    return file


def _save_openvino(job: Job, model: Any, name: str) -> str:
    import openvino

    from eenet.runtime import read_openvino

    file = f"{name}.xml"
    read = read_openvino(model.SerializeToString())
    openvino.save_model(read, job.target / file, compress_to_fp16=job.precision == "fp16")
    return file


class _Tensors(nn.Module):
    """A segment that gives tensors only: what it has none of is left out."""

    def __init__(self, segment: SegmentModule) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in self.segment(features) if value is not None)


def _programs(job: Job, *, any_batch: bool) -> Sequence[Any]:
    """torch's exported program of every segment, with BatchNorm folded."""
    network = job.network.to_torch() if isinstance(job.network, StoredNetwork) else job.network
    modules = folded_segments(network, job.segments, job.policy.score)
    inputs = examples(network, job.segments, batch_size=2 if any_batch else 1)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with torch.no_grad():
        return [
            torch.export.export(_Tensors(m).eval(), (x,), dynamic_shapes=({0: batch},) if any_batch else None)
            for m, x in zip(modules, inputs, strict=True)
        ]


def _torch_stages(job: Job) -> list[dict[str, Any]]:
    """Outputs of torch's formats have no names, only an order."""
    final = job.network.num_exits
    return [
        {
            "inputs": ["features" if s.first else "pixels"],
            "outputs": {kind: kind for kind in _kinds(s, final)},
        }
        for s in job.segments
    ]


def _aoti(job: Job) -> dict[str, Any]:
    stages = _torch_stages(job)
    for i, (stage, program) in enumerate(zip(stages, _programs(job, any_batch=True), strict=True)):
        stage["file"] = f"stage_{i}.pt2"
        torch._inductor.aoti_compile_and_package(program, package_path=str(job.target / stage["file"]))
    return {"stages": stages}


def _executorch(job: Job) -> dict[str, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]

    programs = {f"stage_{i}": p for i, p in enumerate(_programs(job, any_batch=False))}
    lowered = to_edge_transform_and_lower(programs, partitioner=[XnnpackPartitioner()]).to_executorch()
    write_atomically(job.target / "network.pte", lowered.buffer)
    stages = _torch_stages(job)
    for name, stage in zip(programs, stages, strict=True):
        stage |= {"file": "network.pte", "method": name}
    return {"stages": stages}


_ONNX = ("onnx", "onnxscript")
_OPENVINO = ("openvino", *_ONNX)
FORMATS: dict[str, Format] = {
    "onnx": Format("a file for each stage", partial(_staged, save=_save_onnx), _ONNX, "onnx", PRECISIONS),
    "onnx-single": Format(
        "one file that stops by itself",
        partial(_single, save=_save_onnx, defaults=True, images="any"),
        _ONNX,
        "onnx",
        PRECISIONS,
    ),
    "openvino": Format(
        "IR, a model for each stage",
        partial(_staged, save=_save_openvino),
        _OPENVINO,
        "onnx,openvino",
        PRECISIONS,
    ),
    "openvino-single": Format(
        "IR, one model that stops by itself, for one image",
        partial(_single, save=_save_openvino, defaults=False, images="one"),
        _OPENVINO,
        "onnx,openvino",
        PRECISIONS,
    ),
    "aoti": Format("a library for each stage, compiled by torch for this kind of machine", _aoti, (), ""),
    "executorch": Format(
        "one .pte with a method for each stage, for one image", _executorch, ("executorch",), "executorch"
    ),
}
