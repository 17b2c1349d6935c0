"""The command line: parse, call one function of `pipeline`, `thresholds` or `verbs`, print."""

import contextlib
import ctypes
import difflib
import functools
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

Json = Annotated[
    bool, FlagCreatePairsOff, arg(name="json", help="Print one JSON object, and nothing else, on stdout.")
]

Flag = Annotated[bool, FlagCreatePairsOff]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def train(
    recipe: Positional[str],
    /,
    *,
    seed: int | None = None,
    data: str | None = None,
    model: str | None = None,
    num_exits: int | None = None,
    budget: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    image_size: int | None = None,
    augmentation: str | None = None,
    pretrained: Flag = False,
    freeze_backbone: Flag = False,
    plain: Flag = False,
    out: Path | None = None,
    resume: Flag = False,
    as_json: Json = False,
) -> int:
    """Train by a recipe, evaluate, and write a checkpoint directory with report.html.

    Args:
        recipe: Name of the recipe, see `eenet list`.
        seed: Of the weights, the order of the images and their augmentation.
        data: Data set: a known name, a folder, or owner/name on the Hugging Face hub.
        model: timm name of the backbone, or a checkpoint whose trained backbone is taken.
        num_exits: Number of early exits.
        budget: Wanted mean relative cost.
        epochs: Passes over the training images.
        batch_size: Images per step, over all processes.
        accumulate: Parts that a step is divided into, for less memory.
        image_size: Height and width that images are brought to.
        augmentation: none, shift, shift-flip, shift-flip-erase or crop-flip.
        pretrained: Start from timm's pretrained weights.
        freeze_backbone: Train the exit heads only, on a trained backbone that stays as it is.
        plain: Train the backbone without exits, for comparison.
        out: Directory for all that is written. Default: runs/RECIPE-seedS.
        resume: Continue an interrupted run.
    """
    from eenet import pipeline, tables
    from eenet.recipes import get_recipe, retrofit

    if num_exits is not None and num_exits < 1:
        raise ValueError(f"num_exits is {num_exits}; give at least 1, or --plain for no early exits")
    asked = {"seed": seed, "data": data, "model": model, "num_exits": num_exits, "budget": budget}
    asked |= {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate}
    asked |= {"image_size": image_size, "augmentation": augmentation}
    asked |= {"pretrained": pretrained or None, "freeze_backbone": freeze_backbone or None}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    words = [("--plain", True)] * plain + [(f"--{k.replace('_', '-')}", v) for k, v in given.items()]
    flags = [word for flag, value in words for word in ([flag] if value is True else [flag, str(value)])]
    command = shlex.join(["eenet", "train", recipe, *flags])
    named = get_recipe(recipe)
    if freeze_backbone:
        named = retrofit(named, num_exits=num_exits)
    config = replace(named, **(given | ({"num_exits": 0} if plain else {})))
    kind = "-plain" if plain else "-heads" if freeze_backbone else ""
    out = out or Path("runs") / f"{recipe}{kind}-seed{config.seed}"
    _keep_freed_memory()
    result = pipeline.train(config, out, resume=resume, command=command)
    if not result:  # not the first of several processes
        return 0
    written = "\n".join(f"{key:<10} {result[key]}" for key in ("checkpoint", "report"))
    text = f"{tables.evaluation_table(result)}\n\n{written}"
    return _show(result, text, as_json)


def evaluate(
    checkpoint: Positional[str],
    /,
    *,
    data: str,
    split: str = "test",
    budget: float | None = None,
    policy: str | None = None,
    corruptions: tuple[str, ...] = (),
    severities: tuple[int, ...] = (1, 3, 5),
    as_json: Json = False,
) -> int:
    """Run a checkpoint's policy on a data set: accuracy, cost, and where images left.

    Args:
        checkpoint: A checkpoint directory, a shipped name, or a model on the Hugging Face hub.
        data: Data set: a known name, a folder, or owner/name on the Hugging Face hub.
        split: train, validation or test.
        budget: Wanted mean relative cost. Default: the policy of the checkpoint.
        policy: Name of a policy of the checkpoint, see `eenet calibrate --name`.
        corruptions: Also on damaged images: all, or names such as gaussian_noise, jpeg, fog.
        severities: Of the damage, 1 to 5.
    """
    from eenet import tables, verbs

    chosen: dict[str, Any] = {"split": split, "budget": budget, "policy": policy}
    if corruptions:
        rows = verbs.evaluate_under_corruptions(checkpoint, data, corruptions, severities, **chosen)
        return _show(rows, tables.shift_table(rows), as_json)
    measured = verbs.evaluate_checkpoint(checkpoint, data, **chosen)
    return _show(
        measured, f"{tables.evaluation_table(measured)}\n\n{tables.diagnosis_table(measured)}", as_json
    )


def predict(
    checkpoint: Positional[str],
    images: Positional[tuple[str, ...]],
    /,
    *,
    budget: float | None = None,
    policy: str | None = None,
    backend: str | None = None,
    as_json: Json = False,
) -> int:
    """Label images; each leaves the network at the first exit that is sure enough.

    Args:
        checkpoint: A checkpoint directory, a shipped name, or a model on the Hugging Face hub.
        images: Image files, directories, or globs.
        budget: Wanted mean relative cost. Default: the policy of the checkpoint.
        policy: Name of a policy of the checkpoint, see `eenet calibrate --name`.
        backend: torch, torch-compile, onnxruntime or openvino. Default: the fastest for so many images.
    """
    from eenet import verbs
    from eenet.tables import format_table

    rows = verbs.predict(checkpoint, images, budget=budget, policy=policy, backend=backend)
    cells = [
        [r["file"], r["label"], f"{r['probability']:.3f}", str(r["exit"]), f"{r['relative_cost']:.3f}"]
        for r in rows
    ]
    return _show(rows, format_table(["file", "label", "probability", "exit", "cost"], cells), as_json)


def calibrate(
    checkpoint: Positional[str],
    /,
    *,
    data: str,
    budget: float | None = None,
    max_drop: float | None = None,
    risk: float | None = None,
    delta: float = 0.1,
    on_average: Flag = False,
    risk_of: Literal["excess_error", "disagreement"] = "excess_error",
    split: str = "validation",
    objective: Literal["macs", "latency"] = "macs",
    backend: str | None = None,
    batch_size: int = 1,
    name: str | None = None,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Set a checkpoint's thresholds on one half of a split, and report on the other.

    Give one of --budget, --max-drop and --risk.

    Args:
        checkpoint: A checkpoint directory.
        data: Data set with images that the network wasn't trained on.
        budget: Wanted mean cost, relative to the plain backbone.
        max_drop: The cheapest that loses at most so much accuracy: 0.01 is one point.
        risk: The cheapest that is shown to keep this risk on new images as well.
        delta: How likely that guarantee may fail.
        on_average: Guarantee the risk on average over calibrations, without a delta.
        risk_of: More errors than the full network, or another answer than its (needs no labels).
        split: train, validation or test.
        objective: What a budget is in: MACs, or time measured on this machine.
        backend: What to time. Default: ONNX Runtime if it is installed, else torch.
        batch_size: Images that arrive together, when timing.
        name: Keep the policy under this name. Default: it replaces the checkpoint's own.
        out: Directory for a copy with the new policy. Default: the checkpoint is changed.
    """
    from eenet import tables, thresholds

    found = thresholds.calibrate(
        checkpoint,
        data,
        budget=budget,
        max_drop=max_drop,
        risk=risk,
        delta=None if on_average else delta,
        risk_of=risk_of,
        split=split,
        objective=objective,
        backend=backend,
        batch_size=batch_size,
        name=name,
        out=out,
    )
    return _show(found, tables.lines({k: v for k, v in found.items() if k != "timings"}), as_json)


def bench(
    checkpoint: Positional[str],
    /,
    *,
    data: str | None = None,
    backends: tuple[str, ...] = (),
    batch_sizes: tuple[int, ...] = (1, 64),
    against: str | None = None,
    exported: Path | None = None,
    budget: float | None = None,
    policy: str | None = None,
    repeats: int = 7,
    threads: int | None = None,
    as_json: Json = False,
) -> int:
    """Time early exit against the plain backbone on this machine, on the same backend, paired.

    Args:
        checkpoint: A checkpoint directory, a shipped name, or a model on the Hugging Face hub.
        data: Data set whose test images are run. Default: the one it was trained on.
        backends: torch, torch-compile, onnxruntime, openvino. Default: all that are there but torch-compile.
        batch_sizes: Images that arrive together.
        against: Another checkpoint, run without leaving early: a smaller network.
        exported: Directory written by `eenet export`, timed beside each backend.
        budget: Wanted mean relative cost. Default: the policy of the checkpoint.
        policy: Name of a policy of the checkpoint, see `eenet calibrate --name`.
        repeats: Runs; times are medians over them.
        threads: Of ONNX Runtime and OpenVINO. Default: one per core.
    """
    from eenet import verbs
    from eenet.tables import format_table

    found = verbs.bench(
        checkpoint,
        data_name=data,
        backends=backends,
        batch_sizes=batch_sizes,
        against=against,
        exported=exported,
        budget=budget,
        policy=policy,
        repeats=repeats,
        threads=threads,
    )
    shown = ["plain_ms", "early_exit_ms", "speedup", "mac_speedup", "efficiency", "early_exit_p95_ms"]
    shown += ["against_speedup"] if against else []
    shown += ["exported_ms", "exported_speedup"] if exported else []
    cells = [[r["backend"], str(r["batch_size"]), *(f"{r[key]:.3g}" for key in shown)] for r in found["rows"]]
    header = ["backend", "batch", *(key.removesuffix("_ms").replace("_", " ") for key in shown)]
    note = f"times in ms per batch, median of {repeats} runs, on {found['hardware']}"
    return _show(found, f"{format_table(header, cells)}\n\n{note}", as_json)


def export(
    checkpoint: Positional[str],
    /,
    *,
    format: Literal["onnx", "onnx-single", "openvino", "openvino-single", "aoti", "executorch"] = "onnx",
    out: Path,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    budget: float | None = None,
    policy: str | None = None,
    data: str | None = None,
    force: Flag = False,
    as_json: Json = False,
) -> int:
    """Write files that other programs run, stopping early; they are read back and compared.

    Args:
        checkpoint: A checkpoint directory, a shipped name, or a model on the Hugging Face hub.
        format: onnx and openvino: a model for each stage; -single: one that stops by itself;
            aoti: libraries compiled by torch; executorch: for phones.
        out: Directory, empty or not there yet.
        precision: fp16: of the stages. int8: their convolutions, with thresholds set anew.
        budget: Wanted mean relative cost. Default: the policy of the checkpoint.
        policy: Name of a policy of the checkpoint, see `eenet calibrate --name`.
        data: Data set to compare on, and to quantise with. Default: the one it was trained on.
        force: Write into a directory that is not empty, over an export in it.
    """
    from eenet import export as exporting
    from eenet import tables

    found = exporting.export(
        checkpoint,
        out,
        format=format,
        precision=precision,
        budget=budget,
        policy=policy,
        data_name=data,
        force=force,
    )
    return _show(found, tables.lines({**found, "files": "\n                 ".join(found["files"])}), as_json)


def sweep(
    recipe: Positional[str],
    /,
    *,
    placements: tuple[str, ...] = ("linear", "pareto", "golden", "fine", "searched"),
    nums_exits: tuple[int, ...] = (3,),
    heads: tuple[str, ...] = ("deep",),
    trials: int | None = None,
    seed: int | None = None,
    data: str | None = None,
    model: str | None = None,
    budget: float | None = None,
    epochs: int | None = None,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Train a recipe with exits in different places and compare at its budget; the same command goes on.

    Args:
        recipe: Name of the recipe, see `eenet list`.
        placements: linear, pareto, golden, fine, searched (the best of a network with an exit at every cut).
        nums_exits: Numbers of early exits.
        heads: Kinds of exit heads.
        trials: So many combinations, chosen by Optuna's TPE. Default: all.
        seed: Of the weights, the order of the images and their augmentation.
        data: Data set: a known name, a folder, or owner/name on the Hugging Face hub.
        model: timm name of the backbone, or a checkpoint whose trained backbone is taken.
        budget: Mean relative cost at which the networks are compared.
        epochs: Passes over the training images.
        out: Directory for networks, table and picture. Default: runs/RECIPE-sweep.
    """
    from eenet import sweep as sweeping
    from eenet.recipes import get_recipe
    from eenet.tables import format_table

    given = {"seed": seed, "data": data, "model": model, "budget": budget, "epochs": epochs}
    config = replace(get_recipe(recipe), **{key: value for key, value in given.items() if value is not None})
    out = out or Path("runs") / f"{recipe}-sweep"
    space = sweeping.Space(placements, nums_exits, heads)
    _keep_freed_memory()
    rows = sweeping.sweep(config, out, space, trials=trials, command=f"eenet sweep {recipe}")
    cells = []
    for row in rows:
        named = [row["placement"], str(row["num_exits"]), row["head"]]
        if "error" in row:
            cells.append([*named, row["error"], *[""] * 4])
            continue
        percents = [f"{row[key]:.2%}" for key in ("validation_accuracy", "accuracy", "full_accuracy")]
        cells.append([*named, ", ".join(row["exits"]), *percents, f"{row['relative_cost']:.3f}"])
    header = ["placement", "exits", "head", "behind", "validation", "test", "test, full network", "test cost"]
    files = f"table   {out / sweeping.TABLE_FILE}\npicture {out / sweeping.PICTURE_FILE}"
    return _show(rows, f"{format_table(header, cells)}\n\n{files}", as_json)


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed.

    Every step of a training frees the same large blocks and asks for them again. From the system
    they come with cleared pages, which takes up to a seventh of the time on a CPU.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)


def report(
    checkpoints: Positional[tuple[str, ...]],
    /,
    *,
    data: str,
    out: Path,
    split: str = "test",
    corruptions: tuple[str, ...] = (),
    severities: tuple[int, ...] = (1, 3, 5),
    bench: Flag = False,
    as_json: Json = False,
) -> int:
    """One HTML page, interactive and self-contained, about a checkpoint or comparing several.

    Args:
        checkpoints: Checkpoint directories, shipped names, or models on the Hugging Face hub. One without
            early exits is shown as a static network.
        data: Data set: a known name, a folder, or owner/name on the Hugging Face hub.
        out: The file to write.
        split: train, validation or test.
        corruptions: Also on damaged images: all, or names such as gaussian_noise, jpeg, fog.
        severities: Of the damage, 1 to 5.
        bench: Also time them on this machine.
    """
    from eenet import tables, verbs

    found = verbs.report(
        checkpoints,
        data,
        out,
        split=split,
        corruptions=corruptions,
        severities=severities,
        timed=bench,
    )
    return _show(found, tables.lines(found), as_json)


def serve(
    checkpoints: Positional[tuple[str, ...]],
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

    Args:
        checkpoints: Checkpoint directories, shipped names, models on the Hugging Face hub, or a directory of
            checkpoints.
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
    try:
        from eenet.serving.guard import Limits
        from eenet.serving.model import ServeOptions
        from eenet.serving.run import serve as start
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}; pip install 'eenet[serve]'") from error

    start(
        list(checkpoints),
        options=ServeOptions(
            backend=backend,
            batch_size=batch_size,
            most_waiting=most_waiting,
            data=data,
            accuracy_floor=accuracy_floor,
        ),
        limits=Limits(body_bytes=max_megabytes * 2**20, body_seconds=timeout, answer_seconds=timeout),
        host=host,
        port=port,
        token_file=token_file,
    )
    return 0


def info(
    name: Positional[str], /, *, input_size: tuple[int, int, int] | None = None, as_json: Json = False
) -> int:
    """What a checkpoint holds, or where a backbone can be cut and what that costs.

    Args:
        name: A checkpoint, or a timm backbone.
        input_size: Channels, height and width at which to look at a backbone.
    """
    from eenet import tables, verbs

    found = verbs.info(name, input_size=input_size)
    if "cuts" not in found:
        return _show(found, tables.checkpoint_table(found), as_json)
    cuts = [[c["name"], f"{c['fraction']:.3f}", "×".join(map(str, c["feature_size"]))] for c in found["cuts"]]
    text = tables.lines({k: v for k, v in found.items() if k != "cuts"})
    table = tables.format_table(["cut", "relative cost", "features"], cuts)
    return _show(found, f"{text}\n\n{table}", as_json)


def list_names(*, as_json: Json = False) -> int:
    """Known recipes, data sets, backbones, and the trained networks that come with eenet."""
    from eenet import verbs

    found = verbs.list_names()
    width = max(map(len, (*found["checkpoints"], *found["recipes"])))
    checkpoints, recipes = (
        "\n".join(f"  {name:<{width}} {about}" for name, about in found[key].items())
        for key in ("checkpoints", "recipes")
    )
    text = (
        f"checkpoints\n{checkpoints}\n\nrecipes\n{recipes}\n\n"
        f"data\n  {', '.join(found['data'])}, a folder, or owner/name on the Hugging Face hub\n\n"
        f"backbones\n  {', '.join(found['backbones'])}, and every CNN of timm"
    )
    return _show(found, text, as_json)


VERBS = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "calibrate": calibrate,
    "bench": bench,
    "export": export,
    "sweep": sweep,
    "report": report,
    "serve": serve,
    "info": info,
    "list": list_names,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake prints one line and returns 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"eenet {version('eenet')}")
        return 0
    try:
        code = _parse_and_run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"eenet: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"eenet: interrupted; {stopped}".rstrip("; "), file=sys.stderr)
        return 130


def _parse_and_run(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(VERBS)}"
        raise ValueError(f"unknown verb {arguments[0]!r}; {hint}")
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            action = tyro.extras.subcommand_cli_from_dict(
                {name: _deferred(verb) for name, verb in VERBS.items()},
                prog="eenet",
                description="Early-exit convolutional networks: train, measure and use them.",
                args=arguments,
            )
    except SystemExit as stop:  # --help, or a box with the mistake
        if stop.code:
            raise ValueError(_unboxed(boxed.getvalue())) from None
        return 0
    return action()


def _deferred(verb: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """tyro calls what it has parsed; run it later, when its mistakes are no longer parsing mistakes."""

    @functools.wraps(verb)
    def parsed(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(verb, *args, **kwargs)

    return parsed


def _unboxed(text: str) -> str:
    """tyro's boxed message as one line, without its last section, the hint at --help."""
    lines = [line.strip("│╭╮╰╯|+ ") for line in text.splitlines()[1:]]
    sections = re.split(r"[─-]{4,}", " ".join(line for line in lines if line))
    kept = [" ".join(section.split()) for section in sections if "full helptext" not in section]
    return "; ".join(section for section in kept if section) + " (see --help)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _show(found: Any, text: str, as_json: bool) -> int:
    print(json.dumps(found) if as_json else text)
    return 0
