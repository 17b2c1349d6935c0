"""Thousands of small networks of every shape: `convert` refuses them clearly, or all promises hold."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, event, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eenet.backbones import cost
from eenet.backbones.cuts import trace
from eenet.backbones.placement import PLACEMENTS
from eenet.networks.building import convert
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.runtime.predictor import Predictor
from eenet.tasks.classification.heads import HEADS

EXAMPLES, FAKE_TENSORS = 1000, cost._fake_tensors


# Random backbones --------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A convolution with what may stand around it."""

    width: int = 3
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    norm: str = "batch"
    activation: str = "relu"
    activation_first: bool = False
    pool: bool = False
    join: str = "none"
    """How the block's input comes back in: not at all, `add`, or `concat`."""
    times: int = 1
    """How often the same module, with the same weights, is run."""


@dataclass(frozen=True)
class Spec:
    """A backbone: the same one each time it is built, weights aside."""

    blocks: tuple[Block, ...] = (Block(), Block())
    flat: bool = False
    """Layers side by side in the root, instead of modules of blocks."""
    tail: str = "pool"
    classes: int = 3
    input_size: tuple[int, int, int] = (3, 8, 8)


ACTIVATIONS = {
    "relu": nn.ReLU,
    "in-place": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "none": nn.Identity,
}
NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(1, width),
    "instance": nn.InstanceNorm2d,
    "none": lambda _: nn.Identity(),
}


def layers(block: Block, channels: int, width: int) -> list[nn.Module]:
    groups = channels if block.depthwise and width % channels == 0 else 1
    stride = 1 if block.join != "none" else block.stride
    conv = nn.Conv2d(channels, width, block.kernel, stride, block.kernel // 2, groups=groups)
    activation = ACTIVATIONS[block.activation]()
    main = [conv, NORMS[block.norm](width)]
    pool = [nn.MaxPool2d(2)] if block.pool and block.join == "none" else []
    return [*([activation, *main] if block.activation_first else [*main, activation]), *pool]


class Joined(nn.Module):
    def __init__(self, inner: list[nn.Module], join: str) -> None:
        super().__init__()
        self.inner, self.join = nn.Sequential(*inner), join

    def forward(self, x: Tensor) -> Tensor:
        before = x.clone() if self.join != "none" else x
        return joined(before, self.inner(x), self.join)


def joined(x: Tensor, y: Tensor, join: str) -> Tensor:
    if join == "add":
        return x + y
    return torch.cat([x, y], 1) if join == "concat" else y


class Backbone(nn.Module):
    """What a user may write: a loop over blocks, joins in the root or inside the blocks."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        channels, self.blocks = spec.input_size[0], nn.ModuleList()
        for block in spec.blocks:
            keeps = block.join == "add" or block.times > 1
            width = channels if keeps else block.width
            block_layers = layers(block, channels, width)
            inner = nn.Sequential(*block_layers) if spec.flat else Joined(block_layers, self.inside(block))
            self.blocks.append(inner)
            channels = channels + width if block.join == "concat" and block.times == 1 else width
        if spec.tail == "flatten":
            with torch.no_grad():
                channels = self.trunk(torch.zeros(2, *spec.input_size)).flatten(1).shape[1]
        self.classifier = (
            nn.Conv2d(channels, spec.classes, 1) if spec.tail == "conv" else self.linear(channels)
        )

    def linear(self, features: int) -> nn.Module:
        if self.spec.tail != "mlp":
            return nn.Linear(features, self.spec.classes)
        return nn.Sequential(nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, self.spec.classes))

    @staticmethod
    def inside(block: Block) -> str:
        return "add" if block.join == "concat" and block.times > 1 else block.join

    def trunk(self, x: Tensor) -> Tensor:
        for block, module in zip(self.spec.blocks, self.blocks, strict=True):
            for _ in range(block.times):
                if self.spec.flat and self.inside(block) != "none":
                    x = joined(x, module(x.clone()), self.inside(block))
                else:
                    x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        if self.spec.tail == "flatten":
            return self.classifier(x.flatten(1))
        if self.spec.tail == "conv":
            return F.adaptive_avg_pool2d(self.classifier(x), 1).flatten(1)
        if self.spec.tail == "mean":
            return self.classifier(x.mean((2, 3)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def build(spec: Spec, seed: int) -> nn.Module:
    """A fresh instance, in eval mode, with statistics that matter."""
    torch.manual_seed(seed)
    backbone = Backbone(spec)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return backbone.eval()


blocks = st.builds(
    Block,
    width=st.integers(1, 6),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 1, 2]),
    depthwise=st.booleans(),
    norm=st.sampled_from(list(NORMS)),
    activation=st.sampled_from(list(ACTIVATIONS)),
    activation_first=st.booleans(),
    pool=st.sampled_from([False, False, False, True]),
    join=st.sampled_from(["none", "none", "add", "concat"]),
    times=st.sampled_from([1, 1, 1, 2]),
)
specs = st.builds(
    Spec,
    blocks=st.lists(blocks, min_size=1, max_size=4).map(tuple),
    flat=st.booleans(),
    tail=st.sampled_from(["pool", "mean", "flatten", "conv", "mlp"]),
    classes=st.integers(2, 4),
    input_size=st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
)
fractions = st.floats(0.001, 0.999)
placements: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.sampled_from(list(PLACEMENTS)), st.integers(1, 4)),
    st.lists(fractions, min_size=1, max_size=3),
    st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),  # which of the cuts, to be named
)


# What must hold ----------------------------------------------------------------------


def convert_at(backbone: nn.Module, spec: Spec, placement: Any, head: str) -> EENet:
    if isinstance(placement, tuple):
        name, num_exits = placement
        return convert(backbone, spec.input_size, num_exits=num_exits, placement=name, head=head)
    if isinstance(placement[0], int):
        names = [cut.name for cut in trace(backbone, spec.input_size).cuts]
        placement = [names[i] if i < len(names) else f"no-cut-{i}" for i in placement]
    return convert(backbone, spec.input_size, placement=placement, head=head)


def scores(kind: str, logits_N: Tensor, confidence_logit: Tensor) -> float:
    p = logits_N.softmax(0).sort(descending=True).values
    return {
        "max_softmax": lambda: p[0],
        "confidence": lambda: 1 / (1 + (-confidence_logit).exp()),
        "entropy": lambda: torch.special.xlogy(p, p).sum(),
        "margin": lambda: p[0] - p[1],
    }[kind]().item()


def thresholds_between(scores_KB: list[list[float]], side: bool) -> tuple[float, ...]:
    """So that some images leave and some stay, where that is possible without a close call."""
    return tuple(
        (min(row) + max(row)) / 2 if max(row) - min(row) > 1e-4 else (max(row) + 1 if side else min(row) - 1)
        for row in scores_KB
    )


@pytest.fixture(scope="module", autouse=True)
def _real_tensors() -> Iterator[None]:
    """Fake tensors save nothing on networks this small; a case takes half as long with real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "_fake_tensors", torch.no_grad)
        yield


@given(spec=specs)
@settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
def test_fake_tensors_find_the_same_cuts(spec: Spec) -> None:
    backbone = build(replace(spec, tail="pool"), seed=0)
    try:
        real = trace(backbone, spec.input_size).cuts
    except ValueError as error:
        assume("does not run" not in str(error))
        raise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "_fake_tensors", FAKE_TENSORS)
        assert trace(backbone, spec.input_size).cuts == real


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


ORDINARY: dict[str, Any] = {
    "head": "pool",
    "spec": Spec(),
    "placement": ("linear", 1),
    "score": "confidence",
    "switched_off": set(),
    "side": True,
    "saved": True,
}


@given(
    head=st.sampled_from(list(HEADS)),
    spec=specs,
    placement=placements,
    score=st.sampled_from(["max_softmax", "confidence", "entropy", "margin"]),
    switched_off=st.sets(st.integers(0, 3)),
    side=st.booleans(),
    saved=st.sampled_from([True, False, False, False]),  # loading takes as long as all the rest
)
@example(**ORDINARY)
@example(**ORDINARY | {"spec": Spec((Block(width=1, times=2), Block()))})  # saving shared weights failed
@example(**ORDINARY | {"spec": Spec((Block(width=1, times=2),), input_size=(1, 1, 2))})  # exits of one name
@example(**ORDINARY | {"spec": Spec(classes=1), "score": "margin"})  # nothing to choose: refused
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes here
    suppress_health_check=[HealthCheck.too_slow],
)
def test_convert_refuses_or_keeps_every_promise(
    head: str,
    spec: Spec,
    placement: Any,
    score: str,
    switched_off: set[int],
    side: bool,
    saved: bool,
    directory: Path,
) -> None:
    try:
        backbone = build(spec, seed=0)
    except (RuntimeError, ValueError):  # torch itself refuses: pooled away, no spatial extent left
        event("no backbone")
        spec = replace(spec, tail="pool")
        backbone = build(spec, seed=0)
    channels, height, width = spec.input_size
    pixels = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    images = (pixels / 255 - 0.5) / 0.25
    try:
        with torch.no_grad():
            backbone(images[:1].clone())  # torch's GroupNorm refuses a single value, but not two of them
            expected = backbone(images.clone())
    except (RuntimeError, ValueError):
        expected = None
    network, refused = None, ""
    try:
        network = convert_at(backbone, spec, placement, head)
    except ValueError as error:
        refused = str(error)
    if network is None:
        event(f"refused: {refused[:20]}")
        assert len(refused) > 30
        assert ("does not run on an input" in refused) == (expected is None)
        assert "can't be" not in refused  # all of these can be traced, and divided exactly
        return
    event(f"{network.num_exits} exits")
    assert expected is not None
    assert spec.classes > 1

    with torch.no_grad():
        outputs = network(images.clone())
        features = images.clone()
        for k, exit_head in enumerate(network.heads):  # heads see what the stage before them has put out
            features = network.stages[k](features)
            assert torch.equal(exit_head(features)[0], outputs.logits_KBN[k])
            features = features.clone()
    assert torch.equal(outputs.logits_KBN[-1], expected)
    assert [tuple(z.shape) for z in outputs.logits_KBN] == [(2, spec.classes)] * (network.num_exits + 1)
    assert [tuple(z.shape) for z in outputs.confidence_logits_KB] == [(2,)] * network.num_exits

    costs = network.costs_K
    assert costs == sorted(set(costs))
    assert costs[-1] > 1

    network.config.mean, network.config.std = [0.5] * channels, [0.25] * channels
    if saved:
        network.save_pretrained(directory, graph=False)  # graphs take seconds, and have tests of their own
        loaded = EENet.from_pretrained(directory, backbone=build(spec, seed=1))
        assert loaded.config == network.config
        network = loaded
    with torch.no_grad():
        if saved:
            again = network(images.clone())
            assert all(all(map(torch.equal, *pair)) for pair in zip(outputs, again, strict=True))
        singly = [network(image[None].clone()) for image in images]

    scores_KB = [
        [scores(score, out.logits_KBN[k][0], out.confidence_logits_KB[k][0]) for out in singly]
        for k in range(network.num_exits)
    ]
    enabled = tuple(k not in switched_off for k in range(network.num_exits))
    policy = ExitPolicy(score, thresholds_between(scores_KB, side), enabled)
    predictor = Predictor(network, policy=policy)
    for b, out in enumerate(singly):
        leaves = [
            k for k in range(network.num_exits) if enabled[k] and scores_KB[k][b] > policy.thresholds[k]
        ]
        leaves_at = min(leaves, default=network.num_exits)
        answer = predictor.predict(pixels[b])
        assert answer.exit == leaves_at
        assert answer.class_index == int(out.logits_KBN[leaves_at][0].argmax())
        assert answer.relative_cost == network.costs(enabled)[leaves_at]
