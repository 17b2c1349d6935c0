"""torch.compile as a backend: segments are compiled for a few batch sizes, to which batches are padded."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eenet.networks import EENet
from eenet.runtime.backends.torch_backend import TorchBackend
from eenet.runtime.graphs.segments import Segment

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class TorchCompileBackend(TorchBackend):
    """Like `torch`, compiled when a segment first meets a batch size; that takes seconds to minutes.

    Larger batches go in parts. On a GPU with CUDA graphs.
    """

    name = "torch-compile"

    def __init__(
        self, network: EENet, segments: Sequence[Segment], score: str, *, precision: str = "f32"
    ) -> None:
        """`precision`: f32, or bf16.

        Raises:
            ValueError: torch can't compile here; for the CPU it needs a C++ compiler.
        """
        super().__init__(network, segments, score, precision=precision)
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=self._device))
        except Exception as error:  # whatever compiling may raise
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"torch.compile doesn't work here (on a CPU it needs g++): {reason}") from error
        self._compiled: dict[tuple[int, int], Callable[[Tensor], Any]] = {}
        self._lock = threading.Lock()

    def _call(self, index: int, features: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        parts = [self._part(index, part) for part in features.split(BUCKETS[-1])]
        if len(parts) == 1:
            return parts[0]
        joined = [None if kind[0] is None else torch.cat(kind) for kind in zip(*parts, strict=True)]
        return joined[0], joined[1], joined[2]

    def _part(self, index: int, features: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        count = len(features)
        bucket = next(size for size in BUCKETS if size >= count)
        if count < bucket:
            padded = torch.empty(
                (bucket, *features.shape[1:]), dtype=features.dtype, device=features.device
            ).contiguous(memory_format=self._layout)
            padded[:count], padded[count:] = features, 0
            features = padded
        call = self._compiled.get((index, bucket))
        if call is None:
            with self._lock:
                call = self._compiled.setdefault(
                    (index, bucket), _compiled(self._modules[index], index, bucket)
                )
                call(features)
        found = [None if value is None else value[:count] for value in call(features)]
        return found[0], found[1], found[2]


def _compiled(module: nn.Module, index: int, bucket: int) -> Callable[[Tensor], Any]:
    """torch gives up after some compilations of one code object, so each gets its own."""

    def call(features: Tensor) -> Any:
        return module(features)

    call.__code__ = call.__code__.replace(co_name=f"segment_{index}_batch_{bucket}")
    mode = "reduce-overhead" if next(module.parameters()).is_cuda else None
    return torch.compile(call, dynamic=False, mode=mode)
