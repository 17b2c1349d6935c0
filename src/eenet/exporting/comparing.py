"""What was written, read back: against the network's answers, and against float32 on the clock."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eenet.common import hardware
from eenet.data import ImageSet
from eenet.exporting.formats import Job
from eenet.policies import ExitPolicy, Records, decide, recorded_scores
from eenet.runtime import MANIFEST_FILE, Contender, load_exported, mean_ms, run_batch, spread, times_in_turn

GUARD = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}  # around a threshold: there rounding may decide
AGREEMENT = 0.9  # images that leave at the same exit, at least
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2, "int8": 0.2}  # of a probability
BATCH_SIZES = (1, 64)
RUNS = 7
RUN_SECONDS = 0.1


def compare(job: Job, images: ImageSet, expected: Records) -> dict[str, Any]:
    """Load what was written and run it; `expected` holds what the network says.

    Raises:
        ValueError: an exit differs though no score is near its threshold, or a probability does.
    """
    pixels_BCHW = images.pixels_BCHW
    try:
        backend, policy = load_exported(job.target)
        answers = [run_batch(backend, policy, pixels_BCHW[i : i + 32]) for i in range(0, len(images), 32)]
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever the runtime may raise
        raise ValueError(f"what was written doesn't run: {reason(error)}") from error
    exits_B = np.concatenate([answer.exits_B for answer in answers])
    probabilities_BN = np.concatenate([answer.probabilities_BN for answer in answers])
    wanted_B = decide(expected, policy)
    near_B = _near_a_threshold(expected, policy, GUARD[job.precision])
    same_B = exits_B == wanted_B.numpy()
    if (wrong := int((~same_B & ~near_B).sum())) > 0 or same_B.mean() < AGREEMENT:
        raise ValueError(
            f"{wrong or int((~same_B).sum())} of {len(images)} images leave at another exit than "
            "in the network"
        )
    rows = torch.arange(len(images))
    wanted_BN = expected.answers(policy.enabled)[wanted_B, rows].softmax(1).numpy()
    differences = np.abs(probabilities_BN - wanted_BN)[same_B]
    difference = float(differences.max(initial=0))
    if not difference <= TOLERANCE[job.precision]:
        raise ValueError(
            f"probabilities differ by up to {difference:.2g} from the network's; "
            f"{TOLERANCE[job.precision]} is tolerated in {job.precision}"
        )
    return {"compared": int(same_B.sum()), "max_difference": difference}


def _near_a_threshold(records: Records, policy: ExitPolicy, guard: float) -> NDArray[np.bool_]:
    """Images with a score, at an exit that is on, so close to its threshold that rounding may decide."""
    near_B = np.zeros(len(records), bool)
    if policy.thresholds:
        scores_KB = recorded_scores(records, policy.score).numpy()
        for k, threshold in enumerate(policy.thresholds):
            if policy.enabled[k]:
                near_B |= np.abs(scores_KB[k] - threshold) <= guard
    return near_B


def time_against_fp32(lower: Path, fp32: Path, images: ImageSet) -> dict[str, Any]:
    """Milliseconds of a batch, in turn on the same images, each under the policy it was written with.

    Keys are batch sizes, of formats for single images only 1. Bytes are of all files but the manifest.
    """
    (now, now_policy), (before, before_policy) = (load_exported(path) for path in (lower, fp32))
    contenders = [
        Contender("fp32", lambda batch: run_batch(before, before_policy, batch)),
        Contender("lower", lambda batch: run_batch(now, now_policy, batch)),
    ]
    pixels_BCHW = images.pixels_BCHW
    found: dict[str, Any] = {
        "milliseconds": {},
        "fp32_milliseconds": {},
        "speedup_low": {},
        "speedup_high": {},
    }
    for size in BATCH_SIZES[:1] if now.one_at_a_time else BATCH_SIZES:
        times = times_in_turn(contenders, pixels_BCHW, batch_size=size, repeats=RUNS, run_seconds=RUN_SECONDS)
        key = str(size)
        found["milliseconds"][key] = mean_ms(times["lower"])
        found["fp32_milliseconds"][key] = mean_ms(times["fp32"])
        low, high = spread(times["fp32"], times["lower"])
        found["speedup_low"][key], found["speedup_high"][key] = low, high
    return {**found, "fp32_bytes": bytes_in(fp32), "hardware": hardware()}


def bytes_in(directory: Path) -> int:
    """Of exported files, without the manifest."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.name != MANIFEST_FILE)


def reason(error: Exception) -> str:
    """A line of what a library raised."""
    return " ".join(str(error).split())[:300] or type(error).__name__
