"""The networks that must divide exactly, those that can't be divided, and the contract both are held to.

`tests/backbones/test_backbone_contract.py` runs it; `benchmarks/backbones.py` writes what came out to the
docs.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eenet import convert
from eenet.backbones import create_backbone, divide, trace
from eenet.backbones.cost import countable_attention

CLASSES = 5


@dataclass(frozen=True)
class Network:
    """One network of a library, and the image size it is tried at."""

    library: str
    name: str
    size: int
    args: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.library}-{self.name}"

    def build(self) -> nn.Module:
        """Random weights, `CLASSES` classes."""
        torch.manual_seed(0)
        if self.library == "timm":
            return create_backbone(self.name, {"num_classes": CLASSES, **self.args})
        with warnings.catch_warnings():
            # torchvision announces another initialisation of its Inceptions; it doesn't matter here.
            warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
            return torchvision.models.get_model(self.name, weights=None, num_classes=CLASSES, **self.args)


def _networks(library: str, names: str, size: int = 64, **args: Any) -> list[Network]:
    return [Network(library, name, size, args) for name in names.split()]


NETWORKS = [
    *_networks("timm", "resnet20_cifar resnet13_coarse_cifar resnet8_w4_cifar", 32),
    # every CNN among timm's miniatures; its test_vit* are no CNNs
    *_networks("timm", "test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet"),
    *_networks("timm", "test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln test_mambaout"),
    *_networks("timm", "test_nfnet test_resnet"),
    *_networks("timm", "test_coatnet test_maxvit", 160),
    # real families, one small member each
    *_networks("timm", "resnet18 resnetv2_18 ecaresnet26t seresnet18 skresnet18"),
    *_networks("timm", "resnext50_32x4d wide_resnet50_2 resnest14d res2net50_14w_8s"),
    *_networks("timm", "regnetx_002 regnety_002 regnetz_005 convnext_atto convnextv2_atto"),
    *_networks("timm", "densenet121 dpn48b ese_vovnet19b_slim_dw"),
    *_networks("timm", "vgg11_bn", mlp_ratio=0.05),  # a smaller classifier, 15 instead of 129 million weights
    *_networks("timm", "mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035"),
    *_networks("timm", "efficientnet_b0 tf_efficientnetv2_b0 fbnetc_100"),
    *_networks("timm", "hardcorenas_a mnasnet_small tinynet_e lcnet_035 rexnet_100"),
    *_networks("timm", "ghostnet_050 ghostnetv2_100 repghostnet_050 repvgg_a0 mobileone_s0"),
    *_networks("timm", "hrnet_w18_small dla46_c cs3darknet_s cspresnet50 darknet17 selecsls42b"),
    *_networks("timm", "nf_resnet26 eca_nfnet_l0 gernet_s hgnet_tiny hgnetv2_b0"),
    *_networks("timm", "legacy_xception fasternet_t0 starnet_s050"),
    *_networks("timm", "inception_next_atto mambaout_femto"),
    *_networks("timm", "inception_v3 inception_v4 inception_resnet_v2", 96),
    # convolution and attention mixed
    *_networks("timm", "edgenext_xx_small mobilevit_xxs efficientvit_b0"),
    *_networks("timm", "coatnet_pico_rw_224", img_size=64),
    *_networks("timm", "levit_conv_128s", 224),  # attention tables of one size
    *_networks("torchvision", "resnet18 vgg11_bn densenet121 mobilenet_v2 mobilenet_v3_small"),
    *_networks("torchvision", "efficientnet_b0 regnet_x_400mf regnet_y_400mf convnext_tiny"),
    *_networks("torchvision", "shufflenet_v2_x0_5 mnasnet0_5 squeezenet1_0"),
    *_networks("torchvision", "googlenet", aux_logits=False, init_weights=False),
    *_networks("torchvision", "inception_v3", 96, aux_logits=False, init_weights=False),
]

REFUSED = [
    *_networks("torchvision", "googlenet", init_weights=False),
    *_networks("torchvision", "inception_v3", 299, init_weights=False),  # its auxiliary classifier needs it
]


@dataclass(frozen=True)
class Result:
    """What the contract found."""

    cuts: int
    exact: bool
    """Stages in sequence equal the backbone to the bit: logits, gradients, BatchNorm
    statistics, in eval and in train mode."""
    macs_agree: bool
    """Stages and backbone, counted while really run, come to the MACs found on fake tensors."""
    seconds: float


def check(network: Network) -> Result:
    """Cut a network at every cut and compare with the undivided one."""
    began = time.perf_counter()
    model = network.build()
    traced = trace(model, (3, network.size, network.size))
    stages = divide(traced, range(len(traced.cuts)))
    images = torch.randn(2, 3, network.size, network.size)
    exact = all(
        _same(_run(model, model, images, training), _run(model, nn.Sequential(*stages), images, training))
        for training in (False, True)
    )
    model.eval()
    macs = [executed_macs([model], images[:1]), executed_macs([s.eval() for s in stages], images[:1])]
    starts = [0, *(cut.macs for cut in traced.cuts), traced.macs]
    counted = [end - start for start, end in pairwise(starts)]
    agree = macs == [[traced.macs], counted]
    return Result(len(traced.cuts), exact, agree, time.perf_counter() - began)


def refusal(network: Network) -> str:
    """The message with which `convert` refuses a network; empty if it doesn't."""
    try:
        convert(network.build(), (3, network.size, network.size), num_exits=1)
    except ValueError as error:
        return str(error)
    return ""


def executed_macs(modules: Sequence[nn.Module], x: Tensor) -> list[int]:
    """MACs of modules run one after the other, as torch counts them while they really run."""
    macs = []
    with torch.no_grad(), countable_attention():
        for module in modules:
            with FlopCounterMode(display=False) as counter:
                x = module(x)
            macs.append(counter.get_total_flops() // 2)
    return macs


def _run(
    model: nn.Module, forward: nn.Module, images: Tensor, training: bool
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and statistics of one step; the model's buffers as before."""
    model.train(training)
    forward.train(training)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(1)
    logits = forward(images.clone())
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    after = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    return logits.detach(), gradients, after


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return torch.equal(one[0], other[0]) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(one[1:], other[1:], strict=True)
    )
