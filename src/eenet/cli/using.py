"""`eenet predict`, `serve` and `export`: putting a checkpoint to use; `info` and `list`: what there is."""

import difflib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from eenet.cli.groups import Checkpoint, Checkpoints, Flag, Json, Providers, SkipDamaged, WhichPolicy
from eenet.cli.output import show


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        tuple[str, ...],
        Positional,
        arg(
            metavar="IMAGE ...",
            help="Image files, videos, directories, globs, or - for a list on standard input.",
            help_behavior_hint="(required)",
        ),
    ],
    /,
    *,
    leaving: WhichPolicy,
    backend: str | None = None,
    providers: Providers = (),
    out: Path | None = None,
    top_k: int | None = None,
    strict: Flag = False,
    resume: Flag = False,
    tile: int | None = None,
    halo: int = 16,
    as_json: Json = False,
) -> int:
    """Label images and frames of videos; each leaves at the first exit that is sure enough.

    A file that can't be read is a row with its error; the exit code is 1 then.

    Args:
        backend: torch, torch-compile, onnxruntime or openvino. Default: the fastest for so many images.
        out: Write the answers to this file as they come: .csv, .jsonl or .parquet; of boxes also .json, as
            COCO has them. Of masks and boxes also a directory for pictures.
        top_k: Keep the probabilities of so many of the likeliest classes.
        strict: Stop at the first file that can't be read.
        resume: Go on with the answers that are in --out.
        tile: For masks: cut images, at their own size, into tiles of at most so many pixels a side.
        halo: Pixels around a tile that it sees as well.
    """
    import eenet
    from eenet.runtime import prediction_lines

    start, count, failed = time.perf_counter(), 0, 0
    rows = eenet.predict_each(
        checkpoint,
        images,
        budget=leaving.budget,
        policy=leaving.policy,
        backend=backend,
        providers=providers,
        top_k=top_k,
        out=out,
        strict=strict,
        resume=resume,
        tile=tile,
        halo=halo,
    )

    def counted() -> Iterator[eenet.FilePrediction]:
        nonlocal count, failed
        for row in rows:
            count, failed = count + 1, failed + (row.error is not None)
            yield row

    try:
        if as_json:
            show(list(counted()), as_json=True)
        elif out is None:
            for line in prediction_lines(counted()):
                print(line, flush=True)
        else:
            for _ in counted():
                pass
    except KeyboardInterrupt:
        kept = f"{count} answers are in {out}; go on with --resume" if out else f"{count} answers were given"
        raise KeyboardInterrupt(kept) from None
    told = f"{failed} of {count} files can't be read" if failed else ""
    if out is not None:
        seconds = time.perf_counter() - start
        told = f"{count} answers in {seconds:.1f} s, in {out}{'; ' * bool(told)}{told}"
    if told:
        print(told, file=sys.stderr)
    return 1 if failed else 0


def export(
    checkpoint: Checkpoint,
    /,
    *,
    format: Literal["onnx", "onnx-single", "openvino", "openvino-single", "aoti", "executorch"] = "onnx",
    out: Path,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    leaving: WhichPolicy,
    data: str | None = None,
    skip_damaged: SkipDamaged = False,
    force: Flag = False,
    as_json: Json = False,
) -> int:
    """Write files that other programs run, stopping early; they are read back and compared.

    Args:
        format: onnx and openvino: a model for each stage; -single: one that stops by itself;
            aoti: libraries compiled by torch; executorch: for phones.
        out: Directory, empty or not there yet.
        precision: fp16: of the stages. int8: their convolutions, with thresholds set anew. Both are timed
            against fp32.
        data: Data set to compare on, and to quantise with. Default: the one it was trained on.
        force: Write into a directory that is not empty, over an export in it.
    """
    import eenet

    found = eenet.export(
        checkpoint,
        out,
        format=format,
        precision=precision,
        budget=leaving.budget,
        policy=leaving.policy,
        data=data,
        skip_damaged=skip_damaged,
        force=force,
    )
    return show(found, as_json)


def serve(
    checkpoints: Checkpoints,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: str | None = None,
    providers: Providers = (),
    batch_size: int = 32,
    most_waiting: int = 256,
    data: str | None = None,
    skip_damaged: SkipDamaged = False,
    accuracy_floor: float | None = None,
    timeout: float = 30.0,
    max_megabytes: int = 32,
    token_file: Path | None = None,
) -> int:
    """Serve checkpoints over HTTP: Open Inference Protocol, images as they are, metrics, a page.

    A directory of checkpoints stands for all of them.

    Args:
        host: Address to listen on; 0.0.0.0 for all of this machine's.
        port: 0 for any that is free.
        backend: torch, torch-compile, onnxruntime or openvino. Default: ONNX Runtime if it is installed.
        batch_size: Images that run together, at most.
        most_waiting: Images accepted and not answered yet; more get 503.
        data: Data set whose validation images tell accuracies and what images look like (drift). Default: the
            records that training left.
        accuracy_floor: While many wait, give way to cheaper budgets, down to this accuracy.
        timeout: Seconds for a request to arrive, and to be answered.
        max_megabytes: Of a request.
        token_file: Holds the token that clients must bring. Default: the variable EENET_TOKEN, if it is set.
    """
    import eenet

    eenet.serve(
        checkpoints,
        host=host,
        port=port,
        backend=backend,
        providers=providers,
        batch_size=batch_size,
        most_waiting=most_waiting,
        data=data,
        skip_damaged=skip_damaged,
        accuracy_floor=accuracy_floor,
        timeout=timeout,
        max_megabytes=max_megabytes,
        token_file=token_file,
    )
    return 0


def info(
    name: Annotated[
        str, Positional, arg(metavar="NAME", help="A checkpoint, a recipe, a backbone, or a data set.")
    ],
    /,
    *,
    input_size: Annotated[
        tuple[int, int, int] | None, arg(metavar="CHANNELS HEIGHT WIDTH", help_behavior_hint="")
    ] = None,
    data: Flag = False,
    task: str | None = None,
    label_column: str | None = None,
    file_column: str | None = None,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """What a checkpoint or a data set holds, what a recipe sets, or where a backbone can be cut.

    Of data: splits, classes, sizes, damaged files, and images that are there twice.

    Args:
        input_size: Channels, height and width at which to look at a backbone.
        data: The data set of this name, not the recipe.
        task: What a data set is looked at for. Default: as its info.json says, else classification.
        label_column: Of a data set's table: the column of labels. Default: by its name.
        file_column: The column of file names.
        out: A picture to write, of some images of each class: sheet.png.
    """
    import eenet
    from eenet.common import lines
    from eenet.training import RECIPES

    if name in RECIPES and not data and not Path(name).exists():
        settings = {"recipe": name, "about": RECIPES[name].about, **asdict(eenet.get_recipe(name))}
        print(json.dumps(settings) if as_json else lines(settings))
        return 0
    about = {"label_column": label_column, "file_column": file_column, "out": out, "task": task}
    try:
        return show(eenet.info(name, input_size=input_size, **about), as_json)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name, RECIPES, n=2)
        hint = f"; or the recipe {' or '.join(near)}?" if near else ""
        raise FileNotFoundError(f"{error}{hint}") from error


def list_names(*, as_json: Json = False) -> int:
    """Known recipes, data sets, backbones, and the trained networks that come with eenet."""
    import eenet

    return show(eenet.list_names(), as_json)
