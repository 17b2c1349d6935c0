"""What corruptions do to a network's accuracy, cost and guarantee, and how soon the drift alarm notices them.

Two tables in `benchmarks/results/`: `shift-CHECKPOINT-…` and `drift-CHECKPOINT-…`.

    python benchmarks/shift.py mnist-eenet20
"""

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import results
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from eenet import (
    DriftMonitor,
    EENet,
    ExitPolicy,
    Records,
    collect,
    data,
    policy_for_budget,
    policy_for_risk,
)
from eenet.common import format_table
from eenet.data import CORRUPTIONS, ImageSet, corrupt
from eenet.data.corruptions import SEVERITIES
from eenet.evaluation import depths_of
from eenet.evaluation.shift import describe

RISK, DELTA, ALPHA = 0.02, 0.1, 0.01
CLEAN_STREAMS, CLEAN_LENGTH, STREAMS, LENGTH = 100, 10_000, 20, 500


def main(checkpoint: Positional[str], most: int = 2000) -> None:
    """Measure one checkpoint on the data it was trained on.

    Args:
        checkpoint: directory or name.
        most: test images under each corruption, at most two thirds of all: the others
            calibrate the guarantee.
    """
    network = EENet.from_pretrained(checkpoint)
    trained = network.config.provenance["train_config"]
    held_out, test = (data.load(trained["data"], split) for split in ("validation", "test"))
    before, tested = (collect(network, images) for images in (held_out, test))
    order = np.random.default_rng(0).permutation(len(test))
    most = min(most, 2 * len(test) // 3)
    policy = network.config.exit_policy()
    policies = {
        "learned": policy,
        "max_softmax": policy_for_budget(before, trained["budget"], scores=("max_softmax",)),
        "guarantee": policy_for_risk(tested.subset(order[most:]), RISK, delta=DELTA)[0],
    }
    rows = np.sort(order[:most]).tolist()
    clean = ImageSet(test.pixels(rows), test.labels_B[rows], test.class_names)
    calibration = depths_of(before, policy).tolist()
    shifted: list[dict[str, Any]] = []
    drift = [false_alarms(calibration, depths_of(tested, policy))]
    print(drift[0], flush=True)
    for name, severity in [("none", 0), *((n, s) for n in CORRUPTIONS for s in SEVERITIES)]:
        damaged = clean
        if severity:
            pixels = corrupt(clean.pixels_BCHW, name, severity)
            damaged = ImageSet(pixels, clean.labels_B, clean.class_names)
        records = collect(network, damaged)
        shifted.append({"corruption": name, "severity": severity, **described(records, policies)})
        print(shifted[-1], flush=True)
        if severity in (1, 3, 5):
            drift.append(
                {"corruption": name, "severity": severity, **delays(calibration, depths_of(records, policy))}
            )
    name = Path(checkpoint).name
    for kind, rows_of_kind in {"shift": shifted, "drift": drift}.items():
        results.write(f"{kind}-{name}", [{"checkpoint": name, **row} for row in rows_of_kind])
    print(format_table(list(drift[1]), [[str(value) for value in row.values()] for row in drift[1:]]))


def described(records: Records, policies: dict[str, ExitPolicy]) -> dict[str, Any]:
    """Each policy's accuracy, cost and excess error; the full network's accuracy."""
    row: dict[str, Any] = {}
    for name, policy in policies.items():
        found = describe(records, policy)
        for key in ("accuracy", "relative_cost", "excess_error", "calibration_error"):
            row[f"{name}_{key}"] = round(getattr(found, key), 4)
        row["full_accuracy"] = round(found.full_accuracy, 4)
        if name == "learned":
            row["exit_shares"] = " ".join(f"{share:.3f}" for share in found.exit_shares)
    return row


def false_alarms(calibration: list[float], depths_B: NDArray[np.float64]) -> dict[str, Any]:
    """Of streams drawn with replacement from clean test images."""
    random, alarms = np.random.default_rng(0), 0
    for seed in range(CLEAN_STREAMS):
        monitor = DriftMonitor(calibration, alpha=ALPHA, seed=seed)
        for depth in random.choice(depths_B, CLEAN_LENGTH).tolist():
            if monitor.update(depth):
                break
        alarms += monitor.alarm
    return {
        "corruption": "none",
        "severity": 0,
        "alarms": alarms,
        "streams": CLEAN_STREAMS,
        "length": CLEAN_LENGTH,
    }


def delays(calibration: list[float], depths_B: NDArray[np.float64]) -> dict[str, Any]:
    """Images until the alarm: the median over orders, above the length if there mostly is none."""
    random, found = np.random.default_rng(0), []
    for seed in range(STREAMS):
        monitor = DriftMonitor(calibration, alpha=ALPHA, seed=seed)
        for depth in random.permutation(depths_B)[:LENGTH].tolist():
            if monitor.update(depth):
                break
        found.append(monitor.alarm_at or LENGTH + 1)
    alarms = sum(at <= LENGTH for at in found)
    return {"alarms": alarms, "streams": STREAMS, "length": LENGTH, "median_images": median(found)}


if __name__ == "__main__":
    tyro.cli(main)
