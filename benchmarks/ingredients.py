"""Which ingredients still help on which backbone: each one left out.

    python benchmarks/ingredients.py after

What comes after training, for the shipped CIFAR-10 networks: that exits answer together, and the gates that
learn from validation images when to stop. Training stays as it is, thresholds are set anew for each.

    python benchmarks/ingredients.py training --data svhn-10k --augmentation shift --out runs/ingredients

What belongs to training, by one recipe. Goes on where it was stopped.

Both write to `benchmarks/results`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import results
import tyro
from objectives import Outcome, fitted, fitted_again, outcome
from ship import recorded

from eenet import EENet
from eenet.tasks.classification.diagnostics import bootstrap_interval
from eenet.training import TrainConfig, get_recipe, train

NETWORKS = ("cifar10-eenet13", "cifar10-eenet20", "cifar10-eenet56")
BUDGETS = (0.4, 0.5, 0.6)
TRAINED_BUDGETS = (0.35, 0.4, 0.5)
LEFT_OUT = {  # whether answers are joined, and what decides
    "": (True, "confidence"),
    "joined answers": (False, "confidence"),
    "learned gates": (True, "max_softmax"),
    "both": (False, "max_softmax"),
    "both, entropy instead": (False, "entropy"),
}
ALL, BACKBONE = "all", "backbone"  # trainings that others start from
TRAINED: dict[str, dict[str, Any]] = {  # by what a training goes without, on top of the recipe
    "": {},
    "convolutions of heads": {"head": "pool"},
    "nothing, but a teacher": {"teacher": ALL},
    BACKBONE: {"num_exits": 0},
    "joint training": {"model": BACKBONE, "freeze_backbone": True},
}


def compared(done: Mapping[str, Outcome], budget: float) -> Iterator[dict[str, Any]]:
    """A row for each outcome: points against that without a name, paired by image."""
    for out, found in done.items():
        apart_B = 100 * (found.right_B - done[""].right_B)
        low, high = bootstrap_interval(apart_B)
        yield {
            "left_out": out,
            "budget": budget,
            "accuracy": round(float(found.right_B.mean()), 5),
            "relative_cost": round(found.cost, 4),
            "points": round(float(apart_B.mean()), 3),
            "low": round(low, 3),
            "high": round(high, 3),
            "images": len(apart_B),
        }


def after() -> None:
    """Leave out what comes after training."""
    rows = []
    for name in NETWORKS:
        network = EENet.from_pretrained(name)
        seen = tuple(recorded(network, split) for split in ("validation", "test"))
        again = {joined: fitted_again(*seen, joined=joined) for joined in (True, False)}
        for budget in BUDGETS:
            done = {out: outcome(*again[joined], score, budget) for out, (joined, score) in LEFT_OUT.items()}
            rows += [{"network": name, **row} for row in compared(done, budget)]
        print(rows[-len(BUDGETS) * len(LEFT_OUT) :], flush=True)
    print(results.write("ingredients", rows))


def training(
    out: Path,
    recipe: str = "cifar10-resnet13",
    epochs: int = 30,
    data: str | None = None,
    augmentation: str | None = None,
) -> None:
    """Leave out what belongs to training.

    Without joint training the backbone is trained alone for all epochs, and then the exits on it, for half as
    many more. The teacher is the network that has all.

    Args:
        out: directory with a directory for each training.
        recipe: backbone and schedule, the same for all.
        epochs: of each.
        data: images. Default: the recipe's.
        augmentation: of the images. Default: the recipe's.
    """
    config = get_recipe(recipe)
    images = {"data": data or config.data, "augmentation": augmentation or config.augmentation}
    config = replace(config, epochs=epochs, **images)
    places = {name: out / (name or ALL).replace(" ", "-") for name in TRAINED}
    for name, place in places.items():
        if not (place / "report.html").exists():
            print(f"training {place}", flush=True)
            train(without(name, config, out), place, resume=place.exists())
    rows = []
    for budget in TRAINED_BUDGETS:
        done = {
            name: outcome(*fitted(place, joined=True), "confidence", budget)
            for name, place in places.items()
            if name != BACKBONE
        }
        about = {"recipe": recipe, **images, "epochs": epochs}
        rows += [about | row for row in compared(done, budget)]
    print(results.write(f"ingredients-of-training-{config.data}", rows))


def without(name: str, config: TrainConfig, out: Path) -> TrainConfig:
    """The configuration without an ingredient."""
    changed, epochs = TRAINED[name], config.epochs
    starts = {key: str(out / value) for key, value in changed.items() if value in (ALL, BACKBONE)}
    if "model" in starts:
        epochs = max(1, epochs // 2)
    return replace(config, **{**changed, **starts, "epochs": epochs})


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"after": after, "training": training})
