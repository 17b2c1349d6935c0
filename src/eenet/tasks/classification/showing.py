"""What a report shows of labels."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image

from eenet.policies import ExitPolicy, Records
from eenet.tasks.classification.diagnostics import diagnose, reliability
from eenet.tasks.classification.metrics import answered, measure
from eenet.tasks.pages import confusions, figure, worst_classes


def exits_shown(records: Records, policy: ExitPolicy) -> dict[str, Any]:
    """Of each exit, see `Task.exits_shown`."""
    found, correct_KB = diagnose(records, policy), records.correct()
    return {
        "full": records.full_accuracy,
        "plain": float((records.logits_KBN[-1].argmax(1) == records.labels_B).mean()),
        "exit_quality": correct_KB.mean(1).tolist(),
        "auroc": [*found.auroc, None],
        "oracle": found.oracle,
        "calibration_error": found.calibration_error,
        "reliability": [
            dict(zip(("probability", "accuracy", "count"), reliability(logits_BN, right_B), strict=True))
            for logits_BN, right_B in zip(records.answers(), correct_KB, strict=True)
        ],
    }


def policy_shown(records: Records, policy: ExitPolicy) -> dict[str, Any]:
    """Of a policy, see `Task.policy_shown`."""
    measured, count, classes = measure(records, policy), len(records), records.num_classes
    labels_B, answers_B = records.labels_B, answered(records, policy)
    counts_NN = np.zeros((classes, classes), int)
    np.add.at(counts_NN, (labels_B, answers_B), 1)
    of_N = np.maximum(counts_NN.sum(1), 1)
    full_N = np.bincount(labels_B, records.correct()[-1], classes) / of_N
    return {
        "interval": wilson(round(measured.accuracy * count), count),
        "leaving": measured.leaving_accuracy,
        "confusion": confusions(counts_NN),
        "by_class": worst_classes(counts_NN.sum(1), counts_NN.diagonal() / of_N, full_N),
    }


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share. Wilson 1927."""
    square = NormalDist().inv_cdf(0.975) ** 2
    middle = (right + square / 2) / (count + square)
    reach = (square * (right * (count - right) / count + square / 4)) ** 0.5 / (count + square)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def labels_shown(
    records: Records, policy: ExitPolicy, images: Any, members: Sequence[int]
) -> list[dict[str, Any]]:
    """Images with their answers, see `Task.figures`."""
    names, answers_B, found = images.class_names, answered(records, policy), []
    for i, pixels_CHW in zip(members, images.pixels(members) if len(members) else [], strict=True):
        said, true = names[int(answers_B[i])], names[int(images.labels_B[i])]
        array = np.asarray(pixels_CHW)
        picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
        wrong = said != true
        found.append(figure(picture, f"{said}, is {true}" if wrong else said, wrong=wrong))
    return found
