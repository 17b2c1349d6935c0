"""The reference predictor: leaves where the records say, skips the rest, takes any kind of image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runtime_cases import lower_median
from scipy.special import softmax

from eenet.common.machine import cores
from eenet.data.image_sets import ImageSet
from eenet.evaluation.evaluating import collect
from eenet.networks.building import create_model
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import Records, decide, recorded_scores
from eenet.runtime.predictor import Predictor
from eenet.runtime.reference import run_one
from eenet.tasks import Prediction

HALF = ExitPolicy("max_softmax", (0.14, 0.14, 0.175), (True, False, True))


def test_agrees_with_the_records(network: EENet, digits: ImageSet) -> None:
    """One image at a time and stopping, against all exits of all images at once."""
    recorded = collect(network, digits, batch_size=50)
    thresholds = lower_median(recorded_scores(recorded, "max_softmax")) + 1e-6  # between two scores
    policy = ExitPolicy("max_softmax", tuple(thresholds.tolist()), (True, False, True))
    exits = decide(recorded, policy).tolist()
    assert len(set(exits)) == 3
    predictions = list(Predictor(network, policy=policy).predict_many(np.asarray(digits.pixels_BCHW)[:, 0]))
    assert [p.exit for p in predictions] == exits
    costs = recorded.costs(policy.enabled)
    for b, (k, p) in enumerate(zip(exits, predictions, strict=True)):
        probabilities = softmax(recorded.logits_KBN[k, b])
        assert p.class_index == int(probabilities.argmax())
        assert p.label == digits.class_names[p.class_index]
        assert p.probability == pytest.approx(probabilities.max(), abs=1e-5)
        assert p.relative_cost == costs[k]


@pytest.mark.parametrize("leave_at", [0, 1, 2, 3])
def test_work_is_really_skipped(network: EENet, leave_at: int) -> None:
    ran: list[str] = []
    for name in ("stages", "heads"):
        for k, part in enumerate(getattr(network, name)):
            part.register_forward_hook(lambda *_, label=f"{name}{k}": ran.append(label))
    thresholds = tuple(-1.0 if k >= leave_at else 2.0 for k in range(3))
    policy = ExitPolicy("max_softmax", thresholds, (True, leave_at != 2, True))
    run_one(network, policy, torch.zeros(1, 8, 8))
    expected = {
        0: ["stages0", "heads0"],
        1: ["stages0", "heads0", "stages1", "heads1"],
        2: ["stages0", "heads0", "stages1", "stages2", "heads2"],  # exit 1 is switched off
        3: ["stages0", "heads0", "stages1", "heads1", "stages2", "heads2", "stages3"],
    }[leave_at]
    assert ran == expected


def test_all_kinds_of_images(network: EENet, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    predictor = Predictor(network, policy=HALF)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(array),
        array,
        torch.from_numpy(array),
    ]
    assert len({predictor.predict(kind) for kind in kinds}) == 1
    assert isinstance(predictor.predict(Image.new("RGB", (100, 50), "red")), Prediction)


def test_from_a_checkpoint_with_its_policy(network: EENet, tmp_path: Path) -> None:
    network.config.policy = HALF.to_dict()
    network.save_pretrained(tmp_path)
    assert Predictor(tmp_path).policy == HALF
    network.config.policy = None
    assert Predictor(network).policy == ExitPolicy("confidence", (0.5,) * 3)


def test_refusals(network: EENet) -> None:
    with pytest.raises(ValueError, match="2 early exits, the network has 3"):
        Predictor(network, policy=ExitPolicy("margin", (0.5, 0.5)))
    with pytest.raises(ValueError, match="no mean and std"):
        Predictor(create_model("resnet8_w2_cifar", num_exits=1))


def test_records_round_trip(network: EENet, digits: ImageSet, tmp_path: Path) -> None:
    recorded = collect(network, digits)
    recorded.save(tmp_path / "r.safetensors")
    loaded = Records.load(tmp_path / "r.safetensors")
    for name in ("logits_KBN", "confidence_logits_KB", "labels_B"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(recorded, name), strict=True)
    assert loaded.costs() == recorded.costs() == network.costs_K
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="not a file of records"):
        Records.load(tmp_path / "bad.safetensors")
    with pytest.raises(FileNotFoundError, match="no records file"):
        Records.load(tmp_path / "none.safetensors")


def test_batch_size_does_not_matter(network: EENet, digits: ImageSet) -> None:
    one, many = (collect(network, digits, batch_size=size) for size in (7, 500))
    np.testing.assert_allclose(one.logits_KBN, many.logits_KBN, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["compacting", "queued"])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_engines_agree_in_order(network: EENet, digits: ImageSet, engine: str, batch_size: int) -> None:
    wanted = list(Predictor(network, policy=HALF).predict_many(np.asarray(digits.pixels_BCHW)[:100, 0]))
    with Predictor(network, policy=HALF, engine=engine, batch_size=batch_size) as predictor:
        found = list(predictor.predict_many(np.asarray(digits.pixels_BCHW)[:100, 0]))
    assert [(p.label, p.exit) for p in found] == [(p.label, p.exit) for p in wanted]


def test_any_number_of_images_are_taken_as_they_are_needed(network: EENet) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield np.zeros((8, 8), np.uint8)

    predictions = Predictor(network, policy=HALF, batch_size=8).predict_many(endless())
    for _ in range(20):
        next(predictions)
    assert len(taken) <= 24 + 8 * 2 * cores()  # so many are decoded ahead


def test_unknown_engine(network: EENet) -> None:
    with pytest.raises(ValueError, match="unknown engine 'quick'; choose from compacting, queued"):
        Predictor(network, engine="quick")
