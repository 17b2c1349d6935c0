"""Losses: value and gradient against a float64 brute-force expectation over the exits."""

import math
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import eenet
from eenet.networks.network import ExitOutputs
from eenet.training.objectives import (
    OBJECTIVES,
    even_gradients,
    get_objective,
    joint_cross_entropy,
    mixtures,
    shallow_deep,
)


class Brute(NamedTuple):
    mixed: list[Tensor]
    """`P_k[target]` of every exit, each [B]."""
    spent: list[Tensor]
    p_KB: Tensor
    """Probability of the target at every exit alone."""
    confidence_KB: Tensor
    targets_B: Tensor
    costs: list[float]


def brute_force(logits_KBN: Tensor, confidence_KB: Tensor, targets_B: Tensor, costs: list[float]) -> Brute:
    """`P_k[target]` and `C_k` as sums over all exits j ≥ k of "leaves at j" × value, in float64."""
    K = len(logits_KBN)
    p_KB = torch.stack([z.softmax(1)[torch.arange(len(targets_B)), targets_B] for z in logits_KBN])
    mixed, spent = [], []
    for k in range(K):
        p, c, stay = torch.zeros_like(p_KB[0]), torch.zeros_like(p_KB[0]), torch.ones_like(p_KB[0])
        for j in range(k, K):
            leave = stay * torch.sigmoid(confidence_KB[j]) if j < K - 1 else stay
            p, c = p + leave * p_KB[j], c + leave * costs[j]
            if j < K - 1:
                stay = stay * torch.sigmoid(-confidence_KB[j])
        mixed.append(p)
        spent.append(c)
    return Brute(mixed, spent, p_KB, confidence_KB, targets_B, costs)


def brute_v1(brute: Brute, weight: float) -> Tensor:
    return -brute.mixed[0].log().mean() + weight * brute.spent[0].mean()


def brute_v2(brute: Brute, weight: float) -> Tensor:
    terms = [-p.log().mean() + weight * c.mean() for p, c in zip(brute.mixed, brute.spent, strict=True)]
    return torch.stack(terms).sum()


def leaving(brute: Brute, k: int) -> Tensor:
    """Probability of leaving at exit k."""
    confidence_KB = brute.confidence_KB
    stay = torch.stack(
        [(-confidence_KB[j]).sigmoid() for j in range(k)] or [torch.ones(len(brute.targets_B))]
    )
    here = confidence_KB[k].sigmoid() if k < len(confidence_KB) else 1.0
    return stay.double().prod(0) * here


def brute_v3(brute: Brute, weight: float) -> Tensor:
    h = [z.sigmoid().mean() for z in brute.confidence_KB] + [torch.tensor(1.0)]
    losses = [-p.log().mean() + weight * c for p, c in zip(brute.p_KB, brute.costs, strict=True)]
    return torch.stack([a * b for a, b in zip(h, losses, strict=True)]).sum() / torch.stack(h).sum()


def brute_v4(brute: Brute, weight: float) -> Tensor:
    """Input by input."""
    K, B = len(brute.p_KB), len(brute.targets_B)
    total = torch.zeros(())
    tags = []
    for b in range(B):
        priced = [-brute.p_KB[k][b].log() + weight * brute.costs[k] for k in range(K)]
        tags.append(min(range(K), key=lambda k: priced[k].item()))
        total = total + priced[tags[-1]] / B
    for k in range(K - 1):
        share = sum(tag == k for tag in tags) / B
        for b, tag in enumerate(tags):
            h = brute.confidence_KB[k][b]
            surprise = -F.logsigmoid(h) * (1 - share) if tag == k else -F.logsigmoid(-h) * share
            total = total + surprise / B
    return total


def brute_halting(brute: Brute, weight: float) -> Tensor:
    total = torch.zeros(())
    for k, (p, c) in enumerate(zip(brute.p_KB, brute.costs, strict=True)):
        halt = leaving(brute, k)
        divergence = halt * (halt.clamp_min(1e-300).log() + math.log(len(brute.p_KB)))
        total = total + (halt * (-p.log() + weight * c) + 0.01 * divergence).mean()
    return total


def brute_joint_gates(brute: Brute, weight: float) -> Tensor:
    K, total = len(brute.p_KB), torch.zeros(())
    for k in range(K):
        weights = (1 + K * leaving(brute, k).detach()) / 2
        total = total - (weights * brute.p_KB[k].log()).mean()
    for k in range(K - 1):
        for b in range(len(brute.targets_B)):
            priced = [-brute.p_KB[j][b].log().item() + weight * brute.costs[j] for j in range(k, K)]
            h = brute.confidence_KB[k][b]
            wanted = h if priced[0] <= min(priced[1:]) else -h
            total = total - F.logsigmoid(wanted) / len(brute.targets_B)
    return total


ORACLES = {
    "v1": brute_v1,
    "v2": brute_v2,
    "v3": brute_v3,
    "v4": brute_v4,
    "halting": brute_halting,
    "joint_gates": brute_joint_gates,
}


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=150, deadline=None)
@given(
    K=st.integers(2, 6),
    scale=st.sampled_from([0.1, 3.0, 30.0, 100.0]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_value_and_gradient(
    name: str,
    K: int,
    scale: float,
    seed: int,
    data: Any,
) -> None:
    B, N = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    weight = data.draw(st.floats(0, 3))
    if name in ("v4", "joint_gates"):  # which compare losses: float32 can't tell the tiniest apart
        scale = min(scale, 3.0)
    random = torch.Generator().manual_seed(seed)
    logits = (torch.rand(K, B, N, generator=random) * 2 - 1) * scale
    confidence = (torch.rand(K - 1, B, generator=random) * 2 - 1) * scale
    targets = torch.randint(0, N, (B,), generator=random)
    costs = torch.rand(K, generator=random).sort().values.tolist()

    ours = [t.clone().requires_grad_() for t in (*logits, *confidence)]
    objective = get_objective(name, cost_weight=weight)
    value = objective(ExitOutputs(ours[:K], ours[K:]), targets, costs)
    value.backward()

    exact = [t.double().requires_grad_() for t in (logits, confidence)]
    expected = ORACLES[name](brute_force(exact[0], exact[1], targets, costs), weight)
    expected.backward()

    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=2e-5)
    gradients = [torch.stack([t.grad for t in part if t.grad is not None]) for part in (ours[:K], ours[K:])]
    for gradient, wanted in zip(gradients, exact, strict=True):
        assert wanted.grad is not None
        torch.testing.assert_close(gradient.double(), wanted.grad, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("sign", [-1, 1])
def test_finite_at_the_extremes_in_bf16(name: str, sign: int) -> None:
    """Every logit at ±100, wrong and sure of it."""
    logits = [torch.tensor([[-100.0, 100.0]], dtype=torch.bfloat16, requires_grad=True) for _ in range(4)]
    sure = [torch.full((1,), 100.0 * sign, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = OBJECTIVES[name](ExitOutputs(logits, sure), torch.tensor([0]), [0.2, 0.5, 0.8, 1.0])
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert all(bool(t.grad.isfinite().all()) for t in [*logits, *sure] if t.grad is not None)


def test_gate_that_always_leaves_pays_for_the_first_exit_only() -> None:
    outputs = ExitOutputs([torch.zeros(3, 4)] * 3, [torch.full((3,), 100.0)] * 2)
    _, spent_KB = mixtures(outputs, torch.tensor([0, 1, 2]), [0.2, 0.6, 1.1])
    assert spent_KB[:, 0].tolist() == pytest.approx([0.2, 0.6, 1.1])


def test_joint_cross_entropy_by_hand() -> None:
    """Uniform answers: every exit loses log N."""
    outputs = ExitOutputs([torch.zeros(5, 4)] * 3, [torch.zeros(5)] * 2)
    loss = joint_cross_entropy(outputs, torch.tensor([0, 1, 2, 3, 0]), [0.25, 0.5, 1.0])
    assert loss.item() == pytest.approx(3 * math.log(4))
    light = joint_cross_entropy(outputs, torch.tensor([0, 1, 2, 3, 0]), [0.25, 0.5, 1.0], early_weight=0.2)
    assert light.item() == pytest.approx(1.4 * math.log(4))
    by_cost = shallow_deep(outputs, torch.tensor([0, 1, 2, 3, 0]), [0.25, 0.5, 1.1])
    assert by_cost.item() == pytest.approx(1.75 * math.log(4))


def test_boosted_adds_to_what_earlier_exits_say() -> None:
    """By hand, with half of what was said before; and no exit is taught by a later one's loss."""
    torch.manual_seed(0)
    targets_B, logits_KBN = (
        torch.randint(0, 4, (6,)),
        [torch.randn(6, 4, requires_grad=True) for _ in range(3)],
    )
    loss = get_objective("boosted")(ExitOutputs(logits_KBN, [torch.zeros(6)] * 2), targets_B, [0.3, 0.6, 1.0])
    first, second, third = (z_BN.detach().double() for z_BN in logits_KBN)
    together = [first, second + first / 2, third + second / 2 + first / 4]
    by_hand = -sum(z_BN.log_softmax(1)[torch.arange(6), targets_B].mean() for z_BN in together)
    assert loss.item() == pytest.approx(float(by_hand), rel=1e-5)
    loss.backward()
    for z_BN, said_BN in zip(logits_KBN, together, strict=True):
        wrong_BN = said_BN.softmax(1) - F.one_hot(targets_B, 4)
        torch.testing.assert_close(z_BN.grad, (wrong_BN / 6).float())


def test_weighted_stresses_an_input_where_it_would_leave() -> None:
    """Five inputs, three exits: the surest leaves first, two at the next exit, the rest at the last."""
    sure_KB = torch.tensor([[1.0, 5, 2, 3, 4], [4, 9, 3, 2, 1], [1, 1, 1, 1, 1]])
    logits_KBN = [F.pad(sure_B[:, None], (0, 3)) for sure_B in sure_KB]
    targets_B = torch.tensor([0, 1, 2, 3, 0])
    loss = get_objective("weighted")(
        ExitOutputs(logits_KBN, [torch.zeros(5)] * 2), targets_B, [0.3, 0.6, 1.0]
    )
    weights_KB = torch.full((3, 5), 0.6)
    weights_KB[0, 1] = weights_KB[1, 0] = weights_KB[1, 2] = weights_KB[2, 3] = weights_KB[2, 4] = 1.8
    losses_KB = torch.stack([F.cross_entropy(z_BN, targets_B, reduction="none") for z_BN in logits_KBN])
    assert loss.item() == pytest.approx(float((weights_KB * losses_KB).mean(1).sum()))


def test_even_gradients_are_means_over_the_exits_behind() -> None:
    """A stage's gradient is the mean of those that each exit behind it alone would give it."""
    torch.manual_seed(0)
    network = eenet.create_model("resnet8_cifar", num_exits=2, num_classes=4, input_size=(3, 16, 16)).eval()
    images_BCHW, targets_B = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 2])

    def gradients(*exits: int) -> list[torch.Tensor]:
        network.zero_grad()
        logits_KBN = network(images_BCHW).logits_KBN
        torch.stack([F.cross_entropy(logits_KBN[k], targets_B) for k in exits]).sum().backward()
        firsts = [next(stage.parameters()) for stage in network.stages]
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in firsts]

    alone = [gradients(k) for k in range(3)]
    handles = even_gradients(network)
    together = gradients(0, 1, 2)
    for j, found in enumerate(together):
        torch.testing.assert_close(found, torch.stack([alone[k][j] for k in range(j, 3)]).mean(0))
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(gradients(0, 1, 2)[0], torch.stack([each[0] for each in alone]).sum(0))


def test_a_teacher_is_imitated_by_all_exits() -> None:
    """The loss of each, and that of the final exit, is least at the teacher's own answers."""
    torch.manual_seed(0)
    taught_BN, targets_B = torch.randn(6, 4), torch.randint(0, 4, (6,))
    logits_KBN = [torch.randn(6, 4, requires_grad=True) for _ in range(3)]
    outputs = ExitOutputs(logits_KBN, [torch.zeros(6), torch.zeros(6)])
    loss = joint_cross_entropy(outputs, targets_B, [0.3, 0.6, 1.0], distillation=0.6, teacher_BN=taught_BN)
    by_hand = 0.0
    for z_BN in logits_KBN:
        p_BN, q_BN = (taught_BN / 2).softmax(1), (z_BN / 2).softmax(1)
        divergence = (p_BN * (p_BN / q_BN).log()).sum(1).mean()
        by_hand += 0.4 * F.cross_entropy(z_BN, targets_B) + 0.6 * 4 * divergence
    torch.testing.assert_close(loss, torch.as_tensor(by_hand))
    same = ExitOutputs([taught_BN.clone().requires_grad_() for _ in range(3)], outputs.confidence_logits_KB)
    joint_cross_entropy(same, targets_B, [0.3, 0.6, 1.0], distillation=1.0, teacher_BN=taught_BN).backward()
    assert all(z_BN.grad is not None and z_BN.grad.abs().max() < 1e-6 for z_BN in same.logits_KBN)


def test_unknown_objective() -> None:
    with pytest.raises(ValueError, match="unknown objective 'v7'"):
        get_objective("v7")
