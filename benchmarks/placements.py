"""Where exits go and how many there are, over depths and on backbones that aren't ResNets.

    python benchmarks/placements.py --data svhn-10k

One network for each backbone, with an exit at every place that one of the paper's four placements wants. Of
its records those of other exits are then left out: joined answers, gates and thresholds are fitted to the
exits that stay, on validation images. So a placement costs no training, and all have the same weights. Goes
on where it was stopped.

Writes `benchmarks/results/placements-DATA-*.csv`; `ablations.py` makes a section of its page from it.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import results
import tyro
from objectives import fitted, fitted_again, loaded

from eenet import Records, policy_for_budget
from eenet.backbones import PLACEMENTS
from eenet.evaluation import measure
from eenet.networks import read_config
from eenet.policies import exits_for_budget
from eenet.training import TrainConfig, train
from eenet.training.planning.starting import load_images
from eenet.training.run import build

BACKBONES: dict[str, dict[str, Any]] = {
    "ResNet-20": {"model": "resnet20_cifar"},
    "ResNet-56": {"model": "resnet56_cifar"},
    "ResNet-110": {"model": "resnet110_cifar"},
    "MobileNetV4 small × 0.5": {
        "model": "race:small",
        "model_args": {"name": "mobilenetv4_conv_small_050"},
    },
    "TinyNet-E": {"model": "race:small", "model_args": {"name": "tinynet_e"}},
}
COUNT = 3  # exits of a placement
MOST = 6
BUDGETS = (0.3, 0.4, 0.5, 0.6)
SEARCHED = "searched"


def main(
    data: str = "svhn-10k",
    out: Path = Path("runs/placements"),
    only: tuple[str, ...] = (),
    epochs: int = 8,
    augmentation: str = "shift",
) -> None:
    """Train what is missing, then tell of what is there.

    Args:
        data: name of the images.
        out: directory with a directory for each network.
        only: backbones. Default: all.
        epochs: of each.
        augmentation: of the images.
    """
    for name in results.chosen(BACKBONES, only):
        path = out / name.replace(" ", "-")
        if not (path / "report.html").exists():
            config = TrainConfig(
                data,
                **BACKBONES[name],
                head="separable",
                epochs=epochs,
                augmentation=augmentation,
                batch_size=64,
            )
            places = {place for chosen in wanted(config).values() for place in chosen}
            print(f"training {path}: {len(places)} exits", flush=True)
            chosen = replace(config, num_exits=len(places), placement=sorted(places))
            train(chosen, path, resume=path.exists())
    table = f"placements-{data}"
    rows: list[dict[str, Any]] = [*results.read(table)]
    for name in BACKBONES:
        path = out / name.replace(" ", "-")
        if (path / "report.html").exists():
            rows = [row for row in rows if row["backbone"] != name]
            rows += [{"backbone": name, **row} for row in told(path)]
    print(results.write(table, rows))


def wanted(config: TrainConfig) -> dict[str, list[str]]:
    """The blocks behind which each placement puts its exits."""
    images = load_images(config)["train"]
    return {
        name: build(replace(config, num_exits=COUNT, placement=name), images).config.exits
        for name in PLACEMENTS
    }


def told(path: Path) -> list[dict[str, Any]]:
    """A row for each placement, or number of exits, and each budget."""
    config = read_config(path)
    trained = TrainConfig(**config.provenance["train_config"])
    held_out, tested = loaded(path)
    searching, _ = fitted(path, joined=True)
    choices = {
        name: [config.exits.index(place) for place in places] for name, places in wanted(trained).items()
    }
    rows = []
    for budget in BUDGETS:
        ways = {(name, COUNT): chosen for name, chosen in choices.items()}
        for count in range(1, min(MOST, len(config.exits)) + 1):
            try:
                ways[SEARCHED, count] = exits_for_budget(searching, count, budget)
            except ValueError:  # no such choice keeps the budget
                continue
        for (name, count), chosen in ways.items():
            own, test = fitted_again(*(only_exits(r, chosen) for r in (held_out, tested)), joined=True)
            if own.costs()[0] > budget:
                continue
            policy = policy_for_budget(own, budget)
            found = measure(test, policy)
            rows.append(
                {
                    "epochs": trained.epochs,
                    "placement": name,
                    "exits": count,
                    "budget": budget,
                    "behind": " ".join(config.exits[k] for k in chosen),
                    "accuracy": round(found.accuracy, 5),
                    "relative_cost": round(found.relative_cost, 4),
                    "dead_exits": " ".join(map(str, found.dead_exits)),
                    "full": round(tested.full_accuracy, 5),
                    "images": found.num_examples,
                }
            )
    return rows


def only_exits(records: Records, chosen: Sequence[int]) -> Records:
    """The records of a network that has these early exits and no others."""
    ends = [*chosen, len(records.head_macs)]
    bounds = [0, *(end + 1 for end in ends)]
    return replace(
        records,
        logits_KBN=records.logits_KBN[ends],
        confidence_logits_KB=records.confidence_logits_KB[list(chosen)],
        stage_macs=[int(np.sum(records.stage_macs[a:b])) for a, b in pairwise(bounds)],
        head_macs=[records.head_macs[k] for k in chosen],
        ensemble=None,
    )


if __name__ == "__main__":
    tyro.cli(main)
