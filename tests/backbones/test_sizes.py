"""A forward may look at sizes: it is traced for images of one size, and any number of them."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eenet.backbones.cuts import trace
from eenet.backbones.division import check_backbone, divide

SIZE = (3, 16, 16)


class Layers(nn.Module):
    def __init__(self, forward: Callable[["Layers", Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.fc, self.rule = nn.Linear(8, 5), forward
        self.position = nn.Parameter(torch.randn(1, 8, 20, 20))
        self.table = nn.Buffer(torch.randn(8, 20))

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)

    def rest(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def asserts(net: Layers, x: Tensor) -> Tensor:
    assert x.shape[1] == 3, "colour images"
    assert x.ndim == x.dim() == len(x.shape) == 4
    assert tuple(x.shape[2:]) == (16, 16)
    assert x.shape[0] > 0
    torch._assert(x.size(-1) == 16, "size")
    return net.fc(net.rest(x).mean((2, 3)))


def chooses_by_size(net: Layers, x: Tensor) -> Tensor:
    if x.shape[-1] > 8:
        x = F.max_pool2d(x, 2)
    h, w = x.shape[2:]
    for _ in range(x.size(2) // 4):
        x = x + 1
    x = net.rest(x)
    return net.fc(F.avg_pool2d(x, (h, w)).view(x.size(0), -1))


def calculates(net: Layers, x: Tensor) -> Tensor:
    height = int(x.shape[2])
    x = net.b(F.avg_pool2d(net.a(x), 2))
    x = F.interpolate(x, size=(height, height)) * math.sqrt(x.shape[1])
    x = x + net.position[:, :, : x.shape[2], : x.shape[3]] + net.table[:, : x.shape[-1]].mean()
    return net.fc(net.c(x).flatten(2).mean(2))


def compares(net: Layers, x: Tensor) -> Tensor:
    y = net.a(x)
    z = net.b(y)
    if y.shape == z.shape:
        z = z + y
    if z.size() != y.size() or z.shape[0] != x.shape[0]:
        raise ValueError("sizes differ")
    parts = [part * 2 for part in net.c(z).split(4, 1)]
    assert len(parts) == 2
    return net.fc(torch.cat(parts, 1).mean((2, 3)))


def reads_the_batch_early(net: Layers, x: Tensor) -> Tensor:
    count, _, h, w = x.shape
    x = net.rest(x)
    x = x.reshape(count * 2, 4, *x.shape[2:]).relu().reshape(count, -1, h, w)
    return net.fc(x.view(count, 8, -1).mean(2))


def wants_plain_numbers(net: Layers, x: Tensor) -> Tensor:
    count, half, whole = len(x), int(len(x) / 2), int(x.size(0))
    assert isinstance(x.shape[1], int)
    assert int("3") == int(3.7) == len([1, 2, 3])
    x = net.rest(torch.cat([x[:half], x[half:]]))
    return net.fc(x.view(count, 8, -1).mean(2).view(whole, 8))


def turns_dimensions(net: Layers, x: Tensor) -> Tensor:
    x = net.b(net.a(x)).permute(1, 0, 2, 3)
    if x.shape[0] == 8:
        x = x.permute(1, 0, 2, 3)
    return net.fc(net.c(x).mean((2, 3)))


def asks_for_the_type(net: Layers, x: Tensor) -> Tensor:
    if x.dtype != torch.float32 or not x.is_floating_point() or not torch.is_floating_point(x):
        x = x.float() / 255
    return net.fc(net.rest(x).mean((2, 3)))


ALLOWED = [
    *(asserts, chooses_by_size, calculates, compares, reads_the_batch_early, wants_plain_numbers),
    *(turns_dimensions, asks_for_the_type),
]


@pytest.mark.parametrize("rule", ALLOWED)
def test_sizes_are_known(rule: Callable[[Layers, Tensor], Tensor]) -> None:
    """The oracle is the undivided network, for other numbers of images than the proof takes."""
    backbone = Layers(rule)
    traced = trace(backbone, SIZE)
    assert traced.cuts[0].name == "a"
    stages = nn.Sequential(*divide(traced, range(len(traced.cuts))))
    for images in (torch.randn(count, *SIZE) for count in (1, 2, 3, 7)):
        for training in (False, True):
            assert torch.equal(stages.train(training)(images), backbone.train(training)(images))


def test_the_number_of_images_is_no_reason_against_cuts() -> None:
    """It is asked of the stage's own features, not handed through all stages."""
    assert [cut.name for cut in check_backbone(Layers(reads_the_batch_early), SIZE)] == ["a", "b"]


def test_python_is_left_as_it_was() -> None:
    kept = dict(globals())
    backbone = Layers(wants_plain_numbers)
    before = {name: set(vars(part)) for name, part in backbone.named_modules()}
    check_backbone(backbone, SIZE)
    assert globals().keys() == kept.keys()
    assert {name: set(vars(part)) for name, part in backbone.named_modules()} == before


def by_pixels(net: Layers, x: Tensor) -> Tensor:
    if x.mean() > 0:
        x = -x
    return net.fc(net.rest(x).mean((2, 3)))


def by_item(net: Layers, x: Tensor) -> Tensor:
    return net.fc(net.rest(x).mean((2, 3))) * float(x.max())


def by_pixels_found(net: Layers, x: Tensor) -> Tensor:
    bright = x[x > 0]
    return net.fc(net.rest(x).mean((2, 3))) * (2 if bright.shape[0] > 5 else 1)


def by_count(net: Layers, x: Tensor) -> Tensor:
    if x.shape[0] > 1:
        x = x * 2
    return net.fc(net.rest(x).mean((2, 3)))


def one_by_one(net: Layers, x: Tensor) -> Tensor:
    return torch.cat([net.fc(net.rest(image[None]).mean((2, 3))) for image in x])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            by_pixels,
            r"test_sizes\.py, line \d+, `if x\.mean\(\) > 0:`, the way depends on the images' pixels",
        ),
        (by_item, r"the way depends on the images' pixels.*list of its stages"),
        (by_pixels_found, r"the way depends on the images' pixels"),
        (by_count, r"`if x\.shape\[0\] > 1:`, the way depends on how many images come at once"),
        (one_by_one, r"how many images come at once"),
    ],
)
def test_what_depends_on_pixels_or_on_how_many_there_are(
    rule: Callable[[Layers, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trace(Layers(rule), SIZE)


def test_a_size_that_the_network_itself_refuses() -> None:
    with pytest.raises(ValueError, match=r"does not run on an input of size \(1, 16, 16\).*colour images"):
        trace(Layers(asserts), (1, 16, 16))
