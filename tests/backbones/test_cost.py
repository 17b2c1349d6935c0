"""MACs: against hand-made formulas, and against torch's counter on the real, executed modules."""

import pytest
import timm
import torch
import torch.nn.functional as F
from contract import executed_macs
from torch import Tensor, nn

from eenet.backbones.cost import count_macs
from eenet.backbones.cuts import trace
from eenet.networks.building import create_model
from eenet.networks.network import EENet
from eenet.policies.records import relative_costs


def test_convolution_by_hand() -> None:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
    assert count_macs(conv, (1, 8, 10, 6)) == 5 * 3 * 12 * (8 // 4) * 9


def test_linear_by_hand_and_batch() -> None:
    assert count_macs(nn.Linear(7, 5), (3, 7)) == 3 * 7 * 5


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # two heads of four
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LibraryAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("module", [FusedAttention(), LibraryAttention()])
def test_fused_attention_by_hand(module: nn.Module) -> None:
    """CoAtNet's count was wrong: torch counts nothing for the fused kernels of a CPU."""
    tokens, width = 6, 8
    projections = tokens * width * (3 * width + width)
    products = 2 * tokens * tokens * width  # queries by keys, weights by values
    assert count_macs(module, (1, tokens, width)) == projections + products


def test_counting_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (2, 1, 8, 8))
    assert [part.training for part in model] == [True, False, True, True]
    assert int(model.get_buffer("2.num_batches_tracked")) == 0  # fake tensors in train mode would count it up
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.table * 2
        self.last = x
        return x @ (self.cache["bias"].diag())


def test_no_fake_tensor_stays_in_a_module() -> None:
    """LeViT caches its attention biases; a fake one there would break every later call."""
    module = Caching()
    assert count_macs(module, (2, 5)) == 2 * 5 * 5
    assert not module.cache
    assert not hasattr(module, "last")
    x = torch.randn(2, 5)
    assert torch.allclose(module(x), x * module.table * 2)


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet8_w2_cifar", "resnet18", "mobilenetv3_small_100"])
def test_costs_agree_with_executed_modules(name: str) -> None:
    """Relative costs are those of the stages and heads really run, heads included."""
    network = create_model(name, num_classes=10, input_size=(3, 64, 48), num_exits=2).eval()
    (plain,) = executed_macs([timm.create_model(name, num_classes=10).eval()], torch.randn(1, 3, 64, 48))
    features, spent = torch.randn(1, 3, 64, 48), 0
    for k, stage in enumerate(network.stages):
        spent += executed_macs([stage], features)[0]
        features = stage(features)
        if k < network.num_exits:
            spent += sum(executed_macs([network.heads[k]], features))
        assert network.costs_K[k] == pytest.approx(spent / plain, abs=1e-12)
    assert network.costs_K[-1] > 1


def test_exit_switched_off_costs_nothing() -> None:
    assert relative_costs([10, 20, 70], [5, 5], 100) == [0.15, 0.4, 1.1]
    assert relative_costs([10, 20, 70], [5, 5], 100, [False, True]) == [0.1, 0.35, 1.05]


def test_node_costs_sum_to_the_whole() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    assert trace(model, (3, 64, 64)).macs == count_macs(model, (1, 3, 64, 64))


def test_network_keeps_its_mode(network: EENet) -> None:
    network.train()
    count_macs(network, (1, 1, 8, 8))
    assert all(part.training for part in network.modules())
