"""What the verbs on a finished checkpoint do from end to end: eval, report, predict, bench, info, list."""

import difflib
import glob
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch

from eenet import data
from eenet import records as recording
from eenet.backbones import ALIASES
from eenet.checkpoint import checkpoint_directory, read_config, shipped_checkpoints, write_atomically
from eenet.console import progress
from eenet.corruptions import CORRUPTIONS, check_known
from eenet.cost import relative_costs
from eenet.diagnostics import diagnose
from eenet.evaluation import evaluate
from eenet.image_sets import Images, sample
from eenet.network import EENet, default_input_size, timm_backbone
from eenet.pipeline import hardware, report_entry
from eenet.readers import image_files
from eenet.recipes import RECIPES
from eenet.records import RECORDS_FILE
from eenet.report import build_report
from eenet.runtime import Predictor
from eenet.runtime.predictor import BACKENDS, installed, options_of
from eenet.runtime.timing import bench as time_network
from eenet.shift import under_corruptions
from eenet.stages import trace

FEW_IMAGES = 500  # to make a graph for a faster backend would take longer than to label them
BENCH_IMAGES = 1000
SLOW_TO_START = "torch-compile"


def evaluate_checkpoint(
    checkpoint: str | Path,
    data_name: str,
    *,
    split: str = "test",
    budget: float | None = None,
    policy: str | None = None,
) -> dict[str, Any]:
    """Run a checkpoint's policy on a data set, or the one it has for another budget, or by a name.

    Returns:
        All of `eenet.evaluation.evaluate` and of `eenet.diagnostics.diagnose`.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read or don't fit each other.
    """
    network = EENet.from_pretrained(checkpoint)
    chosen = network.config.exit_policy(budget, policy)
    images = data.load(data_name, split, size=network.config.input_size[1:])
    with progress("evaluating", len(images)) as advance:
        records = recording.collect(network, images, on_progress=advance)
    return {**evaluate(records, chosen), **diagnose(records, chosen)}


def evaluate_under_corruptions(
    checkpoint: str | Path,
    data_name: str,
    names: Sequence[str],
    severities: Sequence[int],
    *,
    split: str = "test",
    budget: float | None = None,
    policy: str | None = None,
) -> list[dict[str, Any]]:
    """Run a checkpoint's policy on damaged images of a data set, at most 2,000.

    Args:
        checkpoint, data_name, split, budget, policy: as `evaluate_checkpoint`.
        names: of corruptions, or `all`.
        severities: 1 to 5.

    Returns:
        Rows as `eenet.shift.under_corruptions`, the first for clean images.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_checkpoint`; an unknown corruption or severity.
    """
    names = list(CORRUPTIONS) if list(names) == ["all"] else names
    for name, severity in product(names, severities):
        check_known(name, severity)
    network = EENet.from_pretrained(checkpoint)
    chosen = network.config.exit_policy(budget, policy)
    images = data.load(data_name, split, size=network.config.input_size[1:])
    with progress("evaluating", 1 + len(names) * len(severities)) as advance:
        return list(
            under_corruptions(
                network, chosen, images, names=names, severities=severities, on_progress=advance
            )
        )


def report(
    checkpoints: Sequence[str | Path],
    data_name: str,
    out: Path,
    *,
    split: str = "test",
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 3, 5),
    timed: bool = False,
) -> dict[str, Any]:
    """Write one HTML page about a checkpoint, or comparing several; see `eenet.report`.

    Args:
        checkpoints: directories or names; those without early exits are shown as static networks.
        data_name: whose images to measure on. Records that training left are used if they are of these.
        out: the file to write.
        split: train, validation or test.
        corruptions: also measure on damaged images: names, or `all`.
        severities: 1 to 5.
        timed: also run `bench` on each.

    Returns:
        `report`, the file; `bytes`; `seconds`.

    Raises:
        FileNotFoundError, ValueError: as `evaluate_checkpoint`; the file can't be written.
    """
    start = time.perf_counter()
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"can't write to {out}: {'a directory' if out.is_dir() else 'no such directory'}")
    names = [Path(str(checkpoint)).name for checkpoint in checkpoints]
    labels = names if len(set(names)) == len(names) else [str(checkpoint) for checkpoint in checkpoints]
    entries, shown = [], None
    for label, checkpoint in zip(labels, checkpoints, strict=True):
        network = EENet.from_pretrained(checkpoint)
        images = data.load(data_name, split, size=network.config.input_size[1:])
        shown = images if shown is None else shown
        if images.class_names != shown.class_names:
            raise ValueError(f"{checkpoint} has other classes than {checkpoints[0]}")
        records = _records(network, Path(checkpoint_directory(checkpoint)), images, split)
        measured: dict[str, Any] = {}
        if corruptions:
            measured["corruptions"] = evaluate_under_corruptions(
                checkpoint, data_name, corruptions, severities, split=split
            )
        if timed:
            measured["timings"] = bench(checkpoint, data_name=data_name)
        policy = network.config.exit_policy()
        entries.append(report_entry(label, network.config, records, policy, **measured))
    if shown is None:
        raise ValueError("give at least one checkpoint to report on")
    title = f"{' and '.join([', '.join(labels[:-1]), labels[-1]] if labels[1:] else labels)} on {data_name}"
    page = build_report(entries, shown, title=title, data_name=data_name).encode()
    write_atomically(out, page)
    return {"report": str(out), "bytes": len(page), "seconds": round(time.perf_counter() - start, 1)}


def _records(network: EENet, directory: Path, images: Images, split: str) -> recording.Records:
    """Those that training left, if they are of these images and this network, else collected now."""
    path = directory / RECORDS_FILE.format(split=split)
    if path.exists() and len(kept := recording.load(path)) == len(images):
        some = torch.linspace(0, len(images) - 1, min(len(images), 64)).long()
        fresh, same = recording.collect(network, images.subset(some.tolist())), kept.subset(some)
        if (
            torch.equal(kept.labels_B, images.labels_B)
            and fresh.ensemble == same.ensemble
            and fresh.logits_KBN.shape == same.logits_KBN.shape
            and torch.allclose(fresh.logits_KBN, same.logits_KBN, atol=1e-3)
        ):
            return kept
    with progress("evaluating", len(images)) as advance:
        return recording.collect(network, images, on_progress=advance)


def predict(
    checkpoint: str | Path,
    inputs: Sequence[str],
    *,
    budget: float | None = None,
    policy: str | None = None,
    backend: str | None = None,
) -> list[dict[str, Any]]:
    """Label image files, directories of images, and globs, with one of the checkpoint's policies.

    Args:
        checkpoint: directory or name.
        inputs: what to label.
        budget: wanted mean relative cost.
        policy: name of a policy of the checkpoint.
        backend: see `eenet.Predictor`. Default: torch for a few images, which needs no preparation.

    Returns:
        For each image `file`, `label`, `probability`, `exit`, `relative_cost`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint or an image can't be read.
    """
    files = _image_files(inputs)
    if backend is None and len(files) < FEW_IMAGES:
        backend = "torch"
    predictor = Predictor(checkpoint, budget=budget, policy=policy, backend=backend)
    rows = []
    with progress("predicting", len(files)) as advance:
        for path, prediction in zip(files, predictor.predict_many(files), strict=True):
            answer = asdict(prediction)
            del answer["class_index"]
            rows.append({"file": str(path), **answer})
            advance(1)
    return rows


def bench(
    checkpoint: str | Path,
    *,
    data_name: str | None = None,
    backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1, 64),
    against: str | Path | None = None,
    exported: str | Path | None = None,
    budget: float | None = None,
    policy: str | None = None,
    repeats: int = 7,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time early exit against the plain backbone on this machine, paired; see `eenet.runtime.timing.bench`.

    Args:
        checkpoint: directory or name.
        data_name: whose test images to use. Default: the data set it was trained on.
        backends: default: all that are installed, but for torch-compile, which takes minutes to start.
        batch_sizes: images that arrive together.
        against: another checkpoint, run without leaving early, such as a smaller network.
        exported: directory written by `eenet export`, timed beside.
        budget: wanted mean relative cost. Default: the policy of the checkpoint.
        policy: name of a policy of the checkpoint.
        repeats: runs; times are medians over them.
        threads: of ONNX Runtime and OpenVINO. Default: one per core.

    Returns:
        `rows`, one for each backend and batch size, `hardware` and `versions`.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read, or a backend can't be had.
    """
    network = EENet.from_pretrained(checkpoint)
    chosen = network.config.exit_policy(budget, policy)
    other = EENet.from_pretrained(against) if against is not None else None
    if other and other.config.input_size != network.config.input_size:
        raise ValueError(
            f"{against} takes images of size {other.config.input_size}, not {network.config.input_size}"
        )
    data_name = data_name or network.config.provenance.get("train_config", {}).get("data")
    if data_name is None:
        raise ValueError(f"{checkpoint} doesn't say what it was trained on; name a data set with --data")
    images = data.load(data_name, "test", size=network.config.input_size[1:])
    pixels_BCHW = sample(images, BENCH_IMAGES)
    backends = backends or [name for name in BACKENDS if installed(name) and name != SLOW_TO_START]
    rows = []
    with progress("timing", len(backends) * len(batch_sizes) * repeats) as advance:
        for backend in backends:
            options = {"threads": threads} if "threads" in options_of(backend) else {}
            for batch_size in batch_sizes:
                rows.append(
                    time_network(
                        network,
                        chosen,
                        pixels_BCHW,
                        backend=backend,
                        batch_size=batch_size,
                        repeats=repeats,
                        against=other,
                        exported=exported,
                        on_progress=advance,
                        **options,
                    )
                )
    names = ["eenet", "torch", *(b for b in backends if not b.startswith("torch"))]
    return {"rows": rows, "hardware": hardware(), "versions": {name: version(name) for name in names}}


def info(name: str, *, input_size: Sequence[int] | None = None) -> dict[str, Any]:
    """What a checkpoint holds, and the `costs` of leaving at each exit, or where a backbone can be cut.

    Args:
        name: a checkpoint, or a timm backbone.
        input_size: (channels, height, width) at which to look at a backbone.

    Raises:
        FileNotFoundError, ValueError: neither a checkpoint nor a backbone.
    """
    shipped = shipped_checkpoints()
    meant = timm.is_model(ALIASES.get(name, name)) or not difflib.get_close_matches(name, shipped)
    if not Path(name).exists() and "/" not in name and name not in shipped and meant:
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
    policy = config.exit_policy()
    costs = relative_costs(config.stage_macs, config.head_macs, config.backbone_macs, policy.enabled)
    return {"checkpoint": name, "costs": costs, **asdict(config), "policy": asdict(policy)}


def list_names() -> dict[str, Any]:
    """Known recipes, data sets, trained networks, and this package's own backbones."""
    return {
        "checkpoints": {name: _about(name) for name in shipped_checkpoints()},
        "recipes": {name: recipe.about for name, recipe in RECIPES.items()},
        "data": list(data.SOURCES),
        "backbones": timm.list_models("*_cifar"),
    }


def _about(name: str) -> str:
    config = read_config(checkpoint_directory(name))
    data_name = config.provenance["train_config"]["data"]
    return f"{config.backbone} with {len(config.exits)} early exits, trained on {data_name}"


def _image_files(inputs: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = image_files(path)
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
