"""What an exit says of every place, which place is to find which object, and the loss of both.

Anchor-free: a place at the state's stride says how likely it belongs to an object of each class, and how far
the sides of its box are. Places near the middle of an object are to find it, as in FCOS (Tian et al. 2019).
The probability they are taught is how well their box fits, as in Generalized Focal Loss (Li et al. 2020), so
that it also ranks boxes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from eenet.data import UNCOUNTED
from eenet.tasks.decoder import Answer
from eenet.tasks.detection.boxes import LEAST, MOST_CELLS
from eenet.tasks.detection.records import STATISTICS
from eenet.tasks.gain import GainGate

BLOCKS = 2  # of a head
RADIUS = 1.5  # cells around the middle of an object, whose places are to find it
RARE = 0.01  # probability of an object at a place, before training
USUAL = 1.0  # logarithm of a distance to a side, in cells, before training
BOX_WEIGHT = 2.0  # of the boxes' loss against that of the classes
SURELY_EMPTY = 30.0  # confidence logit of an image that leaves as empty
SUREST = 15.0  # of any other


class BoxAnswer(Answer):
    """State → logits [B, N + 4, h, w]: of classes, and of the distances to left, top, right, bottom."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(width, num_classes + 4, blocks=BLOCKS)
        last = self[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        with torch.no_grad():
            last.bias[:num_classes] = math.log(RARE / (1 - RARE))
            last.bias[num_classes:] = USUAL


class BoxGate(GainGate):
    """What going on is expected to gain; an image that is surely empty leaves at once."""

    empty_above: Tensor

    def __init__(self) -> None:
        super().__init__(STATISTICS, "clearness", ("largeness",))
        self.register_buffer("empty_above", torch.tensor(1.0))
        """Emptiness from which on an image leaves as empty; 1: none does."""

    def judge(self, statistics_BS: Tensor) -> Tensor:
        confidence_B = super().judge(statistics_BS).clamp(max=SUREST)
        empty_B = statistics_BS[:, STATISTICS.index("emptiness")] > self.empty_above
        return torch.where(empty_B, torch.full_like(confidence_B, SURELY_EMPTY), confidence_B)


def answered(logits: Tensor) -> Tensor:
    """Class probabilities, and distances in cells: [B, N + 4, h, w]."""
    return torch.cat([logits[:, :-4].sigmoid(), logits[:, -4:].clamp(LEAST, MOST_CELLS).exp()], 1)


def assigned(objects_BM5: Tensor, size: tuple[int, int]) -> Tensor:
    """Which object each place is to find: [B, 5, h, w].

    Args:
        objects_BM5: label, left, top, right, bottom, in parts of the image's sides.
        size: (h, w), places there are.

    Returns:
        Its label, and the distances to its sides in cells. Where several objects are near, the smallest;
        where none is, the label is negative: `UNCOUNTED` within objects that don't count.
    """
    return torch.stack([_assigned(objects_M5, *size) for objects_M5 in objects_BM5])


def _assigned(objects_M5: Tensor, height: int, width: int) -> Tensor:
    options = {"device": objects_M5.device, "dtype": objects_M5.dtype}
    labels_M11 = objects_M5[:, :1, None]
    sides_M4 = objects_M5[:, 1:] * torch.tensor([width, height] * 2, **options)
    left, top, right, bottom = (side[:, None, None] for side in sides_M4.unbind(1))
    x = torch.arange(width, **options) + 0.5
    y = torch.arange(height, **options)[:, None] + 0.5
    distances = torch.broadcast_tensors(x - left, y - top, right - x, bottom - y)
    distances_4Mhw = torch.stack(distances)
    inside_Mhw = (distances_4Mhw > 0).all(0)
    away_Mhw = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
    finds_Mhw = ((away_Mhw < RADIUS) & inside_Mhw | (away_Mhw <= 0.5)) & (labels_M11 >= 0)
    areas_M11 = (right - left) * (bottom - top)
    smallest_hw, which_hw = torch.where(finds_Mhw, areas_M11, math.inf).min(0)
    label_hw = labels_M11.flatten()[which_hw]
    uncounted_hw = (inside_Mhw & (labels_M11 == UNCOUNTED)).any(0)
    nothing_hw = torch.where(uncounted_hw, float(UNCOUNTED), -1.0)
    label_hw = torch.where(smallest_hw < math.inf, label_hw, nothing_hw)
    own_4hw = distances_4Mhw.gather(1, which_hw.expand(4, 1, height, width))[:, 0]
    return torch.cat([label_hw[None], own_4hw.clamp(min=math.exp(LEAST))])


def detection_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Quality focal loss of the classes, and generalized IoU loss of the boxes, for each place that finds.

    Args:
        logits: of an exit, [B, N + 4, h, w].
        targets: of `assigned`, [B, 5, h, w].
    """
    logits = logits.float()
    classes, label_Bhw = logits[:, :-4], targets[:, 0]
    rows = (label_Bhw >= 0).nonzero(as_tuple=True)
    labels_P = label_Bhw[rows].long()
    ours_P4, true_P4 = (
        _around(each.permute(0, 2, 3, 1)[rows]) for each in (answered(logits)[:, -4:], targets[:, 1:])
    )
    lost_P = generalized_box_iou_loss(ours_P4, true_P4)
    wanted = torch.zeros_like(classes)
    wanted[rows[0], labels_P, rows[1], rows[2]] = _fit(ours_P4, true_P4).detach()
    weight = (wanted - classes.sigmoid()) ** 2 * (label_Bhw != UNCOUNTED)[:, None]
    of_classes = weight * F.binary_cross_entropy_with_logits(classes, wanted, reduction="none")
    return (of_classes.sum() + BOX_WEIGHT * lost_P.sum()) / max(len(labels_P), 1)


def _around(distances_P4: Tensor) -> Tensor:
    """Boxes around the origin."""
    return torch.cat([-distances_P4[:, :2], distances_P4[:, 2:]], 1)


def _fit(ours_P4: Tensor, true_P4: Tensor) -> Tensor:
    """Intersection over union of boxes, one by one."""
    both_P2 = torch.minimum(ours_P4[:, 2:], true_P4[:, 2:]) - torch.maximum(ours_P4[:, :2], true_P4[:, :2])
    both_P = both_P2.clamp(min=0).prod(1)
    areas = [(boxes_P4[:, 2:] - boxes_P4[:, :2]).prod(1) for boxes_P4 in (ours_P4, true_P4)]
    return both_P / (areas[0] + areas[1] - both_P)
