"""The verb `bench`: a checkpoint on its data, timed on every backend there is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from eenet.common import Result, format_table, hardware, progress, wrapped
from eenet.data import AnyImages
from eenet.evaluation.evaluating import as_images
from eenet.networks import Network, StoredNetwork, name_of, open_network
from eenet.policies import ExitPolicy
from eenet.runtime import BACKENDS, BenchRow, installed, options_of, time_network
from eenet.tasks import task_of

BENCH_IMAGES = 1000
BENCH_PIXELS = 1000 * 224 * 224  # of all together: fewer where they are large
FEWEST_IMAGES = 16
SLOW_TO_START = "torch-compile"


COLUMNS = {
    "plain_ms": "plain ms",
    "early_exit_ms": "early exit ms",
    "early_exit_p95_ms": "p95 ms",
    "speedup": "speed-up ×",
    "mac_speedup": "MACs would say ×",
    "efficiency": "efficiency",
    "against_ms": "against ms",
    "against_speedup": "against ×",
    "exported_ms": "exported ms",
    "exported_speedup": "exported ×",
}


@dataclass(frozen=True, kw_only=True)
class Bench(Result):
    """Times on this machine. Prints as a table, and what it means."""

    rows: list[BenchRow]
    hardware: str
    versions: dict[str, str]
    repeats: int

    def __str__(self) -> str:
        shown = [key for key in COLUMNS if any(getattr(row, key) is not None for row in self.rows)]
        cells = [[row.backend, str(row.batch_size), *(_cell(row, key) for key in shown)] for row in self.rows]
        table = format_table(["backend", "batch", *(COLUMNS[key] for key in shown)], cells)
        said = "\n".join(wrapped(f"- {sentence}", 2) for sentence in self.sentences())
        runs = f"its median of {self.repeats} runs" if self.repeats > 1 else "from a single run"
        notes = [
            f"Times: milliseconds for a batch, on {self.hardware}: of each batch {runs}, then the mean over "
            "batches. p95: of 20 batches, 19 take early exit at most so long.",
            "Efficiency: the time if each image cost only the plain network's part up to its exit, over the "
            "time measured; 1 is ideal, and below it the rest goes to exit heads and to dividing batches.",
        ]
        if any(row.early_exit_p95_ms < row.early_exit_ms for row in self.rows):
            notes.append("Where p95 lies below the mean, a few batches take much longer than all others.")
        if "against_ms" in shown:
            notes.append("Against: the other network without early exits; ×: its time over early exit's.")
        if "exported_ms" in shown:
            notes.append("Exported: the files, with early exit; ×: the plain network's time over theirs.")
        return "\n\n".join([table, said, *map(wrapped, notes)])

    def sentences(self) -> list[str]:
        """What the figures mean for this network, one for each row."""
        return [_meaning(row, self.rows) for row in self.rows]


def _cell(row: BenchRow, key: str) -> str:
    value = getattr(row, key)
    return "–" if value is None else f"{value:.4g}" if key.endswith("_ms") else f"{value:.3g}"


def _meaning(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    found = pace("the plain network", row.speedup, row.speedup_low, row.speedup_high)
    said = (
        f"At batch {row.batch_size} on {row.backend} early exit {found}: "
        f"{row.early_exit_ms:.4g} against {row.plain_ms:.4g} ms; MACs would say {row.mac_speedup:.3g} ×."
    )
    if row.speedup_high >= 1:
        return said
    larger = [
        other.batch_size
        for other in rows
        if other.backend == row.backend and other.batch_size > row.batch_size and other.speedup_low > 1
    ]
    batches = f", or serve in batches of {min(larger)}" if larger else ""
    return f"{said} Leave early exits off{batches}."


def pace(other: str, speedup: float, low: float, high: float) -> str:
    """A verb for a speed-up over something, such as `takes 1.4 times as long as fp32 here`.

    Where the spread reaches from slower to faster, nothing is claimed.
    """
    if low <= 1 <= high:
        return f"can't be told from {other} here ({low:.3g} to {high:.3g} times as fast)"
    if speedup >= 1:
        return f"is {speedup:.3g} times as fast as {other} here"
    return f"takes {1 / speedup:.3g} times as long as {other} here"


def _backends_of(network: Network) -> list[str]:
    """All that are installed and can run it, but for the one that takes minutes to start."""
    modules = not isinstance(network, StoredNetwork) or network.has_modules
    names = (name for name in BACKENDS if installed(name) and name != SLOW_TO_START)
    return [name for name in names if modules or name != "torch"]


def bench(
    checkpoint: Network | str | Path,
    policy: ExitPolicy | str | None = None,
    *,
    data: str | AnyImages | None = None,
    backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    against: Network | str | Path | None = None,
    exported: str | Path | None = None,
    budget: float | None = None,
    repeats: int = 7,
    threads: int | None = None,
    providers: Sequence[str] = (),
    skip_damaged: bool = False,
) -> Bench:
    """Time early exit against the plain backbone on this machine, paired; see `time_network`.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        data: whose test images to use. Default: the data set it was trained on.
        backends: default: all that are installed, but for torch-compile, which takes minutes to start.
        batch_sizes: images that arrive together. Default: 1 and 64, or for answers of pixels 1 and 16.
        against: another network, run without leaving early, such as a smaller one.
        exported: directory written by `eenet export`, timed beside.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        repeats: runs; the time of a batch is its median over them.
        threads: of ONNX Runtime and OpenVINO. Default: one per core.
        providers: of ONNX Runtime, see `eenet.Predictor`.
        skip_damaged: go on without image files that can't be read.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read, or a backend can't be had.
    """
    network = open_network(checkpoint)
    task = task_of(network.config.task)
    chosen = network.config.exit_policy(budget, policy)
    other = open_network(against) if against is not None else None
    if other and other.config.input_size != network.config.input_size:
        raise ValueError(
            f"{name_of(against or other)} takes images of size {other.config.input_size}, "
            f"not {network.config.input_size}"
        )
    images = as_images(data, network.config, "test", skip_damaged=skip_damaged)
    affordable = max(FEWEST_IMAGES, BENCH_PIXELS // math.prod(network.config.input_size[1:]))
    pixels_BCHW = task.sample(images, min(BENCH_IMAGES, affordable))
    backends, batch_sizes = backends or _backends_of(network), batch_sizes or task.timed_sizes
    rows = []
    with progress("timing", len(backends) * len(batch_sizes) * repeats) as advance:
        for backend in backends:
            given = {"threads": threads, "providers": providers or None}
            options = {key: value for key, value in given.items() if key in options_of(backend)}
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
    names = ["eenet", *(backend.removesuffix("-compile") for backend in backends)]
    made_by = {name: version(name) for name in dict.fromkeys(names)}
    return Bench(rows=rows, hardware=hardware(), versions=made_by, repeats=repeats)
