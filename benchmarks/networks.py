"""Trained networks → a table of what each does on its test split, at its own budget and at others.

Reads finished run directories and adds them to `benchmarks/results/networks-HARDWARE-torchVERSION.csv`; a run
that is there already, by command and seed, is replaced. `results_page.py` makes the page of it.

    python benchmarks/networks.py runs/cifar10-eenet20 runs/cifar10-plain20
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
import tyro
from ship import recorded
from tyro.conf import Positional

from eenet import EENet, ExitPolicy, Records
from eenet.evaluation import measure
from eenet.networks import Config, read_config
from eenet.policies import RECORDS_FILE

KEY = ("command", "seed")


def main(runs: Positional[tuple[Path, ...]]) -> None:
    """Add runs.

    Args:
        runs: directories of finished `eenet train`, or of shipped networks.
    """
    by_hardware = defaultdict(list)
    for run in runs:
        for row in rows_of(run):
            by_hardware[row["hardware"]].append(row)
            print(row)
    for on, added in by_hardware.items():
        keys = {tuple(str(row[k]) for k in KEY) for row in added}
        kept = [row for row in results.read("networks", on) if tuple(row[k] for k in KEY) not in keys]
        rows = sorted([*kept, *added], key=lambda row: (row["data"], row["command"], str(row["seed"])))
        results.write("networks", rows, on)


def rows_of(run: Path) -> Iterator[dict[str, Any]]:
    """One for every budget; one for a plain backbone."""
    config = read_config(run)
    held_out, tested = (_records(run, split) for split in ("validation", "test"))
    trained, (epochs, seconds) = config.provenance["train_config"], config.effort
    common = {
        "data": trained["data"],
        "backbone": config.backbone,
        "num_exits": len(config.exits),
        "backbone_macs": config.backbone_macs,
        "command": config.provenance["command"],
        "seed": trained["seed"],
        "epochs": epochs,
        "minutes": round(seconds / 60, 1),
        "hardware": config.provenance["hardware"],
        "torch": config.provenance["versions"]["torch"],
        "date": config.provenance["date"],
        "test_images": len(tested),
        "validation_full_accuracy": held_out.full_accuracy,
        "full_accuracy": tested.full_accuracy,
    }
    if not config.exits:
        yield common | {"budget": "", "accuracy": common["full_accuracy"], "relative_cost": 1.0}
        return
    for budget, policy in _policies(config):
        measured = measure(tested, policy)
        shares = [count / len(tested) for count in measured.exit_counts]
        yield common | {
            "budget": budget,
            "default": budget == f"{trained['budget']:.3f}",
            "accuracy": measured.accuracy,
            "relative_cost": measured.relative_cost,
            "exit_shares": " ".join(f"{share:.3f}" for share in shares),
            "exit_accuracy": " ".join(f"{accuracy:.4f}" for accuracy in measured.exit_accuracy),
            "dead_exits": " ".join(map(str, measured.dead_exits)),
            "validation_accuracy": measure(held_out, policy).accuracy,
        }


def _records(run: Path, split: str) -> Records:
    path = run / RECORDS_FILE.format(split=split)
    return Records.load(path) if path.exists() else recorded(EENet.from_pretrained(run), split)


def _policies(config: Config) -> Iterator[tuple[str, ExitPolicy]]:
    for budget in sorted(config.budgets):
        yield budget, config.exit_policy(float(budget))


if __name__ == "__main__":
    tyro.cli(main)
