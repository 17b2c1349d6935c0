"""Exits that no image leaves at, over depth, λ and seed: the paper's objective beside ours.

A network for every depth, λ and seed by the paper's objective v2, and one for every depth and seed by ours,
whose budget is changed afterwards. What is in the table already is not trained again.

    python benchmarks/dead_exits.py

Writes `benchmarks/results/dead_exits-RECIPE-*.csv`; `ablations.py` makes a section of its page from it.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import results
import tyro

from eenet.evaluation import Evaluation, measure
from eenet.policies import RECORDS_FILE, Records, policy_for_budget
from eenet.training import TrainConfig, get_recipe, train

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
            for setting in [*(f"λ {weight}" for weight in weights), "ours"]:
                about = {"depth": depth, "seed": seed, "epochs": epochs, "trained": setting}
                if key(about) in there:
                    continue
                for found, how in outcomes(changed, setting):
                    rows.append(about | how | told(found))
                    print(rows[-1], flush=True)
                results.write(table, rows)


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("depth", "seed", "epochs", "trained"))


def outcomes(config: TrainConfig, setting: str) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """On test images: one with the paper's threshold, or one for each budget."""
    with tempfile.TemporaryDirectory() as out:
        if setting != "ours":
            weight = float(setting.removeprefix("λ "))
            config = replace(config, objective="v2", cost_weight=weight, head="pool")
            found = train(config, Path(out) / "run").evaluation
            assert isinstance(found, Evaluation)
            yield found, {"budget": ""}
            return
        train(config, Path(out) / "run")
        held_out, tested = (
            Records.load(Path(out) / "run" / RECORDS_FILE.format(split=split))
            for split in ("validation", "test")
        )
        for budget in BUDGETS:
            yield measure(tested, policy_for_budget(held_out, budget)), {"budget": budget}


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
