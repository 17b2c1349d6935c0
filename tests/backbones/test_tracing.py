"""Networks that can't be traced, unusual ones, and mistakes: each works, or is refused with the reason."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from eenet.backbones.division import check_backbone
from eenet.networks.building import convert
from eenet.networks.network import EENet

SIZE = (3, 8, 8)


def small(
    middle: Sequence[nn.Module] | None = None, *, channels: int = 3, normed: bool = False
) -> nn.Sequential:
    """Four convolutions; `middle` takes the place of the two inner ones."""
    inner = middle or [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    norm = nn.BatchNorm2d(4) if normed else nn.Identity()
    return nn.Sequential(
        *(nn.Conv2d(channels, 4, 3), norm, *inner, nn.Conv2d(4, 4, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    )


def assert_exact(network: EENet, backbone: nn.Module, images: Tensor) -> None:
    """The final exit is the backbone, and every exit head learns."""
    for training in (True, False):
        assert torch.equal(network.train(training)(images).logits_KBN[-1], backbone.train(training)(images))
    outputs = network(images)
    torch.stack([z.float().sum() for part in outputs for z in part]).sum().backward()
    assert all(p.grad is not None for p in network.heads.parameters())


# Lists of stages ---------------------------------------------------------------------


class Choosing(nn.Module):
    """Which convolution runs depends on the values: not traceable, and impossible on fake tensors."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.mean() > 0 else self.b(x)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Untraceable(nn.Module):
    """The forward itself branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Choosing(3), Choosing(), Choosing(), Classifier()])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            if x.isfinite().all():
                x = stage(x)
        return x


def stages() -> list[nn.Module]:
    return [Choosing(3), Choosing(), Choosing(), Classifier()]


def test_untraceable_network_is_refused_and_taken_as_a_list() -> None:
    backbone = Untraceable()
    with pytest.raises(ValueError, match=r"can't be traced: .*control flow.*list of its stages"):
        convert(backbone, SIZE, num_exits=1)
    network = convert(backbone.stages, SIZE, placement=["0", "1"])
    assert network.config.exits == ["0", "1"]
    assert_exact(network, backbone, torch.randn(2, *SIZE))


@pytest.mark.parametrize("kind", [list, tuple, nn.ModuleList, lambda modules: nn.Sequential(*modules)])
def test_stages_that_branch_on_values(kind: Callable[[list[nn.Module]], Any]) -> None:
    """Nothing inside is traced; MACs are counted by really running them."""
    cuts = check_backbone(kind(stages()), SIZE)
    assert [cut.name for cut in cuts] == ["0", "1"]  # behind "2", too little is left to save
    assert [cut.macs for cut in cuts] == [64 * 4 * 9 * 3, 64 * 4 * 9 * (3 + 4)]
    assert {cut.feature_size for cut in cuts} == {(4, 8, 8)}


def test_counting_by_really_running_leaves_no_trace() -> None:
    backbone = nn.Sequential(Choosing(3), nn.BatchNorm2d(4), Choosing(), Choosing(), Classifier())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    check_backbone(list(backbone), SIZE)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training


def test_stages_of_a_list_are_never_opened() -> None:
    """Inside a stage, train mode may differ in ways a trace would lose."""

    class Mode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Pair(), Pair()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x) * 2 if self.training else block(x)
            return x

    last = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    given = [nn.Conv2d(3, 4, 3), Mode(), last, Classifier()]
    with pytest.raises(ValueError, match=r"train mode.*list of its stages"):
        check_backbone(nn.Sequential(*given), SIZE)
    assert [cut.name for cut in check_backbone(given, SIZE)] == ["0", "1"]


def test_list_of_stages_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    network = convert(stages(), SIZE, placement=["1"]).eval()
    network.save_pretrained(tmp_path)
    loaded = EENet.from_pretrained(tmp_path, backbone=stages())
    images = torch.randn(2, *SIZE)
    for ours, theirs in zip(network(images), loaded(images), strict=True):
        assert all(map(torch.equal, ours, theirs))
    with pytest.raises(ValueError, match="list of stages"):
        EENet.from_pretrained(tmp_path)


def test_modes_of_the_stages_are_kept() -> None:
    given = [stage.eval() for stage in stages()]
    network = convert(given, SIZE, num_exits=1)
    assert not any(part.training for part in network.modules())


class Hiding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Choosing(3), Pair(), nn.Conv2d(4, 4, 3), Classifier()])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class Normalised(nn.Module):
    """What people put around a network, so that it takes images as they are."""

    def __init__(self, net: nn.Module, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.adapter = net, adapter or nn.Identity()
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((self.adapter(x) - cast(Tensor, self.mean)) / 0.5)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda net: net, ""),
        (Normalised, "net."),
        (lambda net: Normalised(Normalised(net)), "net.net."),
        (lambda net: nn.Sequential(Normalised(net), nn.Identity()), "0.net."),
    ],
    ids=["bare", "normalised", "twice", "in a Sequential"],
)
def test_network_hidden_in_one_block(wrap: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    backbone = wrap(Hiding())
    assert [cut.name for cut in check_backbone(backbone, SIZE)] == [f"{prefix}stages.{k}" for k in (0, 1)]
    network = convert(backbone, SIZE, num_exits=1)
    assert_exact(network, backbone, torch.randn(2, *SIZE))


def test_network_hidden_behind_a_small_layer() -> None:
    """The cut behind the layer is one more, and not the only one."""
    backbone = Normalised(timm.create_model("resnet8_w4_cifar", num_classes=5), nn.Conv2d(1, 3, 1))
    names = [cut.name for cut in check_backbone(backbone, (1, 8, 8))]
    assert names[:2] == ["adapter", "net.conv1"]
    assert "net.layer2.0" in names


def test_hidden_network_that_cannot_be_traced() -> None:
    backbone = Normalised(Untraceable())
    assert check_backbone(backbone, SIZE) == []
    with pytest.raises(ValueError, match=r"no cut.*list of them"):
        convert(backbone, SIZE, num_exits=1)


def test_a_cut_that_only_another_way_of_opening_has(tmp_path: Path) -> None:
    """As in checkpoints from before the other way could be traced."""
    backbone = timm.create_model("mobilevit_xxs", num_classes=5)
    assert "stages.2.1" not in [cut.name for cut in check_backbone(backbone, (3, 64, 64))]
    network = convert(backbone, (3, 64, 64), placement=["stages.2.1"]).eval()
    network.save_pretrained(tmp_path)
    loaded = EENet.from_pretrained(tmp_path, backbone=timm.create_model("mobilevit_xxs", num_classes=5))
    assert loaded.config.exits == ["stages.2.1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("test_vit", num_classes=5),
        lambda: Normalised(timm.create_model("test_vit", num_classes=5)),
        lambda: torchvision.models.VisionTransformer(160, 16, 4, 2, 64, 256, num_classes=5),
    ],
    ids=["timm", "normalised", "torchvision"],
)
def test_transformers_on_tokens_are_refused_for_what_they_are(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"works on tokens \[batch, tokens, channels\].*feature maps"):
        convert(make(), (3, 160, 160), num_exits=1)


# Unusual networks --------------------------------------------------------------------


class Sharing(nn.Module):
    """One block, called three times, and a scale used before and after the cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), Classifier()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x)) * self.scale
        return self.head(self.block(self.block(x)) * self.scale)


def test_weights_shared_between_stages(tmp_path: Path) -> None:
    backbone = Sharing()
    network = convert(backbone, SIZE, num_exits=3, placement=["stem", "block", "block:2"])
    assert_exact(network, backbone, torch.randn(2, *SIZE))
    assert {id(p) for p in network.stages.parameters()} == {id(p) for p in backbone.parameters()}
    network.save_pretrained(tmp_path)
    loaded = EENet.from_pretrained(tmp_path, backbone=Sharing())
    images = torch.randn(2, *SIZE)
    assert torch.equal(network.eval()(images).logits_KBN[-1], loaded(images).logits_KBN[-1])
    shared = [stage.get_submodule("block") for stage in loaded.stages[1:]]
    assert shared[0] is shared[1] is shared[2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_refused(dtype: torch.dtype) -> None:
    """Images come in float32: the network would run neither in training nor in `collect`."""
    with pytest.raises(ValueError, match=rf"computes in {dtype}.*network\.float\(\)"):
        convert(small(normed=True).to(dtype), SIZE, num_exits=2)
    convert(small(normed=True).to(dtype).float(), SIZE, num_exits=2)


def test_frozen_parameters_stay_frozen_and_heads_learn() -> None:
    backbone = small(normed=True).requires_grad_(False)
    network = convert(backbone, SIZE, num_exits=2)
    assert_exact(network, backbone, torch.randn(2, *SIZE))
    assert not any(p.requires_grad for p in network.stages.parameters())


@pytest.mark.parametrize("size", [(3, 8, 20), (1, 9, 8)])
def test_other_image_sizes(size: tuple[int, int, int]) -> None:
    backbone = small(channels=size[0])
    network = convert(backbone, size, num_exits=2)
    assert_exact(network, backbone, torch.randn(2, *size))
    first = (size[1] - 2) * (size[2] - 2)
    assert network.config.stage_macs[0] == first * 4 * 9 * (size[0] + 4)


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), Classifier()

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0) -> Tensor:
        x = self.body(x) * scale
        if mask is not None:  # a traced placeholder would never be None
            x = x * mask
        return self.head(self.tail(x))


def test_optional_arguments_keep_their_defaults() -> None:
    backbone = Optional()
    assert_exact(convert(backbone, SIZE, placement=["body"]), backbone, torch.randn(2, *SIZE))


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        nn.utils.spectral_norm,  # the old kind: hooks that set the weight before every call
        nn.utils.weight_norm,
    ],
    ids=["spectral", "weight", "spectral-hook", "weight-hook"],
)
def test_normed_weights(normed: Callable[[nn.Module], nn.Module]) -> None:
    backbone = small([normed(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(2)])
    images = torch.randn(2, *SIZE)
    start = {name: value.clone() for name, value in backbone.state_dict().items()}
    network = convert(backbone, SIZE, num_exits=2)
    assert all(torch.equal(value, start[name]) for name, value in backbone.state_dict().items())
    network.eval()  # in train mode, spectral norm takes a step of its power iteration on every call
    assert torch.equal(network(images).logits_KBN[-1], backbone(images))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    backbone = small()
    network = convert(wrap(backbone), SIZE, num_exits=2)
    assert_exact(network, backbone, torch.randn(2, *SIZE))
    assert {id(p) for p in network.stages.parameters()} == {id(p) for p in backbone.parameters()}
    assert not any("_orig_mod" in name for name in network.state_dict())
    assert check_backbone([*map(wrap, backbone[:4]), backbone[4:]], SIZE)


class Weightless(nn.Module):
    """Convolutions with fixed kernels, no parameter at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        kernel = cast(Tensor, self.kernel)
        return F.conv2d(F.conv2d(F.conv2d(x, kernel), kernel), kernel).mean((2, 3))


def test_network_without_parameters() -> None:
    backbone = Weightless()
    network = convert(backbone, SIZE, num_exits=1)
    images = torch.randn(2, *SIZE)
    assert torch.equal(network(images).logits_KBN[-1], backbone(images))
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        check_backbone(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), SIZE)


# Refusals ----------------------------------------------------------------------------


class Returning(nn.Module):
    def __init__(self, make: Callable[[Tensor], object], mode: bool | None = None) -> None:
        super().__init__()
        self.body, self.make, self.mode = small(), make, mode

    def forward(self, x: Tensor) -> object:
        logits = self.body(x)
        return self.make(logits) if self.mode in (None, self.training) else logits


@pytest.mark.parametrize(
    ("make", "mode", "message"),
    [
        (lambda z: {"logits": z}, None, r"in eval mode not a dict.*aux_logits=False"),
        (lambda z: (z, z), None, r"not a tuple.*aux_logits=False"),
        (lambda z: [z], None, r"not a list"),
        (lambda z: (z, z), True, r"in train mode not a tuple.*aux_logits=False"),
        (lambda z: z[0], None, r"not \(5,\)"),
        (lambda z: z.reshape(1, -1), None, r"2 images in eval mode not \(1, 10\)"),
    ],
)
def test_what_is_no_logits(make: Callable[[Tensor], object], mode: bool | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_backbone(Returning(make, mode), SIZE)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class CompiledInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.compile(small())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def compiled_in_place() -> nn.Module:
    backbone = small()
    backbone.compile()
    return backbone


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "resnet18", r"is 'resnet18'; expected an nn.Module.*create_model"),
        (lambda: nn.Conv2d, r"the class Conv2d itself, not an instance"),
        (lambda: F.relu, r"of type function; expected an nn.Module"),
        (lambda: None, r"of type NoneType"),
        (lambda: [], r"list of stages is empty"),
        (lambda: [nn.Conv2d(3, 4, 3), "fc"], r"stage 1 of the list is 'fc'; expected an nn.Module"),
        (lambda: [nn.Conv2d(3, 4, 3), nn.Linear(9, 5)], r"this list of stages does not run on an input"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), r"uninitialised.*0.weight.*run it once"),
        (lambda: small().to("meta"), r"0.weight is on the meta device.*load its weights"),
        (TwoInputs, r"can't be traced: .*argument.*'y'.*images alone"),
        (CompiledInside, r"block 'body' is compiled.*before torch.compile"),
        (compiled_in_place, r"it is compiled.*before torch.compile"),
        (lambda: torch.jit.script(small()), r"TorchScript.*before scripting"),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten()), r"Conv1d layers and no Conv2d.*images"),
        (lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten()), r"Conv3d layers and no Conv2d.*images"),
    ],
)
def test_mistakes(make: Callable[[], Any], message: str) -> None:
    for call in (check_backbone, lambda *args: convert(*args, num_exits=1)):
        with pytest.raises(ValueError, match=message):
            call(make(), SIZE)


@pytest.mark.parametrize("size", [(3, 32), (1, 4, 8, 8)])
def test_input_sizes_of_other_dimensions(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected the size of an image, \(channels, height, width\)"):
        check_backbone(small(), size)
