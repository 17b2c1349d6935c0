"""`eenet eval`, `bench` and `report`: what a checkpoint is worth."""

from pathlib import Path

from eenet.cli.groups import (
    Checkpoint,
    Checkpoints,
    Damage,
    Data,
    Flag,
    Json,
    Providers,
    SkipDamaged,
    WhichPolicy,
)
from eenet.cli.output import show


def evaluate(
    checkpoint: Checkpoint,
    /,
    *,
    data: Data,
    skip_damaged: SkipDamaged = False,
    split: str = "test",
    leaving: WhichPolicy,
    damage: Damage,
    as_json: Json = False,
) -> int:
    """Run a checkpoint's policy on a data set: accuracy, cost, and where images left.

    Args:
        split: train, validation or test.
    """
    import eenet

    if damage.corruptions:
        rows = eenet.evaluate_under_corruptions(
            checkpoint,
            leaving.policy,
            data=data,
            skip_damaged=skip_damaged,
            split=split,
            budget=leaving.budget,
            names=damage.corruptions,
            severities=damage.severities,
        )
        return show(rows, as_json, text=lambda: eenet.shift_table(rows))
    found = eenet.evaluate(
        checkpoint, leaving.policy, data=data, skip_damaged=skip_damaged, split=split, budget=leaving.budget
    )
    return show(found, as_json)


def bench(
    checkpoint: Checkpoint,
    /,
    *,
    data: str | None = None,
    skip_damaged: SkipDamaged = False,
    backends: tuple[str, ...] = (),
    batch_sizes: tuple[int, ...] = (),
    against: str | None = None,
    exported: Path | None = None,
    leaving: WhichPolicy,
    repeats: int = 7,
    threads: int | None = None,
    providers: Providers = (),
    as_json: Json = False,
) -> int:
    """Time early exit against the plain backbone on this machine, on the same backend, paired.

    Args:
        data: Data set whose test images are run. Default: the one it was trained on.
        backends: torch, torch-compile, onnxruntime, openvino. Default: all that are there but torch-compile.
        batch_sizes: Images that arrive together. Default: 1 and 64, or for answers of pixels 1 and 16.
        against: Another checkpoint, run without leaving early: a smaller network.
        exported: Directory written by `eenet export`, timed beside each backend.
        repeats: Runs; the time of a batch is its median over them.
        threads: Of ONNX Runtime and OpenVINO. Default: one per core.
    """
    import eenet

    found = eenet.bench(
        checkpoint,
        leaving.policy,
        data=data,
        skip_damaged=skip_damaged,
        backends=backends,
        batch_sizes=batch_sizes,
        against=against,
        exported=exported,
        budget=leaving.budget,
        repeats=repeats,
        threads=threads,
        providers=providers,
    )
    return show(found, as_json)


def report(
    checkpoints: Checkpoints,
    /,
    *,
    data: Data,
    skip_damaged: SkipDamaged = False,
    out: Path,
    split: str = "test",
    damage: Damage,
    bench: Flag = False,
    as_json: Json = False,
) -> int:
    """One HTML page, interactive and self-contained, about a checkpoint or comparing several.

    A checkpoint without early exits is shown as a static network.

    Args:
        out: The file to write.
        split: train, validation or test.
        bench: Also time them on this machine.
    """
    import eenet

    found = eenet.report(
        checkpoints,
        out,
        data=data,
        skip_damaged=skip_damaged,
        split=split,
        corruptions=damage.corruptions,
        severities=damage.severities,
        timed=bench,
    )
    return show(found, as_json)
