"""What thresholds and the number of exits do, on the records of shipped networks; nothing is trained.

    python benchmarks/ablations.py [--page-only]

Writes `benchmarks/results/ablation-thresholds-*.csv` and `ablation-exits-*.csv`, and from them
`docs/results/ablations.md`. What is chosen, is chosen on validation images; what is told, is of test images.
Sections of the page are from the tables of `placements.py`, `paper.py` and `dead_exits.py`, which do train.
"""

from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import results
import tyro
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
PLACED = "svhn-10k"  # data of `placements.py`


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

{places}{paper}{dead}## Where to go next

- How to set thresholds: [the guide](../how-to/thresholds.md).
- How networks of different depth compare: [networks](networks.md).
- Which ingredients help: [the race](race-parts.md#which-ingredients-help).
"""

PLACES = """## Placements, over depths and other backbones

The paper's four placements with three exits each, and the best exits that a search finds. {data}, on
{machine}. Each network was trained once, with `separable` heads at all places that one of the four wants.
Then all exits but those of the row are left out. Joined answers, gates and thresholds are fitted to these on
validation images. Figures are of {images} test images: half a 95 % interval is about {half:.1f} points.

:::{{table}} Accuracy in percent, in brackets the relative cost, three exits, by budget

{by_placement}

:::

A dash: the first exit alone costs more than the budget.

:::{{table}} The search with 1 to {most} exits: accuracy in percent, in brackets the relative cost

{by_number}

:::

`python benchmarks/placements.py --data {data}`; MobileNetV4 with `--epochs 40`, since it learns little in 8.
All trainings are short, and all exits of a network were trained together.

"""

PAPER = """## The paper's objective on the paper's data sets

Left the objective v2 of the paper with its heads and its threshold of 0.5, a network for each λ. Right ours,
one network for each row, whose budget is changed. All trials are shown, on test images. Trainings are short,
on {machine}. SVHN's part is 10,000 digits of its official test split, so it is no benchmark.

:::{{table}} Accuracy in percent, in brackets the relative cost. A star for each dead exit

{table}

:::

`python benchmarks/paper.py`.

"""

DEAD = """## Dead exits, by depth, λ and seed

ResNets with three exits on 8×8 digits, {epochs} epochs, {images} test images, on {machine}. Left: the paper's
objective v2 with its heads, a network for each λ. Right: ours, one network for each depth and seed, whose
budget is changed. An exit is dead if under 0.5 % of the images leave there, or if it knows next to nothing.

:::{{table}} Dead exits of three, in brackets by seed

{counts}

:::

:::{{table}} Accuracy in percent, in brackets the relative cost; means over these seeds

{means}

:::

λ in the paper is the weight of cost. `python benchmarks/dead_exits.py`.

"""


def places() -> str:
    """The section from the table of `placements.py`; nothing where there is none."""
    rows = results.read_found(f"placements-{PLACED}")
    if not rows:
        return ""
    found = {tuple(row[key] for key in ("backbone", "placement", "exits", "budget")): row for row in rows}
    budgets, numbers = (sorted({row[key] for row in rows}) for key in ("budget", "exits"))
    epochs = {row["backbone"]: row["epochs"] for row in rows}
    several = [(row["backbone"], row["placement"], "3") for row in rows if row["exits"] == "3"]
    searched = dict.fromkeys((row["backbone"], budget) for row in rows for budget in budgets)
    by_placement = [
        [
            f"{key[0]}, {epochs[key[0]]} epochs",
            key[1],
            *(cell(found[*key, b]) if (*key, b) in found else "–" for b in budgets),
        ]
        for key in dict.fromkeys(several)
    ]
    by_number = [
        [name, budget, *(cell(found[key]) if key in found else "–" for key in keys)]
        for name, budget in searched
        if (keys := [(name, "searched", count, budget) for count in numbers])
    ]
    return PLACES.format(
        data=PLACED,
        machine=results.hardware_of(f"placements-{PLACED}"),
        images=f"{int(rows[0]['images']):,}",
        half=100 * results.half_width(float(rows[0]["full"]), int(rows[0]["images"])),
        most=numbers[-1],
        by_placement=format_table(["backbone", "placement", *budgets], by_placement),
        by_number=format_table(["backbone", "budget", *numbers], by_number),
    )


def paper() -> str:
    """The section from the table of `paper.py`; nothing where there is none."""
    rows = results.read_found("paper")
    if not rows:
        return ""
    settings = sorted({(row["trained"], row["budget"]) for row in rows}, key=lambda each: each[::-1])
    table = [
        [
            f"{name}, {epochs} epochs",
            *(told_of(found[setting]) if setting in found else "–" for setting in settings),
        ]
        for name, epochs in dict.fromkeys((row["network"], row["epochs"]) for row in rows)
        if (found := {(r["trained"], r["budget"]): r for r in rows if r["network"] == name})
    ]
    return PAPER.format(
        machine=results.hardware_of("paper"),
        table=format_table(["network", *map(named, settings)], table),
    )


def named(setting: tuple[str, str]) -> str:
    """λ, or our budget."""
    trained, budget = setting
    return f"ours, {budget}" if budget else trained


def told_of(row: dict[str, str]) -> str:
    """Accuracy and cost, and how many exits are dead."""
    told = f"{100 * float(row['accuracy']):.1f} ({float(row['relative_cost']):.2f})"
    return told + " *" * int(row["dead"])


def dead() -> str:
    """The section from the table of `dead_exits.py`; nothing where there is none."""
    rows = results.read_found("dead_exits-digits")
    if not rows:
        return ""
    depths = dict.fromkeys(row["depth"] for row in rows)
    settings = dict.fromkeys((row["trained"], row["budget"]) for row in rows)
    counts, means = [], []
    for depth in depths:
        cells = [
            [row for row in rows if (row["depth"], row["trained"], row["budget"]) == (depth, *setting)]
            for setting in settings
        ]
        each = ([int(row["dead"]) for row in cell] for cell in cells)
        name = f"ResNet-{depth}"
        counts.append([name, *(f"{mean(found):.1f} ({' '.join(map(str, found))})" for found in each)])
        means.append([name, *(cell_of_means(cell) for cell in cells)])
    header = ["network", *map(named, settings)]
    return DEAD.format(
        epochs=rows[0]["epochs"],
        images=sum(map(int, rows[0]["leave"].split())),
        machine=results.hardware_of("dead_exits-digits"),
        counts=format_table(header, counts),
        means=format_table(header, means),
    )


def cell_of_means(rows: list[dict[str, str]]) -> str:
    """Accuracy and cost over seeds."""
    accuracy, cost = (mean(float(row[key]) for row in rows) for key in ("accuracy", "relative_cost"))
    return f"{100 * accuracy:.1f} ({cost:.2f})"


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
        places=places(),
        dead=dead(),
        paper=paper(),
    )


def cell(row: dict[str, str]) -> str:
    """Accuracy and cost, and whether an exit is dead."""
    told = f"{100 * float(row['accuracy']):.2f} ({float(row['relative_cost']):.3f})"
    return told + " *" * bool(row["dead_exits"])


def main(page_only: bool = False) -> None:
    """Measure, and write the page.

    Args:
        page_only: from the tables that are there.
    """
    if not page_only:
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
    tyro.cli(main)
