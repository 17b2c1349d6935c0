"""MACs: against hand-made formulas, and against torch's counter on the real, executed modules."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eenet.cost import count_macs, relative_costs
from eenet.network import EENet, create_model
from eenet.stages import trace


def executed_macs(module: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def test_convolution_by_hand() -> None:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
    assert count_macs(conv, (1, 8, 10, 6)) == 5 * 3 * 12 * (8 // 4) * 9


def test_linear_by_hand_and_batch() -> None:
    assert count_macs(nn.Linear(7, 5), (3, 7)) == 3 * 7 * 5


def test_counting_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (2, 1, 8, 8))
    assert [part.training for part in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet8_w2_cifar", "resnet18", "mobilenetv3_small_100"])
def test_costs_agree_with_executed_modules(name: str) -> None:
    """Relative costs are those of the stages and heads really run, heads included."""
    network = create_model(name, num_classes=10, input_size=(3, 64, 48), num_exits=2).eval()
    plain = executed_macs(timm.create_model(name, num_classes=10).eval(), torch.randn(1, 3, 64, 48))
    features, spent = torch.randn(1, 3, 64, 48), 0
    for k, stage in enumerate(network.stages):
        spent += executed_macs(stage, features)
        features = stage(features)
        if k < network.num_exits:
            spent += executed_macs(network.heads[k], features)
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
