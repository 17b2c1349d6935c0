"""Answer gates: what they learn, that they don't look ahead, and that they don't disturb the classifier."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from eenet.networks.building import create_model
from eenet.policies.fitting import fit
from eenet.policies.gates import AnswerGate, accuracy_kept
from eenet.policies.records import Records


def answers(count: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of an exit whose answers 0 and 1 the final exit overturns half of the time."""
    generator = torch.Generator().manual_seed(seed)
    logits_BN = torch.randn(count, classes, generator=generator)
    said_B = logits_BN.argmax(1)
    overturned_B = (said_B < 2) & (torch.rand(count, generator=generator) < 0.5)
    final_B = torch.where(overturned_B, (said_B + 1) % classes, said_B)
    return logits_BN, 8.0 * torch.nn.functional.one_hot(final_B, classes)


def test_accuracy_kept_by_hand() -> None:
    """The exit says 0; the final exit says 0 surely, 1 with 0.7 against 0.2, and nothing much."""
    final_BN = torch.tensor([[0.98, 0.01, 0.01], [0.2, 0.7, 0.1], [0.33, 0.34, 0.33]]).log()
    kept_B = accuracy_kept(torch.tensor([[1.0, 0.0, 0.0]] * 3), final_BN)
    torch.testing.assert_close(kept_B, torch.tensor([1.0, 0.5, 0.99]))


def test_a_gate_learns_which_answers_to_trust() -> None:
    """On other images; the largest probability can't tell them apart."""
    gate = AnswerGate(1, 4)
    seen_BN, final_BN = answers(2000)
    gate.fit(seen_BN, accuracy_kept(seen_BN, final_BN))
    logits_BN, final_BN = answers(2000, seed=1)
    with torch.no_grad():
        confidence_B = gate(torch.empty(2000, 1), logits_BN).sigmoid()
    sure_B = logits_BN.argmax(1) >= 2
    assert confidence_B[sure_B].mean() > 0.95
    assert abs(confidence_B[~sure_B].mean() - 0.5) < 0.1
    agreed_B = final_BN.argmax(1) == logits_BN.argmax(1)
    by_probability = roc_auc_score(agreed_B, logits_BN.softmax(1).amax(1))
    assert roc_auc_score(agreed_B, confidence_B) > by_probability + 0.1


def test_few_images_are_not_learned_by_heart() -> None:
    """Answers that say nothing about what the final exit says: nothing is to be told from them."""
    generator = torch.Generator().manual_seed(0)
    logits_BN, final_BN = (torch.randn(150, 10, generator=generator) for _ in range(2))
    gate, kept_B = AnswerGate(1, 10), accuracy_kept(logits_BN, 8 * final_BN)
    gate.fit(logits_BN, kept_B)
    with torch.no_grad():
        confidence_B = gate(torch.empty(150, 1), logits_BN)
    assert roc_auc_score(kept_B > 0.5, confidence_B) < 0.75


def test_fitting_again_gives_the_same_gates() -> None:
    """From the same images, whatever random numbers were drawn before."""
    network = create_model("resnet8_w2_cifar", num_exits=2, num_classes=3, input_size=(3, 8, 8))
    logits_KBN = np.random.default_rng(0).standard_normal((3, 200, 3), np.float32)
    gates_KB, labels_B = np.zeros((2, 200), np.float32), np.zeros(200, np.int64)
    records = Records(logits_KBN, gates_KB, labels_B, [9, 9, 9], [1, 1], 27)
    once = fit(records, 1.0)
    network.adopt(once)
    first = {key: value.clone() for key, value in network.state_dict().items()}
    torch.rand(3)
    again = fit(records, 1.0)
    network.adopt(again)
    np.testing.assert_array_equal(once.records.confidence_logits_KB, again.records.confidence_logits_KB)
    assert all(torch.equal(value, first[key]) for key, value in network.state_dict().items())
    for few in (1, 2, 9):
        cut = records.subset(np.arange(few))
        assert np.isfinite(fit(cut, 1.0).records.confidence_logits_KB).all()


def test_no_gradient_reaches_the_classifier() -> None:
    network = create_model("resnet8_w2_cifar", num_exits=1, num_classes=3, input_size=(3, 8, 8))
    outputs = network.train()(torch.randn(2, 3, 8, 8))
    outputs.confidence_logits_KB[0].sum().backward()
    touched = {name for name, p in network.named_parameters() if p.grad is not None}
    assert touched
    assert all("confidence" in name for name in touched)
