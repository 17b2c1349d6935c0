"""What `eenet optimize` found on photos → `benchmarks/results/optimize-photos-*.csv`.

    python benchmarks/optimized.py runs/optimized photos/

All rows are as `candidates.csv` has them, on validation images. The given network and the winner are
evaluated on test images as well. A second table has each exit of the winner by itself.
"""

import csv
from pathlib import Path

import results
import tyro

import eenet
from eenet.networks import read_config
from eenet.policies import ExitPolicy


def main(run: Path, data: Path) -> None:
    """Copy the table and add the test accuracy of two rows.

    Args:
        run: what `eenet optimize` wrote.
        data: the folder of photos.
    """
    with (run / "candidates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    plain = {"name": "given", "precision": "fp32", "early_exit": "False", "cut": ""}
    given = next(row for row in rows if plain.items() <= row.items())
    winner = next(row for row in rows if row["within"] == "True")  # they are sorted by cost
    count = len(read_config(Path(given["checkpoint"])).exits)
    static = ExitPolicy.all_at(count, count)
    given["test_accuracy"] = eenet.evaluate(given["checkpoint"], static, data=str(data)).accuracy
    found = eenet.evaluate(run / "artifact", data=str(data))
    winner["test_accuracy"] = found.accuracy
    columns = zip(found.costs, found.exit_counts, found.exit_accuracy, strict=True)
    exits = [
        {"cost": round(cost, 4), "share": number / found.num_examples, "accuracy": worth}
        for cost, number, worth in columns
    ]
    print(results.write("optimize-photos-exits", exits))
    kept = [{key: value for key, value in row.items() if key != "checkpoint"} for row in rows]
    print(results.write("optimize-photos", kept))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs,))
