"""Many images on Ray Data: decoded, classified by actors, written in parts; resumed after any stop."""

import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eenet.common import Result, cores, lines, require, steady_progress
from eenet.networks import Network
from eenet.policies import ExitPolicy
from eenet.scale.session import ray_data_library, session

ROWS = 8192  # of a part
COLUMN = "image"


@dataclass(frozen=True, kw_only=True)
class BatchResult(Result):
    """What was answered, and how."""

    out: str
    images: int
    """Rows in `out`."""
    failed: int
    """Of these, images that can't be read."""
    resumed: int
    """Of these, rows that were there before."""
    workers: int
    seconds: float
    """From the first image that was read to the last answer."""
    by: str | None = None
    """`network` or `stage`; none if nothing was left to do."""
    images_per_second: float | None = None
    """Of this run; none if nothing was left to do."""
    exit_counts: list[int] = field(default_factory=list)
    relative_cost: float | None = None
    """Mean over the images that could be read."""
    last_batch: float | None = None
    """Images that ran together in the last segment, on average, in this run."""

    def __str__(self) -> str:
        return lines(self.to_dict())


def predict(
    inputs: Any,
    checkpoint: Network | str | Path,
    *,
    out: str | Path,
    by: str = "auto",
    address: str | None = None,
    workers: int | None = None,
    num_gpus: float = 0.0,
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    backend: str | None = None,
    providers: Sequence[str] = (),
    batch_size: int | None = None,
    top_k: int | None = None,
    column: str | None = None,
    key: str | None = None,
    format: str = "parquet",
    rows: int = ROWS,
    resume: bool = False,
) -> BatchResult:
    """Classify many images on one machine or a cluster; a row for each, in the order of the images.

    A file that can't be read is a row with its error. What is killed, a worker or all of this, loses nothing
    that is in `out`: parts are written whole, and `resume` makes those that are missing.

    Args:
        inputs: folders, image files, parquet files, patterns of these, or addresses of object stores that
            Apache Arrow knows (s3://, gs://, hdfs://). Or a `ray.data.Dataset`: then answers stand in any
            order beside its other columns, and can't be resumed.
        checkpoint: a network, directory, shipped name or hub id; other machines get its files.
        out: folder for the answers, or such an address.
        by: `network`: every actor runs all of it. `stage`: every actor runs one segment, and images that
            stay are batched again with those of other actors. `auto`: what is faster on a few images.
        address: of a Ray cluster, or `auto`. Default: `$RAY_ADDRESS`, else a Ray of this machine alone.
        workers: actors that run networks or segments. Default: one for each processor.
        num_gpus: of a worker; may be a part of one.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        policy: or another one, or the name of one that the checkpoint has. Default: the checkpoint's own.
        backend: see `eenet.Predictor`. Default: ONNX Runtime.
        providers: of ONNX Runtime, see `eenet.Predictor`.
        batch_size: images run together, at most. Default: 64, by stage 256.
        top_k: tell so many of the likeliest classes.
        column: of images, in parquet files or a `Dataset`. Default: by its kind and name, or `image`.
        key: column of parquet files that is copied into the answers' column `key`.
        format: of the parts: `parquet` or `csv`.
        rows: of a part.
        resume: make the parts that are missing in `out`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint or the inputs can't be read, options don't fit, or the
            network gives NaN.
        FileExistsError: `out` isn't empty, and `resume` isn't given.
        OSError: there is no Ray at this address, or `out` can't be written.
    """
    if format not in ("parquet", "csv"):
        raise ValueError(f"unknown format {format!r}; choose from parquet, csv")
    if rows < 1:
        raise ValueError(f"rows is {rows}; give at least 1")
    data = ray_data_library()
    from eenet.scale.bulk.collecting import Arrivals, Folder, Parts, Tally, Unfinished
    from eenet.scale.bulk.decoding import first_pixels
    from eenet.scale.bulk.inputs import list_inputs
    from eenet.scale.bulk.pipeline import Job, decoded, decoded_cells, some_pixels

    job = Job(checkpoint, by, budget, policy, backend, providers, batch_size, top_k, workers, num_gpus)
    folder, tally = Folder(str(out), format), Tally([0] * len(job.costs_K))
    listed, done = None, frozenset[int]()
    if isinstance(inputs, str | Path | Sequence):
        listed = list_inputs(inputs, column=column, without=str(out))
        parts = Parts(folder, listed, plan=job.plan | {"format": format}, rows=rows, key=key)
        parts.check_key()
        parts.open(resume=resume)
        done = parts.done
        for part in done:
            tally.add(folder.read_part(part, Tally.COLUMNS))
    elif not hasattr(inputs, "map_batches"):
        raise ValueError(f"inputs are names of files or a ray.data.Dataset, not {type(inputs).__name__}")
    elif resume or key is not None:
        raise ValueError("resume and key are for files; of a Dataset all columns are kept")
    else:
        parts = Arrivals(folder, rows)
    resumed, start = tally.images, time.perf_counter()
    if listed is None or resumed < listed.count:
        with session(address, cpus=max(workers or 0, cores())) as ray, _quiet(data), _in_a_line(ray):
            if listed is not None:
                pixels = decoded(data, listed, Unfinished(rows, done), job.input_size)
                found = job.run(ray, data, pixels, lambda: first_pixels(listed, job.input_size))
            else:
                pixels = decoded_cells(inputs, column or COLUMN, job.input_size)
                found = job.run(ray, data, pixels, lambda: some_pixels(pixels))
            start = time.perf_counter()
            with _shown(listed.count - resumed if listed is not None else None) as advance:
                for answers in found.iter_batches(batch_size=None, batch_format="pyarrow"):
                    for table in parts.add(answers):
                        tally.add(table)
                    advance(answers.num_rows)
                for table in parts.close():
                    tally.add(table)
    seconds, fresh = time.perf_counter() - start, tally.images - resumed
    good = sum(tally.exits_K)
    return BatchResult(
        out=str(out),
        images=tally.images,
        failed=tally.failed,
        resumed=resumed,
        by=job.by if fresh else None,
        workers=job.workers or cores(),
        seconds=round(seconds, 2),
        images_per_second=round(fresh / seconds, 1) if fresh else None,
        exit_counts=tally.exits_K,
        relative_cost=tally.cost / good if good else None,
        last_batch=round(tally.final_images / tally.final_runs, 2) if tally.final_runs else None,
    )


def answers(
    dataset: Any,
    checkpoint: Network | str | Path,
    *,
    column: str = COLUMN,
    by: str = "network",
    workers: int | None = None,
    num_gpus: float = 0.0,
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    backend: str | None = None,
    providers: Sequence[str] = (),
    batch_size: int | None = None,
    top_k: int | None = None,
) -> Any:
    """A `ray.data.Dataset` of images → one of answers, beside its other columns; lazy, to go on with.

    answers(ray.data.read_images("s3://photos"), "runs/x").filter(lambda row: row["probability"] < 0.5)

    Args:
        dataset: of a Ray that this process has joined.
        column: of images: encoded files or arrays.
        by: `network` or `stage`; `auto` runs a few images first. For it and the rest see `predict`.

    Raises:
        FileNotFoundError, ValueError: as `predict`.
    """
    data = ray_data_library()
    from eenet.scale.bulk.pipeline import Job, decoded_cells, some_pixels
    from eenet.scale.bulk.tables import TOGETHER

    job = Job(checkpoint, by, budget, policy, backend, providers, batch_size, top_k, workers, num_gpus)
    pixels = decoded_cells(dataset, column, job.input_size)
    ray = require("ray", "answers", "scale")
    return job.run(ray, data, pixels, lambda: some_pixels(pixels)).drop_columns([TOGETHER])


@contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Ray's own bars on a terminal; no account of plans and settings."""
    context, log = data.DataContext.get_current(), logging.getLogger("ray.data")
    before, level = context.enable_progress_bars, log.level
    context.enable_progress_bars = sys.stderr.isatty()
    log.setLevel(logging.CRITICAL)  # errors are raised too
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
            yield
    finally:
        context.enable_progress_bars = before
        log.setLevel(level)


@contextmanager
def _in_a_line(ray: Any) -> Iterator[None]:
    """What workers say of wrong input, without the way it came; Ray hands on its text alone."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        said = re.findall(r"^(?:ValueError|OSError|FileNotFoundError): (.+)$", str(error), re.MULTILINE)
        if not said:
            raise
        raise ValueError(said[0]) from error


@contextmanager
def _shown(count: int | None) -> Iterator[Callable[[int], None]]:
    """A line now and then where Ray shows no bars."""
    lines_wanted = count is not None and not sys.stderr.isatty()
    with steady_progress("batch", count or 0) if lines_wanted else nullcontext(lambda _: None) as advance:
        yield advance


batch = predict  # as the verb is called
