"""A checkpoint as files that other programs run, and that really stop: checked against the network itself."""

import importlib.util
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from eenet.common import Result, lines, say, working, wrapped
from eenet.data import ImageSet, Pixels
from eenet.evaluation import as_images, collect, measure, pace
from eenet.exporting.comparing import bytes_in, compare, reason, time_against_fp32
from eenet.exporting.finding import finder
from eenet.exporting.formats import FORMATS, PRECISIONS, Job, whole_graph
from eenet.networks import (
    CONFIG_FILE,
    FORMAT_VERSION,
    GRAPH_FILE,
    MANIFEST_FILE,
    Network,
    graph_of,
    name_of,
    open_network,
    read_manifest,
    thresholds_by_budget,
    write_config,
    write_graph,
    write_manifest,
)
from eenet.policies import ExitPolicy, looks_back, policies_for_budgets, policy_for_budget
from eenet.tasks import task_of

COMPARED_IMAGES = 256
TOGETHER = 32
COMPARED_PIXELS = 4_000_000  # of all images together: fewer where they are large


@dataclass(frozen=True, kw_only=True)
class Export(Result):
    """Files that were written, and how they compare with the network, or with the graph that was
    quantised."""

    files: list[str]
    precision: str
    bytes: int
    """Of the files that other programs run."""
    compared: int
    """Images."""
    max_difference: float
    """Of their probabilities."""
    accuracy: float | None = None
    """Of int8, on the test split."""
    relative_cost: float | None = None
    fp32_accuracy: float | None = None
    """What it was."""
    fp32_relative_cost: float | None = None
    milliseconds: dict[str, float] | None = None
    """Of fp16 and int8, on this machine: for each batch size, of a batch."""
    fp32_milliseconds: dict[str, float] | None = None
    """Of the same in float32, in turn with it."""
    speedup_low: dict[str, float] | None = None
    """fp32_milliseconds / milliseconds lies in between, see `BenchRow.speedup_low`."""
    speedup_high: dict[str, float] | None = None
    fp32_bytes: int | None = None
    hardware: str | None = None

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.3g} MB"
        if self.fp32_bytes is not None:
            size += f"; in fp32 {self.fp32_bytes / 1e6:.3g} MB"
        own = ("files", "precision", "bytes", "fp32_bytes", "hardware")
        more = {k: v for k, v in self.to_dict().items() if k not in own and not isinstance(v, dict)}
        table = lines({"files": "\n                 ".join(self.files), "size": size, **more})
        said = "\n".join(map(wrapped, self.sentences()))
        return f"{table}\n\n{said}".rstrip()

    def sentences(self) -> list[str]:
        """How fast a lower precision is on this machine, one for each batch size."""
        if not (self.milliseconds and self.fp32_milliseconds and self.speedup_low and self.speedup_high):
            return []
        said = []
        for size, ms in self.milliseconds.items():
            before = self.fp32_milliseconds[size]
            found = pace("fp32", before / ms, self.speedup_low[size], self.speedup_high[size])
            said.append(f"At batch {size} {self.precision} {found}: {ms:.4g} against {before:.4g} ms.")
        if all(high < 1 for high in self.speedup_high.values()):
            said.append(
                f"So {self.precision} is slower on this machine, {self.hardware}; keep fp32 for speed."
            )
        return said


def export(
    checkpoint: Network | str | Path,
    out: str | Path,
    *,
    format: str = "onnx",
    precision: str = "fp32",
    budget: float | None = None,
    policy: ExitPolicy | str | None = None,
    data: str | None = None,
    force: bool = False,
    skip_damaged: bool = False,
) -> Export:
    """Write a checkpoint in a form that other programs run, read it back, and compare.

    The network is divided at the exits that the policy has switched on. `eenet.json` says how to
    run the files; its schema is in `docs/reference/eenet.schema.json`.

    Args:
        checkpoint: a network, directory, shipped name or hub id.
        out: directory, empty unless `force` is given.
        format: see `eenet.exporting.FORMATS`.
        precision: `fp32`; `fp16` for stages, while exit heads stay in float32; `int8` for the
            convolutions of stages, quantised on images of the validation split, with thresholds set
            anew there for the mean cost that they had before. Both are timed here against `fp32`.
        budget: wanted mean relative cost. Default: the policy of the checkpoint.
        policy: or the name of one that the checkpoint has.
        data: data set on whose test images both are compared. Default: the one it was trained on;
            random images if that can't be had.
        force: write into a directory that isn't empty; files of an export in it are replaced.
        skip_damaged: go on without image files that can't be read.

    Raises:
        FileExistsError: `out` is not empty.
        FileNotFoundError, ValueError: checkpoint or arguments are unusable, a library is missing,
            the format lacks an operation, or what was written answers differently.
    """
    out = Path(out)
    _check(format, precision, out, force)
    network = open_network(checkpoint)
    config = network.config
    task = task_of(config.task)
    config.must_support(f"format {format}")
    config.must_support(precision)
    chosen = config.exit_policy(budget, policy)
    if looks_back(chosen.score):
        raise ValueError(
            f"the score {chosen.score!r} looks back at earlier exits, and exported files compare the "
            "score of one exit at a time; calibrate a policy with another score"
        )
    budgets = {key: ExitPolicy.from_dict(p, network.num_exits) for key, p in config.budgets.items()}
    data_name = data or config.provenance.get("train_config", {}).get("data")
    graph, finding, measured = None, None, {}
    if FORMATS[format].from_onnx:
        from eenet.exporting.quantize import simplified

        graph = simplified(graph_of(network))
        finding = finder(network) if "boxes" in task.outputs else None
    pixels_BCHW, before = _pixels(network, data, skip_damaged), (graph, chosen)
    if precision == "int8":
        from eenet.exporting.quantize import graph_records

        if data_name is None:
            raise ValueError(
                f"int8 needs images to quantise on; name the data set of {name_of(checkpoint)} with --data"
            )
        graph, chosen, budgets, measured = _quantized(network, graph, chosen, data_name, skip_damaged)
        labels_B, names = np.zeros(len(pixels_BCHW), np.int64), network.config.class_names or []
        records = graph_records(graph, network, ImageSet(pixels_BCHW, labels_B, names))
        said = records.logits_KBN, records.confidence_logits_KB
    else:
        said = _said(network, pixels_BCHW)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        job = Job(network, chosen, precision, Path(temporary), graph, finding)
        with working(f"writing {format}"):
            manifest = _write(job, budgets, format, name_of(checkpoint))
        found = {**compare(job, pixels_BCHW, said), "bytes": bytes_in(job.target)}
        if precision != "fp32":
            with tempfile.TemporaryDirectory() as other, working(f"timing {precision} against fp32"):
                _write(Job(network, before[1], "fp32", Path(other), before[0]), {}, format, "")
                measured |= time_against_fp32(job, Path(other), pixels_BCHW)
            write_manifest(manifest | {"measured": {**measured, "bytes": found["bytes"]}}, job.target)
        written = sorted(path.name for path in job.target.iterdir())
        _move(job.target, out, written)
    files = [str(out / name) for name in written]
    return Export(files=files, precision=precision, **found, **measured)


def _write(job: Job, budgets: dict[str, ExitPolicy], format: str, checkpoint: str) -> dict[str, Any]:
    """The files, and the manifest that says how to run them."""
    manifest = _manifest(job, budgets, format, Path(checkpoint).name)
    written = _written(job, format)
    for stage, more in zip(manifest["stages"], written.get("stages", []), strict=False):
        stage |= more
    manifest |= {"single": written.get("single"), "measured": {}}
    if "boxes" in written:
        manifest["boxes"] = written["boxes"]
    manifest["files"] = sorted(path.name for path in job.target.iterdir())
    if job.graph is not None:
        _write_network(job, budgets, manifest["files"])
    write_manifest(manifest, job.target)
    return manifest


def _write_network(job: Job, budgets: dict[str, ExitPolicy], files: list[str]) -> None:
    """Its graph, whose weights lie in the files, and its configuration: so every verb takes the directory."""
    written = {budget: policy.to_dict() for budget, policy in budgets.items()}
    config = replace(job.network.config, policy=job.policy.to_dict(), budgets=written, timings=[])
    config.hashes = write_graph(whole_graph(job), job.target, files)
    write_config(config, job.target)


def _check(format: str, precision: str, out: Path, force: bool) -> None:
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; choose from {', '.join(FORMATS)}")
    wanted = FORMATS[format]
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision not in wanted.precisions:
        raise ValueError(f"format {format} is written in {', '.join(wanted.precisions)}, not in {precision}")
    missing = [name for name in wanted.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"format {format} needs {', '.join(missing)}; pip install 'eenet[{wanted.extra}]'")
    if out.is_file():
        raise FileExistsError(f"{out} is a file; give a directory")
    if (out / CONFIG_FILE).exists() and not (out / MANIFEST_FILE).exists():
        raise FileExistsError(f"{out} holds a checkpoint; give another directory")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise FileExistsError(f"{out} is not empty; give another directory, or --force")


def _pixels(network: Network, data: str | None, skip_damaged: bool) -> Pixels:
    """Of test images; where none are named, and those of the data trained on can't be had, random ones."""
    channels, height, width = network.config.input_size
    count = min(COMPARED_IMAGES, max(8, COMPARED_PIXELS // (height * width)))
    try:
        images = as_images(data, network.config, "test", skip_damaged=skip_damaged)
        return task_of(network.config.task).sample(images, count)
    except (FileNotFoundError, ValueError) as error:
        if data is not None:
            raise
        say(f"compared on random images: {error}")
        size = (count, channels, height, width)
        return np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)


def _said(network: Network, pixels_BCHW: Pixels) -> tuple[Any, Any]:
    """Logits and confidence logits of all exits."""
    parts = [network.answers(pixels_BCHW[i : i + TOGETHER]) for i in range(0, len(pixels_BCHW), TOGETHER)]
    logits, confidence_logits = zip(*parts, strict=True)
    return np.concatenate(logits, 1), np.concatenate(confidence_logits, 1)


def _quantized(
    network: Network, graph: Any, policy: ExitPolicy, data_name: str, skip_damaged: bool
) -> tuple[Any, ExitPolicy, dict[str, ExitPolicy], dict[str, Any]]:
    """The graph in int8, thresholds set anew for it, and what that does on test images."""
    from eenet.exporting.quantize import graph_records, to_int8

    held_out, test = (
        as_images(data_name, network.config, split, skip_damaged=skip_damaged)
        for split in ("validation", "test")
    )
    with working("quantising"):
        graph = to_int8(graph, held_out)
        fitted, tested = (graph_records(graph, network, images) for images in (held_out, test))
    before, tested_before = (collect(network, images, show_progress=True) for images in (held_out, test))
    was = measure(tested_before, policy)
    budget = measure(before, policy).relative_cost
    if network.num_exits:
        policy = policy_for_budget(fitted, max(budget, fitted.costs()[0]), scores=(policy.score,))
    became = measure(tested, policy)
    measured = {
        "accuracy": became.quality,
        "relative_cost": became.relative_cost,
        "fp32_accuracy": was.quality,
        "fp32_relative_cost": was.relative_cost,
    }
    return graph, policy, policies_for_budgets(fitted, score=policy.score), measured


def _manifest(job: Job, budgets: dict[str, ExitPolicy], format: str, checkpoint: str) -> dict[str, Any]:
    """What `eenet.json` says, but for the files."""
    config, policy = job.network.config, job.policy
    task, (channels, height, width) = task_of(config.task), config.input_size
    costs, final = job.network.costs(policy.enabled), job.network.num_exits
    stages: list[dict[str, Any]] = []
    for segment in job.segments:
        k = segment.exit or 0
        stages.append({"exit": k, "relative_cost": costs[k]})
        if k < final:
            stages[-1]["threshold"] = policy.thresholds[k]
        if segment.weights is not None:
            stages[-1]["weights"] = list(segment.weights)
    exits = [stage["exit"] for stage in stages]
    return {
        "format": format,
        "format_version": FORMAT_VERSION,
        "precision": job.precision,
        "checkpoint": checkpoint,
        "backbone": config.backbone,
        "task": task.name,
        "versions": {name: version(name) for name in ("eenet", "torch")},
        "input": {
            "type": "uint8",
            "layout": "NCHW",
            "channels": channels,
            "height": height,
            "width": width,
            "colours": "RGB" if channels == 3 else "grey",
            "any_size": task.any_size,
            "resize": task.explained(config)["resize"],
        },
        "answer": task.explained(config)["answer"],
        "class_names": config.named_classes,
        "score": policy.score,
        "stages": stages,
        "budgets": thresholds_by_budget({b: p.to_dict() for b, p in budgets.items()}, policy, exits[:-1]),
    }


def _written(job: Job, format: str) -> dict[str, Any]:
    try:
        return FORMATS[format].write(job)
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever converters may raise; they name the operation
        raise ValueError(f"this network can't be written as {format}: {reason(error)}") from error


def _move(source: Path, out: Path, files: list[str]) -> None:
    """Into their place, instead of those of an export that may be there."""
    if (out / MANIFEST_FILE).exists():
        with suppress(ValueError, FileNotFoundError):
            for name in (*read_manifest(out).get("files", []), CONFIG_FILE, GRAPH_FILE):
                (out / Path(name).name).unlink(missing_ok=True)
    out.mkdir(exist_ok=True)
    for name in files:
        shutil.move(source / name, out / name)
