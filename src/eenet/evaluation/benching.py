"""The verb `bench`: a checkpoint on its data, timed on every backend there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from eenet.common import Result, format_table, hardware, progress
from eenet.data import Images, sample
from eenet.evaluation.evaluating import as_images
from eenet.networks import EENet, as_network, name_of
from eenet.policies import ExitPolicy
from eenet.runtime import BACKENDS, BenchRow, installed, options_of, time_network

BENCH_IMAGES = 1000
SLOW_TO_START = "torch-compile"


@dataclass(frozen=True, kw_only=True)
class Bench(Result):
    """Times on this machine. Prints as a table."""

    rows: list[BenchRow]
    hardware: str
    versions: dict[str, str]
    repeats: int

    def __str__(self) -> str:
        shown = ["plain_ms", "early_exit_ms", "speedup", "mac_speedup", "efficiency", "early_exit_p95_ms"]
        optional = ["against_speedup", "exported_ms", "exported_speedup"]
        shown += [key for key in optional if any(getattr(row, key) is not None for row in self.rows)]
        cells = [
            [row.backend, str(row.batch_size), *(f"{getattr(row, key):.3g}" for key in shown)]
            for row in self.rows
        ]
        header = ["backend", "batch", *(key.removesuffix("_ms").replace("_", " ") for key in shown)]
        note = f"times in ms per batch, median of {self.repeats} runs, on {self.hardware}"
        return f"{format_table(header, cells)}\n\n{note}"


def bench(
    checkpoint: EENet | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | Images | None = None,
    backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1, 64),
    against: EENet | str | Path | None = None,
    exported: str | Path | None = None,
    budget: float | None = None,
    repeats: int = 7,
    threads: int | None = None,
) -> Bench:
    """Time early exit against the plain backbone on this machine, paired; see `time_network`.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        data: whose test images to use. Default: the data set it was trained on.
        backends: default: all that are installed, but for torch-compile, which takes minutes to start.
        batch_sizes: images that arrive together.
        against: another network, run without leaving early, such as a smaller one.
        exported: directory written by `eenet export`, timed beside.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        repeats: runs; times are medians over them.
        threads: of ONNX Runtime and OpenVINO. Default: one per core.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read, or a backend can't be had.
    """
    network = as_network(checkpoint)
    chosen = policy if isinstance(policy, ExitPolicy) else network.config.exit_policy(budget, policy)
    other = as_network(against) if against is not None else None
    if other and other.config.input_size != network.config.input_size:
        raise ValueError(
            f"{name_of(against or other)} takes images of size {other.config.input_size}, "
            f"not {network.config.input_size}"
        )
    pixels_BCHW = sample(as_images(data, network.config, "test"), BENCH_IMAGES)
    backends = backends or [name for name in BACKENDS if installed(name) and name != SLOW_TO_START]
    rows = []
    with progress("timing", len(backends) * len(batch_sizes) * repeats) as advance:
        for backend in backends:
            options = {"threads": threads} if "threads" in options_of(backend) else {}
            for batch_size in batch_sizes:
                rows.append(
                    time_network(
                        network,
                        chosen,
                        pixels_BCHW,
                        backend=backend,
                        batch_size=batch_size,
                        repeats=repeats,
                        against=other,
                        exported=exported,
                        on_progress=advance,
                        **options,
                    )
                )
    names = ["eenet", "torch", *(b for b in backends if not b.startswith("torch"))]
    made_by = {name: version(name) for name in names}
    return Bench(rows=rows, hardware=hardware(), versions=made_by, repeats=repeats)
