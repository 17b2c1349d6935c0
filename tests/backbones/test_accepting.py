"""What is no classifier is refused, with what to change: probabilities, features, a single output."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import eenet
from eenet.backbones.division import check_backbone
from eenet.networks.building import convert, create_model, without_exits

SIZE = (3, 8, 8)


class Ending(nn.Module):
    """A small network, and what its forward does at the end."""

    def __init__(
        self, end: Callable[[Tensor], Tensor], classes: int = 3, *, only_in_eval: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(1)  # whatever files were collected before; with some others one class always wins
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.fc, self.end, self.only_in_eval = nn.Linear(4, classes), end, only_in_eval

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.body(x).mean((2, 3)))
        return x if self.only_in_eval and self.training else self.end(x)


def by_hand(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(1, keepdim=True)


def sequential(*end: nn.Module) -> nn.Sequential:
    start = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*start, nn.Linear(4, 3), *end)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (sequential(nn.Softmax(1)), r"a softmax.*take it off: network\[6\] = nn\.Identity\(\)"),
        (sequential(nn.Sequential(nn.Dropout(0.1), nn.Sigmoid())), r"sigmoid.*network\[6\]\[1\] = nn"),
        (sequential(nn.Softmax(1), nn.Flatten()), r"a softmax.*network\[6\] = nn\.Identity"),
        (Ending(nn.Softmax(1)), r"this Ending ends in a softmax.*network\.end = nn\.Identity"),
        (Ending(nn.Softmax(0)), r"a softmax"),  # of the wrong dimension
        (Ending(nn.Hardsigmoid()), r"a sigmoid.*network\.end ="),
        (Ending(lambda x: F.softmax(x, 1)), r"take the softmax off the end of its forward"),
        (Ending(lambda x: x.softmax(-1).flatten(1)), r"take the softmax off"),
        (Ending(lambda x: F.log_softmax(x, 1).exp()), r"probabilities"),
        (Ending(lambda x: (x.softmax(1) + x.flip(1).softmax(1)) / 2), r"or something like it.*probabilities"),
        (Ending(by_hand), r"or something like it.*probabilities"),
        (Ending(torch.sigmoid), r"take the sigmoid off the end"),
        (Ending(lambda x: x.softmax(1), only_in_eval=True), r"take the softmax off"),
        (Ending(nn.Softmax(1)).requires_grad_(False), r"take it off"),
        ([sequential()[:1], sequential()[1:], nn.Softmax(1)], r"this list of stages.*network\[2\] = nn"),
    ],
)
def test_probabilities_are_refused_with_what_to_take_off(backbone: nn.Module, message: str) -> None:
    for call in (check_backbone, without_exits, lambda *given: convert(*given, num_exits=1, placement=[0.1])):
        with pytest.raises(ValueError, match=message):
            call(backbone, SIZE)


def zeroed(backbone: Ending) -> Ending:
    nn.init.zeros_(backbone.fc.weight)
    nn.init.constant_(backbone.fc.bias, 0.25)
    return backbone


@pytest.mark.parametrize(
    "backbone",
    [
        Ending(nn.LogSoftmax(1)),  # softmax(log p) is p
        Ending(torch.relu),
        Ending(lambda x: x.relu() / 1000),
        Ending(lambda x: F.normalize(x.relu())),  # between 0 and 1, and no probabilities
        Ending(lambda x: x * x.sigmoid()),
        Ending(lambda x: x.tanh()),
        zeroed(Ending(lambda x: x)),
        zeroed(Ending(lambda x: x - 0.25)),
    ],
)
def test_logits_of_any_kind_are_taken(backbone: nn.Module) -> None:
    assert check_backbone(backbone, SIZE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: convert(Ending(torch.sigmoid, 1), SIZE, num_exits=1),
        lambda: convert(Ending(torch.relu, 1), SIZE, num_exits=1),
        lambda: without_exits(Ending(torch.relu, 1), SIZE),
        lambda: create_model("resnet8_w4_cifar", num_classes=1, num_exits=1),
        lambda: eenet.create_model("resnet18", num_classes=1, num_exits=1, input_size=(32, 32)),
    ],
)
def test_one_output_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"one output; a class is chosen among at least two.*2 outputs"):
        make()


def headless(backbone: nn.Module, last: str) -> nn.Module:
    """As people make a feature extractor of torchvision's networks."""
    setattr(backbone, last, nn.Identity())
    return backbone


@pytest.mark.parametrize(
    "make",
    [
        lambda: headless(torchvision.models.resnet18(), "fc"),
        lambda: headless(torchvision.models.vgg11_bn(init_weights=False), "classifier"),
        lambda: headless(torchvision.models.vgg11(init_weights=False), "classifier"),
        lambda: headless(torchvision.models.mobilenet_v2(), "classifier"),
        lambda: headless(torchvision.models.densenet121(), "classifier"),
        lambda: nn.Sequential(*list(timm.create_model("resnet18").children())[:-1]),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
)
def test_networks_without_a_classifier_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        ValueError, match=r"has no classifier.*outputs are features.*nn\.Linear\(\d+, classes\)"
    ):
        check_backbone(make(), (3, 32, 32))


@pytest.mark.parametrize("name", ["resnet8_w4_cifar", "mobilenetv3_small_050", "convnext_atto", "vgg11"])
def test_feature_extractors_of_timm_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_classes=0, so it is a feature extractor"):
        create_model(name, num_classes=0, num_exits=1, input_size=(64, 64))


def test_a_network_without_outputs_is_refused() -> None:
    """torchvision's with `num_classes=0`."""
    empty = nn.Linear(4, 1)
    empty.weight, empty.bias = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.empty(0))
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="has no outputs; give it a classifier of two classes or more"):
        check_backbone(nn.Sequential(*layers, empty), (3, 32, 32))


@pytest.mark.parametrize(
    "backbone",
    [
        torchvision.models.squeezenet1_0(num_classes=5),  # 1×1 convolution, ReLU, pooling
        nn.Sequential(  # all convolutional, a 3×3 convolution as its classifier
            *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ),
        nn.Sequential(  # the classifier is a convolution behind the pooling
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten()),
        ),
        nn.Sequential(timm.create_model("test_resnet", num_classes=0), nn.Linear(96, 5)),  # of two parts
        nn.Sequential(  # ends in a norm
            *(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(4, 5), nn.BatchNorm1d(5)),
        ),
    ],
)
def test_classifiers_of_any_kind_are_taken(backbone: nn.Module) -> None:
    assert check_backbone(backbone, (3, 64, 64))
