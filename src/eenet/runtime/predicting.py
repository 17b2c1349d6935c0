"""Many image files and frames → their labels, as they come; what can't be read is a row with its error."""

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from eenet.common import Result, RowFile, cores, format_row, format_table, steady_progress
from eenet.data import FRAME, count_frames, find_images, frames, is_video, named_image
from eenet.networks import Network, StoredNetwork, name_of, open_network
from eenet.policies import ExitPolicy
from eenet.runtime.backends.choice import installed, options_of
from eenet.runtime.predictor import Predictor
from eenet.runtime.tiling import HALO, check_tiles
from eenet.tasks import Task, task_of

FEW_IMAGES = 500  # to make a graph for a faster backend would take longer than to label them
FRAMES_TOGETHER = 8  # of videos, which wait at their own size
FLUSH_SECONDS = 1.0
HEADER = ["file", "label", "probability", "exit", "cost"]
MASK_HEADER = ["file", "most of it", "exit", "cost", "mask"]
BOX_HEADER = ["file", "objects", "exit", "cost", "picture"]
COUNTED = 0.3  # probability from which on an object is counted in a line
FIRST_ROWS, FIRST_SECONDS = 100, 1.0  # waited for, to know how wide columns are


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
    mask: str | None = None
    """The picture of the answer, where every pixel has a class: indexed PNG."""
    overlay: str | None = None
    """That laid over the image."""
    shares: dict[str, float] | None = None
    """The part of the pixels that each class got."""
    objects: list[dict[str, Any]] | None = None
    """Those found: `label`, `score`, and `box`: left, top, right, bottom in pixels."""
    size: list[int] | None = None
    """Height and width of the image, beside its objects."""
    picture: str | None = None
    """The image with boxes drawn on it."""
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
    tile: int | None = None,
    halo: int = HALO,
) -> list[FilePrediction]:
    """Label image files; each image leaves at the first exit that is sure enough.

    `predict_each` does the same row by row.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        inputs: image files, videos, directories, globs, or "-" for a list of them on standard input, one a
            line. A video gives a row for each frame, called as `clip.mp4#0`; it needs `eenet[video]`.
        budget: wanted mean relative cost, for which the checkpoint has a policy.
        policy: or the name of one that the checkpoint has. Default: the checkpoint's own.
        backend: see `eenet.Predictor`. Default: the fastest for so many images.
        providers: of ONNX Runtime, see `eenet.Predictor`.
        top_k: keep the probabilities of so many of the likeliest classes. Default: of all.
        out: file for the rows as they come: .csv, .jsonl or .parquet; of boxes also .json, as COCO has them.
            Of masks and boxes also a directory for pictures.
        strict: stop at the first file that can't be read. A single file is always strict.
        resume: go on with the rows that are in `out`.
        tile, halo: pixels, for large images of which masks are wanted, see `eenet.Predictor`.

    Returns:
        A row for each file, in order; with `resume` those of this run.

    Raises:
        FileNotFoundError, ValueError: the checkpoint can't be read, or `out` can't be written; the image
            can't be read, with `strict` or if it is the only one.
        FileExistsError: `out` is there already, and `resume` isn't given. With it, `ValueError` if its rows
            are of another network or policy.
    """
    chosen: dict[str, Any] = {"budget": budget, "policy": policy, "backend": backend, "top_k": top_k}
    chosen |= {"providers": providers, "tile": tile, "halo": halo}
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
    tile: int | None = None,
    halo: int = HALO,
) -> Generator[FilePrediction, None, None]:
    """The rows of `predict` as they come, in constant memory.

    Args:
        checkpoint, inputs, budget, policy, backend, providers, top_k, out, resume, tile, halo: as for
            `predict`. `out` holds all rows at any moment.
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
    config, task = network.config, task_of(network.config.task)
    if top_k is not None:
        task.must_support("--top-k")
    if tile is not None:
        task.must_support("--tile")
        check_tiles(tile, halo)
    config.normalization(name_of(checkpoint))  # before there is a file of answers
    likeliest = min(top_k or config.num_classes, config.num_classes)
    place, folder = task.places(Path(out) if out is not None else None)
    columns = task.columns(likeliest if top_k else 0)
    names_of_classes = config.named_classes
    if place is not None and place.suffix == ".json":
        task.document((), names_of_classes)  # whether there is one

    def document(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        return task.document(rows, names_of_classes)

    rows = RowFile(place, columns, resume=resume, document=document) if place is not None else None
    names = _names(files) if folder is not None else {}
    try:
        done = rows.done if rows is not None else set[str]()
        todo, left = deque[Asked](), _left(files, done)
        given: dict[str, Any] = {"backend": backend, "providers": providers, "tile": tile, "halo": halo}
        if any(map(is_video, files)):
            given["batch_size"] = FRAMES_TOGETHER
        predictor = _predictor(network, left, budget=budget, policy=policy, **given)
        flushed = time.monotonic()
        if rows is not None:
            _check_same(rows, predictor, task)
        with predictor, steady_progress("predicting", left) as advance:
            for found in predictor.try_many(_images(files, done, todo)):
                asked = todo.popleft()
                if strict and isinstance(found, Exception):
                    raise found
                row = _row(asked.name, found, task, likeliest)
                if folder is not None and not isinstance(found, Exception):
                    target = folder / (names[asked.file] + asked.ending)
                    row = replace(row, **task.draw(found, asked.image, target))
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


class Asked(NamedTuple):
    """An image that is on its way through the network."""

    name: str
    image: Any
    file: Path
    ending: str = ""
    """Of the names of its pictures."""


def _images(files: Sequence[Path], done: Collection[str], todo: deque[Asked]) -> Iterator[Any]:
    """Images that aren't done yet; each is noted in `todo`."""
    for file in files:
        pictures = frames(file) if is_video(file) else None
        if pictures is None:
            each = iter([Asked(str(file), file, file)])
        else:
            each = (Asked(f"{file}{FRAME}{n}", shown, file, f"-{n:06}") for n, shown in enumerate(pictures))
        for asked in each:
            if asked.name not in done:
                todo.append(asked)
                yield asked.image


def _left(files: Sequence[Path], done: Collection[str]) -> int:
    """How many images aren't done yet."""
    counts = {file: count_frames(file) for file in files if is_video(file)}
    begun = sum(name.startswith(f"{file}{FRAME}") for file in counts for name in done)
    return sum(counts.values()) - begun + sum(f not in counts and str(f) not in done for f in files)


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


def _check_same(rows: RowFile, predictor: Predictor, task: Task) -> None:
    """Whether a row of an earlier run is what the network says now: rows of two policies don't mix."""
    kept = ((row, named_image(row["file"])) for row in rows.first if not row["error"])
    row, image = next((each for each in kept if each[1] is not None), (None, None))
    if row is None:
        return
    if other := task.same(row, predictor.predict(image)):
        raise ValueError(
            f"{rows.path} holds answers of another network or policy: for {row['file']} it says {other}; "
            "give another --out"
        )


def _row(file: str, found: Any, task: Task, likeliest: int) -> FilePrediction:
    if isinstance(found, Exception):
        return FilePrediction(file=file, error=" ".join(str(found).split()))
    return FilePrediction(file=file, **task.row(found, likeliest))


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """What pictures of answers are called: as the images below the folder that holds them all."""
    home = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    names = {file: "-".join(file.relative_to(home).with_suffix("").parts) for file in files}
    several = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        file: name + file.suffix.replace(".", "-") if name in several else name
        for file, name in names.items()
    }


def _flat(row: FilePrediction) -> dict[str, Any]:
    flat = {key: value for key, value in vars(row).items() if key not in ("probabilities", "shares")}
    for k, (label, probability) in enumerate((row.probabilities or {}).items(), 1):
        flat |= {f"label_{k}": label, f"probability_{k}": probability}
    return flat


def prediction_lines(rows: Iterable[FilePrediction]) -> Iterator[str]:
    """A table, a line for each row as it comes; columns are as wide as the first rows want."""
    waiting: list[FilePrediction] = []
    widths, header, began = None, HEADER, None
    for row in rows:
        began = began or time.monotonic()
        waiting.append(row)
        if widths is None and len(waiting) < FIRST_ROWS and time.monotonic() - began < FIRST_SECONDS:
            continue
        if widths is None:
            header = _header(waiting)
            cells = [_cells(each, header) for each in waiting]
            widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
            yield format_table(header, cells)
        else:
            yield format_row(_cells(row, header), widths)
        waiting.clear()
    if widths is None and waiting:
        header = _header(waiting)
        yield format_table(header, [_cells(each, header) for each in waiting])


def _header(rows: Sequence[FilePrediction]) -> list[str]:
    if any(row.objects is not None for row in rows):
        return BOX_HEADER
    return MASK_HEADER if any(row.shares for row in rows) else HEADER


def _cells(row: FilePrediction, header: Sequence[str]) -> list[str]:
    if row.error is not None:
        why = row.error.removeprefix(f"{row.file} is ")  # the name stands beside it
        return [row.file, f"error: {why}", *["–"] * (len(header) - 2)]
    told = [str(row.exit), f"{row.relative_cost:.3f}"]
    if row.shares is not None:
        share, name = max((share, name) for name, share in row.shares.items())
        return [row.file, f"{name} {share:.0%}", *told, row.mask or "–"]
    if row.objects is not None:
        counts = Counter(each["label"] for each in row.objects if each["score"] >= COUNTED)
        found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        return [row.file, found or "none", *told, row.picture or "–"]
    return [row.file, str(row.label), f"{row.probability:.3f}", *told]
