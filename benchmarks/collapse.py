"""How the paper's objectives collapse: a sweep over λ, the weight of cost, beside our dial.

Demir & Akbas 2024 train confidences by a loss that joins cross-entropy with λ times cost.
For every λ a network is trained from scratch; for ours one network is trained and its
budget is turned. Prints a table and writes
`benchmarks/results/collapse-RECIPE-HARDWARE-torchVERSION.csv`.

    python benchmarks/collapse.py --recipe digits
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import results
import tyro

from eenet.common import format_table
from eenet.evaluation import Evaluation, measure
from eenet.policies import RECORDS_FILE, Records, policy_for_budget
from eenet.training import TrainConfig, get_recipe, train

WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)
BUDGETS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def main(
    recipe: str = "digits",
    objectives: tuple[str, ...] = ("v2",),
    epochs: int | None = None,
    weights: tuple[float, ...] = WEIGHTS,
) -> None:
    """Sweep λ for each objective, and the budget for ours.

    Args:
        recipe: backbone, data and schedule.
        objectives: of the paper: v1, v2, v3, v4.
        epochs: other than the recipe's.
        weights: λ.
    """
    config = get_recipe(recipe)
    config = replace(config, epochs=epochs or config.epochs)
    rows = []
    for row in chain(sweep(config, objectives, weights), dial(config)):
        rows.append(row)
        print(
            {key: row[key] for key in ("trained", "setting", "accuracy", "relative_cost", "exits")},
            flush=True,
        )
    header = list(rows[0])
    print(format_table(header, [[str(row[key]) for key in header] for row in rows]))
    path = results.write(f"collapse-{recipe}", rows)
    print(f"\n{path}")


def sweep(config: TrainConfig, objectives: tuple[str, ...], weights: tuple[float, ...]) -> Iterator[dict]:
    """The paper's way, with its head: a network for every λ, leaving where the confidence is above 0.5."""
    for objective in objectives:
        for weight in weights:
            yield described(objective, f"λ = {weight}", by_the_paper(config, objective, weight))


def dial(config: TrainConfig) -> Iterator[dict]:
    """Ours: one network, many budgets."""
    for budget, found in by_budget(config, BUDGETS):
        yield described("ours", f"budget {budget}", found)


def by_the_paper(config: TrainConfig, objective: str, weight: float) -> Evaluation:
    """On test images, of a network trained with the paper's objective and head for one λ."""
    changed = replace(config, objective=objective, cost_weight=weight, head="pool")
    with tempfile.TemporaryDirectory() as out:
        measured = train(changed, Path(out) / "run")
    assert isinstance(measured.evaluation, Evaluation)
    return measured.evaluation


def by_budget(config: TrainConfig, budgets: Sequence[float]) -> Iterator[tuple[float, Evaluation]]:
    """The same of one network trained as we do, for each budget that its first exit keeps."""
    with tempfile.TemporaryDirectory() as out:
        train(config, Path(out) / "run")
        held_out, tested = (
            Records.load(Path(out) / "run" / RECORDS_FILE.format(split=split))
            for split in ("validation", "test")
        )
    for budget in budgets:
        if budget >= held_out.costs()[0]:
            yield budget, measure(tested, policy_for_budget(held_out, budget))


def described(trained: str, setting: str, measured: Evaluation) -> dict:
    return {
        "trained": trained,
        "setting": setting,
        "accuracy": f"{measured.accuracy:.2%}",
        "relative_cost": f"{measured.relative_cost:.3f}",
        "exits": " / ".join(f"{count / measured.num_examples:.0%}" for count in measured.exit_counts),
        "exit_accuracy": " / ".join(f"{accuracy:.0%}" for accuracy in measured.exit_accuracy),
        "dead_exits": " ".join(map(str, measured.dead_exits)) or "none",
    }


if __name__ == "__main__":
    tyro.cli(main)
