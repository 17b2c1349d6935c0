"""Boxes: what leaving early is worth against leaving at random and a network cut short; and empty images.

    python benchmarks/boxes.py runs/bccd-seed0 [--plain runs/bccd-plain-seed0]

Everything comes from the records that training left of the test images; no network is run. For every budget
of the checkpoint: cost and mAP under its policy; mean mAP of 200 draws in which as many images leave at each
exit, but which ones is chance; and the best exit that costs no more if all images leave there.

If some images are empty: 200 times the threshold for surely empty ones is set on one half of the images,
drawn at random, and the images with objects that leave as empty are counted on the other half.
"""

import argparse
from pathlib import Path

import numpy as np

from eenet.common import format_table
from eenet.networks import read_config
from eenet.policies import RECORDS_FILE, ExitPolicy, decide, policy_for_risk
from eenet.tasks import DetectionEvaluation, DetectionRecords, measure
from eenet.tasks.detection.metrics import bootstrap_boxes
from eenet.tasks.detection.precision import average_precision, mean_of

DRAWS = 200
MISSED, DELTA = 0.05, 0.1


def at_random(records: DetectionRecords, policy: ExitPolicy) -> float:
    """Mean mAP where as many images leave at each exit as under a policy, whichever they are."""
    random, exits_B = np.random.default_rng(0), decide(records, policy)
    draws = [average_precision(records.pooled(random.permutation(exits_B)))[0] for _ in range(DRAWS)]
    return float(np.mean([mean_of(found_TN) for found_TN in draws]))


def guarantee(records: DetectionRecords) -> str:
    """How often at most 5 % of the images with objects are missed, and how many empty ones leave."""
    random, count, kept, left = np.random.default_rng(0), len(records), 0, []
    for _ in range(DRAWS):
        order = random.permutation(count)
        fitted, others = records.subset(order[: count // 2]), records.subset(order[count // 2 :])
        try:
            policy, _ = policy_for_risk(fitted, MISSED, delta=DELTA, risk="missed")
        except ValueError as error:
            return f"empty images: {error}"
        found = measure(others, policy)
        assert isinstance(found, DetectionEvaluation)
        kept += found.missed <= MISSED * others.holding().sum()
        left.append((found.left_as_empty - found.missed) / max(found.empty_images, 1))
    return (
        f"empty images: at most {MISSED:.0%} of those with objects missed in {kept} of {DRAWS} resamplings; "
        f"{np.mean(left):.0%} of the empty ones leave early"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--plain", type=Path, help="the same network, trained without exits")
    given = parser.parse_args()
    records = DetectionRecords.load(given.checkpoint / RECORDS_FILE.format(split="test"))
    config, rows = read_config(given.checkpoint), []
    for budget in sorted(config.budgets, key=float):
        policy = config.exit_policy(float(budget))
        found, (low, high) = measure(records, policy), bootstrap_boxes(records, policy)["drop"]
        assert isinstance(found, DetectionEvaluation)
        each = zip(found.costs, found.exit_map, strict=True)
        cuts = [value for cost, value in each if cost <= found.relative_cost + 1e-9]
        rows.append(
            [
                budget,
                f"{found.relative_cost:.3f}",
                f"{100 * found.map:.2f}",
                f"{100 * found.map50:.2f}",
                f"{100 * low:.2f} to {100 * high:.2f}",
                f"{100 * at_random(records, policy):.2f}",
                f"{100 * max(cuts):.2f}" if cuts else "–",
                "/".join(f"{count / len(records):.0%}" for count in found.exit_counts),
            ]
        )
    print(format_table(["budget", "cost", "mAP", "mAP50", "drop", "random", "cut", "exits"], rows))
    full = measure(records, ExitPolicy("confidence", (1.0,) * len(config.exits)))
    assert isinstance(full, DetectionEvaluation)
    print(f"\nfull network: mAP {100 * full.full_map:.2f}, mAP50 {100 * full.full_map50:.2f}")
    if given.plain:
        alone = DetectionRecords.load(given.plain / RECORDS_FILE.format(split="test"))
        plain = measure(alone, ExitPolicy("confidence", ()))
        assert isinstance(plain, DetectionEvaluation)
        print(f"without exits: mAP {100 * plain.map:.2f}, mAP50 {100 * plain.map50:.2f}")
    if not records.holding().all():
        print(guarantee(records))


if __name__ == "__main__":
    main()
