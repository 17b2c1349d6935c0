"""The division is exact, cuts are where one value is alive, and traps of real networks are handled."""

from collections.abc import Sequence

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import eenet.backbones  # noqa: F401
from eenet.network import convert
from eenet.stages import check_backbone, divide, trace

FAMILIES = [
    "resnet20_cifar",
    "resnet8_w4_cifar",
    "resnet18",
    "resnetv2_50",
    "regnety_002",
    "convnext_atto",
    "densenet121",
    "vgg11_bn",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "ghostnet_100",
    "repvgg_a0",
    "hrnet_w18_small",
    "dla34",
    "res2net50_26w_4s",
    "cspresnet50",
    "nf_resnet50",
    "rexnet_100",
    "seresnet18",
    "selecsls42b",
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", FAMILIES)
def test_stages_reproduce_the_backbone(name: str, training: bool) -> None:
    """Cut everywhere: same logits, same gradients, same BatchNorm statistics, to the bit."""
    model = timm.create_model(name, num_classes=5).train(training)
    traced = trace(model, (3, 64, 64))
    assert len(traced.cuts) >= 2
    start = {key: value.clone() for key, value in model.state_dict().items()}
    stages = divide(traced, range(len(traced.cuts)))
    assert [stage.training for stage in stages] == [training] * len(stages)

    def run(forward: nn.Module) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        model.load_state_dict(start)
        model.zero_grad()
        torch.manual_seed(1)
        images = torch.randn(2, 3, 64, 64)
        logits = forward(images)
        logits.square().sum().backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        return logits.detach(), gradients, {key: b.clone() for key, b in model.named_buffers()}

    whole, divided = run(model), run(nn.Sequential(*stages))
    assert torch.equal(whole[0], divided[0])
    for one, other in zip(whole[1:], divided[1:], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_stage_modules_are_the_backbones_own() -> None:
    model = timm.create_model("resnet20_cifar")
    stages = divide(trace(model, (3, 32, 32)), [2, 5])
    own = {id(p) for p in model.parameters()}
    divided = [id(p) for stage in stages for p in stage.parameters()]
    assert set(divided) == own
    assert len(divided) == len(own)
    assert stages[0].get_submodule("layer1.0.conv1") is model.get_submodule("layer1.0.conv1")


def test_cuts_of_a_known_network() -> None:
    cuts = trace(timm.create_model("resnet18", num_classes=10), (3, 64, 64)).cuts
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)][:-1]
    assert [cut.name for cut in cuts] == ["conv1", *blocks]
    assert cuts[0].feature_size == (64, 16, 16)  # behind norm, activation and pooling
    assert [cut.macs for cut in cuts] == sorted({cut.macs for cut in cuts})


@pytest.mark.parametrize(("name", "least"), [("convnext_atto", 12), ("regnetx_002", 12)])
def test_stage_containers_are_opened(name: str, least: int) -> None:
    assert len(trace(timm.create_model(name, num_classes=5), (3, 64, 64)).cuts) >= least


def test_no_cut_inside_a_skip_connection() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = self.c(self.b(x)) + x  # x stays alive until here
            return self.head(self.d(y).mean((2, 3)))

    assert [cut.name for cut in trace(Skipping(), (3, 8, 8)).cuts] == ["a", "add"]


def test_head_keeps_its_features_from_an_in_place_activation() -> None:
    """The next stage begins with an in-place ReLU; without care it would spoil the head's input."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.act(x))

    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    network = convert(backbone, (3, 8, 8), placement=["0", "1"])
    kept: list[Tensor] = []
    for head in network.heads:
        head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    images = torch.randn(2, 3, 8, 8)
    outputs = network(images)
    assert all((features < 0).any() for features in kept)
    torch.stack([logits.sum() for logits in outputs.logits_KBN]).sum().backward()
    features = backbone[0](images)
    assert torch.equal(outputs.logits_KBN[0], network.heads[0](features)[0])


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.b(self.a(x)).mean((2, 3)), 0.5, self.training)
        return self.head(x)


def test_functional_dropout_follows_the_mode() -> None:
    stages = nn.Sequential(*divide(trace(Dropping(), (3, 8, 8)), [0]))
    images = torch.randn(4, 3, 8, 8)
    stages.train()
    assert not torch.equal(stages(images), stages(images))
    stages.eval()
    assert torch.equal(stages(images), stages(images))


def test_check_backbone_says_where_exits_can_go() -> None:
    cuts = check_backbone(Dropping(), (3, 8, 8))
    assert [(cut.name, cut.feature_size) for cut in cuts] == [("a", (8, 6, 6))]
    assert cuts[0].macs == 3 * 8 * 9 * 36
    with pytest.raises(ValueError, match="train mode"):
        check_backbone(ModeDependent(), (3, 8, 8))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class ModeDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        return self.head((x * 2 if self.training else x).mean((2, 3)))


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        (Branching(), (3, 8, 8), "can't be traced.*nn.Sequential"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8), "must return logits"),
        (nn.Sequential(nn.Flatten()), (3, 8, 8), "no convolution"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (1, 8, 8), "does not run on an input of size"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (8, 8), "expected .channels, height, width."),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (3, 0, 8), "≥ 1"),
    ],
)
def test_refusals(backbone: nn.Module, size: Sequence[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(backbone, size)


def test_division_that_is_not_exact_is_refused() -> None:
    """The trace holds eval mode's branch only; train mode would silently differ."""
    traced = trace(ModeDependent(), (3, 8, 8))
    with pytest.raises(ValueError, match="train mode"):
        divide(traced, [0])


def test_user_modes_and_statistics_are_kept() -> None:
    model = timm.create_model("resnet20_cifar").train()
    norm = model.get_submodule("bn1").eval()  # a frozen norm
    before = {key: value.clone() for key, value in model.state_dict().items()}
    divide(trace(model, (3, 32, 32)), [1])
    assert model.training
    assert not norm.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
