"""Tests run on two threads, without the network, and always from the same random numbers."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch

from eenet import data
from eenet.image_sets import ImageSet
from eenet.network import EENet, create_model

CUTS = ["conv1", "layer1.0", "layer2.0"]


def in_memory(name: str, split: str) -> ImageSet:
    images = data.load(name, split)
    assert isinstance(images, ImageSet)
    return images


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def digits() -> ImageSet:
    return in_memory("digits", "validation")


@pytest.fixture
def network(digits: ImageSet) -> EENet:
    """Untrained, three early exits, ready for digits."""
    network = create_model(
        "resnet8_w4_cifar", num_classes=10, input_size=(1, 8, 8), placement=CUTS, head="pool"
    )
    network.config.mean, network.config.std = digits.mean_std()
    network.config.class_names = digits.class_names
    return network.eval()
