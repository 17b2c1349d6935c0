"""Backends by name: which there are, which are installed, what options they take."""

import importlib.util
from importlib import import_module
from typing import Any, cast

from eenet.networks import Network, StoredNetwork
from eenet.policies import looks_back
from eenet.runtime.backends.backend import Backend
from eenet.runtime.graphs.segments import Segment

BACKENDS = {  # module, class, package, options
    "torch": ("torch_backend", "TorchBackend", "torch", ("precision",)),
    "torch-compile": ("compile_backend", "TorchCompileBackend", "torch", ("precision",)),
    "onnxruntime": ("onnx_backend", "OnnxRuntimeBackend", "onnxruntime", ("threads", "providers")),
    "openvino": ("openvino_backend", "OpenVINOBackend", "openvino", ("threads", "precision")),
}
EXTRAS = {"torch": "train", "openvino": "openvino"}  # which bring a package
PRECISIONS = ("f32", "bf16")


def create_backend(
    name: str,
    network: Network,
    segments: list[Segment],
    score: str,
    **options: Any,
) -> Backend:
    """A backend by name, see `Predictor`; options that are None count as not given.

    Raises:
        ValueError: unknown name or option, not installed, or it can't take this network.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose from {', '.join(BACKENDS)}")
    module, kind, package, known = BACKENDS[name]
    network.config.must_support(f"backend {name}")
    of_graphs = package != "torch"
    if not installed(name):
        what = f"eenet[{EXTRAS[package]}]" if package in EXTRAS else package
        raise ValueError(f"backend {name!r} is not installed; pip install {what!r}")
    if isinstance(network, StoredNetwork):
        network = network if of_graphs else network.to_torch()
    else:
        network.check_format()
        if of_graphs and next(network.parameters()).device.type != "cpu":
            raise ValueError(f"backend {name!r} runs on the CPU, the network is on another device")
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in known:
            raise ValueError(f"backend {name!r} has no option {option!r}")
        if option == "precision" and value not in PRECISIONS:
            raise ValueError(f"unknown precision {value!r}; choose from {', '.join(PRECISIONS)}")
    score = "confidence" if looks_back(score) else score  # from which engines compute it
    create = getattr(import_module(f"eenet.runtime.backends.{module}"), kind)
    return cast(Backend, create(network, segments, score, **given))


def options_of(name: str) -> tuple[str, ...]:
    """The options that a backend takes; none for an unknown one."""
    return BACKENDS[name][3] if name in BACKENDS else ()


def installed(name: str) -> bool:
    """Whether a backend's libraries are."""
    return importlib.util.find_spec(BACKENDS[name][2]) is not None


def default_backend() -> str:
    """The fastest that is installed."""
    return "onnxruntime" if installed("onnxruntime") else "torch"
