"""Cuts are where one value is alive, and traps of real networks are handled.

That every family divides exactly is tested in `test_backbone_contract.py`.
"""

from collections.abc import Callable, Sequence

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from eenet.backbones.cuts import trace
from eenet.backbones.division import check_backbone, divide
from eenet.networks.building import convert


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


@pytest.mark.parametrize(
    ("backbone", "block"),
    [
        (lambda: timm.create_model("convnext_atto", num_classes=5), "ConvNeXtBlock"),
        (lambda: timm.create_model("regnetx_002", num_classes=5), "Bottleneck"),
        (lambda: torchvision.models.convnext_tiny(num_classes=5), "CNBlock"),
        (lambda: torchvision.models.regnet_x_400mf(num_classes=5), "ResBottleneckBlock"),
    ],
    ids=["timm-convnext", "timm-regnet", "torchvision-convnext", "torchvision-regnet"],
)
def test_stage_containers_are_opened(backbone: Callable[[], nn.Module], block: str) -> None:
    """A cut after every block but the last, behind which nothing is left to save."""
    model = backbone()
    blocks = [name for name, part in model.named_modules() if type(part).__name__ == block]
    assert len(blocks) >= 12
    cuts = [cut.name for cut in trace(model, (3, 64, 64)).cuts]
    before = [[name for name in blocks if f"{name}.".startswith(f"{cut}.")] for cut in cuts]
    assert [names for names in before if names] == [[name] for name in blocks[:-1]]


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "regnetx_002"])
def test_pooling_and_classifier_are_no_cuts(name: str) -> None:
    """One tensor is alive there too, but an exit would save nothing."""
    model = timm.create_model(name, num_classes=5)
    cuts = trace(model, (3, 64, 64)).cuts
    assert all(cut.feature_size[1] > 1 for cut in cuts)
    assert not {cut.name.split(".")[0] for cut in cuts} & {
        "global_pool",
        "head",
        "fc",
        "conv_head",
        "classifier",
    }


def test_first_cut_of_a_vgg_lies_behind_norm_and_activation() -> None:
    features = torchvision.models.vgg.make_layers([8, "M", 16, 16], batch_norm=True)
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    traced = trace(model, (3, 16, 16))
    images = torch.randn(2, 3, 16, 16)
    assert traced.cuts[0].name == "0.0"  # the convolution
    assert traced.cuts[0].feature_size == (8, 8, 8)  # behind the pooling
    assert torch.equal(divide(traced, [0])[0](images), features[:4](images))  # conv, norm, ReLU, pooling


def test_block_that_writes_into_the_list_it_is_given() -> None:
    """As HRNet's stages do; `fx.Interpreter` hands out lists that can't be written."""

    class Fusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

        def forward(self, x: list[Tensor]) -> Tensor:
            for i, conv in enumerate(self.convs):
                x[i] = conv(x[i])
            return x[0] + x[1]

    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fuse, self.head = nn.Conv2d(3, 4, 3), Fusing(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.fuse([x, x.relu()]).mean((2, 3)))

    assert [cut.name for cut in check_backbone(Branched(), (3, 8, 8))] == ["stem"]


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


def test_head_keeps_its_features_from_an_in_place_dropout() -> None:
    """It writes in train mode only."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5, inplace=True)
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.drop(x))

    layers = [nn.Conv2d(3, 4, 3), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    network = convert(nn.Sequential(*layers), (3, 8, 8), placement=["0"]).train()
    kept: list[Tensor] = []
    network.heads[0].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    images = torch.randn(2, 3, 8, 8)
    network(images).logits_KBN[0].sum().backward()
    assert torch.equal(kept[0], layers[0](images))


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


def test_classifier_of_zeros_hides_no_difference() -> None:
    """Its logits are zero whatever the stages do, and so are all gradients before it."""

    class Scaled(ModeDependent):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x) * (2 if self.training else 3)).mean((2, 3)))

    backbone = Scaled()
    nn.init.zeros_(backbone.head.weight)
    with pytest.raises(ValueError, match="train mode"):
        check_backbone(backbone, (3, 8, 8))


class PartlyFrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x)
        return self.head(self.b(x).mean((2, 3)))


def test_no_grad_that_tracing_would_forget_is_refused() -> None:
    """Same outputs, other gradients."""
    with pytest.raises(ValueError, match=r"gradients.*list of its stages"):
        check_backbone(PartlyFrozen(), (3, 8, 8))


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        (Branching(), (3, 8, 8), "can't be traced.*control flow.*list of its stages"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8), "must return logits"),
        (nn.Sequential(nn.Flatten()), (3, 8, 8), "no convolution"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (1, 8, 8), "does not run on an input of size"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),
            (8, 8),
            "expected the size of an image, .channels, height, width.",
        ),
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
