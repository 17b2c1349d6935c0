"""Many image files → their labels, as they come; what can't be read is a row with its error."""

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from eenet.common import Result, RowFile, cores, format_row, format_table, steady_progress
from eenet.data import find_images
from eenet.networks import Network, StoredNetwork, name_of, open_network
from eenet.policies import ExitPolicy
from eenet.runtime.backends.choice import installed, options_of
from eenet.runtime.predictor import Prediction, Predictor

FEW_IMAGES = 500  # to make a graph for a faster backend would take longer than to label them
FLUSH_SECONDS = 1.0
SAME = 1e-3  # within which two runs give the same probability, whatever the backend
HEADER = ["file", "label", "probability", "exit", "cost"]
FIRST_ROWS, FIRST_SECONDS = 100, 1.0  # waited for, to know how wide columns are
COLUMNS = ["file", "label", "class_index", "probability", "exit", "relative_cost"]


@dataclass(frozen=True, kw_only=True)
class FilePrediction(Result):
    """The answer for one image file, or its error."""

    file: str
    label: str | None = None
    class_index: int | None = None
    probability: float | None = None
    """Of the label, in (0, 1]."""
    exit: int | None = None
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float | None = None
    """MACs spent / MACs of the plain backbone."""
    probabilities: dict[str, float] | None = None
    """Of all classes, or of the likeliest ones."""
    error: str | None = None
    """Why the file can't be read."""


def predict(
    checkpoint: Network | str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    backend: str | None = None,
    providers: Sequence[str] = (),
    top_k: int | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    resume: bool = False,
) -> list[FilePrediction]:
    """Label image files; each image leaves at the first exit that is sure enough.

    `predict_each` does the same row by row.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        inputs: image files, directories, globs, or "-" for a list of them on standard input, one a line.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        backend: see `eenet.Predictor`. Default: the fastest for so many images.
        providers: of ONNX Runtime, see `eenet.Predictor`.
        top_k: keep the probabilities of so many of the likeliest classes. Default: of all.
        out: file for the rows as they come: .csv, .jsonl or .parquet.
        strict: stop at the first file that can't be read. A single file is always strict.
        resume: go on with the rows that are in `out`.

    Returns:
        A row for each file, in order; with `resume` those of this run.

    Raises:
        FileNotFoundError, ValueError: the checkpoint can't be read, or `out` can't be written; the image
            can't be read, with `strict` or if it is the only one.
        FileExistsError: `out` is there already, and `resume` isn't given. With it, `ValueError` if its rows
            are of another network or policy.
    """
    chosen: dict[str, Any] = {"budget": budget, "policy": policy, "backend": backend, "top_k": top_k}
    chosen["providers"] = providers
    return list(predict_each(checkpoint, inputs, **chosen, out=out, strict=strict, resume=resume))


def predict_each(
    checkpoint: Network | str | Path,
    inputs: str | Path | Sequence[str | Path],
    *,
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    backend: str | None = None,
    providers: Sequence[str] = (),
    top_k: int | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    resume: bool = False,
) -> Generator[FilePrediction, None, None]:
    """The rows of `predict` as they come, in constant memory.

    Args:
        checkpoint, inputs, budget, policy, backend, providers, top_k, out, resume: as for `predict`. `out`
            holds all rows at any moment.
        strict: raise the error of a file that can't be read, instead of giving a row with it.

    Raises:
        FileNotFoundError, ValueError: as `predict`.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; give at least 1")
    if resume and out is None:
        raise ValueError("resume goes on with a file; name it with --out")
    files = find_images(_listed([inputs] if isinstance(inputs, str | Path) else inputs))
    strict = strict or len(files) == 1
    network = open_network(checkpoint)
    config = network.config
    config.normalization(name_of(checkpoint))  # before there is a file of answers
    likeliest = min(top_k or config.num_classes, config.num_classes)
    rows = RowFile(out, _columns(likeliest if top_k else 0), resume=resume) if out is not None else None
    try:
        todo = [file for file in files if rows is None or str(file) not in rows.done]
        predictor = _predictor(
            network, len(todo), budget=budget, policy=policy, backend=backend, providers=providers
        )
        flushed = time.monotonic()
        if rows is not None:
            _check_same(rows, predictor)
        with predictor, steady_progress("predicting", len(todo)) as advance:
            for file, found in zip(todo, predictor.try_many(todo), strict=True):
                if strict and not isinstance(found, Prediction):
                    raise found
                row = _row(str(file), found, likeliest)
                if rows is not None:
                    rows.write(_flat(row))
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        rows.flush()
                        flushed = time.monotonic()
                yield row
                advance(1)
    finally:
        if rows is not None:
            rows.close()


def _predictor(network: Network, count: int, *, backend: str | None, **chosen: Any) -> Predictor:
    """For few images what is ready: a stored graph, or torch; for many a batch on every core."""
    ready = count >= FEW_IMAGES or isinstance(network, StoredNetwork)
    wanted = backend or ("onnxruntime" if ready and installed("onnxruntime") else "torch")
    many: dict[str, Any] = {}
    if count >= FEW_IMAGES and "threads" in options_of(wanted):
        many = {"threads": 1, "workers": cores()}
    try:
        return Predictor(network, backend=wanted, **many, **chosen)
    except ValueError:
        if backend is not None or wanted == "torch" or chosen.get("providers"):
            raise
        return Predictor(network, backend="torch", **chosen)


def _listed(inputs: Sequence[str | Path]) -> list[str | Path]:
    """With the lines of standard input in the place of "-"."""
    lines = ([line for line in sys.stdin.read().splitlines() if line] if i == "-" else [i] for i in inputs)
    return list(chain.from_iterable(lines))


def _check_same(rows: RowFile, predictor: Predictor) -> None:
    """Whether a row of an earlier run is what the network says now: rows of two policies don't mix."""
    kept = (row for row in rows.first if not row["error"] and Path(row["file"]).is_file())
    if (row := next(kept, None)) is None:
        return
    now, before = predictor.predict(row["file"]), (str(row["label"]), int(row["exit"]))
    if (now.label, now.exit) != before or abs(now.probability - float(row["probability"])) > SAME:
        raise ValueError(
            f"{rows.path} holds answers of another network or policy: for {row['file']} it says "
            f"{before[0]} at exit {before[1]}, now it is {now.label} at exit {now.exit}; give another --out"
        )


def _row(file: str, found: Prediction | ValueError | OSError, likeliest: int) -> FilePrediction:
    if not isinstance(found, Prediction):
        return FilePrediction(file=file, error=" ".join(str(found).split()))
    probabilities = found.probabilities
    if likeliest < len(probabilities):
        kept = sorted(probabilities, key=lambda name: -probabilities[name])[:likeliest]
        probabilities = {name: probabilities[name] for name in kept}
    return FilePrediction(
        file=file,
        label=found.label,
        class_index=found.class_index,
        probability=found.probability,
        exit=found.exit,
        relative_cost=found.relative_cost,
        probabilities=probabilities,
    )


def _columns(likeliest: int) -> list[str]:
    """Of a file of rows: with `top_k`, a pair for each of the likeliest classes."""
    more = [f"{kind}_{k}" for k in range(1, likeliest + 1) for kind in ("label", "probability")]
    return [*COLUMNS, *more, "error"]


def _flat(row: FilePrediction) -> dict[str, Any]:
    flat = {key: value for key, value in vars(row).items() if key != "probabilities"}
    for k, (label, probability) in enumerate((row.probabilities or {}).items(), 1):
        flat |= {f"label_{k}": label, f"probability_{k}": probability}
    return flat


def prediction_lines(rows: Iterable[FilePrediction]) -> Iterator[str]:
    """A table, a line for each row as it comes; columns are as wide as the first rows want."""
    waiting: list[list[str]] = []
    widths, began = None, None
    for row in rows:
        began = began or time.monotonic()
        waiting.append(_cells(row))
        if widths is None and len(waiting) < FIRST_ROWS and time.monotonic() - began < FIRST_SECONDS:
            continue
        if widths is None:
            widths = [max(map(len, column)) for column in zip(HEADER, *waiting, strict=True)]
            yield format_table(HEADER, waiting)
        else:
            yield format_row(waiting[-1], widths)
        waiting.clear()
    if widths is None and waiting:
        yield format_table(HEADER, waiting)


def _cells(row: FilePrediction) -> list[str]:
    if row.label is None or row.probability is None:
        why = (row.error or "").removeprefix(f"{row.file} is ")  # the name stands beside it
        return [row.file, f"error: {why}", "–", "–", "–"]
    return [row.file, row.label, f"{row.probability:.3f}", str(row.exit), f"{row.relative_cost:.3f}"]
