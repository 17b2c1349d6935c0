"""Exits that no image leaves at, over depth, λ and seed: the paper's objective beside ours.

A network for every depth, λ and seed by the paper's objective v2, and one for every depth and seed by ours,
whose budget is changed afterwards. What is in the table already is not trained again.

    python benchmarks/dead_exits.py

Writes `benchmarks/results/dead_exits-RECIPE-*.csv`; `ablations.py` makes a section of its page from it.
"""

from dataclasses import replace
from typing import Any

import results
import tyro
from collapse import by_budget, by_the_paper

from eenet.evaluation import Evaluation
from eenet.training import get_recipe

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
    table = f"dead_exits-{recipe}"
    rows: list[dict[str, Any]] = [*results.read(table)]
    there = {key(row) for row in rows}
    for seed in seeds:
        for depth in depths:
            changed = replace(get_recipe(recipe), model=f"resnet{depth}_cifar", seed=seed, epochs=epochs)
            for weight in [*weights, None]:
                setting = "ours" if weight is None else f"λ {weight}"
                about = {"depth": depth, "seed": seed, "epochs": epochs, "trained": setting}
                if key(about) in there:
                    continue
                if weight is None:
                    rows += [about | {"budget": b} | told(found) for b, found in by_budget(changed, BUDGETS)]
                else:
                    rows.append(about | {"budget": ""} | told(by_the_paper(changed, "v2", weight)))
                print(rows[-1], flush=True)
                results.write(table, rows)


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("depth", "seed", "epochs", "trained"))


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
