"""What thresholds and the number of exits do, on the records of shipped networks; nothing is trained.

    python benchmarks/ablations.py

Writes `benchmarks/results/ablation-thresholds-*.csv` and `ablation-exits-*.csv`, and from them
`docs/results/ablations.md`. What is chosen, is chosen on validation images; what is told, is of test images.
"""

from itertools import product
from pathlib import Path
from typing import Any

import results
from ship import recorded

from eenet import EENet, Records, policy_for_budget
from eenet.common import format_table
from eenet.evaluation import measure
from eenet.policies import ExitPolicy, exits_for_budget

FILE = Path(__file__).parents[1] / "docs/results/ablations.md"
NETWORKS = (
    "cifar10-eenet13",
    "cifar10-eenet20",
    "cifar10-eenet56",
    "mnist-eenet20",
    "tiny-imagenet-50-eenet18",
)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
BUDGETS = (0.4, 0.5, 0.6)


def thresholds(name: str, tested: Records) -> list[dict[str, Any]]:
    """A row for each: all exits with the same one."""
    count = len(tested.head_macs)
    return [told(name, tested, ExitPolicy("confidence", (t,) * count), threshold=t) for t in THRESHOLDS]


def fewer_exits(name: str, held_out: Records, tested: Records) -> list[dict[str, Any]]:
    """For each budget and number of exits, the choice that is best on held-out images."""
    rows = []
    for budget, count in product(BUDGETS, range(1, len(tested.head_macs) + 1)):
        try:
            chosen = exits_for_budget(held_out, count, budget)
        except ValueError:  # no such choice keeps the budget
            continue
        policy = policy_for_budget(held_out, budget, exits=chosen)
        on = " ".join(map(str, chosen))
        rows.append(told(name, tested, policy, budget=budget, exits=count, on=on))
    return rows


def told(name: str, tested: Records, policy: ExitPolicy, **more: Any) -> dict[str, Any]:
    """A row."""
    found = measure(tested, policy)
    return {
        "network": name,
        **more,
        "accuracy": round(found.accuracy, 5),
        "relative_cost": round(found.relative_cost, 4),
        "dead_exits": " ".join(map(str, found.dead_exits)),
        "images": found.num_examples,
    }


PAGE = """# Thresholds and exits, one by one

What a threshold does, and what each further exit adds. Shipped networks on test images; nothing is trained
for it. This page is made by `python benchmarks/ablations.py` on {machine}.

## One threshold for all exits

The confidence is from 0 to 1 at every exit. An image leaves at the first exit whose confidence is above the
threshold.

:::{{table}} Accuracy in percent, in brackets the relative cost, by threshold. *: an exit where nobody leaves

{thresholds}

:::

Up to 0.6 nearly all images leave at the first exit, and the exits behind it are dead. The confidence says how
much of the full network's accuracy is kept by leaving here, so 0.6 is little. That is why thresholds are set
from a budget.

## Fewer exits

Exits that are switched off cost nothing. Those that are left keep their weights and gates. For each number of
exits the choice, and one threshold for all, are from validation images.

:::{{table}} Accuracy in percent, in brackets the relative cost, by the number of exits that are on

{exits}

:::

:::{{table}} Which exits that were

{chosen}

:::

All exits were trained together. A network that is trained with fewer may differ. For networks that were, see
[where the exits go](thresholds.md#where-the-exits-go).

## Where to go next

- How to set thresholds: [the guide](../how-to/thresholds.md).
- How networks of different depth compare: [networks](networks.md).
- Which ingredients help: [the race](race.md#which-ingredients-help).
"""


def page() -> str:
    """From the CSVs."""
    rows = results.read_found("ablation-thresholds")
    by_threshold = [
        [name, *(cell(row) for row in rows if row["network"] == name)]
        for name in dict.fromkeys(row["network"] for row in rows)
    ]
    fewer = results.read_found("ablation-exits")
    most = max(int(row["exits"]) for row in fewer)
    exits, chosen = [], []
    for key in dict.fromkeys((row["network"], row["budget"]) for row in fewer):
        own = {int(row["exits"]): row for row in fewer if (row["network"], row["budget"]) == key}
        exits.append([*key, *(cell(own[n]) if n in own else "–" for n in range(1, most + 1))])
        chosen.append([*key, *(own[n]["on"] if n in own else "–" for n in range(1, most + 1))])
    header = ["network", "budget", *(f"{n} on" for n in range(1, most + 1))]
    return PAGE.format(
        machine=results.hardware_of("ablation-thresholds"),
        thresholds=format_table(["network", *map(str, THRESHOLDS)], by_threshold),
        exits=format_table(header, exits),
        chosen=format_table(header, chosen),
    )


def cell(row: dict[str, str]) -> str:
    """Accuracy and cost, and whether an exit is dead."""
    told = f"{100 * float(row['accuracy']):.2f} ({float(row['relative_cost']):.3f})"
    return told + " *" * bool(row["dead_exits"])


def main() -> None:
    """Measure, and write the page."""
    by_threshold, by_exits = [], []
    for name in NETWORKS:
        network = EENet.from_pretrained(name)
        held_out, tested = (recorded(network, split) for split in ("validation", "test"))
        by_threshold += thresholds(name, tested)
        by_exits += fewer_exits(name, held_out, tested)
        print(by_exits[-1], flush=True)
    results.write("ablation-thresholds", by_threshold)
    results.write("ablation-exits", by_exits)
    FILE.write_text(page())


if __name__ == "__main__":
    main()
