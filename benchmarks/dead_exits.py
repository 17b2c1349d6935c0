"""Exits that no image leaves at, over depth, λ and seed: the paper's objective beside ours.

A network for every depth, λ and seed by the paper's objective v2, and one for every depth and seed by ours,
whose budget is changed afterwards. What is in the table already is not trained again.

    python benchmarks/dead_exits.py

Writes `benchmarks/results/dead_exits-RECIPE-*.csv`; `ablations.py` makes a section of its page from it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import results
import tyro
from collapse import by_budget, by_the_paper

from eenet.evaluation import Evaluation
from eenet.training import TrainConfig, get_recipe

BUDGETS = (0.4, 0.5, 0.6, 0.7, 0.8)


def main(
    recipe: str = "digits",
    depths: tuple[int, ...] = (20, 56, 110),
    weights: tuple[float, ...] = (0.1, 0.5, 1.0, 1.5),
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = 15,
) -> None:
    """Train what is missing, row by row.

    Args:
        recipe: data and schedule.
        depths: of CIFAR's ResNets.
        weights: λ.
        seeds: of the training.
        epochs: of each.
    """
    table = Table(f"dead_exits-{recipe}")
    for seed in seeds:
        for depth in depths:
            changed = replace(get_recipe(recipe), model=f"resnet{depth}_cifar", seed=seed, epochs=epochs)
            table.add({"depth": depth, "seed": seed, "epochs": epochs}, changed, weights)


class Table:
    """The paper's objective beside ours, in a table that grows row by row."""

    def __init__(self, name: str) -> None:
        """With what is there already."""
        self.name, self.rows = name, list[dict[str, Any]](results.read(name))

    def add(self, about: dict[str, Any], config: TrainConfig, weights: Sequence[float]) -> None:
        """Train for each λ and as we do, what is missing.

        Args:
            about: what the rows are of.
            config: of the training.
            weights: λ.
        """
        for weight in [*weights, None]:
            own = about | {"trained": "ours" if weight is None else f"λ {weight}"}
            if any(all(row[key] == str(value) for key, value in own.items()) for row in self.rows):
                continue
            if weight is None:
                added = [own | {"budget": b} | told(found) for b, found in by_budget(config, BUDGETS)]
            else:
                added = [own | {"budget": ""} | told(by_the_paper(config, "v2", weight))]
            print(added[-1], flush=True)
            self.rows += [{key: str(value) for key, value in row.items()} for row in added]
            results.write(self.name, self.rows)


def told(found: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": round(found.accuracy, 5),
        "relative_cost": round(found.relative_cost, 4),
        "leave": " ".join(map(str, found.exit_counts)),
        "exit_accuracy": " ".join(f"{accuracy:.4f}" for accuracy in found.exit_accuracy),
        "dead": len(found.dead_exits),
    }


if __name__ == "__main__":
    tyro.cli(main)
