"""Records of masks: mIoU under any policy, its linear part, gates for what going on gains, intervals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import jaccard_score

import eenet
from eenet.evaluation import Measured, measure
from eenet.policies import decide, fit, policy_for_drop, recorded_scores
from eenet.tasks import SegmentationRecords, bootstrap, task_of
from eenet.tasks.segmentation.metrics import measure_masks
from eenet.tasks.segmentation.records import RECORDED, confusion, miou, near_boundaries

K, B, N = 3, 60, 4


def answers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth [B, H, W] and what exits say [K, B, H, W]; some images are hard, and going on helps there."""
    random = np.random.default_rng(seed)
    truth = random.integers(N, size=(B, 12, 12)).astype(np.uint8)
    truth[random.random(truth.shape) < 0.05] = 255
    hard_B = random.random(B)
    said = np.empty((K, *truth.shape), np.uint8)
    for k, error in enumerate((0.5, 0.3, 0.1)):
        wrong = random.random(truth.shape) < (error * hard_B)[:, None, None]
        said[k] = np.where(wrong, random.integers(N, size=truth.shape), np.minimum(truth, N - 1))
    return truth, said


def made(seed: int = 0) -> SegmentationRecords:
    truth, said = answers(seed)
    random = np.random.default_rng(seed)
    matrices = np.stack([[confusion(t, a, N) for t, a in zip(truth, each, strict=True)] for each in said])
    wrong_KB = (said[:-1] != np.minimum(truth, N - 1)).mean((2, 3))
    scores = np.stack([1 - wrong_KB + 0.02 * random.standard_normal(wrong_KB.shape) for _ in RECORDED])
    agreement = np.zeros((K - 1, K - 1, B), np.float32)
    agreement[1, 0] = (said[1] == said[0]).mean((1, 2))
    names = [f"class {n}" for n in range(N)]
    return SegmentationRecords(
        matrices, scores.astype(np.float32), agreement, np.zeros((K - 1, B), np.float32),
        [40, 30, 30], [2, 2], 100, names,
    )  # fmt: skip


def policy(*thresholds: float, score: str = "sure_share") -> eenet.ExitPolicy:
    return eenet.ExitPolicy(score, thresholds)


def test_miou_is_that_of_all_pixels_together() -> None:
    truth, said = answers()
    records, chosen = made(), policy(0.9, 0.9)
    exits_B = decide(records, chosen)
    assert len(set(exits_B.tolist())) == K
    ours = said[exits_B, np.arange(B)]
    counted = truth < N
    expected: Any = jaccard_score(truth[counted], ours[counted], average=None)  # type: ignore[arg-type]
    found = measure(records, chosen)
    assert found.quality == pytest.approx(expected.mean())
    assert [*found.class_iou.values()] == pytest.approx(expected)  # type: ignore[attr-defined]
    assert found.pixel_accuracy == pytest.approx((truth == ours)[counted].mean())  # type: ignore[attr-defined]
    full = jaccard_score(truth[counted], said[-1][counted], average="macro")
    assert found.full_quality == pytest.approx(full)
    assert found.exit_counts == np.bincount(exits_B, minlength=K).tolist()
    assert found.relative_cost == pytest.approx(np.array(records.costs())[exits_B].mean())
    assert "mIoU" in str(task_of("segmentation").evaluate(records, chosen))


def test_classes_that_never_occur_do_not_count() -> None:
    totals = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    assert miou(totals) == pytest.approx((8 / 10 + 10 / 12) / 2)


def test_the_linear_part_is_right_at_the_policy_and_near_it() -> None:
    records, chosen = made(), policy(0.9, 0.9)
    near, exits_B, rows = records.around(chosen), decide(records, chosen), np.arange(B)
    worth_KB = near.worth()
    assert worth_KB[exits_B, rows].mean() == pytest.approx(records.quality(chosen))
    image = int(np.flatnonzero(exits_B == 0)[0])
    changed = exits_B.copy()
    changed[image] = K - 1
    other = miou(records.confusion_KBNN[changed, rows].sum(0))
    gained = (worth_KB[K - 1, image] - worth_KB[0, image]) / B
    assert other - records.quality(chosen) == pytest.approx(gained, rel=0.1)


def test_gates_rank_by_what_going_on_gains() -> None:
    records = made()
    _, fitted = records.gated()
    worth_KB = records.worth()
    gains_B = worth_KB[-1] - worth_KB[0]
    rank: Any = spearmanr(-fitted.confidence_logits_KB[0], gains_B)
    assert rank.statistic > 0.8


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("rule", ["confidence", "sure_share", "agreement"])
def test_a_budget_is_kept_and_used(budget: float, rule: str) -> None:
    fitted = fit(made(), budget, gate="gain", rule=rule)
    found = measure(fitted.records, fitted.policy)
    assert found.relative_cost <= budget + 1e-9
    if rule != "agreement":  # which says nothing at the first exit
        assert found.relative_cost > budget - 0.1
    assert len(fitted.gates) == K - 1
    if rule == "confidence":
        assert found.quality > _at_random(fitted.records, found)


def _at_random(records: Any, found: Measured) -> float:
    """mIoU of the same shares of exits, dealt out at random."""
    exits_B = np.repeat(np.arange(K), found.exit_counts)
    random = np.random.default_rng(0)
    draws = [random.permutation(exits_B) for _ in range(100)]
    return float(np.mean([miou(records.confusion_KBNN[d, np.arange(B)].sum(0)) for d in draws]))


def test_a_drop_is_kept_with_the_boldest_threshold() -> None:
    _, records = made().gated()
    chosen = policy_for_drop(records, 0.02)
    full = measure(records, chosen).full_quality
    assert full - records.quality(chosen) <= 0.02
    bolder = eenet.ExitPolicy("confidence", tuple(t - 0.05 for t in chosen.thresholds))
    assert full - records.quality(bolder) > 0.02


def population(count: int, seed: int) -> SegmentationRecords:
    """Of 100 pixels an early exit loses some to the final one, and a score says how many, nearly."""
    random = np.random.default_rng(seed)
    lost_KB = np.stack([random.binomial(100, 0.3 * random.random(count) ** p) for p in (1, 3)])
    right_KB = np.concatenate([100 - lost_KB, np.full((1, count), 100)])
    matrices = np.zeros((3, count, 2, 2), np.uint32)
    matrices[:, :, 0, 0], matrices[:, :, 0, 1] = right_KB, 100 - right_KB
    scores = 1 - lost_KB / 100 + 0.03 * random.standard_normal(lost_KB.shape)
    return SegmentationRecords(
        matrices, np.stack([scores.astype(np.float32)] * len(RECORDED)), np.zeros((2, 2, count), np.float32),
        np.zeros((2, count), np.float32), [40, 30, 30], [2, 2], 100, ["a", "b"],
    )  # fmt: skip


@pytest.mark.parametrize("delta", [0.2, None])
def test_a_risk_is_kept_on_new_images(delta: float | None) -> None:
    """Over calibrations: for all but a part `delta` of them, or on average."""
    everyone, limit = population(20_000, 0), 0.03
    rows, losses_KB, true = np.arange(20_000), everyone.losses(), []
    for seed in range(40):
        some = population(150, seed + 1)
        chosen, promise = eenet.policy_for_risk(some, limit, delta=delta, score="sure_share")
        assert promise.measured <= limit
        true.append(float(losses_KB[decide(everyone, chosen), rows].mean()))
    assert np.std(true) > 0
    if delta is None:
        assert np.mean(true) <= limit
        assert np.mean(true) > 0.6 * limit  # and not by doing nothing
    else:
        assert np.mean(np.array(true) > limit) <= delta
        assert np.mean(true) > 0.2 * limit  # the bound is wide for losses that vary little


def test_risks_that_cannot_be_shown_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"20 inputs can't show a risk of 0.01 with delta 0.1; at least 230"):
        eenet.policy_for_risk(population(20, 0), 0.01)
    with pytest.raises(ValueError, match="risk 'disagreement' isn't known of segmentation"):
        eenet.policy_for_risk(population(200, 0), 0.1, risk="disagreement")


def test_agreement_looks_at_the_last_exit_that_is_on() -> None:
    records = made()
    both = recorded_scores(records, "agreement", [True, True])
    assert np.array_equal(both[1], records.agreement_KKB[1, 0])
    assert not both[0].any()
    assert not recorded_scores(records, "agreement", [False, True]).any()
    with pytest.raises(ValueError, match="'patience' is not recorded of masks; choose from confidence"):
        recorded_scores(records, "patience")


def test_intervals_hold_what_was_measured() -> None:
    records, chosen = made(), policy(0.9, 0.9)
    found, single = measure(records, chosen), bootstrap(records, chosen)
    for name, value in (("miou", found.quality), ("full_miou", found.full_quality)):
        low, high = single[name]
        assert low < value < high
    low, high = single["drop"]
    assert low < found.full_quality - found.quality < high
    doubled = records.subset(np.repeat(np.arange(B), 2))  # neighbours are alike, as in a video
    blocked, naive = bootstrap(doubled, chosen, block=2), bootstrap(doubled, chosen)
    assert np.diff(blocked["miou"]) > 1.2 * np.diff(naive["miou"])
    assert bootstrap(replace(doubled, block=2), chosen) == blocked
    loss = task_of("segmentation").loss(records, chosen)
    assert loss.points == pytest.approx(100 * (found.full_quality - found.quality))


def test_dead_exits_are_named() -> None:
    records = made()
    assert measure(records, policy(2.0, 0.9)).dead_exits == [0]  # nobody leaves there
    silent = records.confusion_KBNN.copy()
    silent[0] = 0
    silent[0, :, :, 0] = records.confusion_KBNN[0].sum(2)  # calls all pixels class 0
    assert 0 in measure(replace(records, confusion_KBNN=silent), policy(0.9, 0.9)).dead_exits


def test_records_come_back(tmp_path: Path) -> None:
    records = made()
    records = replace(records, block=3)
    records.save(tmp_path / "r.safetensors")
    again = SegmentationRecords.load(tmp_path / "r.safetensors")
    assert again.block == 3
    assert again.class_names == records.class_names
    assert np.array_equal(again.confusion_KBNN, records.confusion_KBNN)
    assert measure(again, policy(0.9, 0.9)) == measure(records, policy(0.9, 0.9))
    with pytest.raises(ValueError, match="is not a file of records"):
        eenet.Records.load(tmp_path / "r.safetensors")
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a file of records of masks"):
        SegmentationRecords.load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        SegmentationRecords.load(tmp_path / "y")


@pytest.mark.parametrize("reach", [1, 3])
def test_pixels_near_boundaries_are_those_a_square_says(reach: int) -> None:
    truth = np.random.default_rng(0).choice(np.array([0, 0, 0, 0, 1, 255], np.uint8), (9, 14))
    truth[:, :6] = 0
    found = near_boundaries(truth, 2, reach)
    for y, x in np.ndindex(*truth.shape):
        around = truth[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        assert found[y, x] == (truth[y, x] < 2 and len(set(around[around < 2].tolist())) > 1)
    assert not near_boundaries(np.zeros((4, 4), np.uint8), 2).any()


def test_error_near_boundaries_is_of_pixels() -> None:
    records, chosen = made(), policy(0.9, 0.9)
    assert measure_masks(records, chosen).boundary_error is None  # of an older checkpoint
    near = np.random.default_rng(0).integers(1, 50, (K, B, 2)).astype(np.uint32)
    found = measure_masks(replace(records, near_KB2=near), chosen)
    counted = near[decide(records, chosen), np.arange(B)].sum(0)
    assert found.boundary_error == pytest.approx(counted[0] / counted[1])
    assert found.full_boundary_error == pytest.approx(near[-1, :, 0].sum() / near[-1, :, 1].sum())
