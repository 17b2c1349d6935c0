"""The honest race: networks with early exits against static, pruned and efficient ones, and int8 of each.

    python benchmarks/race.py train --only pruned-0.5-exits --out runs/race
    python benchmarks/race.py train --only pruned-0.5-exits --teachers cifar10-eenet56 --out runs/race
    python benchmarks/race.py measure --out runs/race
    python benchmarks/race.py measure --out runs/short --table race-short --shipped cifar10-eenet56
    python benchmarks/race.py measure --out runs/race --data imagenette-160 --table race-photos --shipped

On CIFAR-10, against a shipped network with exits. Its backbone is pruned and finetuned, static; and all of
it, exits included. Cascades join shipped networks, and need no training. Other backbones are trained from
random weights for a few epochs, all for as many, and have a table of their own. Split, augmentation and
optimiser are the same. With `--teachers` a network imitates these, and is named `-taught`. On photos a
ResNet-18 is trained twice, with exits and without. `train` goes on where it was stopped.

`measure` adds what is in the directory to `benchmarks/results/TABLE-HARDWARE-torchVERSION.csv`:
accuracy on test images with half the width of its interval, MACs, and the milliseconds of all networks, in
turns on the same batches. Beside each time stands its ratio to that of one network, the plain backbone of a
shipped checkpoint: so rows that were measured apart can be compared, if the processor has the same
instructions. Rows with others are dropped. Thresholds are from validation images.

    python benchmarks/race.py efficiency

How much of what leaving early could save is saved, for the shipped networks as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import race_answers
import results
import timm
import tyro
from numpy.typing import NDArray
from race_clock import CLOCKS, EQUAL, quickest, set_by_clocks
from ship import recorded, trained_on
from torch import nn

import eenet
from eenet import EENet
from eenet.data import Images, sample
from eenet.evaluation import as_images, collect, measure
from eenet.networks import checkpoint_directory, open_network, read_config
from eenet.policies import ExitPolicy, Records, fit
from eenet.runtime import (
    Contender,
    create_backend,
    mean_ms,
    run_batch,
    segments_of,
    stage_times,
    time_network,
    timed,
    times_in_turn,
)
from eenet.tasks import expected_accuracy
from eenet.training import STATE_FILE
from eenet.training.planning.clocking import QUICK

DATA = "cifar10"
REFERENCE = "cifar10-eenet56"  # pruned, and the unit of time is its plain backbone's
SHIPPED = (REFERENCE, "cifar10-eenet20", "cifar10-eenet13")  # measured as well
ELSEWHERE = ("mnist-eenet20", "tiny-imagenet-50-eenet18")  # on other data; their efficiency is told too
SHARES = (0.5, 0.4, 0.2)  # of its MACs, that pruning leaves
WIDE = "cifar10-eenet13"  # pruned as well, to the first of these
CASCADES = {"cascade-13-20": (WIDE, "cifar10-eenet20"), "cascade-13-56": (WIDE, REFERENCE)}
FINETUNE = {"epochs": 8, "learning_rate": 0.03}
TAUGHT = "-taught"  # ends the name of a network that imitated teachers
BUDGETS = ("0.250", "0.300", "0.350", "0.400", "0.450", "0.500", "0.600")  # of networks with exits
FEWER, MORE = ("0.150", "0.200"), ("0.800", "1.000")  # of cascades too: theirs are of their last network
HERE = "race:small"  # this module's own backbones, as `package.module:factory`
PHOTOS = {
    "data": "imagenette-160",
    "model": "resnet18",
    "image_size": 96,
    "augmentation": "crop-flip",
    "batch_size": 64,
    "learning_rate": 0.05,
    "epochs": 25,
    "budget": 0.5,
}
SHORT = 10  # epochs of the networks that are trained from random weights
FROM_RANDOM = {
    "resnet13": {
        "model": "resnet13_coarse_cifar",
        "placement": ["layer1.0", "layer2.0", "layer2.1"],
        "budget": 0.45,
    },
    "resnet32": {"model": "resnet32_cifar"},
    **{
        name: {"model": HERE, "model_args": {"name": name}}
        for name in ("mobilenetv4_conv_small_050", "tinynet_e", "mobilenetv2_050", "mobilenetv3_small_100")
    },
}


def small(name: str, num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """A network of timm made for photos, for images of 32 pixels: its first two strides are taken out."""
    module = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    for layer in strided[:2]:
        layer.stride = (1, 1)
    return module


@dataclass(frozen=True)
class Entry:
    """A network of the race."""

    name: str
    recipe: str
    settings: dict[str, Any]
    exits: bool = False
    joins: tuple[str, ...] = ()
    """Networks of a cascade; then nothing is trained."""


def entries() -> Iterator[Entry]:
    """All of them, in the order of training."""
    for share in SHARES:
        yield from pruned(f"pruned-{share:g}", "cifar10-resnet56", share, REFERENCE)
    yield from pruned("resnet13-pruned", "cifar10-resnet13", SHARES[0], WIDE)
    for name, settings in FROM_RANDOM.items():
        settings = {**settings, "epochs": SHORT, "head": "separable"}
        yield Entry(f"{name}-exits", "cifar10-resnet20", settings, exits=True)
        yield Entry(name, "cifar10-resnet20", settings)
    for name, joined in CASCADES.items():
        yield Entry(name, "", {}, exits=True, joins=joined)
    yield Entry("resnet18", "tiny-imagenet-resnet18", PHOTOS)
    yield Entry("resnet18-exits", "tiny-imagenet-resnet18", PHOTOS, exits=True)


def pruned(name: str, recipe: str, share: float, trained: str) -> Iterator[Entry]:
    """A trained network's backbone, and it with its exits, pruned to a share of its MACs and finetuned."""
    settings = {"prune": share, **FINETUNE}
    yield Entry(name, recipe, {"model": trained, **settings})
    yield Entry(f"{name}-exits", recipe, {"network": trained, **settings}, exits=True)


def train(out: Path, only: tuple[str, ...] = (), teachers: tuple[str, ...] = ()) -> None:
    """Train what is not there yet, one after the other.

    Args:
        out: directory for all networks.
        only: names of networks. Default: all.
        teachers: networks that all of them imitate, in int8, which is faster.
    """
    named = {entry.name: entry for entry in entries()}
    taught = {"teacher": [str(in_int8(checkpoint_directory(name), out)) for name in teachers]}
    for entry in (named[name] for name in results.chosen(named, only)):
        place = out / (entry.name + TAUGHT if teachers else entry.name)
        if (place / "report.html").exists():
            continue
        settings = {"data": DATA, **entry.settings, **(taught if teachers else {})}
        print(entry.name, settings, flush=True)
        if entry.joins:
            eenet.cascade(entry.joins, place, data=DATA)
            continue
        if "network" in settings:  # its exits are pruned with it
            settings["network"] = EENet.from_pretrained(settings["network"])
        resume = (place / STATE_FILE).exists()
        eenet.train(entry.recipe, place, plain=not entry.exits, resume=resume, **settings)


def in_int8(place: Path, out: Path) -> Path:
    """Where a network lies quantised, which it is the first time."""
    exported = out / "int8" / place.name
    if not (exported / "eenet.json").exists():
        eenet.export(place, exported, precision="int8")
    return exported


@dataclass(frozen=True)
class Runner:
    """A network, a precision and a policy, to be timed."""

    row: dict[str, Any]
    network: Any
    policy: ExitPolicy
    right_B: NDArray[np.bool_]
    """Whether it is right about each test image."""


def runners(place: Path, images: dict[str, Images], precision: str, out: Path) -> Iterator[Runner]:
    """The network without leaving early; with exits also at each budget, and cut behind each exit.

    A cut network is a static one: all images leave there, and nothing of it lies behind or beside. Networks
    with exits also at thresholds set by each clock, to be timed by that one only; cascades aren't.
    """
    network = open_network(in_int8(place, out) if precision == "int8" else place)
    config = read_config(place)
    tested = collect(network, images["test"])
    assert isinstance(tested, Records)
    count = len(config.exits)
    joined = bool(config.parts)
    budgets = [key for key in (*FEWER * joined, *BUDGETS, *MORE * joined) if key in config.budgets]
    static = {"": count, **{f"exit {k}": k for k in range(count)}}
    if joined:  # its static networks are those that it is made of
        static = {}
    policies = [(name, "", ExitPolicy.all_at(k, count)) for name, k in static.items()]
    policies += [(key, "", ExitPolicy.from_dict(config.budgets[key], count)) for key in budgets]
    if count and not joined:
        held_out = collect(network, images["validation"])
        assert isinstance(held_out, Records)
        policies += set_by_clocks(network, config, budgets, held_out, sample(images["test"], 64))
    for budget, clock, policy in policies:
        right_B = tested.right(policy)
        cost = measure(tested, policy).relative_cost
        row = {
            "network": place.name,
            "instructions": results.instructions(),
            "precision": precision,
            "budget": budget,
            "clock": clock,
            "epochs": config.effort[0],
            "accuracy": round(float(right_B.mean()), 5),
            "half_width_95": round(race_answers.half_width(right_B.astype(float)), 5),
            "macs": round(cost * config.backbone_macs),
            "images": len(right_B),
        }
        yield Runner(row, network, policy, right_B)


def measure_all(
    out: Path,
    repeats: int = 5,
    table: str = "race-cifar10",
    shipped: tuple[str, ...] = SHIPPED,
    data: str = DATA,
) -> None:
    """Accuracy, MACs and milliseconds of all that are trained, and of the shipped networks.

    Args:
        out: directory of all networks.
        repeats: runs of all in turn.
        table: for the figures.
        shipped: networks, the first of which gives the unit of time; if none, the first trained one does.
        data: images, for the networks that were trained on them.
    """
    places = [checkpoint_directory(name) for name in shipped]
    trained = sorted(path.parent for path in out.glob("*/report.html"))
    places += [path for path in trained if trained_on(read_config(path)) == data]
    if not places:
        raise SystemExit(f"{out} holds no finished training on {data}; see `race.py train`")
    images = {split: as_images(data, read_config(places[0]), split) for split in ("validation", "test")}
    found = [
        runner
        for place in places
        for precision in ("fp32", "int8")
        for runner in runners(place, images, precision, out)
    ]
    pixels_BCHW = sample(images["test"], 1000)
    for key, on in CLOCKS.items():
        timed_here = {str(i): runner for i, runner in enumerate(found) if runner.row["clock"] in ("", key)}
        contenders = []
        for i, runner in timed_here.items():
            segments = segments_of(runner.policy, runner.network.config.ensemble)
            fast = create_backend(on["backend"], runner.network, segments, runner.policy.score)
            contenders.append(Contender(i, partial(run_batch, fast, runner.policy)))
        times = times_in_turn(
            contenders, pixels_BCHW, batch_size=on["batch_size"], repeats=repeats, run_seconds=0.3
        )
        unit = mean_ms(times["0"])
        for i, runner in timed_here.items():
            held = np.median(times[i], 0)
            runner.row[f"{key}_ms"] = mean_ms(times[i])
            runner.row[f"{key}_p95_ms"] = float(f"{np.percentile(held, 95):.4g}")
            runner.row[f"{key}_ratio"] = round(runner.row[f"{key}_ms"] / unit, 4)
    race_answers.write(table, [(runner.row, runner.right_B) for runner in found])
    rows = [runner.row for runner in found]
    print(results.write(table, results.renewed(results.read_comparable(table), rows)))


def efficiency(repeats: int = 5, only: tuple[str, ...] = (*SHIPPED, *ELSEWHERE)) -> None:
    """Ideal by measured time of the shipped networks, see `eenet.evaluation.bench`.

    With the thresholds for their own budget in MACs, and with those of the least time here that keep as much,
    up to `EQUAL`, as `--for latency` sets them: exits that don't pay are off, and exits answer together or
    alone.

    Args:
        repeats: runs, of which the median counts.
        only: networks. The rows of others stay.
    """
    rows: list[dict[str, Any]] = []
    for name in only:
        network, apart = EENet.from_pretrained(name), EENet.from_pretrained(name)
        apart.config.ensemble = None
        held_out, tested = (recorded(network, split) for split in ("validation", "test"))
        alone = fit(held_out, max(held_out.costs()), rule=QUICK, joined=False).records
        pixels_BCHW = sample(as_images(trained_on(network.config), network.config, "test"), 1024)
        own = network.config.exit_policy()
        for on in CLOCKS.values():
            times = stage_times(network, pixels_BCHW, **on).to_dict()
            least = expected_accuracy(held_out, own) - EQUAL
            together = quickest(timed(held_out, times), own.score, least, held_out) or own
            ways = {"MACs": (network, tested, own), "clock": (network, tested, together)}
            if quick := quickest(timed(alone, times), QUICK, least, held_out):
                ways["clock, alone"] = (apart, replace(tested, ensemble=None), quick)
            for how, (told, records, policy) in ways.items():
                row = time_network(told, policy, pixels_BCHW, **on, repeats=repeats)
                about = {
                    "network": name,
                    "instructions": results.instructions(),
                    "set_by": how,
                    "accuracy": round(measure(records, policy).accuracy, 5),
                    "exits_on": " ".join(str(k) for k, is_on in enumerate(policy.enabled) if is_on),
                }
                rows.append({**about, **row.to_dict()})
                print(rows[-1], flush=True)
    table = "race-efficiency"
    print(results.write(table, results.renewed(results.read_comparable(table), rows)))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"train": train, "measure": measure_all, "efficiency": efficiency})
