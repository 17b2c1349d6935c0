"""Which ingredients still help on which backbone: the shipped CIFAR-10 networks, with each one left out.

Training stays as it is. What is left out comes after it: that exits answer together, and the gates that learn
from validation images when to stop. Thresholds are set anew for each. Adds to
`benchmarks/results/ingredients-HARDWARE-torchVERSION.csv`.

    python benchmarks/ingredients.py
"""

from collections.abc import Iterator
from typing import Any

import results
from objectives import fitted_again, outcome
from ship import recorded

from eenet import EENet
from eenet.tasks.classification.diagnostics import bootstrap_interval

NETWORKS = ("cifar10-eenet13", "cifar10-eenet20", "cifar10-eenet56")
BUDGETS = (0.4, 0.5, 0.6)
LEFT_OUT = {  # whether answers are joined, and what decides
    "": (True, "confidence"),
    "joined answers": (False, "confidence"),
    "learned gates": (True, "max_softmax"),
    "both": (False, "max_softmax"),
    "both, entropy instead": (False, "entropy"),
}


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    """A row for each budget and what is left out: points against all ingredients, paired by image."""
    network = EENet.from_pretrained(name)
    seen = tuple(recorded(network, split) for split in ("validation", "test"))
    fitted = {joined: fitted_again(*seen, joined=joined) for joined in (True, False)}
    for budget in BUDGETS:
        done = {out: outcome(*fitted[joined], score, budget) for out, (joined, score) in LEFT_OUT.items()}
        for out, found in done.items():
            apart_B = 100 * (found.right_B - done[""].right_B)
            low, high = bootstrap_interval(apart_B)
            yield {
                "network": name,
                "left_out": out,
                "budget": budget,
                "accuracy": round(float(found.right_B.mean()), 5),
                "relative_cost": round(found.cost, 4),
                "points": round(float(apart_B.mean()), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "images": len(apart_B),
            }


def main() -> None:
    """Measure all of them."""
    rows = []
    for name in NETWORKS:
        rows += rows_of(name)
        print(rows[-len(BUDGETS) * len(LEFT_OUT) :], flush=True)
    print(results.write("ingredients", rows))


if __name__ == "__main__":
    main()
