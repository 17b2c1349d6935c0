"""What was written, read back: against the network's answers, and against float32 on the clock."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.common import hardware
from eenet.exporting.formats import Job
from eenet.networks import CONFIG_FILE, GRAPH_FILE, MANIFEST_FILE
from eenet.policies import ExitPolicy, chain, join, probabilities, score_of
from eenet.runtime import Contender, load_exported, mean_ms, run_batch, spread, times_in_turn
from eenet.tasks import task_of

GUARD = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}  # around a threshold: there rounding may decide
MAY_DIFFER = 0.1  # part of the images that rounding may send to another exit; of few images one
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2, "int8": 0.2}  # of a probability; of what is above 1, in parts of it
RUNS = 7
RUN_SECONDS = 0.1


Said = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits [K, B, N, ...] and confidence logits [K - 1, B] of all exits."""


def compare(job: Job, pixels_BCHW: NDArray[np.uint8], said: Said) -> dict[str, Any]:
    """Load what was written and run it; `said` is what the network says.

    Raises:
        ValueError: an exit differs though no score is near its threshold, or a probability does.
    """
    count = len(pixels_BCHW)
    try:
        backend, policy = load_exported(job.target)
        answers = [run_batch(backend, policy, pixels_BCHW[i : i + 32]) for i in range(0, count, 32)]
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever the runtime may raise
        raise ValueError(f"what was written doesn't run: {reason(error)}") from error
    exits_B = np.concatenate([answer.exits_B for answer in answers])
    probabilities_BN = np.concatenate([answer.probabilities_BN for answer in answers])
    wanted_B = policy.decide(*map(list, said))
    near_B = near_a_threshold(said, policy, GUARD[job.precision])
    same_B = exits_B == wanted_B
    others, wrong = int((~same_B).sum()), int((~same_B & ~near_B).sum())
    if wrong > 0 or others > max(1, MAY_DIFFER * count):
        raise ValueError(f"{wrong or others} of {count} images leave at another exit than in the network")
    wanted_BN = _answers(job, said[0], policy)[wanted_B, np.arange(count)]
    differences = (np.abs(probabilities_BN - wanted_BN) / np.maximum(wanted_BN, 1))[same_B]
    difference = float(differences.max(initial=0))
    if not difference <= TOLERANCE[job.precision]:
        raise ValueError(
            f"probabilities differ by up to {difference:.2g} from the network's; "
            f"{TOLERANCE[job.precision]} is tolerated in {job.precision}"
        )
    return {"compared": int(same_B.sum()), "max_difference": difference}


def _answers(job: Job, logits_KBN: NDArray[np.float32], policy: ExitPolicy) -> NDArray[np.float32]:
    """What an image leaves with at each exit, joined with those of the exits before."""
    found, joined_BN, task = [], None, task_of(job.network.config.task)
    weights_K = chain(job.network.config.ensemble, policy.enabled)
    for logits_BN, weights in zip(logits_KBN, weights_K, strict=True):
        found.append(task.answers(logits_BN))
        if weights is not None:
            joined_BN = join(found[-1], joined_BN, weights)
            found[-1] = probabilities(joined_BN)
    return np.stack(found)


def near_a_threshold(said: Said, policy: ExitPolicy, guard: float) -> NDArray[np.bool_]:
    """Images with a score, at an exit that is on, so close to its threshold that rounding may decide."""
    near_B = np.zeros(said[0].shape[1], bool)
    for k, threshold in enumerate(policy.thresholds):
        if policy.enabled[k]:
            score_B = score_of(policy.score, [said[0][k]], [said[1][k]])
            near_B |= np.abs(score_B - threshold) <= guard
    return near_B


def time_against_fp32(job: Job, fp32: Path, pixels_BCHW: NDArray[np.uint8]) -> dict[str, Any]:
    """Milliseconds of a batch, in turn on the same images, each under the policy it was written with.

    Keys are batch sizes, of formats for single images only 1. Bytes are of all files but the manifest.
    """
    (now, now_policy), (before, before_policy) = (load_exported(path) for path in (job.target, fp32))
    contenders = [
        Contender("fp32", lambda batch: run_batch(before, before_policy, batch)),
        Contender("lower", lambda batch: run_batch(now, now_policy, batch)),
    ]
    found: dict[str, Any] = {
        "milliseconds": {},
        "fp32_milliseconds": {},
        "speedup_low": {},
        "speedup_high": {},
    }
    for size in (1,) if now.one_at_a_time else task_of(job.network.config.task).timed_sizes:
        times = times_in_turn(contenders, pixels_BCHW, batch_size=size, repeats=RUNS, run_seconds=RUN_SECONDS)
        key = str(size)
        found["milliseconds"][key] = mean_ms(times["lower"])
        found["fp32_milliseconds"][key] = mean_ms(times["fp32"])
        low, high = spread(times["fp32"], times["lower"])
        found["speedup_low"][key], found["speedup_high"][key] = low, high
    return {**found, "fp32_bytes": bytes_in(fp32), "hardware": hardware()}


def bytes_in(directory: Path) -> int:
    """Of exported files that other programs run."""
    rest = {MANIFEST_FILE, CONFIG_FILE, GRAPH_FILE}
    return sum(path.stat().st_size for path in directory.iterdir() if path.name not in rest)


def reason(error: Exception) -> str:
    """A line of what a library raised."""
    return " ".join(str(error).split())[:300] or type(error).__name__
