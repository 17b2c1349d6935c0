"""The paper's objective beside ours on the paper's data sets, with as many trials for each.

For each data set a network for every λ by the paper's objective v2, with its heads and its threshold of 0.5;
and one by ours, whose budget is changed afterwards. All trials are told. Trainings are short. What is in the
table already is not trained again.

    python benchmarks/paper.py

Writes `benchmarks/results/paper-*.csv`; `ablations.py` makes a section of its page from it.
"""

from dataclasses import replace
from typing import Any

import results
import tyro
from dead_exits import Table

from eenet.training import get_recipe

WEIGHTS = (0.1, 0.5, 1.0, 1.5)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "MNIST, ResNet-8": ("mnist-resnet8", {"epochs": 4}),
    "SVHN, a part, ResNet-20": ("svhn-resnet20", {"data": "svhn-10k", "epochs": 12}),
    "CIFAR-10, ResNet-20": ("cifar10-resnet20", {"epochs": 4}),
    "Tiny-ImageNet-50, ResNet-18": ("tiny-imagenet-50", {"epochs": 8}),
}


def main(only: tuple[str, ...] = ()) -> None:
    """Train what is missing.

    Args:
        only: names of rows. Default: all.
    """
    table = Table("paper")
    for name in results.chosen(ROWS, only):
        recipe, changed = ROWS[name]
        config = replace(get_recipe(recipe), **changed)
        table.add({"network": name, "epochs": config.epochs}, config, WEIGHTS)


if __name__ == "__main__":
    tyro.cli(main)
