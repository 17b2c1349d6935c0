"""Exported files: which families of networks can be written, and whether a single file really stops.

Writes `docs/reference/exported-backbones.md` and `benchmarks/results/export-*-HARDWARE-torchVERSION.csv`.

    python benchmarks/export.py families
    python benchmarks/export.py stops CHECKPOINT
    python benchmarks/export.py agreement CHECKPOINT
    python benchmarks/export.py precisions CHECKPOINT
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import results
import torch
import tyro
from ship import trained_on
from tyro.conf import Positional

from eenet import EENet, ExitPolicy, create_model, data, export
from eenet.common import format_table, hardware
from eenet.data import ImageSet
from eenet.evaluation import collect
from eenet.exporting import writing
from eenet.policies import recorded_scores
from eenet.runtime import load_exported, run_batch, segments_of

DOCS = Path(__file__).parents[1] / "docs/reference/exported-backbones.md"
FORMATS = ("onnx", "onnx-single", "openvino", "openvino-single")
FAMILIES = [
    "resnet18", "resnet50", "resnext50_32x4d", "seresnet18", "res2net50_14w_8s", "regnetx_002",
    "regnety_002", "convnext_atto", "convnextv2_atto", "densenet121", "vgg11_bn", "mobilenetv2_035",
    "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "efficientnet_b0", "tf_efficientnetv2_b0",
    "mnasnet_small", "ghostnet_050", "repvgg_a0", "mobileone_s0", "hrnet_w18_small", "dla46_c",
    "cspresnet50", "inception_v3", "nf_resnet26", "edgenext_xx_small", "mobilevit_xxs",
    "coatnet_pico_rw_224",
]  # fmt: skip
SIZES = {"inception_v3": 96, "coatnet_pico_rw_224": 224}


def main(
    what: Positional[Literal["families", "stops", "agreement", "precisions"]],
    checkpoint: Positional[str] = "cifar10-eenet20",
) -> None:
    """Measure one of the four."""
    warnings.simplefilter("ignore")
    rows = []
    measures = {"families": families, "stops": stops, "agreement": agreement, "precisions": precisions}
    for row in measures[what](checkpoint):
        rows.append(row)
        print(row, flush=True)
        results.write(f"export-{what}", rows)
    if what == "families":
        write_page(rows)


def families(_: str) -> Iterator[dict[str, Any]]:
    """Untrained networks with two exits, on random images of which about half leave at each exit.

    Those in the table already are not tried again.
    """
    done = {row["network"]: row for row in results.read("export-families")}
    for name in FAMILIES:
        if name in done:
            yield done[name]
            continue
        size = SIZES.get(name, 64)
        torch.manual_seed(0)
        try:
            network = _untrained(name, size, 2)
        except ValueError:  # one exit is all that fits
            network = _untrained(name, size, 1)
        network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
        pixels = np.random.default_rng(0).integers(256, size=(32, 3, size, size), dtype=np.uint8)
        records = collect(network, ImageSet(pixels, np.zeros(32, np.int64), list("abcde")))
        thresholds = np.median(recorded_scores(records, "max_softmax"), 1) + 1e-5
        network.config.policy = ExitPolicy("max_softmax", tuple(thresholds.tolist())).to_dict()
        row: dict[str, Any] = {"network": name, "size": size}
        with tempfile.TemporaryDirectory() as directory:
            network.save_pretrained(directory)
            for format in FORMATS:
                try:
                    found = export(directory, Path(directory) / format, format=format)
                    row[format] = f"{found.max_difference:.0e}"
                except (ValueError, FileNotFoundError) as error:
                    row[format] = f"no: {error}"
        yield row


def _untrained(name: str, size: int, num_exits: int) -> EENet:
    made = create_model(name, num_exits=num_exits, num_classes=5, input_size=(3, size, size), head="pool")
    return made.eval()


def stops(checkpoint: str) -> Iterator[dict[str, Any]]:
    """Batch 1, images that leave at exit 0: a single file, its first stage, all stages, timed in turn."""
    network = EENet.from_pretrained(checkpoint)
    images = data.load(trained_on(network.config), "test")
    pixels = np.asarray(images.pixels(list(range(400))))
    with tempfile.TemporaryDirectory() as directory:
        for kind in ("onnx", "openvino"):
            paths = {f: Path(directory) / f for f in (kind, f"{kind}-single")}
            for format, path in paths.items():
                export(checkpoint, path, format=format)
            (staged, policy), (single, _) = (load_exported(path) for path in paths.values())
            exits = [run_batch(staged, policy, image[None]).exits_B[0] for image in pixels]
            thresholds = [policy.thresholds[s.exit or 0] for s in segments_of(policy, None)[:-1]]
            for group, chosen in (("exit 0", [0]), ("all", list(range(network.num_exits + 1)))):
                batch = [image[None] for image, k in zip(pixels, exits, strict=True) if k in chosen][:100]
                calls: dict[str, Callable[[Any], Any]] = {
                    "stage_0": lambda x, b=staged: b.run(0, x),
                    "staged": lambda x, b=staged, p=policy: run_batch(b, p, x),
                    "single": lambda x, b=single, t=thresholds: b.run_through(x, t),
                }
                ms = in_turn(calls, batch)
                yield {
                    "checkpoint": checkpoint,
                    "files": kind,
                    "images": group,
                    "mean_exit": float(np.mean([k for k in exits if k in chosen])),
                    **{f"{name}_ms": round(value, 4) for name, value in ms.items()},
                    "single/stage_0": round(ms["single"] / ms["stage_0"], 3),
                    "single/staged": round(ms["single"] / ms["staged"], 3),
                    "allowed_ms": round(1.15 * ms["stage_0"] + 0.1, 4),
                }


def precisions(checkpoint: str) -> Iterator[dict[str, Any]]:
    """The stages in float32, float16 and int8, timed in turn."""
    network = EENet.from_pretrained(checkpoint)
    images = data.load(trained_on(network.config), "test")
    pixels = np.asarray(images.pixels(list(range(640))))
    with tempfile.TemporaryDirectory() as directory:
        for kind in ("onnx", "openvino"):
            calls: dict[str, Callable[[Any], Any]] = {}
            for precision in ("fp32", "fp16", "int8"):
                out = Path(directory) / f"{kind}-{precision}"
                export(checkpoint, out, format=kind, precision=precision)
                backend, policy = load_exported(out)
                calls[precision] = lambda x, b=backend, p=policy: run_batch(b, p, x)
            for size in (1, 64):
                batches = np.split(
                    pixels[: 100 * size if size == 1 else len(pixels)], 100 if size == 1 else 10
                )
                ms = in_turn(calls, batches)
                yield {
                    "checkpoint": checkpoint,
                    "files": kind,
                    "batch_size": size,
                    **{f"{name}_ms": round(value, 4) for name, value in ms.items()},
                    **{f"{name}_speedup": round(ms["fp32"] / ms[name], 3) for name in ("fp16", "int8")},
                }


def in_turn(calls: dict[str, Callable[[Any], Any]], inputs: list[Any], repeats: int = 15) -> dict[str, float]:
    """Milliseconds a call: median over repeats of the mean over inputs, one contender after the other."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            for given in inputs:
                call(given)
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - start) / len(inputs))
    return {name: median(values) for name, values in times.items()}


def agreement(checkpoint: str) -> Iterator[dict[str, Any]]:
    """All formats against the network on 1,000 test images; int8 with what became of accuracy and cost."""
    writing.COMPARED_IMAGES = 1000
    kinds = [(format, precision) for format in FORMATS for precision in ("fp32", "fp16", "int8")]
    for format, precision in [*kinds, ("aoti", "fp32")]:
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "out"
            found = export(checkpoint, out, format=format, precision=precision).to_dict()
        figures = {key: value for key, value in found.items() if isinstance(value, int | float)}
        yield {"checkpoint": checkpoint, "format": format, "precision": precision, **figures}


def write_page(rows: list[dict[str, Any]]) -> None:
    """`docs/reference/exported-backbones.md`."""
    cells, reasons = [], []
    for row in rows:
        shown = []
        for format in FORMATS:
            failed = row[format].startswith("no: ")
            shown.append("no" if failed else row[format])
            if failed:
                reasons.append(f"- `{row['network']}`, {format}: {row[format][4:]}")
        cells.append([f"`{row['network']}`", str(row["size"]), *shown])
    table = format_table(["network", "image size", *FORMATS], cells)
    good = sum(all(not row[format].startswith("no") for format in FORMATS) for row in rows)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "timm", "onnx", "onnxruntime", "openvino")
    )
    DOCS.write_text(
        f"""# Exported backbones

Which networks can be written in which format, and how much the files differ from torch.

Made by `python benchmarks/export.py families` with {versions}, on {hardware()}.

{good} of {len(rows)} timm networks can be written in all four formats. Each is untrained and has two exits,
or one where no more fit. It was compared with itself in torch on random images, of which about half leave at
each exit.

- At least nine of ten images leave at the same exit. So do all whose score isn't near its threshold.
- Probabilities differ by at most the number shown.

{table}

## What fails, and why

{chr(10).join(reasons) or "Nothing."}

## Where to go next

- How to export: [the guide](../how-to/export.md).
- Which networks can be cut: [backbones](backbones.md).
"""
    )


if __name__ == "__main__":
    tyro.cli(main)
