"""`eenet predict`, `serve` and `export`: putting a checkpoint to use; `info` and `list`: what there is."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from eenet.cli.groups import Checkpoint, Checkpoints, Flag, Json, WhichPolicy
from eenet.cli.output import show


def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        tuple[str, ...], Positional, arg(metavar="IMAGE", help="Image files, directories, or globs.")
    ],
    /,
    *,
    which: WhichPolicy,
    backend: str | None = None,
    as_json: Json = False,
) -> int:
    """Label images; each leaves the network at the first exit that is sure enough.

    Args:
        backend: torch, torch-compile, onnxruntime or openvino. Default: the fastest for so many images.
    """
    import eenet
    from eenet.runtime import prediction_table

    rows = eenet.predict(checkpoint, images, budget=which.budget, policy=which.policy, backend=backend)
    return show(rows, as_json, text=lambda: prediction_table(rows))


def export(
    checkpoint: Checkpoint,
    /,
    *,
    format: Literal["onnx", "onnx-single", "openvino", "openvino-single", "aoti", "executorch"] = "onnx",
    out: Path,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    which: WhichPolicy,
    data: str | None = None,
    force: Flag = False,
    as_json: Json = False,
) -> int:
    """Write files that other programs run, stopping early; they are read back and compared.

    Args:
        format: onnx and openvino: a model for each stage; -single: one that stops by itself;
            aoti: libraries compiled by torch; executorch: for phones.
        out: Directory, empty or not there yet.
        precision: fp16: of the stages. int8: their convolutions, with thresholds set anew.
        data: Data set to compare on, and to quantise with. Default: the one it was trained on.
        force: Write into a directory that is not empty, over an export in it.
    """
    import eenet

    found = eenet.export(
        checkpoint,
        out,
        format=format,
        precision=precision,
        budget=which.budget,
        policy=which.policy,
        data=data,
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
    batch_size: int = 32,
    most_waiting: int = 256,
    data: str | None = None,
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
        batch_size=batch_size,
        most_waiting=most_waiting,
        data=data,
        accuracy_floor=accuracy_floor,
        timeout=timeout,
        max_megabytes=max_megabytes,
        token_file=token_file,
    )
    return 0


def info(
    name: Annotated[str, Positional, arg(metavar="NAME", help="A checkpoint, or a backbone.")],
    /,
    *,
    input_size: tuple[int, int, int] | None = None,
    as_json: Json = False,
) -> int:
    """What a checkpoint holds, or where a backbone can be cut and what that costs.

    Args:
        input_size: Channels, height and width at which to look at a backbone.
    """
    import eenet

    return show(eenet.info(name, input_size=input_size), as_json)


def list_names(*, as_json: Json = False) -> int:
    """Known recipes, data sets, backbones, and the trained networks that come with eenet."""
    import eenet

    return show(eenet.list_names(), as_json)
