"""What a model says about itself, in Triton's shape, and which of the protocol's extensions aren't there."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eenet.serving.metrics import Totals
from eenet.serving.protocol.tensors import DATATYPES, INPUT, Takes

VERSION = "1"
PLATFORM = "eenet"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"]
ABSENT = {
    r"(system|cuda|tpu)sharedmemory(/.*)?": "shared memory isn't served; send tensors in the request",
    r"(models/.+/)?trace/setting": "tracing isn't served; GET /metrics has latencies, the log each request",
    r"logging": "the log's settings can't be changed",
    r"repository/models/.+/unload": "models can't be unloaded; start the server without them",
    r"models/.+/generate(_stream)?": "text isn't generated here; POST to infer",
}


def absent(path: str) -> str | None:
    """Why an extension of the protocol that this path belongs to isn't served; none: it belongs to none."""
    for pattern, why in ABSENT.items():
        if re.fullmatch(f"/v2/{pattern}", path):
            return f"{why}. Extensions served: {', '.join(EXTENSIONS)}"
    return None


def metadata(name: str, takes: Takes, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Inputs and outputs with their whole shapes; `shapes`: of outputs for one image, unless one number."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *_size(takes)]}],
        "outputs": [
            {"name": output, "datatype": kind, "shape": [-1, *shapes.get(output, [])]}
            for output, kind in takes.outputs.items()
        ],
    }


def configuration(
    name: str,
    takes: Takes,
    shapes: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    *,
    backend: str,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Triton's `ModelConfig`: shapes are those of one image."""
    told = {"accepts": DATATYPES, "mean": takes.mean, "std": takes.std, "class_names": list(class_names)}
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": backend,
        "version_policy": {"specific": {"versions": [int(VERSION)]}},
        "max_batch_size": takes.most_images,
        "input": [
            {
                "name": INPUT,
                "data_type": "TYPE_UINT8",
                "format": "FORMAT_NCHW",
                "dims": _size(takes),
            }
        ],
        "output": [
            {"name": output, "data_type": _config_type(kind), "dims": list(shapes.get(output, []))}
            for output, kind in takes.outputs.items()
        ],
        "dynamic_batching": {"preferred_batch_size": [batch_size]},
        "instance_group": [{"name": name, "kind": "KIND_CPU", "count": workers}],
        "parameters": {key: {"string_value": json.dumps(value)} for key, value in told.items()},
    }


def _size(takes: Takes) -> list[int]:
    return [takes.input_size[0], -1, -1] if takes.any_size else list(takes.input_size)


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def statistics(name: str, totals: Totals) -> dict[str, Any]:
    """Triton's `ModelStatistics`. Times aren't taken apart here: those of queue and compute are missing."""
    unknown = {"count": 0, "ns": 0}
    parts = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    return {
        "name": name,
        "version": VERSION,
        "last_inference": round(1e3 * totals.last),
        "inference_count": totals.images,
        "execution_count": sum(totals.batches.values()),
        "inference_stats": {
            "success": {"count": totals.requests, "ns": round(1e9 * totals.seconds)},
            "fail": {"count": totals.failures, "ns": round(1e9 * totals.failed_seconds)},
            **dict.fromkeys(parts, unknown),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": unknown,
                "compute_infer": {"count": count},
                "compute_output": unknown,
            }
            for size, count in sorted(totals.batches.items())
        ],
    }
