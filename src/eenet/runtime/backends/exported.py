"""The files that `eenet export` wrote, as a backend of this runtime: run as other programs run them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import blaming
from eenet.networks import MANIFEST_FILE, read_manifest
from eenet.policies import ExitPolicy, Weights
from eenet.runtime.backends.backend import Backend, Outputs, ThroughAll, packed
from eenet.runtime.graphs.segments import Segment, segments_of

Run = Callable[..., Sequence[Any]]
"""What a stage takes → its outputs, in the order features, probabilities, score."""


def policy_of(manifest: dict[str, Any]) -> ExitPolicy:
    """The policy that was exported. Exits that were switched off are not among the stages."""
    thresholds = {stage["exit"]: stage["threshold"] for stage in manifest["stages"][:-1]}
    exits = range(manifest["stages"][-1]["exit"])
    return ExitPolicy(
        manifest["score"],
        tuple(thresholds.get(k, 1.0) for k in exits),
        tuple(k in thresholds for k in exits),
    )


def _segments(manifest: dict[str, Any], policy: ExitPolicy) -> list[Segment]:
    """With the weights by which the stages' answers are joined, where there are any."""
    pairs = zip(segments_of(policy, None), manifest["stages"], strict=True)
    return [replace(s, weights=Weights(*stage["weights"])) if "weights" in stage else s for s, stage in pairs]


def load_exported(directory: str | Path, *, threads: int | None = None) -> tuple[Backend, ExitPolicy]:
    """The exported files as a backend, and the policy they were exported with.

    Args:
        directory: written by `eenet export`. Formats `aoti` and `executorch` hold code: load only your own.
        threads: of ONNX Runtime or OpenVINO. Default: one per core.

    Raises:
        FileNotFoundError, ValueError: files are missing or damaged, or their runtime isn't installed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    with blaming(directory / MANIFEST_FILE, "manifest"):
        try:
            policy, kind = policy_of(manifest), manifest["format"]
            return KINDS.get(kind, Staged)(directory, manifest, policy, threads), policy
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"damaged: {error!r}") from error
        except ImportError as error:
            raise ValueError(f"format {manifest['format']} needs a library: {error}") from error


class Staged(Backend):
    """A file, or a method in one file, for each segment."""

    name = "exported"

    def __init__(
        self, directory: Path, manifest: dict[str, Any], policy: ExitPolicy, threads: int | None
    ) -> None:
        self.segments = _segments(manifest, policy)
        opened = {"onnx": _onnx, "openvino": _openvino, "aoti": _aoti, "executorch": _executorch}
        open_stage = opened[manifest["format"]]
        self._runs = [open_stage(directory / stage["file"], stage, threads) for stage in manifest["stages"]]

    def run(self, index: int, features: Any) -> Outputs:
        given = features if isinstance(features, tuple) else (features,)
        return packed(self.segments[index], self._runs[index](*given))


class StagedForOne(Staged):
    """The same for single images."""

    one_at_a_time = True


class SingleFile(Backend):
    """One file that stops by itself."""

    name = "exported-single"

    def __init__(
        self, directory: Path, manifest: dict[str, Any], policy: ExitPolicy, threads: int | None
    ) -> None:
        self.segments = _segments(manifest, policy)
        open_file = {"onnx-single": _onnx, "openvino-single": _openvino}[manifest["format"]]
        self._run = open_file(directory / manifest["single"]["file"], manifest["single"], threads)

    def run(self, index: int, features: Any) -> Outputs:  # noqa: ARG002
        raise AssertionError("a single file has no stages to run")

    def run_through(self, pixels_BCHW: NDArray[np.uint8], thresholds: Sequence[float]) -> ThroughAll:
        given = [np.array([threshold], np.float32) for threshold in thresholds]
        probabilities_BN, exits_B = self._run(pixels_BCHW, *given)
        return probabilities_BN, exits_B


class SingleFileForOne(SingleFile):
    """The same for single images."""

    one_at_a_time = True


KINDS = {"onnx-single": SingleFile, "openvino-single": SingleFileForOne, "executorch": StagedForOne}


def _onnx(path: Path, stage: dict[str, Any], threads: int | None) -> Run:
    from eenet.runtime.backends.onnx_backend import session_of

    session, outputs = session_of(_existing(path), threads), list(stage["outputs"].values())

    def run(*given: Any) -> Sequence[Any]:
        return session.run(outputs, dict(zip(stage["inputs"], given, strict=True)))

    return run


def _openvino(path: Path, stage: dict[str, Any], threads: int | None) -> Run:
    from eenet.runtime.backends.openvino_backend import Compiled

    compiled = Compiled(_existing(path), threads)

    def run(*given: Any) -> Sequence[Any]:
        request = compiled.request(len(given[0]))
        request.infer(dict(zip(stage["inputs"], given, strict=True)), share_outputs=True)
        return [request.get_tensor(name).data.copy() for name in stage["outputs"].values()]

    return run


def _aoti(path: Path, stage: dict[str, Any], threads: int | None) -> Run:  # noqa: ARG001
    import torch

    package = torch._inductor.aoti_load_package(str(_existing(path)))

    def run(given: Any) -> Sequence[Any]:
        with torch.inference_mode():
            found = package(torch.from_numpy(np.ascontiguousarray(given)))
        return [tensor.numpy() for tensor in found]

    return run


def _executorch(path: Path, stage: dict[str, Any], threads: int | None) -> Run:  # noqa: ARG001
    import torch
    from executorch.runtime import Runtime  # type: ignore[import-not-found]

    method = Runtime.get().load_program(_existing(path)).load_method(stage["method"])

    def run(given: Any) -> Sequence[Any]:
        found = method.execute([torch.from_numpy(np.ascontiguousarray(given))])
        return [tensor.clone().numpy() for tensor in found]

    return run


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the export is not complete")
    return path
