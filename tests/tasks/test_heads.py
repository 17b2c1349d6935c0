"""Every kind of head: shapes, MACs by hand, both branches trained, and saved with the network."""

from pathlib import Path

import pytest
import torch

from eenet.backbones.cost import count_macs
from eenet.networks.building import create_model
from eenet.networks.network import EENet
from eenet.policies.gates import GATES, FeatureGate
from eenet.tasks.classification.heads import HEADS, create_head

C, H, W, N = 6, 5, 4, 3
TRUNKS = {  # MACs and width
    "pool": (0, C),
    "bnpool": (0, C),
    "plain": (0, C * H * W),
    "conv": (3 * 2 * C * C * 9, C),
    "deep": (2 * 1 * C * 2 * C * 9 + 1 * 1 * 2 * C * 4 * C * 9, 4 * C),
    "separable": (2 * 1 * (C * 9 + C * 2 * C) + 1 * 1 * (2 * C * 9 + 2 * C * 4 * C), 4 * C),
    "residual": (
        3 * 2 * (C * 2 * C * 9 + 2 * C * 2 * C * 9 + C * 2 * C)
        + 2 * 1 * (2 * C * 4 * C * 9 + 4 * C * 4 * C * 9 + 2 * C * 4 * C),
        4 * C,
    ),
    "mlp": (C * 2 * C, 2 * C),
}


@pytest.mark.parametrize("gate", sorted(GATES))
@pytest.mark.parametrize("name", sorted(HEADS))
def test_head(name: str, gate: str) -> None:
    head = create_head(name, (C, H, W), N, gate)
    logits, confidence = head(torch.randn(2, C, H, W))
    assert logits.shape == (2, N)
    assert confidence.shape == (2,)
    macs, width = TRUNKS[name]
    judging = width if gate == "features" else (N + 4) * 9 + 8
    assert count_macs(head, (1, C, H, W)) == macs + width * N + judging
    (logits.square().sum() + confidence.square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in head.classifier.parameters())
    assert all(p.grad is not None for p in head.parameters())


def test_pool_by_hand() -> None:
    head, features = create_head("pool", (C, H, W), N, "features"), torch.randn(2, C, H, W)
    pooled = features.flatten(2).mean(2)
    torch.testing.assert_close(head(features)[0], pooled @ head.classifier.weight.T + head.classifier.bias)
    gate = head.confidence
    assert isinstance(gate, FeatureGate)
    torch.testing.assert_close(head(features)[1], (pooled @ gate.weight.T + gate.bias)[:, 0])


def test_the_norm_of_bnpool_is_trained() -> None:
    """In the authors' code it is neither registered nor trained."""
    network = create_model(
        "resnet8_w4_cifar", num_exits=2, head="bnpool", num_classes=N, input_size=(3, 8, 8)
    )
    norms = [name for name, _ in network.heads.named_buffers() if name.endswith("running_mean")]
    assert len(norms) == 2
    before = network.heads.get_buffer(norms[0]).clone()
    network.train()(torch.randn(8, 3, 8, 8))
    assert not torch.equal(network.heads.get_buffer(norms[0]), before)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_round_trip(name: str, tmp_path: Path) -> None:
    network = create_model("resnet8_w4_cifar", num_exits=2, head=name, num_classes=N, input_size=(3, 8, 12))
    network.eval().save_pretrained(tmp_path)
    images = torch.randn(2, 3, 8, 12)
    loaded = EENet.from_pretrained(tmp_path)
    assert torch.equal(loaded(images).logits_KBN[0], network(images).logits_KBN[0])
    assert loaded.costs_K == network.costs_K


def test_unknown_head() -> None:
    with pytest.raises(ValueError, match="choose from bnpool"):
        create_head("bnpol", (C, H, W), N)
    with pytest.raises(ValueError, match="unknown gate 'feature'; choose from features"):
        create_head("pool", (C, H, W), N, "feature")


def test_deep_leaves_out_what_sees_only_padding() -> None:
    """Its last map has 2×2 pixels: a 3×3 kernel with padding would meet one place with four weights."""
    head = create_head("deep", (C, 8, 8), N)
    small = next(m for m in head.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (2, 2))
    pixels = torch.randn(2, small.in_channels, 2, 2)
    padded = torch.nn.functional.pad(small.weight, (1, 0, 1, 0))
    torch.testing.assert_close(small(pixels), torch.nn.functional.conv2d(pixels, padded, stride=2, padding=1))
