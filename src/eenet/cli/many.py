"""`eenet batch`: many images on all processors of this machine, or on a cluster."""

import sys
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from eenet.cli.groups import Checkpoint, Flag, Json, Providers, WhichPolicy
from eenet.cli.output import show


def batch(
    images: Annotated[
        str,
        Positional,
        arg(
            metavar="IN",
            help="A folder, a parquet file, a pattern of files, or an address in an object store, such as "
            "s3://bucket/folder.",
        ),
    ],
    out: Annotated[str, Positional, arg(metavar="OUT", help="Folder for the answers, or such an address.")],
    checkpoint: Checkpoint,
    /,
    *,
    leaving: WhichPolicy,
    by: Literal["auto", "network", "stage"] = "auto",
    address: str | None = None,
    workers: int | None = None,
    num_gpus: float = 0.0,
    backend: str | None = None,
    providers: Providers = (),
    batch_size: int | None = None,
    top_k: int | None = None,
    column: str | None = None,
    key: str | None = None,
    format: Literal["parquet", "csv"] = "parquet",
    rows: int = 8192,
    resume: Flag = False,
    as_json: Json = False,
) -> int:
    """Label many images on all processors of this machine, or on a Ray cluster; a row for each, in order.

    A file that can't be read is a row with its error; the exit code is 1 then.

    Args:
        by: network: every worker runs all of it. stage: every worker runs one segment, and the images that
            stay are batched again. auto: what is faster on a few images.
        address: Of a Ray cluster, or auto. Default: the variable RAY_ADDRESS, else this machine alone.
        workers: Default: one for each processor.
        num_gpus: Of a worker; may be a part of one.
        backend: torch, torch-compile, onnxruntime or openvino. Default: ONNX Runtime.
        batch_size: Images that run together, at most. Default: 64, by stage 256.
        top_k: Tell so many of the likeliest classes.
        column: Of images, in parquet files. Default: by its kind and name.
        key: Column of parquet files that is copied into the answers' column key.
        format: Of the files with answers.
        rows: Of a file with answers.
        resume: Go on with what is in OUT.
    """
    import eenet

    try:
        found = eenet.batch(
            images,
            checkpoint,
            out=out,
            by=by,
            address=address,
            workers=workers,
            num_gpus=num_gpus,
            budget=leaving.budget,
            policy=leaving.policy,
            backend=backend,
            providers=providers,
            batch_size=batch_size,
            top_k=top_k,
            column=column,
            key=key,
            format=format,
            rows=rows,
            resume=resume,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"whole parts are in {out}; go on with --resume") from None
    show(found, as_json)
    if found.failed:
        print(f"{found.failed} of {found.images} images can't be read", file=sys.stderr)
    return 1 if found.failed else 0
