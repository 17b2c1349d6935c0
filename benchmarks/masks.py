"""Masks: what leaving early is worth against leaving at random, and against a network cut short.

    python benchmarks/masks.py runs/nuclei-seed0 [--plain runs/nuclei-plain-seed0]

Everything comes from the records that training left of the test images; no network is run. For every budget
of the checkpoint: cost and mIoU under its policy; mean mIoU of 200 draws in which as many images leave at
each exit, but which ones is chance; and the best exit that costs no more if all images leave there.
"""

import argparse
from pathlib import Path

import numpy as np

from eenet.common import format_table
from eenet.networks import read_config
from eenet.policies import RECORDS_FILE, ExitPolicy, decide
from eenet.tasks import SegmentationRecords, bootstrap, measure

DRAWS = 200


def at_random(records: SegmentationRecords, policy: ExitPolicy) -> float:
    """Mean mIoU where as many images leave at each exit as under a policy, whichever they are."""
    random, exits_B = np.random.default_rng(0), decide(records, policy)
    found = []
    for _ in range(DRAWS):
        shuffled_B = random.permutation(exits_B)
        totals_NN = records.confusion_KBNN[shuffled_B, np.arange(len(records))].sum(0, dtype=np.float64)
        both_N = np.diagonal(totals_NN)
        either_N = totals_NN.sum(0) + totals_NN.sum(1) - both_N
        found.append(float((both_N[either_N > 0] / either_N[either_N > 0]).mean()))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--plain", type=Path, help="the same network, trained without exits")
    given = parser.parse_args()
    records = SegmentationRecords.load(given.checkpoint / RECORDS_FILE.format(split="test"))
    config = read_config(given.checkpoint)
    rows = []
    for budget in sorted(config.budgets, key=float):
        policy = config.exit_policy(float(budget))
        found, (low, high) = measure(records, policy), bootstrap(records, policy)["drop"]
        cuts = [
            miou
            for cost, miou in zip(found.costs, found.exit_miou, strict=True)  # type: ignore[attr-defined]
            if cost <= found.relative_cost + 1e-9
        ]
        shares = "/".join(f"{count / len(records):.0%}" for count in found.exit_counts)
        rows.append(
            [
                budget,
                f"{found.relative_cost:.3f}",
                f"{100 * found.quality:.2f}",
                f"{100 * low:.2f} to {100 * high:.2f}",
                f"{100 * at_random(records, policy):.2f}",
                f"{100 * max(cuts):.2f}" if cuts else "–",
                shares,
            ]
        )
    header = ["budget", "cost", "mIoU", "95 % of the drop", "at random", "best cut", "leave at each exit"]
    print(format_table(header, rows))
    whole = measure(records, config.exit_policy())
    print(f"\nwithout leaving early {100 * whole.full_quality:.2f}")
    if given.plain:
        plain = SegmentationRecords.load(given.plain / RECORDS_FILE.format(split="test"))
        print(f"trained without exits {100 * measure(plain, ExitPolicy('confidence', ())).quality:.2f}")


if __name__ == "__main__":
    main()
