"""What the verbs on a finished checkpoint do from end to end: eval, predict, calibrate, bench, info, list."""

import glob
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

from eenet import data
from eenet import records as recording
from eenet.calibration import policy_for_budget
from eenet.checkpoint import CARD_FILE, checkpoint_directory, read_config, write_atomically
from eenet.console import progress
from eenet.evaluation import evaluate
from eenet.image_sets import Images
from eenet.images import IMAGE_SUFFIXES
from eenet.network import EENet, default_input_size, timm_backbone
from eenet.pipeline import hardware
from eenet.recipes import RECIPES
from eenet.records import Records
from eenet.runtime import Predictor
from eenet.runtime.predictor import BACKENDS, installed
from eenet.runtime.timing import bench as time_network
from eenet.runtime.timing import stage_times
from eenet.stages import trace

FEW_IMAGES = 500  # to make a graph for a faster backend would take longer than to label them
BENCH_IMAGES = 1000


def evaluate_checkpoint(
    checkpoint: str | Path, data_name: str, *, split: str = "test", budget: float | None = None
) -> dict[str, Any]:
    """Run a checkpoint's policy on a data set, or the one it has for another budget.

    Returns:
        All of `eenet.evaluation.evaluate`.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read or don't fit each other.
    """
    network = EENet.from_pretrained(checkpoint)
    policy = network.config.exit_policy(budget)
    images = data.load(data_name, split, size=network.config.input_size[1:])
    with progress("evaluating", len(images)) as advance:
        records = recording.collect(network, images, on_progress=advance)
    return evaluate(records, policy)


def predict(
    checkpoint: str | Path,
    inputs: Sequence[str],
    *,
    budget: float | None = None,
    backend: str | None = None,
) -> list[dict[str, Any]]:
    """Label image files, directories of images, and globs, with the checkpoint's policy or for a budget.

    Args:
        checkpoint: directory or name.
        inputs: what to label.
        budget: wanted mean relative cost.
        backend: see `eenet.Predictor`. Default: torch for a few images, which needs no preparation.

    Returns:
        For each image `file`, `label`, `probability`, `exit`, `relative_cost`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint or an image can't be read.
    """
    files = _image_files(inputs)
    if backend is None and len(files) < FEW_IMAGES:
        backend = "torch"
    predictor = Predictor(checkpoint, budget=budget, backend=backend)
    rows = []
    with progress("predicting", len(files)) as advance:
        for path, prediction in zip(files, predictor.predict_many(files), strict=True):
            answer = asdict(prediction)
            del answer["class_index"]
            rows.append({"file": str(path), **answer})
            advance(1)
    return rows


def calibrate(
    checkpoint: str | Path,
    data_name: str,
    *,
    budget: float,
    split: str = "validation",
    objective: str = "macs",
    backend: str | None = None,
    batch_size: int = 1,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Set a checkpoint's thresholds for a budget, on one half of a split; report on the other half.

    Args:
        checkpoint: directory or name.
        data_name: images that the network wasn't trained on.
        budget: wanted mean cost, relative to the plain backbone.
        split: of the data.
        objective: `macs`, or `latency`: cost is time measured here, and exits that don't pay
            for their heads are switched off.
        backend: to be timed. Default: the fastest that is installed, in the order ONNX Runtime, torch.
        batch_size: to be timed with.
        out: directory for the checkpoint with its new policy. Default: it is changed in place.

    Returns:
        `checkpoint`, `thresholds`, `enabled`, `accuracy` and `relative_cost` in MACs, and for
        latency `relative_time` and the times under `timings`.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read or don't fit each other,
            or the budget is too small.
    """
    if objective not in ("macs", "latency"):
        raise ValueError(f"unknown objective {objective!r}; choose from macs, latency")
    directory = checkpoint_directory(checkpoint)
    network = EENet.from_pretrained(checkpoint)
    if not network.num_exits:
        raise ValueError(f"{checkpoint} has no early exits to calibrate")
    images = data.load(data_name, split, size=network.config.input_size[1:])
    with progress("evaluating", len(images)) as advance:
        records = recording.collect(network, images, on_progress=advance)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    fitted, held_out = (_some(records, half) for half in (order[::2], order[1::2]))
    result: dict[str, Any] = {"checkpoint": str(out or directory)}
    if objective == "latency":
        backend = backend or default_backend()
        measured = stage_times(network, _sample(images, 64), backend=backend, batch_size=batch_size)
        costs = time_as_cost(measured)
        policy = policy_for_budget(replace(fitted, **costs), budget, any_exits=True)
        known = [
            t for t in network.config.timings if (t["backend"], t["batch_size"]) != (backend, batch_size)
        ]
        network.config.timings = [*known, {**measured, "hardware": hardware()}]
        result["relative_time"] = evaluate(replace(held_out, **costs), policy)["relative_cost"]
        result["timings"] = measured
    else:
        policy = policy_for_budget(fitted, budget)
    measured_on = evaluate(held_out, policy)
    result |= {"thresholds": list(policy.thresholds), "enabled": list(policy.enabled)}
    result |= {key: measured_on[key] for key in ("num_examples", "accuracy", "relative_cost", "dead_exits")}
    network.config.policy = policy.to_dict()
    target = network.save_pretrained(out or directory)
    card = (directory / CARD_FILE).read_text() if (directory / CARD_FILE).exists() else ""
    note = (
        f"\n## Policy set again, {datetime.now(UTC).date().isoformat()}\n\n"
        f"For budget {budget} in {objective} on one half of the {split} split of {data_name}; on the other "
        f"half accuracy {result['accuracy']:.2%} at relative cost {result['relative_cost']:.3f}.\n"
    )
    write_atomically(target / CARD_FILE, (card + note).encode())
    return result


def time_as_cost(measured: dict[str, Any]) -> dict[str, Any]:
    """Stage times as costs for `Records`, in nanoseconds instead of MACs."""
    plain = round(1e6 * measured["plain_ms"])
    stages, heads = ([round(1e6 * ms) for ms in measured[key]] for key in ("stage_ms", "head_ms"))
    return {"stage_macs": stages, "head_macs": heads, "backbone_macs": plain}


def bench(
    checkpoint: str | Path,
    *,
    data_name: str | None = None,
    backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1, 64),
    against: str | Path | None = None,
    budget: float | None = None,
    repeats: int = 7,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time early exit against the plain backbone on this machine, paired; see `eenet.runtime.timing.bench`.

    Args:
        checkpoint: directory or name.
        data_name: whose test images to use. Default: the data set it was trained on.
        backends: default: all that are installed.
        batch_sizes: images that arrive together.
        against: another checkpoint, run without leaving early, such as a smaller network.
        budget: wanted mean relative cost. Default: the policy of the checkpoint.
        repeats: runs; times are medians over them.
        threads: of ONNX Runtime and OpenVINO. Default: one per core.

    Returns:
        `rows`, one for each backend and batch size, `hardware` and `versions`.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read, or a backend can't be had.
    """
    network = EENet.from_pretrained(checkpoint)
    policy = network.config.exit_policy(budget)
    other = EENet.from_pretrained(against) if against is not None else None
    if other and other.config.input_size != network.config.input_size:
        raise ValueError(
            f"{against} takes images of size {other.config.input_size}, not {network.config.input_size}"
        )
    data_name = data_name or network.config.provenance.get("train_config", {}).get("data")
    if data_name is None:
        raise ValueError(f"{checkpoint} doesn't say what it was trained on; name a data set with --data")
    images = data.load(data_name, "test", size=network.config.input_size[1:])
    pixels_BCHW = _sample(images, BENCH_IMAGES)
    backends = backends or [name for name in BACKENDS if installed(name)]
    rows = []
    with progress("timing", len(backends) * len(batch_sizes) * repeats) as advance:
        for backend in backends:
            options = {"threads": threads} if backend != "torch" else {}
            for batch_size in batch_sizes:
                rows.append(
                    time_network(
                        network,
                        policy,
                        pixels_BCHW,
                        backend=backend,
                        batch_size=batch_size,
                        repeats=repeats,
                        against=other,
                        on_progress=advance,
                        **options,
                    )
                )
    names = ["eenet", "torch", *(b for b in backends if b != "torch")]
    return {"rows": rows, "hardware": hardware(), "versions": {name: version(name) for name in names}}


def default_backend() -> str:
    """The fastest that is installed."""
    return "onnxruntime" if installed("onnxruntime") else "torch"


def _sample(images: Images, count: int) -> Any:
    """Some images at random, the same every time: data sets may be sorted by class."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.pixels(order[:count].sort().values).numpy()


def _some(records: Records, rows: torch.Tensor) -> Records:
    return replace(
        records,
        logits_KBN=records.logits_KBN[:, rows],
        confidence_logits_KB=records.confidence_logits_KB[:, rows],
        labels_B=records.labels_B[rows],
    )


def info(name: str, *, input_size: Sequence[int] | None = None) -> dict[str, Any]:
    """What a checkpoint holds, or where a backbone can be cut.

    Args:
        name: a checkpoint, or a timm backbone.
        input_size: (channels, height, width) at which to look at a backbone.

    Raises:
        FileNotFoundError, ValueError: neither a checkpoint nor a backbone.
    """
    if not Path(name).exists() and "/" not in name:
        module = timm_backbone(name, {"in_chans": input_size[0]} if input_size else {})
        traced = trace(module, input_size or default_input_size(module))
        return {
            "backbone": name,
            "input_size": list(traced.input_size),
            "num_classes": traced.num_classes,
            "macs": traced.macs,
            "parameters": sum(p.numel() for p in module.parameters()),
            "cuts": [asdict(cut) for cut in traced.cuts],
        }
    config = read_config(checkpoint_directory(name))
    return {"checkpoint": name, **asdict(config)}


def list_names() -> dict[str, Any]:
    """Known recipes, data sets and this package's own backbones."""
    return {
        "recipes": {name: recipe.about for name, recipe in RECIPES.items()},
        "data": list(data.SOURCES),
        "backbones": timm.list_models("*_cifar"),
    }


def _image_files(inputs: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                raise FileNotFoundError(f"no image in the directory {path}")
        elif path.exists() or not glob.has_magic(given):
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
            if not found:
                raise FileNotFoundError(f"no file matches {given}")
        files += found
    if not files:
        raise ValueError("give at least one image file, directory or glob")
    return files
