"""Records of boxes: average precision against COCO's tools, its linear part, scales, gates, empty images."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import binom, spearmanr

import eenet
from eenet.data import Objects
from eenet.evaluation import Measured, measure
from eenet.policies import decide, fit, missed_threshold, policy_for_drop, policy_for_risk, recorded_scores
from eenet.tasks import DetectionRecords, task_of
from eenet.tasks.detection.boxes import Boxes
from eenet.tasks.detection.precision import SIZES, average_precision, matched, mean_of
from eenet.tasks.detection.records import STATISTICS

K, B, N = 3, 60, 3
ERRORS = 0.25, 0.15, 0.05


def scenes(seed: int = 0, most: int = 12, images: int = B) -> tuple[list[Objects], list[list[Boxes]]]:
    """Objects of B images, and what K exits find; some images are hard or empty, and going on helps."""
    random = np.random.default_rng(seed)
    truths, found = [], [[] for _ in range(K)]
    for b in range(images):
        count = 0 if b % 5 == 4 else int(random.integers(1, most))
        corners, sides = random.uniform(0, 400, (count, 2)), random.choice([12, 40, 60, 130], (count, 2))
        boxes, labels = np.concatenate([corners, corners + sides], 1), random.integers(0, N, count)
        crowd = random.random(count) < 0.1
        truths.append(Objects(boxes, labels, crowd, sides.prod(1).astype(float), (640, 640)))
        hard = random.random()
        for k, error in enumerate(ERRORS):
            moved = boxes + random.normal(0, 1, boxes.shape) * error * hard * sides[:, [0, 1, 0, 1]]
            moved = np.stack([*np.minimum(moved[:, :2], moved[:, 2:] - 1).T, *moved[:, 2:].T], 1).reshape(
                -1, 4
            )
            kept = random.random(count) > error * hard
            junk = int(random.integers(0, 3 + 2 * most))
            false = random.uniform(0, 400, (junk, 2))
            false = np.concatenate([false, false + random.uniform(10, 100, (junk, 2))], 1)
            scores = np.concatenate([random.beta(4, 2, kept.sum()), random.beta(1, 4, junk)])
            order = np.argsort(-scores)
            everything = np.concatenate([moved[kept], false])[order]
            all_labels = np.concatenate([labels[kept], random.integers(0, N, junk)])[order]
            found[k].append(Boxes(everything, scores[order].astype(np.float32).astype(float), all_labels))
    return truths, found


def recorded(truths: list[Objects], found: list[list[Boxes]]) -> DetectionRecords:
    hits = [[matched(boxes, true, N) for boxes, true in zip(each, truths, strict=True)] for each in found]
    flat = [boxes for each in found for boxes in each]
    flat_hits = [each for of_exit in hits for each in of_exit]
    random = np.random.default_rng(1)
    highest = np.array([[1 - boxes.scores_M[:1].sum() for boxes in each] for each in found[:-1]])
    wrong = np.array([[sum(boxes.scores_M < 0.4) for boxes in each] for each in found[:-1]])
    statistics = np.stack(
        [
            highest if name == "emptiness" else -np.log(1 + wrong + random.random(wrong.shape))
            for name in STATISTICS
        ]
    )
    return DetectionRecords(
        np.array([[len(boxes.scores_M) for boxes in each] for each in found], np.uint16),
        np.concatenate([boxes.scores_M for boxes in flat]).astype(np.float32),
        np.concatenate([boxes.labels_M for boxes in flat]).astype(np.uint16),
        np.concatenate([each.hits_AM for each in flat_hits], 1),
        np.concatenate([each.idle_AM for each in flat_hits], 1),
        np.stack([each.truths_AN for each in hits[0]], 1),
        statistics.astype(np.float32), np.zeros((K - 1, len(truths)), np.float32),
        [40, 30, 30], [2, 2], 100, [f"class {n}" for n in range(N)],
    )  # fmt: skip


def made(seed: int = 0) -> DetectionRecords:
    return recorded(*scenes(seed))


def policy(*thresholds: float, score: str = "clearness") -> eenet.ExitPolicy:
    return eenet.ExitPolicy(score, thresholds)


def coco(truths: list[Objects], answers: list[Boxes], most: int = 100) -> Any:
    """pycocotools on the same boxes; its table of figures."""
    annotations, results = [], []
    for b, (true, boxes) in enumerate(zip(truths, answers, strict=True), 1):
        for box, label, crowd, area in zip(*true[:4], strict=True):
            about = {"id": len(annotations) + 1, "image_id": b, "category_id": int(label) + 1}
            sides = {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": area, "iscrowd": int(crowd)}
            annotations.append({**about, **sides})
        for box, score, label in zip(*boxes, strict=True):
            sides = [*box[:2], *(box[2:] - box[:2])]
            about = {"image_id": b, "category_id": int(label) + 1, "score": float(score)}
            results.append({"bbox": [float(v) for v in sides], **about})
    with contextlib.redirect_stdout(io.StringIO()):
        tool: Any = COCO()
        images = [{"id": b + 1, "width": 640, "height": 640} for b in range(len(truths))]
        categories = [{"id": n + 1, "name": str(n)} for n in range(N)]
        tool.dataset = {"images": images, "annotations": annotations, "categories": categories}
        tool.createIndex()
        ran = COCOeval(tool, tool.loadRes(results), "bbox")
        ran.params.maxDets = [1, 10, most]
        ran.evaluate()
        ran.accumulate()
    return ran.eval


def test_average_precision_is_that_of_coco() -> None:
    truths, found = scenes()
    records, chosen = recorded(truths, found), policy(-2.6, -2.5)
    exits_B = decide(records, chosen)
    assert len(set(exits_B.tolist())) == K
    table = coco(truths, [found[k][b] for b, k in enumerate(exits_B)])
    for a in range(len(SIZES)):
        precision_TN, recall_TN = average_precision(records.pooled(exits_B, a))
        expected = table["precision"][:, :, :, a, 2].mean(1)  # overlaps × classes
        assert precision_TN == pytest.approx(np.where(expected < 0, np.nan, expected), abs=1e-6, nan_ok=True)
        recall = table["recall"][:, :, a, 2]
        assert recall_TN == pytest.approx(np.where(recall < 0, np.nan, recall), abs=1e-6, nan_ok=True)
    result: Any = measure(records, chosen)
    assert result.map == pytest.approx(table["precision"][:, :, :, 0, 2].mean(), abs=1e-6)
    assert result.map50 == pytest.approx(table["precision"][0, :, :, 0, 2].mean(), abs=1e-6)
    full = coco(truths, found[-1])["precision"][:, :, :, 0, 2].mean()
    assert result.full_map == pytest.approx(full, abs=1e-6)
    assert result.exit_counts == np.bincount(exits_B, minlength=K).tolist()
    assert result.empty_images == sum(not len(true.labels_M) or bool(true.crowd_M.all()) for true in truths)
    assert "mAP" in str(task_of("detection").evaluate(records, chosen))


def test_more_than_a_hundred_boxes_an_image() -> None:
    truths, found = scenes(3, most=250, images=8)
    assert max(len(boxes.labels_M) for boxes in found[0]) > 400
    records = recorded(truths, found)
    ours = mean_of(average_precision(records.pooled(records.at(0)))[0])
    assert ours == pytest.approx(coco(truths, found[0], 1000)["precision"][:, :, :, 0, 2].mean(), abs=1e-6)
    first = [boxes.only(slice(100)) for boxes in found[0]]  # as a network keeps them
    ours = mean_of(average_precision(recorded(truths, [first] * K).pooled(records.at(0)))[0])
    assert ours == pytest.approx(coco(truths, first)["precision"][:, :, :, 0, 2].mean(), abs=1e-6)


def test_the_linear_part_is_right_at_the_policy_and_near_it() -> None:
    records, chosen = made(), policy(-2.6, -2.5)
    near, exits_B, rows = records.around(chosen), decide(records, chosen), np.arange(B)
    worth_KB = near.worth()
    exact = mean_of(average_precision(records.pooled(exits_B))[0])
    assert worth_KB[exits_B, rows].mean() == pytest.approx(exact)
    assert records.quality(chosen) == pytest.approx(exact)
    expected, gained = [], []
    for image in np.flatnonzero(exits_B == 0):
        changed = exits_B.copy()
        changed[image] = K - 1
        expected.append(mean_of(average_precision(records.pooled(changed))[0]) - exact)
        gained.append((worth_KB[K - 1, image] - worth_KB[0, image]) / B)
    assert np.corrcoef(expected, gained)[0, 1] > 0.9
    assert np.polyfit(gained, expected, 1)[0] == pytest.approx(1, abs=0.25)


def test_kinds_that_no_exit_finds() -> None:
    truths, found = scenes()
    unseen = [[boxes.only(boxes.labels_M != N - 1) for boxes in each] for each in found]
    for none in (unseen, [[boxes.only(slice(0)) for boxes in each] for each in found]):
        records = recorded(truths, none)
        fitted = fit(records, 0.7, gate="gain")
        measured = measure(fitted.records, fitted.policy)
        alone = coco(truths, none[0])["precision"][:, :, :, 0, 2] if none is unseen else np.zeros(1)
        assert mean_of(average_precision(records.pooled(records.at(0)))[0]) == pytest.approx(alone.mean())
        assert measured.relative_cost <= 0.7 + 1e-9
        assert np.isfinite(records.worth()).all()


def test_scores_of_all_exits_get_one_scale() -> None:
    truths, found = scenes()
    shy = [boxes._replace(scores_M=boxes.scores_M**3) for boxes in found[1]]  # less sure than it is
    records = recorded(truths, [found[0], shy, found[2]])
    joined, mixed = records.joined(), np.arange(B) % K
    assert joined.scales is not None
    assert joined.scales[-1] == pytest.approx([1, 0])
    assert joined.task_settings == {"scales": joined.scales}
    for k in range(K):  # within an exit nothing changes
        alone = [average_precision(each.pooled(each.at(k)))[0] for each in (records, joined)]
        assert alone[0] == pytest.approx(alone[1])
    one, other = (mean_of(average_precision(each.pooled(mixed))[0]) for each in (records, joined))
    assert other > one + 0.005


def test_gates_rank_by_what_going_on_gains() -> None:
    records = made()
    _, fitted = records.gated()
    worth_KB = records.worth()
    stays = fitted.confidence_logits_KB[0] < 20
    rank: Any = spearmanr(-fitted.confidence_logits_KB[0][stays], (worth_KB[-1] - worth_KB[0])[stays])
    assert rank.statistic > 0.3


@pytest.mark.parametrize("budget", [0.5, 0.7, 0.9])
def test_a_budget_is_kept_and_used(budget: float) -> None:
    fitted = fit(made(), budget, gate="gain")
    found = measure(fitted.records, fitted.policy)
    assert found.relative_cost <= budget + 1e-9
    assert found.relative_cost > budget - 0.1
    assert len(fitted.gates) == K - 1
    assert fitted.task_settings["scales"] == fitted.records.scales
    assert found.quality > _at_random(fitted.records, found)


def _at_random(records: DetectionRecords, found: Measured) -> float:
    """Average precision of the same shares of exits, dealt out at random."""
    exits_B = np.repeat(np.arange(K), found.exit_counts)
    random = np.random.default_rng(0)
    draws = [random.permutation(exits_B) for _ in range(30)]
    return float(np.mean([mean_of(average_precision(records.pooled(d))[0]) for d in draws]))


def test_a_drop_is_kept() -> None:
    _, records = made().joined().gated()
    chosen = policy_for_drop(records, 0.03)
    full = measure(records, chosen).full_quality
    assert full - records.quality(chosen) <= 0.03
    assert measure(records, chosen).relative_cost < 1
    loss = task_of("detection").loss(records, chosen)
    assert loss.points == pytest.approx(100 * (full - records.quality(chosen)))


def test_few_images_with_objects_leave_as_empty() -> None:
    """On new images, over many draws: the guarantee fails in at most one calibration in ten."""
    random = np.random.default_rng(0)
    failed, kept = 0, []
    for _ in range(200):
        scores = random.beta(2, 8, 300)  # emptiness of images with objects
        threshold = missed_threshold(scores.astype(np.float32), 0.05, 0.1)
        assert threshold is not None
        risk = float((random.beta(2, 8, 20000) > threshold).mean())
        kept.append(risk)
        failed += risk > 0.05
    assert failed <= binom.ppf(0.99, 200, 0.1)
    assert np.mean(kept) > 0.02  # and isn't kept by letting none go
    assert missed_threshold(np.zeros(20, np.float32), 0.05, 0.1) is None  # too few to show it


def test_a_policy_for_missed_objects() -> None:
    records = made()
    with pytest.raises(ValueError, match=r"can't show that at most 0.01 of such are missed, .* at least 230"):
        policy_for_risk(records, 0.01, risk="missed")
    chosen, guarantee = policy_for_risk(records, 0.2, risk="missed")
    assert chosen.score == "emptiness"
    assert guarantee.num_examples == records.holding().sum()
    found: Any = measure(records, chosen)
    assert found.missed <= 0.2 * guarantee.num_examples
    assert guarantee.measured == pytest.approx(found.missed / guarantee.num_examples)
    assert found.left_as_empty == sum(found.exit_counts[:-1])
    with pytest.raises(ValueError, match="missed objects are guaranteed with a delta"):
        policy_for_risk(records, 0.2, delta=None, risk="missed")
    with pytest.raises(ValueError, match="a guaranteed risk doesn't work for detection yet"):
        policy_for_risk(records, 0.2)
    zeros = np.zeros((2, 3, 2), np.float32)
    other = eenet.Records(zeros, zeros[:1, :, 0], np.zeros(3, np.int64), [1, 1], [1], 2)
    with pytest.raises(ValueError, match="missed objects are a risk of detection, not of classification"):
        policy_for_risk(other, 0.1, risk="missed")


def test_surely_empty_images_leave_at_once() -> None:
    records = made()
    clear = records.statistics_SKB.copy()
    clear[STATISTICS.index("emptiness")] = np.where(records.holding(), 0.1, 0.99)
    gates, fitted = replace(records, statistics_SKB=clear).gated()
    assert all(0.1 <= float(gate.get_buffer("empty_above")) < 0.99 for gate in gates)
    found: Any = measure(fitted, policy(0.99999, 0.99999, score="confidence"))
    assert found.exit_counts[0] == found.left_as_empty == found.empty_images > 0
    assert found.missed == 0
    everywhere = replace(records, statistics_SKB=clear).subset(np.flatnonzero(records.holding()))
    gates, _ = everywhere.gated()  # nothing is empty: nothing leaves as that
    assert all(float(gate.get_buffer("empty_above")) == 1 for gate in gates)


def test_scores_and_parts() -> None:
    records = made()
    for s, name in enumerate(STATISTICS):
        assert np.array_equal(recorded_scores(records, name), records.statistics_SKB[s])
    with pytest.raises(ValueError, match="'patience' is not recorded of boxes; choose from confidence"):
        recorded_scores(records, "patience")
    rows = np.array([3, 3, 10, 40])
    part = records.subset(rows)
    truths, found = scenes()
    own = recorded([truths[b] for b in rows], [[each[b] for b in rows] for each in found])
    for exits in ([0, 1, 2, 0], [2, 2, 2, 2]):
        one, other = (average_precision(each.pooled(np.array(exits)))[0] for each in (part, own))
        assert one == pytest.approx(other, nan_ok=True)


def test_intervals_hold_what_was_measured() -> None:
    records, chosen = made(), policy(-2.6, -2.5)
    found: Any = task_of("detection").evaluate(records, chosen)
    for name, value in (("map", found.map), ("drop", found.full_map - found.map)):
        low, high = found.intervals[name]
        assert low < value < high
    error = task_of("detection").loss(records, chosen).error
    low, high = found.intervals["drop"]
    assert 100 * (high - low) / 3.92 == pytest.approx(error, rel=0.35)  # the jackknife and the bootstrap


def test_dead_exits_are_named() -> None:
    records = made()
    assert measure(records, policy(99.0, -2.5)).dead_exits == [0]  # nobody leaves there
    mute = records.hits_AD.copy()
    mute[:, : records.counts_KB[0].sum()] = 0
    assert 0 in measure(replace(records, hits_AD=mute), policy(-2.6, -2.5)).dead_exits


def test_records_come_back(tmp_path: Path) -> None:
    records = made().joined()
    records.save(tmp_path / "r.safetensors")
    again = DetectionRecords.load(tmp_path / "r.safetensors")
    assert measure(again, policy(-2.6, -2.5)) == measure(records, policy(-2.6, -2.5))
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a file of records of boxes"):
        DetectionRecords.load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        DetectionRecords.load(tmp_path / "y")
