"""What a report shows of masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from eenet.data import NO_CLASS
from eenet.policies import ExitPolicy, decide
from eenet.tasks.pages import beside, confusions, figure, worst_classes
from eenet.tasks.segmentation.maps import class_map, overlay
from eenet.tasks.segmentation.metrics import bootstrap
from eenet.tasks.segmentation.records import SegmentationRecords, iou, miou

SHOWN = 320  # pixels of answer and truth side by side


def exits_shown(records: SegmentationRecords) -> dict[str, Any]:
    """Of each exit, see `Task.exits_shown`."""
    each = [miou(confusion_BNN.sum(0)) for confusion_BNN in records.confusion_KBNN]
    return {"full": each[-1], "exit_quality": each}


def policy_shown(records: SegmentationRecords, policy: ExitPolicy) -> dict[str, Any]:
    """Of a policy, see `Task.policy_shown`."""
    totals_NN = records.totals(policy)
    return {
        "interval": bootstrap(records, policy)["miou"],
        "confusion": confusions(totals_NN),
        "by_class": worst_classes(totals_NN.sum(1), iou(totals_NN), iou(records.confusion_KBNN[-1].sum(0))),
    }


def masks_shown(
    records: SegmentationRecords, policy: ExitPolicy, images: Any, members: Sequence[int], network: Any
) -> list[dict[str, Any]]:
    """Answer and truth over images, see `Task.figures`."""
    exits_B, found = decide(records, policy), []
    for i in members:
        pixels_CHW, mask_HW = images.pair(i)
        logits_KBNhw, _ = network.answers(images.scaled(i)[0][None])
        answer_HW = class_map(logits_KBNhw[exits_B[i], 0], mask_HW.shape)
        truth_HW = np.where(mask_HW == NO_CLASS, answer_HW, mask_HW)
        image = np.repeat(pixels_CHW, 3 // len(pixels_CHW), 0).transpose(1, 2, 0)
        both = [
            overlay(Image.fromarray(image), shown_HW, records.num_classes)
            for shown_HW in (answer_HW, truth_HW)
        ]
        own = miou(records.confusion_KBNN[exits_B[i], i])
        found.append(figure(beside(both), f"{own:.0%}", thumbnail=SHOWN))
    return found
